"""SageMaker for the local cloud: jobs and endpoints are real processes that run the image's commands.

:func:`install` wires it into MiniStack; :func:`resume` and :func:`shutdown` frame the server's life.
"""

from __future__ import annotations

from typing import Any

from local_cloud.settings import LocalSettings

# What is used of MiniStack beside its public entry points; checked at the start, so that another version fails clearly.
USED = (
    ("ministack.app", "SERVICE_HANDLERS"),
    ("ministack.app", "_build_persistence_save_dict"),
    ("ministack.core.concurrency", "run_reentrant"),
    ("ministack.core.persistence", "save_all"),
    ("ministack.core.responses", "request_scope"),
    ("ministack.core.router", "SERVICE_PATTERNS"),
    ("ministack.services.apigateway_v1", "_rest_apis"),
    ("ministack.services.apigateway_v1", "_stages_v1"),
    ("ministack.services.cloudformation.provisioners", "_CUSTOM_NAME_REPLACEMENT"),
    ("ministack.services.cloudformation.provisioners", "_REPLACING_PROPERTIES"),
    ("ministack.services.cloudformation.provisioners", "_RESOURCE_HANDLERS"),
    ("ministack.services.cloudformation.provisioners", "_physical_name"),
    ("ministack.services.cloudformation.stacks", "_runs_on_worker_thread"),
    ("ministack.services.eventbridge", "_put_events"),
    ("ministack.services.iam", "_roles"),
    ("ministack.services.stepfunctions", "_AWS_SDK_ERROR_PREFIX"),
    ("ministack.services.stepfunctions", "_AWS_SDK_SERVICE_MAP"),
    ("ministack.services.sts", "_sessions"),
    ("ministack.services.sts", "register_session"),
)
_installed: list[Any] = []


def install(app: Any, settings: LocalSettings) -> Any:
    """Add SageMaker, and autoscaling of its endpoints, to MiniStack: services, router, Step Functions, CloudFormation types.

    Args:
        app: the module ``ministack.app``.
        settings: of the local cloud.

    Returns:
        The :class:`~local_cloud.sagemaker.api.SageMaker` that answers.
    """
    from ministack.core import router
    from ministack.services import stepfunctions

    from local_cloud.extensions import state_machine_role
    from local_cloud.extensions.patching import verify
    from local_cloud.sagemaker import cloudformation, scaling
    from local_cloud.sagemaker.api import SageMaker
    from local_cloud.sagemaker.context import Context

    verify(USED)
    sagemaker = SageMaker(Context(settings))
    app.SERVICE_HANDLERS["sagemaker"] = sagemaker.handle
    router.SERVICE_PATTERNS["sagemaker"] = {
        "target_prefixes": ["SageMaker."],
        "host_patterns": [r"sagemaker\."],
        "credential_scope": "sagemaker",
    }
    stepfunctions._AWS_SDK_SERVICE_MAP["sagemaker"] = {"target_prefix": "SageMaker", "protocol": "json"}
    stepfunctions._AWS_SDK_ERROR_PREFIX["sagemaker"] = "SageMaker"
    cloudformation.install(sagemaker)
    name = scaling.SERVICE
    app.SERVICE_HANDLERS[name] = sagemaker.scaling.handle
    router.SERVICE_PATTERNS[name] = {"target_prefixes": [f"{scaling.TARGET_PREFIX}."], "credential_scope": name}
    described = {"target_prefix": scaling.TARGET_PREFIX, "protocol": "json", "service_key": name}
    stepfunctions._AWS_SDK_SERVICE_MAP["applicationautoscaling"] = described
    stepfunctions._AWS_SDK_ERROR_PREFIX["applicationautoscaling"] = "ApplicationAutoScaling"
    state_machine_role.scaled[:] = [sagemaker.scaling.is_target]
    scaling.install_types(sagemaker.scaling)
    sagemaker.mark_interrupted()
    _installed[:] = [sagemaker]
    return sagemaker


def resume() -> None:
    """Once requests are answered: start the endpoints that were live when the server ended."""
    for sagemaker in _installed:
        sagemaker.hosting.relaunch()


def shutdown() -> None:
    """End every job and endpoint process; harmless when called again."""
    for sagemaker in _installed:
        sagemaker.shutdown()
    _installed.clear()
