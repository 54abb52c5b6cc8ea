"""``{"inputs": [...], "docs": [...]}``: the SageMaker tools of Dify, which repeat the query for every document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..canonical import RerankRequest, RerankResult
from ..documents import read_documents
from ..fields import read_queries, read_scoring
from ..ranking import scores
from ..schemas import ASKED, PROBABILITY, SCORING, TOLD, Schema, array, obj, paired
from .dialect import Dialect, Example

NAME = "parallel"


def matches(body: Mapping[str, Any]) -> bool:
    return "inputs" in body and "docs" in body


def parse(body: Mapping[str, Any], path: str) -> RerankRequest:
    documents = read_documents(body["docs"], "docs")
    queries = read_queries(body["inputs"], len(documents), "inputs")
    return RerankRequest(dialect=NAME, queries=queries, documents=documents, **read_scoring(body))


def render(request: RerankRequest, result: RerankResult) -> dict[str, Any]:
    return {"scores": scores(request, result)}


def schemas(max_documents: int) -> dict[str, Schema]:
    title = "Dify's SageMaker tools: the query once, or once for each document"
    return {"InputsAndDocs": {"title": title, "anyOf": [*paired("inputs", "docs", SCORING)]}}


def answers() -> list[Schema]:
    return [obj(["scores"], {"scores": array(PROBABILITY)}, title="Dify")]


DIALECT = Dialect(
    name=NAME,
    # It takes both, and the first is that of pairs, too.
    tells=(),
    matches=matches,
    lists=("docs", "inputs"),
    parse=parse,
    render=render,
    clients="Dify's SageMaker tools",
    fields="`inputs`, `docs`",
    answered="`scores`, in the order of the documents",
    examples=(Example("parallel", "Dify's SageMaker tools", {"inputs": [ASKED, ASKED], "docs": TOLD}),),
    schemas=schemas,
    answers=answers,
)
