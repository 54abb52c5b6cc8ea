"""The bill of a stage is made of its own templates, and says what it does not know."""

from __future__ import annotations

import re

import pytest
from synthesis import CONTEXT, ROOT, Templates
from typer.testing import CliRunner

from ko_reranker.cli import app
from ko_reranker.operations import costs, synthesis
from ko_reranker.settings import Price, Prices, SettingsError, load_settings

SOURCE = {"source": "https://example.com/prices", "as_of": "2026-11-29"}


def priced(**dollars: float) -> Prices:
    return Prices(**{name: Price(usd=usd, **SOURCE) for name, usd in dollars.items()})


def test_every_resource_of_every_variant_is_priced_or_named(
    everything: Templates, locked: Templates, prod: Templates, prod_without_endpoint: Templates, local: Templates
) -> None:
    for templates in (everything, locked, prod, prod_without_endpoint, local):
        lines = costs.at_rest(templates, Prices())
        assert {line.usd for line in lines} == {None}
        # A key of one's own is on another bill.
        assert ("prices.kms_key_month" in {line.setting for line in lines}) is (templates is not everything)


def test_all_of_an_idle_stage_but_its_instances_has_a_price(everything: Templates, locked: Templates) -> None:
    prices = load_settings({**CONTEXT, "stage": "prod"}).prices
    for templates in (everything, locked):
        empty = {line.setting for line in costs.at_rest(templates, prices) if line.usd is None}
        assert empty == {"prices.instance_hour.ml.g5.xlarge"}


def test_a_resource_that_nobody_knows_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match="AWS::RDS::DBInstance is neither priced"):
        costs.at_rest({"data": {"Resources": {"Database": {"Type": "AWS::RDS::DBInstance"}}}}, Prices())


def test_counts_are_the_templates(everything: Templates) -> None:
    prices = priced(interface_endpoint_hour=0.5, nat_gateway_hour=1, web_acl_month=5, web_acl_rule_month=1)
    found = {line.setting.removeprefix("prices."): line for line in costs.at_rest(everything, prices)}
    assert found["interface_endpoint_hour"].usd == 0.5 * 7 * 2 * 730
    assert found["nat_gateway_hour"].usd == 730
    assert (found["web_acl_month"].usd, found["web_acl_rule_month"].usd) == (10, 2)
    assert found["instance_hour.ml.g5.xlarge"].count == 2 * 730
    assert found["alarm_metric_month"].count > 12


def test_hours_that_the_endpoint_is_away_are_not_paid_for(prod: Templates) -> None:
    hours = '{"off": "cron(0 20 ? * MON-FRI *)", "on": "cron(0 8 ? * MON-FRI *)"}'
    settings = load_settings({**CONTEXT, "stage": "prod", "schedule.endpoint": hours})
    assert settings.schedule.endpoint is not None
    lines = costs.at_rest(prod, Prices(), endpoint_share=settings.schedule.endpoint.share)
    counts = {line.setting.removeprefix("prices."): line.count for line in lines}
    assert counts["instance_hour.ml.g5.xlarge"] == pytest.approx(2 * 730 * 60 / 168)
    assert counts["dashboard_month"] == counts["kms_key_month"] == 1


def test_a_retraining_costs_at_most_what_its_limits_let_it() -> None:
    given = {"stage": "prod", "training.instance_count": "2", "training.max_hours": "10", "evaluation.max_hours": "3"}
    training, evaluation = costs.retraining_at_most(load_settings({**CONTEXT, **given}))
    assert (training.what, training.count) == ("hours of ml.g5.12xlarge", 20)
    assert (evaluation.what, evaluation.count) == ("hours of ml.g5.xlarge", 6)


def test_a_search_of_others_is_a_hundred_documents() -> None:
    for documents, thousands in ((50, 1000), (100, 1000), (101, 2000)):
        assert {line.count for line in costs.elsewhere(Prices(), documents)} == {thousands}


def test_a_call_is_paid_for_as_long_as_it_waits() -> None:
    lines = costs.million_calls(load_settings({**CONTEXT, "stage": "prod"}), 0.25)
    assert [line.count for line in lines] == [1, 2, 250_000]


@pytest.mark.parametrize("lacking", ["source", "as_of"])
def test_a_price_without_a_source_or_a_date_is_refused(lacking: str) -> None:
    given = {
        f"prices.bedrock_thousand_searches.{key}": value for key, value in {"usd": "0.4", **SOURCE}.items() if key != lacking
    }
    with pytest.raises(SettingsError, match=r"prices\.bedrock_thousand_searches: .*needs its source and as_of"):
        load_settings({**CONTEXT, "stage": "prod", **given})


def test_the_command_says_which_prices_it_lacks(monkeypatch: pytest.MonkeyPatch, prod: Templates) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(synthesis, "synthesise", lambda project, stage, overrides: prod)
    done = CliRunner().invoke(app, ["cost"])
    assert done.exit_code == 0, done.output
    assert "A million calls: not measured" in done.output
    assert re.search(r"offers/v1\.0/aws/awskms/current/ap-northeast-2/index\.json, 2026-10-01", done.output)
    assert "no price: prices.instance_hour.ml.g5.xlarge is empty" in done.output
    assert re.search(r"5\.70 USD and what 1 more without a price cost", done.output)
    assert "with its endpoint, which" not in done.output
    done = CliRunner().invoke(app, ["cost", "--seconds", "0.3", "--documents", "150"])
    assert "A million calls of 0.3 s" in done.output and "of 150 documents elsewhere" in done.output
