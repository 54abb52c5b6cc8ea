"""What holds data at rest, all under one key: the data bucket, tables, the topic; each grants what may be done with it.

CDK's own grants are wider: ``bucket.grant_read`` allows ``s3:GetObject*`` and ``s3:List*`` on the whole bucket.

What a store is made of is its child Default, which CloudFormation's logical ids leave out: ``Bucket/Default`` has the ids of a
bucket named ``Bucket``.
"""

from __future__ import annotations

from collections.abc import Sequence

import aws_cdk as cdk
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from cdk.constructs.acknowledgements import acknowledge_wildcards
from cdk.constructs.permissions import allow
from ko_reranker.settings import Data

# Where the endpoint's stored calls lie.
CAPTURED = "captured/"
_PREFIX = "Objects under this prefix: S3 knows no other way to name a folder."


class DataKey(Construct):
    """The customer key of everything here, made here unless there is one.

    Args:
        key_arn: a key that is there; its policy is its owner's.
        former_key_arns: what encrypted before it.

    Attributes:
        arn: for what encrypts with it by name.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        description: str,
        removal_policy: cdk.RemovalPolicy,
        key_arn: str | None = None,
        former_key_arns: Sequence[str] = (),
    ) -> None:
        super().__init__(scope, construct_id)
        self._former = list(former_key_arns)
        self.key: kms.IKey = (
            kms.Key.from_key_arn(self, "Given", key_arn)
            if key_arn
            else kms.Key(self, "Default", enable_key_rotation=True, removal_policy=removal_policy, description=description)
        )
        self.arn = self.key.key_arn

    def grant(self, role: iam.IRole, *actions: str) -> None:
        """Let a role do actions, such as ``Decrypt``, with the key, and with the former ones, which older data is under."""
        allow(role, *(f"kms:{action}" for action in actions), on=[self.arn, *self._former])


class DataBucket(Construct):
    """Datasets, what runs write, and models; whatever of a run can be made again expires.

    Args:
        access_logs: the bucket that its access log is written to.
        captured_days: after which the endpoint's stored calls expire; None where none are stored.

    Attributes:
        bucket: for the constructs that take one.
        key: what its objects are encrypted with.
        name: the bucket's.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        key: DataKey,
        access_logs: s3.IBucket,
        settings: Data,
        removal_policy: cdk.RemovalPolicy,
        captured_days: int | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        days = cdk.Duration.days
        self.key = key
        self.bucket = s3.Bucket(
            self,
            "Default",
            encryption=s3.BucketEncryption.KMS,
            encryption_key=key.key,
            bucket_key_enabled=True,
            enforce_ssl=True,
            versioned=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            server_access_logs_bucket=access_logs,
            server_access_logs_prefix="data/",
            removal_policy=removal_policy,
            lifecycle_rules=[
                s3.LifecycleRule(
                    id="clean-up",
                    abort_incomplete_multipart_upload_after=days(7),
                    noncurrent_version_expiration=days(settings.noncurrent_days),
                ),
                # A run's files can all be made again from raw/ and the translation memory; its model lies under models/.
                s3.LifecycleRule(id="runs", prefix="runs/", expiration=days(settings.run_days)),
                *([s3.LifecycleRule(id="captured", prefix=CAPTURED, expiration=days(captured_days))] if captured_days else []),
            ],
        )
        self.name = self.bucket.bucket_name

    def grant_objects(
        self, role: iam.IRole, *, read: Sequence[str] = (), write: Sequence[str] = (), delete: Sequence[str] = ()
    ) -> None:
        """Let a role list, read, write or delete what lies under prefixes, such as ``runs/``."""
        prefixes = sorted({f"{prefix}*" for prefix in (*read, *write, *delete)})
        allow(role, "s3:ListBucket", on=[self.bucket.bucket_arn], conditions={"StringLike": {"s3:prefix": prefixes}})
        if read:
            self._allow_under(read, role, "s3:GetObject")
        if write:
            self._allow_under(write, role, "s3:PutObject", "s3:AbortMultipartUpload")
        if delete:
            self._allow_under(delete, role, "s3:DeleteObject")
        # Reading decrypts the object's data key; writing makes one, and a multipart upload reads it back.
        self.key.grant(role, "Decrypt", *(["GenerateDataKey"] if write else []))

    def grant_list_parts(self, role: iam.IRole, prefix: str) -> None:
        """Let a role ask which parts of an upload under a prefix are there."""
        self._allow_under([prefix], role, "s3:ListMultipartUploadParts")

    def _allow_under(self, prefixes: Sequence[str], role: iam.IRole, *actions: str) -> None:
        allow(role, *actions, on=[self.bucket.arn_for_objects(f"{prefix}*") for prefix in prefixes])
        arn, here = self.bucket.bucket_arn, cdk.Stack.of(self)
        # Another stack's template has the ARN as an import of the export that this reference makes.
        seen = arn if cdk.Stack.of(role) == here else here.export_value(arn)
        acknowledge_wildcards(role, [f"{seen}/{prefix}*" for prefix in prefixes], reason=_PREFIX)


