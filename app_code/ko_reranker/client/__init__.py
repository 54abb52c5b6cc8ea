"""Clients of the rerank API, sync and async, and its place in LangChain (``.langchain``) and LlamaIndex (``.llamaindex``).

from ko_reranker.client import RerankClient

with RerankClient("https://HOST", "KEY") as client:
    for item in client.rerank("서울의 인구는?", ["부산은 항구다.", "서울의 인구는 940만 명이다."], top_n=1):
        print(item.index, item.score)
"""

from ko_reranker.fusion import fuse

from .clients import AsyncRerankClient, RerankClient
from .errors import (
    AuthenticationError,
    ConnectionFailedError,
    InvalidRequestError,
    RateLimitError,
    RerankError,
    ServerError,
    StatusError,
    TimedOutError,
)
from .messages import RankedDocument, Ranking

__all__ = [
    "AsyncRerankClient",
    "AuthenticationError",
    "ConnectionFailedError",
    "InvalidRequestError",
    "RankedDocument",
    "Ranking",
    "RateLimitError",
    "RerankClient",
    "RerankError",
    "ServerError",
    "StatusError",
    "TimedOutError",
    "fuse",
]
