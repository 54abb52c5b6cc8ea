"""What outlives everything else: datasets, models, translations, the registry, and which model is live."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sagemaker as sagemaker
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from cdk.settings import Settings

# What the parameter of the live model holds before there is one: package ARN, model data URI, image.
NO_MODEL = ["none", "none", "none"]


class DataStack(cdk.Stack):
    """The data bucket, the translation memory, the model registry and the parameter that names the live model.

    The parameter is created here and changed by the deploy state machine alone. CloudFormation leaves its value alone as long
    as the template says the same, and the serving stack reads it at every deploy: whoever deploys keeps the live model.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, **kwargs) -> None:
        super().__init__(scope, construct_id, description="ko-reranker: datasets, models, translation memory", **kwargs)
        self._removal = cdk.RemovalPolicy.RETAIN if settings.data.retain else cdk.RemovalPolicy.DESTROY

        self.key = kms.Key(
            self, "Key", enable_key_rotation=True, removal_policy=self._removal, description=f"{settings.prefix}: data at rest"
        )
        self.bucket = self._data_bucket(settings)
        self.translation_memory = self._table("TranslationMemory")
        self.releases = self._table("Releases")
        self.topic = self._topic(settings)
        self.model_packages = sagemaker.CfnModelPackageGroup(
            self,
            "ModelPackages",
            model_package_group_name=settings.prefix,
            model_package_group_description="Rerankers that passed the gate; approving one deploys it",
        )
        self.model_packages.apply_removal_policy(self._removal)
        self.live_model = ssm.StringListParameter(
            self,
            "LiveModel",
            parameter_name=live_model_parameter(settings),
            string_list_value=NO_MODEL,
            description="The live model: package ARN, model data URI, image. Written by the deploy state machine.",
        )
        self.live_model.apply_removal_policy(self._removal)
        for name, value in {
            "DataBucket": self.bucket.bucket_name,
            "TopicArn": self.topic.topic_arn,
            "ReleasesTable": self.releases.table_name,
            "TranslationMemoryTable": self.translation_memory.table_name,
            "ModelPackageGroup": settings.prefix,
            "LiveModelParameter": self.live_model.parameter_name,
        }.items():
            cdk.CfnOutput(self, name, value=value)

    def _data_bucket(self, settings: Settings) -> s3.Bucket:
        days = cdk.Duration.days
        access_logs = s3.Bucket(
            self,
            "AccessLogs",
            encryption=s3.BucketEncryption.S3_MANAGED,  # S3 can't deliver access logs to a bucket under a customer key
            enforce_ssl=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            removal_policy=self._removal,
            lifecycle_rules=[s3.LifecycleRule(id="expire", expiration=days(90))],
        )
        return s3.Bucket(
            self,
            "Bucket",
            encryption=s3.BucketEncryption.KMS,
            encryption_key=self.key,
            bucket_key_enabled=True,
            enforce_ssl=True,
            versioned=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            server_access_logs_bucket=access_logs,
            server_access_logs_prefix="data/",
            removal_policy=self._removal,
            lifecycle_rules=[
                s3.LifecycleRule(
                    id="clean-up",
                    abort_incomplete_multipart_upload_after=days(7),
                    noncurrent_version_expiration=days(settings.data.noncurrent_days),
                ),
                # A run's files can all be made again from raw/ and the translation memory; its model lies under models/.
                s3.LifecycleRule(id="runs", prefix="runs/", expiration=days(settings.data.run_days)),
            ],
        )

    def _table(self, name: str) -> dynamodb.Table:
        return dynamodb.Table(
            self,
            name,
            partition_key=dynamodb.Attribute(name="id", type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            encryption=dynamodb.TableEncryption.CUSTOMER_MANAGED,
            encryption_key=self.key,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(point_in_time_recovery_enabled=True),
            removal_policy=self._removal,
        )

    def _topic(self, settings: Settings) -> sns.Topic:
        topic = sns.Topic(self, "Topic", master_key=self.key, enforce_ssl=True, display_name=f"{settings.prefix} pipeline")
        # The CDK lets the rules' service use the key; alarms are ours to let.
        account = {"StringEquals": {"aws:SourceAccount": self.account}}
        alarms = iam.ServicePrincipal("cloudwatch.amazonaws.com")
        self.key.add_to_resource_policy(
            iam.PolicyStatement(
                actions=["kms:Decrypt", "kms:GenerateDataKey"],
                principals=[alarms],
                resources=["*"],  # in a key policy: this key
                conditions=account,
            )
        )
        # The TLS-only policy takes the place of the one that lets the account's own alarms in.
        topic.add_to_resource_policy(
            iam.PolicyStatement(
                actions=["sns:Publish"],
                principals=[alarms],
                resources=[topic.topic_arn],
                conditions=account,
            )
        )
        if settings.alerts.email:
            topic.add_subscription(subscriptions.EmailSubscription(settings.alerts.email))
        return topic


def live_model_parameter(settings: Settings) -> str:
    """The name of the SSM parameter that holds the live model."""
    return f"/{settings.name}/{settings.stage}/live-model"
