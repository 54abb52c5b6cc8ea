"""``{"format": "logits"}``: what the rerank Lambda and the container say to each other.

The Lambda parses a caller's dialect, asks for raw logits in the order of the documents, and renders the caller's answer
itself, so that a request may be split over several invocations and merged. Both sides of the exchange live here:

    encode_request -> {"format":"logits","query":…,"documents":[…]}      one query for all documents, or
                      {"format":"logits","queries":[…],"documents":[…]}  one for each; with scoring options where set
    render         -> {"logits":[…],"tokens":[…],"truncated":[…],"model":…,"max_length":…,
                       "query_truncated":…,"chunks":[…] where documents were cut into chunks,
                       "unrepaired":[…] where texts kept their escapes,
                       "raw":[…] and "raw_scale":… where those are not the logits,
                       "absolute":false and "effort":{"model_calls":…,"comparisons":…,"output_tokens":…} where they are places,
                       "instructed":true where instructions are read, "warnings":[…] where there are any}
    decode_answer  -> RerankResult
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..canonical import QUERY, Document, Effort, RerankRequest, RerankResult
from ..errors import invalid
from ..fields import kind, read_count, read_query, read_scoring
from ..wire import clean
from .dialect import Dialect

NAME = "logits"


class UnreadableAnswer(ValueError):
    """The container answered something that is not a logits answer for the request."""


def encode_request(request: RerankRequest) -> dict[str, Any]:
    """Return the body that asks for the logits of any request."""
    queries = {"query": request.queries[0]} if len(set(request.queries)) == 1 else {"queries": list(request.queries)}
    documents = [document.text for document in request.documents]
    return {"format": NAME, **queries, "documents": documents, **request.scoring_options()}


def decode_answer(answer: Any, request: RerankRequest) -> RerankResult:
    """Return the result that a logits answer holds.

    Raises:
        UnreadableAnswer: when it does not fit the request.
    """
    try:
        result = RerankResult(
            logits=tuple(float(logit) for logit in answer["logits"]),
            tokens=tuple(int(count) for count in answer["tokens"]),
            truncated=tuple(bool(cut) for cut in answer["truncated"]),
            model=str(answer["model"]),
            max_length=answer.get("max_length"),
            query_truncated=bool(answer.get("query_truncated")),
            chunks=tuple(int(count) for count in answer.get("chunks") or ()),
            unrepaired=tuple(int(index) for index in answer.get("unrepaired") or ()),
            absolute=answer.get("absolute") is not False,
            instructed=answer.get("instructed") is True,
            raw=tuple(float(value) for value in answer.get("raw") or ()),
            raw_scale=str(answer.get("raw_scale", "logit")),
            effort=Effort(**{name: int(count) for name, count in effort.items()}) if (effort := answer.get("effort")) else None,
            warnings=tuple(str(warning) for warning in answer.get("warnings") or ()),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnreadableAnswer(f"not a logits answer: {type(error).__name__}") from None
    if {len(result.logits), len(result.tokens), len(result.truncated)} != {len(request.documents)}:
        raise UnreadableAnswer(f"{len(result.logits)} logits for {len(request.documents)} documents")
    if len(result.chunks) not in {0, len(request.documents)}:
        raise UnreadableAnswer(f"{len(result.chunks)} counts of chunks for {len(request.documents)} documents")
    if not all(QUERY <= index < len(request.documents) for index in result.unrepaired):
        raise UnreadableAnswer("it names documents that there are not")
    if len(result.raw) not in {0, len(request.documents)}:
        raise UnreadableAnswer(f"{len(result.raw)} raw scores for {len(request.documents)} documents")
    if not all(map(math.isfinite, (*result.logits, *result.raw))):
        raise UnreadableAnswer("a logit is not finite")
    return result


def matches(body: Mapping[str, Any]) -> bool:
    return body.get("format") == NAME


def parse(body: Mapping[str, Any], path: str) -> RerankRequest:
    texts = _list(body, "documents")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise invalid(f"documents[{index}]", f"must be a string, is {kind(text)}")
    return RerankRequest(
        dialect=NAME,
        queries=_queries(body, len(texts)),
        documents=tuple(Document(clean(text), text) for text in texts),
        top_n=read_count(body, "top_n"),
        **read_scoring(body),
    )


def render(request: RerankRequest, result: RerankResult) -> dict[str, Any]:
    return {
        "logits": list(result.logits),
        "tokens": list(result.tokens),
        "truncated": list(result.truncated),
        "model": result.model,
        "max_length": result.max_length,
        "query_truncated": result.query_truncated,
        **({"chunks": list(result.chunks)} if result.chunks else {}),
        **({"unrepaired": list(result.unrepaired)} if result.unrepaired else {}),
        **({"raw": list(result.raw), "raw_scale": result.raw_scale} if result.raw else {}),
        **({} if result.absolute else {"absolute": False}),
        **({"effort": asdict(result.effort)} if result.effort else {}),
        **({"instructed": True} if result.instructed else {}),
        **({"warnings": list(result.warnings)} if result.warnings else {}),
    }


def _queries(body: Mapping[str, Any], documents: int) -> tuple[str, ...]:
    if "queries" not in body:
        return (read_query(body.get("query")),)
    queries = _list(body, "queries")
    if len(queries) != documents:
        raise invalid("queries", f"must be {documents}, one for each document, are {len(queries)}")
    return tuple(read_query(query, f"queries[{index}]") for index, query in enumerate(queries))


def _list(body: Mapping[str, Any], name: str) -> list[Any]:
    value = body.get(name)
    if not isinstance(value, list) or not value:
        raise invalid(name, "must be a list of at least one string")
    return value


DIALECT = Dialect(name=NAME, tells=(), matches=matches, lists=("documents", "queries"), parse=parse, render=render)
