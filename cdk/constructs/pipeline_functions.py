"""The pipeline's Lambda functions, by what they do."""

from __future__ import annotations

from dataclasses import dataclass

from cdk.constructs.python_function import PythonFunction


@dataclass(frozen=True)
class PipelineFunctions:
    """The steps of the retraining that are Lambdas."""

    check_input: PythonFunction
    plan: PythonFunction
    translate: PythonFunction
    shard_failures: PythonFunction
    join: PythonFunction
    gate: PythonFunction

    def all(self) -> tuple[PythonFunction, ...]:
        return (self.check_input, self.plan, self.translate, self.shard_failures, self.join, self.gate)
