"""A LangChain document compressor (extra ``langchain``).

from langchain_classic.retrievers import ContextualCompressionRetriever
retriever = ContextualCompressionRetriever(base_retriever=…, base_compressor=KoReranker(base_url=…, api_key=…))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict, SecretStr

from .clients import AsyncRerankClient, Order, RerankClient
from .messages import Ranking


class KoReranker(BaseDocumentCompressor):
    """Keeps the documents that are most relevant to the query; ``metadata["relevance_score"]`` tells how much."""

    model_config = ConfigDict(extra="forbid")

    base_url: str
    """Such as https://HOST."""
    api_key: SecretStr | None = None
    top_n: int | None = 5
    """How many to keep; None keeps all."""
    order: Order = "relevance"
    """lost_in_the_middle puts the best first and last, for long prompts."""
    timeout: float = 30.0
    first_stage_weight: float = 0.0
    """Of the retriever's own score in the order, 0 to 1; 0 leaves it out. Around 0.5 helps small models."""
    first_stage_key: str = "score"
    """Where in a document's metadata the retriever's score stands, the higher the better."""

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return the best documents."""
        if not documents:
            return []
        with RerankClient(self.base_url, self._key, timeout=self.timeout) as client:
            ranking = client.rerank(query, [document.page_content for document in documents], **self._options(documents))
        return _chosen(documents, ranking)

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return the best documents."""
        if not documents:
            return []
        async with AsyncRerankClient(self.base_url, self._key, timeout=self.timeout) as client:
            ranking = await client.rerank(query, [document.page_content for document in documents], **self._options(documents))
        return _chosen(documents, ranking)

    @property
    def _key(self) -> str | None:
        return self.api_key.get_secret_value() if self.api_key else None

    def _options(self, documents: Sequence[Document]) -> dict[str, Any]:
        options: dict[str, Any] = {"top_n": self.top_n, "order": self.order}
        if not self.first_stage_weight:
            return options
        scores = [document.metadata.get(self.first_stage_key) for document in documents]
        if None in scores:
            raise ValueError(
                f"document {scores.index(None)} has no metadata[{self.first_stage_key!r}]: name the key of the retriever's "
                "score, first_stage_key, or set first_stage_weight to 0"
            )
        return options | {"first_stage_scores": scores, "first_stage_weight": self.first_stage_weight}


def _chosen(documents: Sequence[Document], ranking: Ranking) -> list[Document]:
    return [
        documents[item.index].model_copy(update={"metadata": {**documents[item.index].metadata, "relevance_score": item.score}})
        for item in ranking
    ]
