"""Rankers: what scores documents against a query. One small interface, one module a family."""

from ko_reranker.rankers.interface import Cost, HeadlessError, Ranker, RankerError, Rankings, Scored, UnrankableError
from ko_reranker.rankers.loading import load_ranker
from ko_reranker.rankers.options import EngineOptions

__all__ = [
    "Cost",
    "EngineOptions",
    "HeadlessError",
    "Ranker",
    "RankerError",
    "Rankings",
    "Scored",
    "UnrankableError",
    "load_ranker",
]
