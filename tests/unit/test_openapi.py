"""The OpenAPI document is true to what is served: schemathesis asks by it, and finds nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from jsonschema_rs import meta
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.types import Receive, Scope, Send

from ko_reranker.protocol import PUBLIC_ROUTES, openapi
from ko_reranker.rankers import Scored
from ko_reranker.serving import create_app

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    positive_data_acceptance,
]


class Lengths:
    """A ranker without a model: the longer a document, the better."""

    max_length = 512
    model_id = "lengths"

    def score_detailed(self, query: str, documents: Sequence[str]) -> Scored:
        lengths = np.array([len(document) for document in documents], dtype=np.int32)
        return Scored(lengths.astype(np.float32) - 4, lengths, lengths > 400, False)


class FreshApp:
    """An app for each lifespan: schemathesis starts and stops it around every call."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self._app = create_app(Lengths())
        await self._app(scope, receive, send)


SCHEMA = schemathesis.openapi.from_dict(openapi.document())
SCHEMA.app = FreshApp()


@SCHEMA.parametrize()
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_what_the_document_allows_is_answered_as_it_says(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKS)


def test_every_route_is_in_it_and_nothing_else() -> None:
    paths = openapi.document()["paths"]
    assert {path: {method.lower()} for path, (method, _) in PUBLIC_ROUTES.items()} == {
        path: set(item) for path, item in paths.items()
    }


def test_its_schemas_are_json_schema() -> None:
    for schema in openapi.document()["components"]["schemas"].values():
        meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
