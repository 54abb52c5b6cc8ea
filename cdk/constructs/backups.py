"""Backups of tables that outlive the weeks of point-in-time recovery, and the tables themselves."""

from __future__ import annotations

from collections.abc import Sequence

import aws_cdk as cdk
from aws_cdk import aws_backup as backup
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_events as events
from constructs import Construct

from cdk.constructs.acknowledgements import acknowledge_managed_policy
from cdk.constructs.stores import DataKey

_POLICY = "service-role/AWSBackupServiceRolePolicyForBackup"


def daily_backups(
    scope: Construct, tables: Sequence[dynamodb.ITable], *, key: DataKey, days: int, removal_policy: cdk.RemovalPolicy
) -> None:
    """Back tables up every night into a vault under a key.

    Args:
        days: how long each backup is kept.
        removal_policy: of the vault, which can't be deleted with backups in it.
    """
    vault = backup.BackupVault(scope, "Backups", encryption_key=key.key, removal_policy=removal_policy)
    plan = backup.BackupPlan(
        scope,
        "BackupPlan",
        backup_vault=vault,
        backup_plan_rules=[
            backup.BackupPlanRule(
                rule_name="nightly",
                schedule_expression=events.Schedule.cron(hour="17", minute="0"),  # UTC: two in the morning in Seoul
                delete_after=cdk.Duration.days(days),
            )
        ],
    )
    selection = plan.add_selection("Tables", resources=[backup.BackupResource.from_dynamo_db_table(table) for table in tables])
    acknowledge_managed_policy(
        selection, _POLICY, reason="AWS keeps this policy in step with what AWS Backup does for each service."
    )
