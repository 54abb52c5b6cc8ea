"""What outlives everything else: datasets, models, translations, the registry, and which model is live."""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sagemaker as sagemaker
from constructs import Construct

from cdk.constructs.backups import daily_backups
from cdk.constructs.clean_up import CleanUp
from cdk.constructs.live_model import LiveModel
from cdk.constructs.removal import kept, kept_under_its_name
from cdk.constructs.stores import DataBucket, DataKey, NoticeTopic, RecordTable
from ko_reranker.settings import Settings


class DataStack(cdk.Stack):
    """The data bucket, the translation memory, the model registry, the topic, and the parameter that names the live model.

    The serving stack reads the parameter at every deploy, so that whoever deploys keeps the live model.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, **kwargs: Any) -> None:
        super().__init__(scope, construct_id, description="ko-reranker: datasets, models, translation memory", **kwargs)
        removal = kept(settings)
        key = DataKey(
            self,
            "Key",
            description=f"{settings.prefix}: data at rest",
            removal_policy=removal,
            key_arn=settings.data.key_arn,
            former_key_arns=settings.data.former_key_arns,
        )
        access_logs = self._access_logs(removal)
        self.bucket = DataBucket(
            self,
            "Bucket",
            key=key,
            access_logs=access_logs,
            settings=settings.data,
            removal_policy=removal,
            captured_days=settings.recording.capture_days if settings.recording.capture_percent else None,
        )
        self.translation_memory, self.releases = (
            RecordTable(self, name, key=key, removal_policy=removal, protected=settings.data.retain)
            for name in ("TranslationMemory", "Releases")
        )
        if settings.data.backup_days:
            tables = [self.translation_memory.table, self.releases.table]
            daily_backups(self, tables, key=key, days=settings.data.backup_days, removal_policy=removal)
        self.topic = NoticeTopic(
            self,
            "Topic",
            key=key,
            display_name=f"{settings.prefix} pipeline",
            email=settings.alerts.email,
            publishers=settings.alerts.cost_publishers,
        )
        model_packages = sagemaker.CfnModelPackageGroup(
            self,
            "ModelPackages",
            model_package_group_name=settings.prefix,
            model_package_group_description="Rerankers that passed the gate; approving one deploys it",
        )
        model_packages.apply_removal_policy(kept_under_its_name(settings))
        # Its resources keep the logical ids that they had in the stack itself.
        self.live_model = LiveModel(self, "Default", settings=settings)
        if not settings.data.retain:
            # The data bucket first: its access log is written to the other one.
            CleanUp(
                self,
                "CleanUp",
                buckets=[self.bucket.bucket, access_logs],
                package_group=settings.prefix,
                before=[model_packages],
            )
        for name, value in {
            "DataBucket": self.bucket.name,
            "TopicArn": self.topic.arn,
            "ReleasesTable": self.releases.name,
            "TranslationMemoryTable": self.translation_memory.name,
            "ModelPackageGroup": settings.prefix,
            "LiveModelParameter": self.live_model.name,
        }.items():
            cdk.CfnOutput(self, name, value=value)

    def _access_logs(self, removal_policy: cdk.RemovalPolicy) -> s3.Bucket:
        return s3.Bucket(
            self,
            "AccessLogs",
            encryption=s3.BucketEncryption.S3_MANAGED,  # S3 can't deliver access logs to a bucket under a customer key
            enforce_ssl=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            removal_policy=removal_policy,
            lifecycle_rules=[s3.LifecycleRule(id="expire", expiration=cdk.Duration.days(90))],
        )
