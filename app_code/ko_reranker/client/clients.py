"""The sync and the async client: one request each, retried as the service asks."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import httpx

from .errors import ConnectionFailedError, RerankError, TimedOutError
from .fusing import Fusion
from .messages import Document, Ranking, read_answer, read_error, write_request
from .retries import Retries
from .signing import endpoint_target, endpoint_tls

_JSON = {"Content-Type": "application/json", "Accept": "application/json"}

Order = Literal["relevance", "lost_in_the_middle"]


_VERSIONS = re.compile(r"(?:/+v\d+)*/*$")


class _Target:
    """Where requests go, and how often."""

    def __init__(self, base_url: str, api_key: str | None, timeout: float, retries: Retries | None) -> None:
        if not base_url.startswith(("https://", "http://")):
            raise ValueError(f"base_url must begin with https:// or http://, is {base_url!r}")
        # A base URL as other clients want it, with a version at its end, is as good.
        self._url = _VERSIONS.sub("", base_url) + "/v2/rerank"
        self._timeout = httpx.Timeout(timeout, connect=min(5.0, timeout))
        self._retries = retries or Retries()
        self._headers = {**_JSON, **({"Authorization": f"Bearer {api_key}"} if api_key else {})}
        self._auth: httpx.Auth | None = None

    @classmethod
    def for_endpoint(
        cls,
        name: str,
        *,
        region: str | None = None,
        session: Any = None,
        runtime_url: str | None = None,
        timeout: float = 60.0,
        retries: Retries | None = None,
        **options: Any,
    ) -> Self:
        """Return a client that asks a SageMaker endpoint itself, signed with AWS credentials, without the API in front.

        Args:
            name: the endpoint's name.
            region: where it is; None takes the session's.
            session: a boto3 session; None makes one.
            runtime_url: of SageMaker's runtime API, such as a VPC endpoint's; None is the one that boto3 would call.
        """
        url, auth = endpoint_target(name, region, session, runtime_url)
        options.setdefault("verify", endpoint_tls())
        client = cls(url, None, timeout=timeout, retries=retries, **options)
        client._url, client._auth = url, auth
        return client

    def _next_wait(self, attempt: int, failure: httpx.TransportError | httpx.Response) -> float:
        """Return the seconds until the next attempt.

        Raises:
            RerankError: when there is to be none.
        """
        if isinstance(failure, httpx.Response):
            headers: Mapping[str, str] = failure.headers
            error: RerankError = read_error(failure.status_code, failure.content, headers.get("x-request-id"))
            status = getattr(error, "status", failure.status_code)
        elif isinstance(failure, httpx.TimeoutException) and not isinstance(failure, httpx.ConnectTimeout):
            # The model may still be at work on it: another request would only add to that.
            raise TimedOutError(f"no answer within {self._timeout.read:g} s") from failure
        else:
            error = ConnectionFailedError(f"{self._url} can't be reached: {failure or type(failure).__name__}")
            status, headers = None, {}
        wait = self._retries.wait(attempt, status, headers)
        if wait is None:
            raise error
        return wait


def _exchange(query: str, documents: Sequence[Document], given: Mapping[str, Any]) -> tuple[bytes, Callable[[bytes], Ranking]]:
    """Return the body of a request, and what reads its answer."""
    options = {name: given[name] for name in _OPTIONS if given[name] is not None and given[name] is not False}
    first_stage = given["first_stage_scores"]
    if first_stage is None:
        return write_request(query, documents, options), lambda content: read_answer(content, documents)
    if len(first_stage) != len(documents):
        raise ValueError(f"{len(first_stage)} first_stage_scores for {len(documents)} documents: give one each")
    fusion = Fusion(first_stage, given["first_stage_weight"], options)
    return write_request(query, documents, fusion.request_options()), lambda content: fusion.rank(
        read_answer(content, documents)
    )


class RerankClient(_Target):
    """Asks a rerank API. One client, its connections kept, serves any number of requests and threads.

    Args:
        base_url: such as ``https://HOST``.
        api_key: of the API; None sends none.
        timeout: seconds that one answer may take.
        retries: how often and how long to come again.
        transport: for tests, or a proxy; None is httpx's own.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
        verify: Any = True,
    ) -> None:
        super().__init__(base_url, api_key, timeout, retries)
        self._http = httpx.Client(timeout=self._timeout, transport=transport, verify=verify)

    def rerank(
        self,
        query: str,
        documents: Sequence[Document],
        *,
        top_n: int | None = None,
        order: Order | None = None,
        rank_fields: Sequence[str] | None = None,
        max_tokens_per_doc: int | None = None,
        max_chunks_per_doc: int | None = None,
        raw_scores: bool = False,
        model: str | None = None,
        first_stage_scores: Sequence[float] | None = None,
        first_stage_weight: float = 0.5,
    ) -> Ranking:
        """Return the documents, the most relevant first.

        Args:
            query: the question.
            documents: strings, or objects with a ``text`` or any fields.
            top_n: how many to return; None for all.
            order: ``lost_in_the_middle`` puts the best first and last, for long prompts.
            rank_fields: of objects, the fields to score.
            max_tokens_per_doc, max_chunks_per_doc: how much of a long document is read.
            raw_scores: logits instead of scores from 0 to 1.
            model: a name to be echoed.
            first_stage_scores: of BM25 or the retriever, one per document, the higher the better: the order is then that of
                both scores together (`ko_reranker.fusion.fuse`), which helps small models; the scores stay the model's.
            first_stage_weight: theirs, 0 to 1.

        Raises:
            ValueError: when ``first_stage_scores`` aren't one per document, or the weight is not from 0 to 1.
            RerankError: when there is no answer, after the retries.
        """
        given = locals()
        content, read = _exchange(query, documents, given)
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = self._http.request("POST", self._url, content=content, headers=self._headers, auth=self._auth)
            except httpx.TransportError as error:
                time.sleep(self._next_wait(attempt, error))
                continue
            if answer.status_code == 200:
                return read(answer.content)
            time.sleep(self._next_wait(attempt, answer))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncRerankClient(_Target):
    """:class:`RerankClient` for asyncio: the same arguments, methods to be awaited."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        verify: Any = True,
    ) -> None:
        super().__init__(base_url, api_key, timeout, retries)
        self._http = httpx.AsyncClient(timeout=self._timeout, transport=transport, verify=verify)

    async def rerank(
        self,
        query: str,
        documents: Sequence[Document],
        *,
        top_n: int | None = None,
        order: Order | None = None,
        rank_fields: Sequence[str] | None = None,
        max_tokens_per_doc: int | None = None,
        max_chunks_per_doc: int | None = None,
        raw_scores: bool = False,
        model: str | None = None,
        first_stage_scores: Sequence[float] | None = None,
        first_stage_weight: float = 0.5,
    ) -> Ranking:
        """Return the documents, the most relevant first; see :meth:`RerankClient.rerank`."""
        given = locals()
        content, read = _exchange(query, documents, given)
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = await self._http.request("POST", self._url, content=content, headers=self._headers, auth=self._auth)
            except httpx.TransportError as error:
                await asyncio.sleep(self._next_wait(attempt, error))
                continue
            if answer.status_code == 200:
                return read(answer.content)
            await asyncio.sleep(self._next_wait(attempt, answer))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


_OPTIONS = (
    "top_n", "order", "rank_fields", "max_tokens_per_doc", "max_chunks_per_doc", "raw_scores", "model",
)  # fmt: skip