class RecordTable(Construct):
    """A table of items by ``id``, recoverable to any second of its last weeks.

    Args:
        protected: whether nobody may delete it before that is taken back.

    Attributes:
        table: for the constructs that take one.
        name: the table's.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, key: DataKey, removal_policy: cdk.RemovalPolicy, protected: bool = False
    ) -> None:
        super().__init__(scope, construct_id)
        self._key = key
        self.table = dynamodb.Table(
            self,
            "Default",
            partition_key=dynamodb.Attribute(name="id", type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            encryption=dynamodb.TableEncryption.CUSTOMER_MANAGED,
            encryption_key=key.key,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(point_in_time_recovery_enabled=True),
            deletion_protection=protected,
            removal_policy=removal_policy,
        )
        self.name = self.table.table_name

    def grant(self, role: iam.IRole, *actions: str) -> None:
        """Let a role do actions, such as ``GetItem``, on the table and use its key for them."""
        allow(role, *(f"dynamodb:{action}" for action in actions), on=[self.table.table_arn])
        self._key.grant(role, "Decrypt", "GenerateDataKey")


class NoticeTopic(Construct):
    """Who hears of releases, of models that wait for approval, of alarms and of executions that stop.

    Args:
        email: an address that subscribes, if any.
        publishers: services of AWS that may publish beside alarms and rules, such as ``budgets.amazonaws.com``.

    Attributes:
        topic: for the constructs that take one.
        arn: the topic's.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        key: DataKey,
        display_name: str,
        email: str | None,
        publishers: Sequence[str] = (),
    ) -> None:
        super().__init__(scope, construct_id)
        self._key = key
        self.topic = sns.Topic(self, "Default", master_key=key.key, enforce_ssl=True, display_name=display_name)
        self.arn = self.topic.topic_arn
        # The CDK lets the rules' service use the key; these are ours to let.
        self._let_in("cloudwatch.amazonaws.com")
        # https://docs.aws.amazon.com/cost-management/latest/userguide/budgets-sns-policy.html
        # https://docs.aws.amazon.com/cost-management/latest/userguide/ad-SNS.html
        for service in publishers:
            self._let_in(service)
        if email:
            self.topic.add_subscription(subscriptions.EmailSubscription(email))

    def _let_in(self, service: str) -> None:
        account = {"StringEquals": {"aws:SourceAccount": cdk.Stack.of(self).account}}
        publisher = iam.ServicePrincipal(service)
        self._key.key.add_to_resource_policy(
            iam.PolicyStatement(
                actions=["kms:Decrypt", "kms:GenerateDataKey"],
                principals=[publisher],
                resources=["*"],  # in a key policy: this key
                conditions=account,
            )
        )
        # The TLS-only policy takes the place of the one that lets the account's own services in.
        self.topic.add_to_resource_policy(
            iam.PolicyStatement(actions=["sns:Publish"], principals=[publisher], resources=[self.arn], conditions=account)
        )

    def grant_publish(self, role: iam.IRole) -> None:
        """Let a role publish to the encrypted topic."""
        allow(role, "sns:Publish", on=[self.arn])
        self._key.grant(role, "Decrypt", "GenerateDataKey")
