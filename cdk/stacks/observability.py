"""What everything does and costs, and who hears when it doesn't: a dashboard, alarms, saved queries, a budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_budgets as budgets
from aws_cdk import aws_ce as ce
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk.constructs.observed import Graph, Observed, Query, Watch, labelled, told
from cdk.constructs.stores import NoticeTopic
from ko_reranker.settings import Settings

# A dashboard is 24 wide.
_WIDTH, _HEIGHT = 8, 6
# Billing has its metrics in this region only, and only where the account asked for them.
_BILLING_REGION = "us-east-1"
_SPENT_PERCENT, _EXPECTED_PERCENT = 80, 100


class ObservabilityStack(cdk.Stack):
    """One dashboard and the alarms of a stage, made of what its stacks show of themselves.

    It holds nothing: it can be deleted and deployed again at any time.

    Args:
        topic: who is told.
        observed: a part of the dashboard each, from top to bottom.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        topic: NoticeTopic,
        observed: Sequence[Observed],
        **kwargs: Any,
    ) -> None:
        super().__init__(scope, construct_id, description="ko-reranker: dashboard, alarms, queries, budget", **kwargs)
        self._settings = settings
        alarms: list[cloudwatch.IAlarm] = []
        rows: list[list[cloudwatch.IWidget]] = []
        for part in observed:
            alarms += [self._alarm(watch, topic) for watch in part.watches]
            alarms += [self._named_alarm(name) for name in part.alarms]
            for query in part.queries:
                self._save(query)
            rows += self._rows(part)
        rows.append([_charges()])
        dashboard = cloudwatch.Dashboard(
            self, "Dashboard", dashboard_name=settings.prefix, default_interval=cdk.Duration.days(1)
        )
        state = cloudwatch.AlarmStatusWidget(title="Alarms", alarms=alarms, width=3 * _WIDTH, height=3)
        rows.insert(0, [state])
        for row in rows:
            dashboard.add_widgets(*row)
        if settings.alerts.monthly_budget_usd:
            self._budget(settings.alerts.monthly_budget_usd, topic)
        if settings.alerts.anomaly_usd:
            self._anomalies(settings.alerts.anomaly_usd, topic)
        if settings.stage == "prod" and not settings.alerts.email:
            cdk.Annotations.of(self).add_warning_v2(
                "ko-reranker:nobodySubscribed",
                "Nobody hears of the alarms unless somebody subscribed to the topic by hand: set alerts.email in cdk.json.",
            )
        cdk.CfnOutput(self, "DashboardName", value=settings.prefix)

    def _rows(self, part: Observed) -> list[list[cloudwatch.IWidget]]:
        widgets: list[cloudwatch.IWidget] = [_graph(graph) for graph in part.graphs]
        widgets += [_answer(query) for query in part.queries if query.shown]
        head: list[cloudwatch.IWidget] = [cloudwatch.TextWidget(markdown=f"## {part.title}", width=3 * _WIDTH, height=1)]
        return [head, *(widgets[start : start + 3] for start in range(0, len(widgets), 3))]

    def _alarm(self, watch: Watch, topic: NoticeTopic) -> cloudwatch.Alarm:
        threshold, comparison = _threshold(watch)
        alarm = cloudwatch.Alarm(
            self,
            _construct_id(watch.name),
            alarm_name=f"{self._settings.prefix}-{watch.name}",
            alarm_description=told(watch.says, watch.name, self._settings.alerts),
            metric=watch.metric,
            threshold=threshold,
            comparison_operator=comparison,
            evaluation_periods=watch.periods,
            treat_missing_data=(
                cloudwatch.TreatMissingData.BREACHING if watch.silence_is_wrong else cloudwatch.TreatMissingData.NOT_BREACHING
            ),
        )
        alarm.add_alarm_action(actions.SnsAction(topic.topic))
        alarm.add_ok_action(actions.SnsAction(topic.topic))
        return alarm

    def _named_alarm(self, name: str) -> cloudwatch.IAlarm:
        arn = self.format_arn(
            service="cloudwatch", resource="alarm", resource_name=name, arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME
        )
        return cloudwatch.Alarm.from_alarm_arn(self, _construct_id(name), arn)

    def _save(self, query: Query) -> None:
        logs.CfnQueryDefinition(
            self,
            _construct_id(query.name),
            name=f"{self._settings.prefix}/{query.name}",
            query_string=_commands(query),
            log_group_names=[group.log_group_name for group in query.log_groups],
        )

    def _budget(self, limit: float, topic: NoticeTopic) -> None:
        """What is tagged with the project: the tag has to be switched on as a cost allocation tag of the account."""

        def notice(kind: str, percent: float) -> budgets.CfnBudget.NotificationWithSubscribersProperty:
            return budgets.CfnBudget.NotificationWithSubscribersProperty(
                notification=budgets.CfnBudget.NotificationProperty(
                    notification_type=kind, comparison_operator="GREATER_THAN", threshold=percent
                ),
                subscribers=[budgets.CfnBudget.SubscriberProperty(subscription_type="SNS", address=topic.arn)],
            )

        budgets.CfnBudget(
            self,
            "Budget",
            budget=budgets.CfnBudget.BudgetDataProperty(
                # The budgets of an account share one space of names, and its own name may not change.
                budget_name=self._settings.prefix,
                budget_type="COST",
                time_unit="MONTHLY",
                budget_limit=budgets.CfnBudget.SpendProperty(amount=limit, unit="USD"),
                cost_filters={"TagKeyValue": [f"user:project${self._settings.name}"]},
            ),
            notifications_with_subscribers=[notice("ACTUAL", _SPENT_PERCENT), notice("FORECASTED", _EXPECTED_PERCENT)],
        )

    def _anomalies(self, beyond: float, topic: NoticeTopic) -> None:
        """Costs of what is tagged with the project that leave their pattern, told as soon as they are seen."""
        project = {"Tags": {"Key": "project", "Values": [self._settings.name]}}
        monitor = ce.CfnAnomalyMonitor(
            self,
            "Anomalies",
            monitor_name=self._settings.prefix,
            monitor_type="CUSTOM",
            monitor_specification=self.to_json_string(project),
        )
        enough = {"Key": "ANOMALY_TOTAL_IMPACT_ABSOLUTE", "MatchOptions": ["GREATER_THAN_OR_EQUAL"], "Values": [f"{beyond:g}"]}
        ce.CfnAnomalySubscription(
            self,
            "AnomalyNotices",
            subscription_name=self._settings.prefix,
            frequency="IMMEDIATE",
            monitor_arn_list=[monitor.attr_monitor_arn],
            subscribers=[ce.CfnAnomalySubscription.SubscriberProperty(type="SNS", address=topic.arn)],
            threshold_expression=self.to_json_string({"Dimensions": enough}),
        )


