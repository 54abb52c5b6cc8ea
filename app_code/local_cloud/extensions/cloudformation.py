"""What CloudFormation does when it deletes resources, and MiniStack 1.5.33 doesn't.

- While an update deletes what it replaced or no longer has, MiniStack goes on saying ``UPDATE_IN_PROGRESS``. On AWS the update
  is over by then, and whoever asks during the deletes, such as a custom resource that is being deleted, hears
  ``UPDATE_COMPLETE_CLEANUP_IN_PROGRESS``.
  https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html
- A resource goes before what it depends on. When it can't be deleted, MiniStack deletes that all the same, the function of
  a custom resource, say, and no second attempt can succeed.
  https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-attribute-dependson.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ministack.services.cloudformation import _stacks, stacks

from local_cloud.extensions.patching import Patcher

PATCHED = (("ministack.services.cloudformation.stacks", "_delete_resource"),)
_CLEANUP = "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"


def install(patch: Patcher) -> None:
    """Let deletes begin with the status, and end where a resource is still needed, as on AWS."""

    def make(delete: Callable[..., Any]) -> Callable[..., Any]:
        def as_on_aws(kind: str, physical_id: str, props: dict[str, Any], stack_name: str = "", logical_id: str = "") -> Any:
            stack = _stacks.get(stack_name) or {}
            # A failed update says UPDATE_ROLLBACK_… before it deletes anything: this one has succeeded.
            if stack.get("StackStatus") == "UPDATE_IN_PROGRESS":
                stack["StackStatus"] = _CLEANUP
                identity = stack["StackId"]
                stacks._add_event(identity, stack_name, stack_name, "AWS::CloudFormation::Stack", _CLEANUP, "", identity)
            if needing := _still_needing(stack, logical_id):
                raise RuntimeError(f"{', '.join(needing)} could not be deleted and depends on it")
            return delete(kind, physical_id, props, stack_name, logical_id)

        return as_on_aws

    patch.replace(stacks, "_delete_resource", make)


def _still_needing(stack: Mapping[str, Any], logical_id: str) -> list[str]:
    """Resources of a stack that is being deleted which could not be, and which depend on another."""
    if stack.get("StackStatus") != "DELETE_IN_PROGRESS":
        return []
    resources, definitions = stack["_resources"], stack["_template"].get("Resources", {})
    return sorted(
        other
        for other, resource in resources.items()
        if other != logical_id
        and resource.get("ResourceStatus") == "DELETE_FAILED"
        and logical_id in stacks._with_dependencies([other], definitions, set(resources))
    )
