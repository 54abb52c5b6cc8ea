"""Rankers: what scores documents against a query. One small interface, one module a family."""

from ko_reranker.rankers.interface import Ranker, RankerError, Scored, load_ranker

__all__ = ["Ranker", "RankerError", "Scored", "load_ranker"]
