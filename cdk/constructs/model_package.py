"""A model package as a release reads it: whether it may be deployed, its image, its model data, its golden queries."""

from __future__ import annotations

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk.constructs.states import FailureTail, call


class ModelPackage(Construct):
    """States that describe a model package and refuse one that can't be deployed."""

    def read(self, failed: FailureTail) -> tuple[sfn.CustomState, sfn.Pass]:
        """Return the first state, which describes ``$.model_package``, and the last, which leaves the rest in ``$.package``."""
        describe = call(
            self,
            "Describe the model package",
            "aws-sdk:sagemaker:describeModelPackage",
            {"ModelPackageName.$": "$.model_package"},
            comment="Its image and its model data",
            result_path="$.described",
            failure=failed,
        )
        described = "$.described"
        data = f"{described}.InferenceSpecification.Containers[0].ModelDataSource.S3DataSource.S3Uri"
        golden = f"{described}.CustomerMetadataProperties.golden"

        def refuse(name: str, sentence: str) -> sfn.Chain:
            reason = sfn.Pass(self, name, parameters={"Cause.$": sentence}, result_path="$.error")
            return reason.next(failed.start)

        unapproved = refuse(
            "It is not approved",
            "States.Format('{} is {}: only an approved one is deployed.', $.model_package, $.described.ModelApprovalStatus)",
        )
        no_prefix = refuse(
            "Its model is no S3 prefix",
            "States.Format('{} has no uncompressed model data: use ko-reranker models register.', $.model_package)",
        )
        read = sfn.Pass(
            self,
            "Read the model package",
            parameters={"image.$": f"{described}.InferenceSpecification.Containers[0].Image", "data.$": data},
            result_path="$.package",
        )
        has_golden = sfn.Choice(self, "Does it have golden queries?")
        with_golden = sfn.Pass(self, "Take its golden queries", input_path=golden, result_path="$.package.golden")
        without = sfn.Pass(self, "No golden queries", result=sfn.Result.from_string("none"), result_path="$.package.golden")
        done = sfn.Pass(self, "Forget the description", result=sfn.Result.from_object({}), result_path=described)
        check = sfn.Choice(self, "Can it be deployed?")
        is_approved = sfn.Condition.string_equals("$.described.ModelApprovalStatus", "Approved")
        check.when(sfn.Condition.not_(is_approved), unapproved)
        check.when(sfn.Condition.is_not_present(data), no_prefix).otherwise(read)
        read.next(has_golden)
        has_golden.when(sfn.Condition.is_present(golden), with_golden).otherwise(without)
        with_golden.next(done)
        without.next(done)
        describe.next(check)
        return describe, done
