"""The pipeline's Lambda functions, by what they do."""

from __future__ import annotations

import json
from dataclasses import asdict

import aws_cdk as cdk
from constructs import Construct

from cdk.constructs.permissions import NO_RESOURCE
from cdk.constructs.python_function import PythonFunction
from cdk.constructs.stores import DataBucket, RecordTable
from ko_reranker.recipes.shipped import recipes
from ko_reranker.retraining.training_request import TrainingPlace
from ko_reranker.settings import Settings

_LIBRARY = ("data", "languages", "retraining", "text")
_LONGEST = cdk.Duration.minutes(15)


class PipelineFunctions:
    """The steps of the retraining that are Lambdas, each with what it may do.

    Args:
        scope: the stack that they are in.
        memory: the translation memory.
        place: what a training job is told of this stage.
    """

    def __init__(
        self, scope: Construct, *, settings: Settings, bucket: DataBucket, memory: RecordTable, place: TrainingPlace
    ) -> None:
        self._scope, self._settings, self._bucket, self._memory = scope, settings, bucket, memory
        self._stores = {"DATA_BUCKET": bucket.name, "TRANSLATION_MEMORY": memory.name}
        self.check_input = self._check_input(place)
        self.plan = self._plan()
        self.translate = self._translate()
        self.shard_failures = self._shard_failures()
        self.join = self._join()
        self.gate = self._gate()

    def all(self) -> tuple[PythonFunction, ...]:
        return (self.check_input, self.plan, self.translate, self.shard_failures, self.join, self.gate)

    def _check_input(self, place: TrainingPlace) -> PythonFunction:
        return PythonFunction(
            self._scope,
            "CheckInput",
            folder="check_input",
            library=(*_LIBRARY, "checked", "instances", "recipes"),
            documents={"recipes.json": recipes()},
            environment={
                "DEFAULTS": cdk.Fn.sub(_defaults(self._settings), {"DataBucket": self._bucket.name}),
                "TRAINING": cdk.Stack.of(self._scope).to_json_string(asdict(place)),
            },
        )

    def _plan(self) -> PythonFunction:
        translation = self._settings.translation
        plan = PythonFunction(
            self._scope,
            "Plan",
            folder="plan",
            library=_LIBRARY,
            timeout=_LONGEST,
            memory_mb=2048,
            ephemeral_gb=10,
            environment={
                **self._stores,
                "USD_PER_MILLION_CHARACTERS": str(translation.usd_per_million_characters),
                "CHARACTERS_PER_SECOND": str(translation.characters_per_second),
                "SHARD_BYTES": str(translation.shard_kilobytes * 1024),
            },
        )
        self._bucket.grant_objects(plan.role, read=["raw/", "runs/"], write=["runs/"])
        self._memory.grant(plan.role, "BatchGetItem")
        return plan

    def _translate(self) -> PythonFunction:
        translate = PythonFunction(
            self._scope,
            "Translate",
            folder="translate",
            library=_LIBRARY,
            timeout=_LONGEST,
            environment={**self._stores, "CONCURRENCY": str(self._settings.translation.requests_in_flight)},
        )
        self._bucket.grant_objects(translate.role, read=["runs/"], write=["runs/"])
        self._memory.grant(translate.role, "BatchGetItem", "PutItem")
        # Terminologies aside; GetTerminology is implied by naming one.
        translate.allow("translate:TranslateText", on=["*"], because=NO_RESOURCE)
        return translate

    def _shard_failures(self) -> PythonFunction:
        environment = {"DATA_BUCKET": self._bucket.name}
        shard_failures = PythonFunction(
            self._scope, "ShardFailures", folder="shard_failures", library=_LIBRARY, environment=environment
        )
        self._bucket.grant_objects(shard_failures.role, read=["runs/"])
        return shard_failures

    def _join(self) -> PythonFunction:
        join = PythonFunction(
            self._scope,
            "Join",
            folder="join",
            library=_LIBRARY,
            timeout=_LONGEST,
            memory_mb=2048,
            ephemeral_gb=10,
            environment={"DATA_BUCKET": self._bucket.name},
        )
        self._bucket.grant_objects(join.role, read=["raw/", "runs/"], write=["runs/"], delete=["runs/"])
        return join

    def _gate(self) -> PythonFunction:
        gate = PythonFunction(
            self._scope,
            "Gate",
            folder="gate",
            library=(*_LIBRARY, "embedded_metrics"),
            environment={
                "DATA_BUCKET": self._bucket.name,
                "GATE": json.dumps(asdict(self._settings.evaluation.gate)),
                "METRICS_NAMESPACE": self._settings.name,
                "ENDPOINT_NAME": self._settings.prefix,
            },
        )
        self._bucket.grant_objects(gate.role, read=["models/*/evaluation/"])
        return gate


def _defaults(settings: Settings) -> str:
    """The execution input's defaults for the check_input function, with ${DataBucket} left to CloudFormation."""
    defaults = asdict(settings.execution_defaults("${DataBucket}"))
    del defaults["recipes"]  # a document of its own: the environment has no room for them
    return json.dumps(defaults)
