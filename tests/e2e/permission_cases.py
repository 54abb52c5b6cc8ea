"""Every permission of the local stage's templates: the run that shows that it is needed, or why no run here does."""

from __future__ import annotations

import re
from enum import StrEnum, auto

from permissions import Permission


class Run(StrEnum):
    """What is run without a permission."""

    RETRAINING = auto()
    BY_HAND = auto()  # a retraining that leaves the approval to a person
    LEFTOVER = auto()  # a retraining whose earlier attempt left something in quarantine
    FAILED_SHARDS = auto()  # a retraining whose translation fails
    RELEASE = auto()
    STALE_LOCK = auto()  # a release that finds the lock of one that was aborted
    EVENT = auto()  # the start of a release
    CREATION = auto()  # an update of the state machine
    NOTICE = auto()  # a retraining that fails, and who hears of it
    CALL = auto()  # a call of the rerank API
    COUNT = auto()  # a call whose documents are counted
    AWAY = auto()  # the endpoint is taken away, and comes back
    WAKE = auto()  # a call of the rerank API while it is away
    AGE = auto()  # a look at how old the live model is
    HOUSEKEEPING = auto()  # the daily look at what is old


_INVOKE = "lambda:InvokeFunction"

# stack -> run -> owner -> actions
SHOWN: dict[str, dict[Run, dict[str, str]]] = {
    "data": {
        Run.NOTICE: {
            "TopicPolicy for events.amazonaws.com": "sns:Publish",
            "Key for events.amazonaws.com": "kms:Decrypt kms:GenerateDataKey*",
        },
    },
    "pipeline": {
        Run.RETRAINING: {
            "PlanRole": "s3:ListBucket s3:GetObject s3:PutObject kms:Decrypt kms:GenerateDataKey dynamodb:BatchGetItem",
            "TranslateRole": (
                "s3:GetObject s3:PutObject kms:Decrypt kms:GenerateDataKey dynamodb:BatchGetItem dynamodb:PutItem "
                "translate:TranslateText"
            ),
            "JoinRole": "s3:ListBucket s3:GetObject s3:PutObject kms:Decrypt kms:GenerateDataKey",
            "GateRole": "s3:GetObject kms:Decrypt",
            "TrainingRole": "s3:ListBucket s3:GetObject s3:PutObject kms:Decrypt kms:GenerateDataKey kms:Encrypt",
            "ProcessingRole": "s3:ListBucket s3:GetObject s3:PutObject kms:Decrypt kms:GenerateDataKey kms:Encrypt",
            "RetrainingRetrainRole": (
                "lambda:InvokeFunction states:StartExecution iam:PassRole "
                "sagemaker:CreateTrainingJob sagemaker:DescribeTrainingJob "
                "sagemaker:CreateProcessingJob sagemaker:DescribeProcessingJob sagemaker:CreateModelPackage "
                "sagemaker:AddTags ssm:GetParameter dynamodb:GetItem kms:Decrypt kms:GenerateDataKey "
                "s3:GetObject s3:PutObject s3:ListMultipartUploadParts s3:AbortMultipartUpload"
            ),
        },
        Run.BY_HAND: {"RetrainingRetrainRole": "sns:Publish"},
        Run.LEFTOVER: {"JoinRole": "s3:DeleteObject"},
        Run.FAILED_SHARDS: {"ShardFailuresRole": "s3:ListBucket s3:GetObject kms:Decrypt"},
        Run.HOUSEKEEPING: {
            "HousekeepingDoRole": (
                "logs:DescribeLogGroups logs:PutRetentionPolicy sagemaker:ListModels sagemaker:ListEndpointConfigs "
                "sagemaker:ListEndpoints sagemaker:DescribeEndpoint sagemaker:DescribeEndpointConfig"
            ),
        },
        Run.CREATION: {"RetrainingRetrainRole": "events:DescribeRule events:PutRule events:PutTargets"},
    },
    "serving": {
        Run.RELEASE: {
            "EndpointRole": "s3:ListBucket s3:GetObject kms:Decrypt",
            "SmokeTestRole": "s3:GetObject kms:Decrypt sagemaker:InvokeEndpoint",
            "DeploymentDeployRole": (
                "lambda:InvokeFunction iam:PassRole ssm:GetParameter ssm:PutParameter sns:Publish "
                "dynamodb:PutItem dynamodb:DeleteItem kms:Decrypt kms:GenerateDataKey "
                "sagemaker:DescribeModelPackage sagemaker:CreateModel sagemaker:CreateEndpointConfig "
                "sagemaker:UpdateEndpoint sagemaker:DescribeEndpoint sagemaker:AddTags"
            ),
        },
        Run.STALE_LOCK: {"DeploymentDeployRole": "dynamodb:GetItem states:DescribeExecution"},
        Run.AWAY: {
            "DeploymentDeployRole": (
                "sagemaker:CreateEndpoint sagemaker:DeleteEndpoint sagemaker:UpdateEndpointWeightsAndCapacities "
                "cloudwatch:DisableAlarmActions cloudwatch:EnableAlarmActions "
                "cloudwatch:PutMetricAlarm cloudwatch:DescribeAlarms cloudwatch:DeleteAlarms "
                "application-autoscaling:RegisterScalableTarget application-autoscaling:DeregisterScalableTarget "
                "application-autoscaling:PutScalingPolicy application-autoscaling:PutScheduledAction"
            ),
        },
        Run.WAKE: {"WakeMachineRole": "states:StartExecution"},
        Run.EVENT: {"DeploymentDeployMachineEventsRole": "states:StartExecution"},
        Run.AGE: {"ModelAgeRole": "ssm:GetParameter sagemaker:DescribeModelPackage"},
    },
    "api": {
        Run.CALL: {
            "RerankRole": "sagemaker:InvokeEndpoint",
            "RerankFunction for */*/*": _INVOKE,
            "AuthorizerFunction for authorizers/*": _INVOKE,
        },
        Run.COUNT: {"RerankRole": "dynamodb:UpdateItem"},
        Run.WAKE: {"RerankRole": "states:StartExecution"},
    },
}

