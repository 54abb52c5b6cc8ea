"""``{"inputs": [{"text", "text_pair"}]}``: Hugging Face text classification, as in the ko-reranker model card.

``text`` is the query and ``text_pair`` the document, or a pair is a list of the two; the answer keeps the order of the pairs.
At ``/predict`` Text Embeddings Inference answers each pair of a batch with a list of its labels, and takes a pair by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..canonical import Document, RerankRequest, RerankResult
from ..errors import invalid
from ..fields import kind, read_query, read_raw_scores, read_scoring
from ..ranking import scores
from ..schemas import ASKED, NUMBER, RAW_SCORES, SCORING, TEXT, TOLD, Schema, absent, array, obj, ref
from ..wire import clean
from .dialect import Dialect, Example

NAME = "pairs"


def parse(body: Mapping[str, Any], path: str) -> RerankRequest:
    inputs = body["inputs"]
    if isinstance(inputs, dict) or (path == "/predict" and _is_pair(inputs)):
        inputs = [inputs]
    if not isinstance(inputs, list):
        raise invalid("inputs", f'must be a list of {{"text", "text_pair"}}, is {kind(inputs)}')
    if not inputs:
        raise invalid("inputs", "is empty, there is nothing to score")
    pairs = [_pair(item, f"inputs[{index}]") for index, item in enumerate(inputs)]
    parameters = body.get("parameters")
    logits = isinstance(parameters, dict) and parameters.get("function_to_apply") == "none"
    return RerankRequest(
        dialect=NAME,
        queries=tuple(query for query, _ in pairs),
        documents=tuple(document for _, document in pairs),
        raw_scores=logits or read_raw_scores(body),
        label_lists=path == "/predict" and isinstance(body["inputs"], list) and inputs is body["inputs"],
        **read_scoring(body),
    )


def render(request: RerankRequest, result: RerankResult) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
    labelled: list[dict[str, Any]] = [{"label": "LABEL_0", "score": score} for score in scores(request, result)]
    return [[label] for label in labelled] if request.label_lists else labelled


def _is_pair(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and all(isinstance(text, str) for text in item)


def _pair(item: Any, where: str) -> tuple[str, Document]:
    if isinstance(item, list) and len(item) == 2:
        item = {"text": item[0], "text_pair": item[1]}
    if not isinstance(item, dict):
        raise invalid(where, f'must be {{"text", "text_pair"}}, is {kind(item)}')
    text = item.get("text_pair")
    if not isinstance(text, str):
        raise invalid(f"{where}.text_pair", "is missing" if text is None else f"must be a string, is {kind(text)}")
    return read_query(item.get("text"), f"{where}.text"), Document(clean(text), text)


def schemas(max_documents: int) -> dict[str, Schema]:
    fields: dict[str, Schema] = {
        "inputs": {"anyOf": [ref("NamedPair"), array(ref("Pair"), minItems=1, maxItems=max_documents)]},
        "parameters": {"description": '{"function_to_apply": "none"} asks for raw scores.'},
        **RAW_SCORES,
        **SCORING,
        # Beside docs they are queries.
        **absent("docs"),
    }
    two: Schema = {"type": "array", "prefixItems": [ref("Query"), TEXT], "minItems": 2, "maxItems": 2}
    return {
        "Inputs": obj(["inputs"], fields, title="Hugging Face text classification"),
        "NamedPair": obj(["text", "text_pair"], {"text": ref("Query"), "text_pair": TEXT}),
        "Pair": {"anyOf": [ref("NamedPair"), two]},
    }


def answers() -> list[Schema]:
    label = obj(["label", "score"], {"label": {"const": "LABEL_0"}, "score": NUMBER})
    batch = "Text Embeddings Inference, of a batch at /predict"
    return [array(label, title="Hugging Face"), array(array(label, minItems=1, maxItems=1), title=batch)]


DIALECT = Dialect(
    name=NAME,
    tells=("inputs",),
    lists=("inputs",),
    parse=parse,
    render=render,
    clients="Hugging Face, TEI's `/predict`",
    fields="`inputs` of pairs",
    answered="labels and scores, in the order of the pairs",
    examples=(
        Example(
            "pairs",
            "Hugging Face text classification",
            {"inputs": [{"text": ASKED, "text_pair": text} for text in TOLD]},
        ),
    ),
    schemas=schemas,
    answers=answers,
)