def _threshold(watch: Watch) -> tuple[float, cloudwatch.ComparisonOperator]:
    if watch.above is not None:
        return watch.above, cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD
    if watch.below is not None:
        return watch.below, cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD
    raise ValueError(f"{watch.name} has neither a value to be above nor one to be below")


def _graph(graph: Graph) -> cloudwatch.GraphWidget:
    return cloudwatch.GraphWidget(
        title=graph.title,
        left=list(graph.metrics),
        right=list(graph.right),
        left_y_axis=cloudwatch.YAxisProps(label=graph.unit, min=0, show_units=False),
        right_y_axis=cloudwatch.YAxisProps(min=0, show_units=False),
        width=_WIDTH,
        height=_HEIGHT,
    )


def _answer(query: Query) -> cloudwatch.LogQueryWidget:
    return cloudwatch.LogQueryWidget(
        title=query.name,
        log_group_names=[group.log_group_name for group in query.log_groups],
        query_string=_commands(query),
        width=_WIDTH,
        height=_HEIGHT,
    )


def _charges() -> cloudwatch.GraphWidget:
    spent = labelled("AWS/Billing", "EstimatedCharges", {"Currency": "USD"}, "Maximum", "USD", cdk.Duration.hours(6)).with_(
        region=_BILLING_REGION
    )
    return cloudwatch.GraphWidget(
        title="Charges of the account this month", left=[spent], region=_BILLING_REGION, width=_WIDTH, height=_HEIGHT
    )


def _commands(query: Query) -> str:
    return "\n| ".join(query.text)


def _construct_id(name: str) -> str:
    return "".join(word.capitalize() for word in name.replace("-", " ").split())
