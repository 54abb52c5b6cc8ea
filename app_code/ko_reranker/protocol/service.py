"""What the service tells about itself: /info, /v1/models and /health, and how the Lambda asks the container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import invalid
from .routes import INVOCATIONS

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
        max_documents: the most documents of a request.
    """

    model: str
    max_length: int | None = None
    max_documents: int = MAX_DOCUMENTS

    @classmethod
    def decode(cls, answer: Any) -> ServiceFacts:
        """Return the facts that a container answered.

        Raises:
            ValueError: when they are none.
        """
        try:
            length = answer["max_length"]
            return cls(str(answer["model"]), None if length is None else int(length))
        except (KeyError, TypeError) as error:
            raise ValueError(f"no facts: {type(error).__name__}") from None

    def encode(self) -> dict[str, Any]:
        """Return the answer to ``FACTS_REQUEST``."""
        return {"model": self.model, "max_length": self.max_length}


def asks_for_facts(body: Any, path: str) -> bool:
    """Return whether a decoded body is ``FACTS_REQUEST``, which only the container's own path answers."""
    return path == INVOCATIONS and isinstance(body, dict) and body.get("format") == FACTS_REQUEST["format"]


def check_documents(name: str, value: Any, most: int) -> None:
    """Refuse a list with an item for each document when it is longer than the service takes.

    Raises:
        ProtocolError: 422.
    """
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
    }


def render_models(facts: ServiceFacts) -> dict[str, Any]:
    """Return the answer of ``GET /v1/models``: OpenAI's ``data`` and Cohere's ``models``."""
    model = {"id": facts.model, "object": "model", "created": 0, "owned_by": "ko-reranker"}
    named = {"name": facts.model, "endpoints": ["rerank"], "context_length": facts.max_length}
    return {"object": "list", "data": [model], "models": [named]}


def describe(operation: str, facts: ServiceFacts) -> Mapping[str, Any]:
    """Return the answer of the operation ``info`` or ``models``."""
    return render_info(facts) if operation == "info" else render_models(facts)
