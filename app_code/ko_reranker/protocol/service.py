"""What the service tells about itself: /info, /v1/models and /health, and how the Lambda asks the container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ProtocolError, invalid
from .fields import unwrap_content
from .routes import INVOCATIONS, asked_model, normalise_path

# A request with more documents is refused: past it callers wait longer than they do.
MAX_DOCUMENTS = 10_000

# The body that asks the container about itself.
FACTS_REQUEST = {"format": "facts"}


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """What is served.

    Attributes:
        model: the model's name.
        max_length: the most tokens of a query and a document together; None when unknown.
        max_documents: the most documents of a request; a container tells it where they have to be ranked together.
        whole: whether the documents of a request have to be ranked together, because their scores are not absolute.
        raw_scale: what raw scores are (`RerankResult.raw_scale`).
        precision: the arithmetic that the model is computed in; None when unknown.
        precision_reason: why it is that one, a sentence; empty where nobody says.
    """

    model: str
    max_length: int | None = None
    max_documents: int = MAX_DOCUMENTS
    whole: bool = False
    raw_scale: str = "logit"
    precision: str | None = None
    precision_reason: str = ""

    @classmethod
    def decode(cls, answer: Any) -> ServiceFacts:
        """Return the facts that a container answered.

        Raises:
            ValueError: when they are none.
        """
        try:
            length, precision = answer["max_length"], answer.get("precision")
            return cls(
                str(answer["model"]),
                None if length is None else int(length),
                int(answer.get("max_documents", MAX_DOCUMENTS)),
                whole=answer.get("whole") is True,
                raw_scale=str(answer.get("raw_scale", "logit")),
                precision=None if precision is None else str(precision),
                precision_reason=str(answer.get("precision_reason", "")),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no facts: {type(error).__name__}") from None

    def encode(self) -> dict[str, Any]:
        """Return the answer to ``FACTS_REQUEST``."""
        answer: dict[str, Any] = {"model": self.model, "max_length": self.max_length}
        scale = {} if self.raw_scale == "logit" else {"raw_scale": self.raw_scale}
        told = {} if self.precision is None else {"precision": self.precision, "precision_reason": self.precision_reason}
        return answer | ({"whole": True, "max_documents": self.max_documents} if self.whole else {}) | scale | told


def asks_for_facts(body: Any, path: str) -> bool:
    """Return whether a decoded body is ``FACTS_REQUEST``, which only the container's own path answers."""
    return path == INVOCATIONS and isinstance(body, dict) and body.get("format") == FACTS_REQUEST["format"]


def check_documents(name: str, value: Any, most: int) -> None:
    """Refuse a list with an item for each document when it is longer than the service takes.

    Args:
        name: the field's name.
        value: the field's JSON value; whatever is no list, or ``{"content": [...]}``, passes.
        most: the most documents of a request.

    Raises:
        ProtocolError: 422.
    """
    value = unwrap_content(value)
    if isinstance(value, list) and len(value) > most:
        raise invalid(name, f"are {len(value)}, over the limit of {most}: send fewer at a time")


def render_info(facts: ServiceFacts) -> dict[str, Any]:
    """Return the answer of ``GET /info``, in the shape of Text Embeddings Inference."""
    return {
        "model_id": facts.model,
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_input_length": facts.max_length,
        "max_client_batch_size": facts.max_documents,
        "auto_truncate": True,
        "raw_scale": facts.raw_scale,
        "model_dtype": facts.precision,
        "precision_reason": facts.precision_reason,
    }


def render_models(facts: ServiceFacts) -> dict[str, Any]:
    """Return the answer of ``GET /v1/models``: OpenAI's ``data`` and Cohere's ``models``."""
    named = {"name": facts.model, "endpoints": ["rerank"], "context_length": facts.max_length}
    return {"object": "list", "data": [_model(facts)], "models": [named]}


def render_model(facts: ServiceFacts, name: str) -> dict[str, Any]:
    """Return the answer of ``GET /v1/models/{model}``.

    Raises:
        ProtocolError: 404 for any other model than the one that is served.
    """
    # A path keeps neither doubled slashes nor those at its end, as s3:// prefixes have.
    if normalise_path(f"/{name}") != normalise_path(f"/{facts.model}"):
        raise ProtocolError(404, f"there is no model of this name, {facts.model} is served; a request may name it as it likes")
    return _model(facts)


def describe(operation: str, facts: ServiceFacts, path: str = "") -> Mapping[str, Any]:
    """Return the answer of the operation ``info``, ``models`` or ``model`` at a normalised path."""
    if operation == "model":
        return render_model(facts, asked_model(path) or "")
    return render_info(facts) if operation == "info" else render_models(facts)


def _model(facts: ServiceFacts) -> dict[str, Any]:
    return {"id": facts.model, "object": "model", "created": 0, "owned_by": "ko-reranker"}
