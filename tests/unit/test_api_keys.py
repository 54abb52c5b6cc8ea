"""Keys of the rerank API, kept by API Gateway: botocore checks every call and answers as the test says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber
from loading import load
from typer.testing import CliRunner

from ko_reranker.cli import app
from ko_reranker.operations import api_keys
from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.stage import Stage

VALUE = "v" * 40


class Account:
    """API Gateway with two usage plans of the stage and one of another."""

    def __init__(self) -> None:
        self.client = boto3.client("apigateway", "ap-northeast-2", aws_access_key_id="a", aws_secret_access_key="b")
        self.stubber = Stubber(self.client)
        self.stage = Stage("dev", "ko-reranker-dev", "ap-northeast-2", lambda _: self.client)

    def plans(self) -> None:
        names = {"p1": "ko-reranker-dev-standard", "p2": "ko-reranker-dev-trial", "p3": "other-standard"}
        items = [{"id": key, "name": name} for key, name in names.items()]
        self.stubber.add_response("get_usage_plans", {"items": items}, {})

    def lists(self, *pages: list[dict[str, Any]], standard: tuple[str, ...] = (), trial: tuple[str, ...] = ()) -> None:
        """Be asked for the keys, and tell them in these pages."""
        self.plans()
        for plan, members in (("p1", standard), ("p2", trial)):
            self.stubber.add_response("get_usage_plan_keys", {"items": [{"id": i} for i in members]}, {"usagePlanId": plan})
        asked: dict[str, Any] = {"nameQuery": "ko-reranker-dev-", "includeValues": False}
        for number, page in enumerate(pages):
            more = {"position": f"page-{number + 1}"} if number + 1 < len(pages) else {}
            self.stubber.add_response("get_api_keys", {"items": page, **more}, asked)
            asked = {**asked, **more}

    def makes(self, name: str, plan: str) -> None:
        described = {"name": f"ko-reranker-dev-{name}", "enabled": True, "description": "Made by ko-reranker keys create"} | {
            "value": ANY
        }
        self.stubber.add_response("create_api_key", {"id": "k9", "value": VALUE}, described)
        self.stubber.add_response("create_usage_plan_key", {}, {"usagePlanId": plan, "keyId": "k9", "keyType": "API_KEY"})

    def disables(self, key: str) -> None:
        change = {"op": "replace", "path": "/enabled", "value": "false"}
        self.stubber.add_response("update_api_key", {}, {"apiKey": key, "patchOperations": [change]})


def key(number: str, name: str, *, enabled: bool = True) -> dict[str, Any]:
    return {"id": number, "name": name, "enabled": enabled, "createdDate": datetime(2026, 11, 1, tzinfo=UTC)}


@pytest.fixture
def account():
    account = Account()
    with account.stubber:
        yield account
        account.stubber.assert_no_pending_responses()


def test_a_key_is_made_on_its_tier_and_its_value_given(account):
    account.plans()
    account.lists([key("k1", "ko-reranker-dev-first")])
    account.makes("search-team", "p2")
    assert api_keys.create(account.stage, "search-team", "trial") == VALUE


def test_a_key_names_its_tier_to_the_authorizer_and_no_two_are_alike(account):
    made = []

    def keep(params, **_):
        made.append(params["value"])

    account.client.meta.events.register("provide-client-params.apigateway.CreateApiKey", keep)
    for tier, plan in (("standard", "p1"), ("trial", "p2"), ("trial", "p2")):
        account.plans()
        account.lists([])
        account.makes("team", plan)
        api_keys.create(account.stage, "team", tier)
    assert [load("authorizer", "api_keys").tier_of(value) for value in made] == ["standard", "trial", "trial"]
    assert len(set(made)) == 3
    assert all(20 <= len(value) <= 128 for value in made)


def test_keys_of_every_page_are_listed_by_name_and_another_stages_are_not(account):
    account.lists(
        [key("k2", "ko-reranker-dev-b-team"), key("k3", "not-ko-reranker-dev-x")],
        [key("k1", "ko-reranker-dev-a-team", enabled=False)],
        standard=("k2", "k7"),
    )
    listed = [(found.name, found.tier, found.enabled, found.created) for found in api_keys.keys(account.stage)]
    assert listed == [("a-team", None, False, "2026-11-01"), ("b-team", "standard", True, "2026-11-01")]


def test_a_key_is_disabled_by_its_id(account):
    account.lists([key("k1", "ko-reranker-dev-a-team"), key("k2", "ko-reranker-dev-b-team")])
    account.disables("k2")
    api_keys.disable(account.stage, "b-team")


@pytest.mark.parametrize("name", ["search team", "-team", "t" * 65, "", "팀"])
def test_what_cannot_be_a_name_is_refused_before_anything_is_asked(account, name):
    with pytest.raises(OperationError, match="can't be a name"):
        api_keys.create(account.stage, name, "standard")


def test_an_unknown_tier_is_refused_with_those_that_there_are(account):
    account.plans()
    with pytest.raises(OperationError, match="standard, trial"):
        api_keys.create(account.stage, "team", "gold")


def test_a_name_that_is_taken_is_refused_and_nothing_made(account):
    account.plans()
    account.lists([key("k1", "ko-reranker-dev-team")])
    with pytest.raises(OperationError, match="already"):
        api_keys.create(account.stage, "team", "standard")


def test_a_stage_that_is_not_deployed_is_said_so(account):
    account.stubber.add_response("get_usage_plans", {"items": []}, {})
    with pytest.raises(OperationError, match="not deployed"):
        api_keys.create(account.stage, "team", "standard")


def test_a_key_that_is_not_there_can_not_be_disabled(account):
    account.lists([])
    with pytest.raises(OperationError, match="keys list"):
        api_keys.disable(account.stage, "nobody")


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["keys", *arguments, "--stage", "dev"])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_commands_show_a_value_once_and_a_list_without_values(account, monkeypatch):
    monkeypatch.setattr(Stage, "connect", lambda *_, **__: account.stage)
    account.plans()
    account.lists([])
    account.makes("search-team", "p1")  # the first of api.tiers
    assert run("create", "search-team").strip() == VALUE
    account.lists([key("k9", "ko-reranker-dev-search-team")], standard=("k9",))
    listed = run("list")
    assert all(word in listed for word in ("search-team", "standard", "enabled", "k9")) and VALUE not in listed
    account.lists([key("k9", "ko-reranker-dev-search-team")])
    account.disables("k9")
    assert run("disable", "search-team").strip() == "Disabled: search-team"
