"""A LlamaIndex node postprocessor (extra ``llamaindex``).

query_engine = index.as_query_engine(node_postprocessors=[KoReranker(base_url=…, api_key=…)])
"""

from __future__ import annotations

from typing import Any

from llama_index.core.bridge.pydantic import Field, SecretStr
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from .clients import AsyncRerankClient, RerankClient
from .messages import Ranking


class KoReranker(BaseNodePostprocessor):
    """Keeps the nodes that are most relevant to the query, with their relevance, 0 to 1, as score."""

    base_url: str = Field(description="Such as https://HOST.")
    api_key: SecretStr | None = None
    top_n: int | None = Field(default=5, description="How many to keep; None keeps all.")
    order: str = Field(default="relevance", description="lost_in_the_middle puts the best first and last.")
    timeout: float = 30.0
    first_stage_weight: float = Field(
        default=0.0,
        description="Of the retriever's own score in the order, 0 to 1; 0 leaves it out. Around 0.5 helps small models.",
    )

    @classmethod
    def class_name(cls) -> str:
        return "KoReranker"

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        if not nodes:
            return []
        with RerankClient(self.base_url, self._key(), timeout=self.timeout) as client:
            return _chosen(nodes, client.rerank(_query(query_bundle), _texts(nodes), **self._options(nodes)))

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if not nodes:
            return []
        async with AsyncRerankClient(self.base_url, self._key(), timeout=self.timeout) as client:
            ranking = await client.rerank(_query(query_bundle), _texts(nodes), **self._options(nodes))
        return _chosen(nodes, ranking)

    def _options(self, nodes: list[NodeWithScore]) -> dict[str, Any]:
        options: dict[str, Any] = {"top_n": self.top_n, "order": self.order}
        if not self.first_stage_weight:
            return options
        scores = [node.score for node in nodes]
        if None in scores:
            raise ValueError(f"node {scores.index(None)} has no score of its retriever: set first_stage_weight to 0")
        return options | {"first_stage_scores": scores, "first_stage_weight": self.first_stage_weight}

    def _key(self) -> str | None:
        return self.api_key.get_secret_value() if self.api_key else None


def _query(bundle: QueryBundle | None) -> str:
    if bundle is None:
        raise ValueError("a reranker needs the query: call postprocess_nodes(nodes, query_str=…)")
    query: str = bundle.query_str
    return query


def _texts(nodes: list[NodeWithScore]) -> list[str]:
    return [node.node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes]


def _chosen(nodes: list[NodeWithScore], ranking: Ranking) -> list[NodeWithScore]:
    return [NodeWithScore(node=nodes[item.index].node, score=item.score) for item in ranking]
