"""States of the retraining: from raw records to a dataset in the target language."""

from __future__ import annotations

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk.constructs.pipeline_functions import PipelineFunctions
from cdk.constructs.states import FailureTail, invoke
from cdk.constructs.stores import DataBucket
from ko_reranker.settings import Translation


class Preparation(Construct):
    """Check the input, plan, translate, join.

    Args:
        failure: where failures go.

    Attributes:
        chain: what follows it finds the run in ``$.request`` and the dataset in ``$.dataset``.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Translation,
        bucket: DataBucket,
        functions: PipelineFunctions,
        failure: FailureTail,
    ) -> None:
        super().__init__(scope, construct_id)
        self._settings, self._bucket, self._functions, self._failure = settings, bucket, functions, failure
        check = invoke(
            self,
            "Check the input",
            functions.check_input.function,
            {"input.$": "$$.Execution.Input", "execution.$": "$$.Execution.Name"},
            comment="Every field is optional; the run stands in $.request",
            result_selector={"request.$": "$"},
            result_path="$",
            failure=failure,
        )
        plan = invoke(
            self,
            "Plan the translation",
            functions.plan.function,
            {"request.$": "$.request"},
            comment="Distinct texts, what the memory knows, characters and dollars, before anything is spent",
            result_path="$.plan",
            failure=failure,
        )
        join = invoke(
            self,
            "Join the translations",
            functions.join.function,
            {"request.$": "$.request"},
            comment="Records again; what could not be translated goes to quarantine with its reason",
            result_path="$.dataset",
            failure=failure,
        )
        check.next(plan).next(self._spend(join))
        self.chain = sfn.Chain.custom(check, [join], join)

    def _spend(self, join: sfn.TaskStateBase) -> sfn.Choice:
        """Translate what there is to translate, where that is wanted and within the budget."""
        estimate_only = sfn.Succeed(self, "Estimate only", comment="dry_run: the plan stands in the output and in plan.json")
        over_budget = sfn.Fail(self, "Over budget", error="OverBudget", cause_path="$.plan.message")
        translate = self._translate()
        translate.next(join)
        anything = sfn.Choice(self, "Anything to translate?")
        anything.when(sfn.Condition.number_greater_than("$.plan.shards", 0), translate).otherwise(join)
        within_budget = sfn.Choice(self, "Within the budget?")
        within_budget.when(sfn.Condition.boolean_equals("$.plan.within_budget", False), over_budget).otherwise(anything)
        wanted = sfn.Choice(self, "Only an estimate?")
        return wanted.when(sfn.Condition.boolean_equals("$.request.dry_run", True), estimate_only).otherwise(within_budget)

    def _translate(self) -> sfn.DistributedMap:
        shards = sfn.DistributedMap(
            self,
            "Translate the shards",
            comment="One Lambda a shard; a text belongs to one shard and is paid for once",
            label="Shards",
            map_execution_type=sfn.StateMachineType.STANDARD,
            max_concurrency=self._settings.max_concurrency,
            tolerated_failure_percentage=self._settings.tolerated_failure_percentage,
            item_reader=sfn.S3JsonLItemReader(bucket=self._bucket.bucket, key=sfn.JsonPath.string_at("$.plan.shards_key")),
            item_selector={
                "shard.$": "$$.Map.Item.Value.shard",
                "key.$": "$$.Map.Item.Value.key",
                "cursor": 0,
                "counts": {},
                "request.$": "$.request",
            },
            result_writer_v2=sfn.ResultWriterV2(
                bucket=self._bucket.bucket, prefix=sfn.JsonPath.format("{}/map", sfn.JsonPath.string_at("$.request.prefix"))
            ),
            result_path=sfn.JsonPath.DISCARD,
        )
        shards.item_processor(self._translate_a_shard())
        explain = invoke(
            self,
            "Find out why shards failed",
            self._functions.shard_failures.function,
            {"prefix.$": "$.request.prefix", "error.$": "$.error"},
            comment="The map says only that too many did",
            result_path="$.error",
            failure=self._failure,
        )
        shards.add_catch(explain, result_path="$.error")
        explain.next(self._failure.start)
        return shards

    def _translate_a_shard(self) -> sfn.Chain:
        translate = invoke(
            self,
            "Translate a shard",
            self._functions.translate.function,
            {name: f"$.{name.removesuffix('.$')}" for name in ("shard.$", "key.$", "cursor.$", "counts.$", "request.$")},
            comment="As far as one invocation's time goes",
            result_path="$",
            failure=None,
        )
        finished = sfn.Choice(self, "Is the shard finished?")
        finished.when(sfn.Condition.boolean_equals("$.finished", False), translate).otherwise(
            sfn.Pass(self, "Shard translated", parameters={"shard.$": "$.shard", "texts.$": "$.cursor", "counts.$": "$.counts"})
        )
        return translate.next(finished)