# (owner, action), both regular expressions -> reason
NOT_SHOWN: dict[tuple[str, str], str] = {
    ("CleanUpDoRole", "(s3|sagemaker|cloudformation):.*"): "needed when the stack is deleted, which test_destroy.py does",
    ("ReleaseGuardLookRole", "(dynamodb|states|cloudformation|kms|sagemaker):.*"): (
        "needed when a deploy changes the endpoint, which test_local_custom_resources.py does"
    ),
    (".*", r"logs:(CreateLogGroup|CreateLogStream|DescribeLogStreams|PutLogEvents)|cloudwatch:PutMetricData"): (
        "logs and metrics are written beside the work: without the permission they are lost, and the work is done"
    ),
    (
        r".*(Retrain|Deploy|WakeMachine)Role",
        r"logs:(\w+LogDeliver(y|ies)|PutResourcePolicy|DescribeResourcePolicies|DescribeLogGroups)",
    ): ("checked on AWS when the delivery of a state machine's log is set up; the local cloud delivers none"),
    (r".*(Retrain|Deploy|WakeMachine)Role", "xray:.*"): "traces are written beside the work, on AWS only",
    (r"(GateRole|SmokeTestRole|TranslateRole|RetrainingRetrainRole)", "s3:ListBucket"): (
        "makes S3 say 404 instead of 403 when an object is missing, which is what the reader then says"
    ),
    (r"(Plan|Translate|Join|Training|Processing)Role", "s3:AbortMultipartUpload"): (
        "cleans up after a large upload that failed midway"
    ),
    ("DeploymentDeployRole", "sagemaker:Describe(EndpointConfig|Model)"): (
        "tells what the endpoint runs: without it a look at the endpoint fails and says so, and a release goes on"
    ),
    ("HousekeepingDoRole", "sagemaker:Delete(Model|EndpointConfig)"): "used on what is months old, which nothing here is",
    ("HousekeepingDoFunction for HousekeepingDaily", _INVOKE): "the schedule asks it once a day, which no test waits for",
    ("EndpointHoursRole", "(states:StartExecution|sqs:SendMessage)"): "used at its hours, which no test waits for",
    ("ModelAgeFunction for Daily", _INVOKE): "the schedule asks it once a day, which no test waits for",
    ("LiveModelKeeperRole", "ssm:(Put|Delete)Parameter"): "used once, when the data stack is made or taken away",
    ("RetrainingRetrainRole", r"sagemaker:Stop\w+Job"): "needed when an execution with a running job is stopped",
    ("RetrainingRetrainRole", "sagemaker:ListTags"): (
        "in AWS's policy for `.sync` (step-functions/latest/dg/sagemaker-iam.html); the local cloud reads no tags"
    ),
    ("RetrainingRetrainRole", "states:(DescribeExecution|StopExecution|RedriveExecution)"): (
        "needed on the map's children when a retraining is stopped or redriven"
    ),
    (
        r"RerankFunction for \*/(\*/|(\*|GET|HEAD)/(health|openapi\.json))",
        _INVOKE,
    ): "the statement of the path {proxy+}, */*/*, allows these paths too",
    ("UndeliveredPolicy for events.amazonaws.com", "sqs:SendMessage"): (
        "for events that a target has refused for a day, which no test waits for"
    ),
    ("Key for the account", "kms:.*"): "hands the key's use to IAM policies; the stack could not even be updated without it",
    (r"Key for cloudwatch\.amazonaws\.com", "kms:.*"): "alarms don't publish in the local cloud",
    (r"TopicPolicy for cloudwatch\.amazonaws\.com", "sns:Publish"): "alarms don't publish in the local cloud",
    (r"AccessLogsPolicy for logging\.s3\.amazonaws\.com", "s3:PutObject"): "S3 delivers no access logs in the local cloud",
    ("ApiCloudWatchRole", "AmazonAPIGatewayPushToCloudWatchLogs"): "the account's access logs of API Gateway",
}


def reason(permission: Permission) -> str | None:
    """Why no run shows a permission, or None."""
    for (owner, action), why in NOT_SHOWN.items():
        if re.fullmatch(owner, permission.owner) and re.fullmatch(action, permission.action):
            return why
    return None
