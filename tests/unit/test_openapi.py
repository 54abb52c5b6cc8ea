"""The OpenAPI document is true to what is served: schemathesis asks by it, with every check it has, and finds nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from jsonschema_rs import meta
from public_api import KEY, PublicApi
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from stub_ranker import StubRanker

from ko_reranker.protocol import CONTAINER_ROUTES, PUBLIC_ROUTES, openapi, parse_request
from ko_reranker.protocol.dialects import DIALECTS
from ko_reranker.serving import create_app

# Where only something is read, schemathesis tries every edge, and of the bodies, which one parser reads wherever they come to,
# at one path of the function: they are thousands.
READ = "/v1/models|/models|/info|/health|/openapi.json"
SEARCHED_CONTAINER, SEARCHED_PUBLIC = f"^({READ})$", f"^(/v2/rerank|{READ})$"


class Lengths(StubRanker):
    """The longer a document, the better."""

    max_length = 512
    model_id = "lengths"

    def logit(self, query: str, document: str) -> float:
        return len(document) - 4.0


class FreshApp:
    """The container's app, one for each lifespan: schemathesis starts and stops it around every call."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self._app = create_app(Lengths())
        await self._app(scope, receive, send)


def schema(app: Any, *, keys: bool, searched: str | None = None) -> schemathesis.BaseSchema:
    """The whole document, or the paths at which every edge is tried."""
    found = schemathesis.openapi.from_dict(openapi.document(keys=keys))
    found.app = app
    found.config.phases.coverage.enabled = searched is not None
    if searched is None:
        return found
    found.config.checks.ignored_auth.enabled = False  # which asks everything once more; the whole document is asked with it
    return found.include(path_regex=searched)


def finding_nothing(examples: int) -> Callable[..., Any]:
    """The settings of a search: the document's own examples, every edge of its schemas, and this many bodies made up."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


CONTAINER, PUBLIC = schema(FreshApp(), keys=False), schema(PublicApi(), keys=True)
CONTAINERS_EDGES = schema(FreshApp(), keys=False, searched=SEARCHED_CONTAINER)
PUBLIC_EDGES = schema(PublicApi(), keys=True, searched=SEARCHED_PUBLIC)


@CONTAINER.parametrize()
@finding_nothing(12)
def test_the_container_answers_as_the_document_says_at_every_path(case: schemathesis.Case) -> None:
    case.call_and_validate()


@CONTAINERS_EDGES.parametrize()
@finding_nothing(30)
def test_the_container_answers_as_the_document_says_at_every_edge(case: schemathesis.Case) -> None:
    case.call_and_validate()


@PUBLIC_EDGES.parametrize()
@finding_nothing(30)
def test_the_rerank_function_answers_as_the_document_says_at_every_edge(case: schemathesis.Case) -> None:
    case.call_and_validate(headers={"Authorization": f"Bearer {KEY}"})


@PUBLIC.parametrize()
@finding_nothing(8)
def test_the_rerank_function_answers_as_the_document_says_at_every_path(case: schemathesis.Case) -> None:
    case.call_and_validate(headers={"Authorization": KEY})


def test_every_route_is_in_it_and_nothing_else() -> None:
    paths = openapi.document()["paths"]
    assert {path: {route.method.lower()} for path, route in PUBLIC_ROUTES.items()} == {
        path: set(item) - {"parameters"} for path, item in paths.items()
    }


def test_its_schemas_are_json_schema() -> None:
    for schema in openapi.document()["components"]["schemas"].values():
        meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_every_dialect_has_an_example_and_every_example_is_read() -> None:
    for dialect in DIALECTS:
        assert dialect.examples, dialect.name
        for example in dialect.examples:
            assert parse_request(example.body, "/v2/rerank").dialect == dialect.name, example.name
    names = [example.name for dialect in DIALECTS for example in dialect.examples]
    [content] = openapi.document()["components"]["requestBodies"]["Request"]["content"].values()
    assert sorted(content["examples"]) == sorted(names), "two examples have one name"


def test_the_container_has_a_handler_for_every_route() -> None:
    with TestClient(create_app(Lengths())) as container:
        for route in CONTAINER_ROUTES.values():
            answer = container.request(route.method, route.path.replace("{model}", Lengths.model_id), json={"query": "가"})
            assert answer.status_code == (422 if route.request else 204 if route.operation == "ready" else 200), route
            if answer.status_code == 200:
                assert answer.headers["content-type"].startswith(route.content_type), route


def test_the_limit_of_documents_is_the_one_that_is_set() -> None:
    parts = openapi.document(max_documents=7)["components"]["schemas"]
    assert parts["Documents"]["anyOf"][1]["maxItems"] == parts["Sources"]["properties"]["sources"]["maxItems"] == 7
