"""Access to the data bucket by prefix, and to the table and key beside it: named actions on named resources."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam

from cdk.stacks.data import DataStack


def allow_objects(
    role: iam.IRole, data: DataStack, *, read: Sequence[str] = (), write: Sequence[str] = (), delete: Sequence[str] = ()
) -> None:
    """Let a role list, read, write or delete what lies under prefixes of the data bucket.

    CDK's own grants (`bucket.grant_read`) would allow ``s3:GetObject*`` and ``s3:List*`` on the whole bucket.
    """
    bucket = data.bucket
    _allow(
        role,
        ["s3:ListBucket"],
        [bucket.bucket_arn],
        {"StringLike": {"s3:prefix": sorted({f"{prefix}*" for prefix in (*read, *write, *delete)})}},
    )
    for actions, prefixes in (
        (["s3:GetObject"], read),
        (["s3:PutObject", "s3:AbortMultipartUpload"], write),
        (["s3:DeleteObject"], delete),
    ):
        if prefixes:
            _allow(role, actions, [bucket.arn_for_objects(f"{prefix}*") for prefix in prefixes])
    # Reading decrypts the object's data key; writing makes one, and a multipart upload reads it back.
    _allow(role, ["kms:Decrypt", *(["kms:GenerateDataKey"] if write else [])], [data.key.key_arn])


def allow_table(role: iam.IRole, data: DataStack, table: dynamodb.ITable, *actions: str) -> None:
    """Let a role do DynamoDB actions, such as ``GetItem``, on one table and use its key for them."""
    _allow(role, [f"dynamodb:{action}" for action in actions], [table.table_arn])
    _allow(role, ["kms:Decrypt", "kms:GenerateDataKey"], [data.key.key_arn])


def allow_publish(role: iam.IRole, data: DataStack) -> None:
    """Let a role publish to the encrypted topic."""
    _allow(role, ["sns:Publish"], [data.topic.topic_arn])
    _allow(role, ["kms:Decrypt", "kms:GenerateDataKey"], [data.key.key_arn])


def _allow(
    role: iam.IRole, actions: Sequence[str], resources: Sequence[str], conditions: dict[str, object] | None = None
) -> None:
    role.add_to_principal_policy(
        iam.PolicyStatement(actions=list(actions), resources=list(resources), conditions=conditions or {})
    )
