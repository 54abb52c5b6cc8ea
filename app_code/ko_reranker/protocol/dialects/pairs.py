"""``{"inputs": [{"text", "text_pair"}]}``: Hugging Face text classification, as in the ko-reranker model card.

``text`` is the query and ``text_pair`` the document, or a pair is a list of the two; the answer keeps the order of the pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..canonical import Document, RerankRequest, RerankResult
from ..errors import invalid
from ..fields import kind, read_query, read_scoring
from ..ranking import scores
from ..wire import clean

NAME = "pairs"
LISTS = ("inputs",)


def matches(body: Mapping[str, Any]) -> bool:
    return "inputs" in body


def parse(body: Mapping[str, Any], path: str) -> RerankRequest:
    inputs = body["inputs"]
    if isinstance(inputs, dict):
        inputs = [inputs]
    if not isinstance(inputs, list):
        raise invalid("inputs", f'must be a list of {{"text", "text_pair"}}, is {kind(inputs)}')
    if not inputs:
        raise invalid("inputs", "is empty, there is nothing to score")
    pairs = [_pair(item, f"inputs[{index}]") for index, item in enumerate(inputs)]
    parameters = body.get("parameters")
    return RerankRequest(
        dialect=NAME,
        queries=tuple(query for query, _ in pairs),
        documents=tuple(document for _, document in pairs),
        raw_scores=isinstance(parameters, dict) and parameters.get("function_to_apply") == "none",
        **read_scoring(body),
    )


def render(request: RerankRequest, result: RerankResult) -> list[dict[str, Any]]:
    return [{"label": "LABEL_0", "score": score} for score in scores(request, result)]


def _pair(item: Any, where: str) -> tuple[str, Document]:
    if isinstance(item, list) and len(item) == 2:
        item = {"text": item[0], "text_pair": item[1]}
    if not isinstance(item, dict):
        raise invalid(where, f'must be {{"text", "text_pair"}}, is {kind(item)}')
    text = item.get("text_pair")
    if not isinstance(text, str):
        raise invalid(f"{where}.text_pair", "is missing" if text is None else f"must be a string, is {kind(text)}")
    return read_query(item.get("text"), f"{where}.text"), Document(clean(text), text)
