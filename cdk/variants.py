"""The stages as they are checked: those of cdk.json, and prod with settings that a platform team may ask for."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import get_args

from ko_reranker.settings import Stage

_HOURS = json.dumps(
    [
        {"at": "cron(0 20 * * ? *)", "min_instances": 1, "max_instances": 2},
        {"at": "cron(0 8 * * ? *)", "min_instances": 2, "max_instances": 6},
    ]
)
_KEYS = "arn:aws:kms:ap-northeast-2:111122223333:key"
# Overrides of stage prod, as `-c` takes them.
VARIANTS = MappingProxyType(
    {
        # No way to the internet, and an endpoint that calls nothing.
        "locked": {
            "serving.enabled": "true",
            "network.vpc": "new",
            "network.isolate_endpoint": "true",
            "training.base_model": "s3://{data_bucket}/models/bge/",
            "image.uri": "111122223333.dkr.ecr.ap-northeast-2.amazonaws.com/ko-reranker:1",
            "api.root": "none",
            "api.private": "true",
            "api.vpc_endpoint_ids": '["vpce-0a1b2c3d"]',
        },
        # All that can be switched on at once.
        "everything": {
            "serving.enabled": "true",
            "identity.permissions_boundary": "arn:aws:iam::111122223333:policy/platform/boundary",
            "identity.role_path": "/ko-reranker/",
            "identity.bootstrap_qualifier": "team1",
            "tags": '{"cost-center": "4711", "Owner": "search"}',
            "network.vpc": "new",
            "network.egress": "true",
            "network.isolate_endpoint": "true",
            "data.backup_days": "365",
            "data.key_arn": f"{_KEYS}/11111111-2222-3333-4444-555555555555",
            "data.former_key_arns": f'["{_KEYS}/mrk-0123456789abcdef0123456789abcdef"]',
            "schedule.retraining": "rate(30 days)",
            "schedule.capacity": _HOURS,
            "schedule.endpoint": '{"off": "cron(0 23 ? * MON-FRI *)", "on": "cron(0 7 ? * MON-FRI *)"}',
            "serving.wake_on_request": "true",
            "recording.capture_percent": "5",
            "recording.capture_days": "7",
            "api.waf_requests_per_5_minutes": "2000",
            "api.cors_origins": '["https://www.example.com"]',
            "alerts.email": "ops@example.com",
            "alerts.monthly_budget_usd": "900",
            "alerts.anomaly_usd": "50",
        },
    }
)
# What cfn-lint, the state-machine validator, cdk-nag and checkov look at: stage and overrides, by name. Each has its endpoint,
# which a stage has from its first model on.
CHECKED = MappingProxyType(
    {stage: (stage, {"serving.enabled": "true"}) for stage in get_args(Stage)}
    | {name: ("prod", overrides) for name, overrides in VARIANTS.items()}
)
