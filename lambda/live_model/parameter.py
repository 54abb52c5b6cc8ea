"""The live model's parameter as CloudFormation's resource: made once, and never written again by a deploy.

CloudFormation's own type writes the template's value at any change, a tag's included, and would put the value from before
the first model over the live one
(https://github.com/aws-cloudformation/aws-cloudformation-resource-providers-ssm, UpdateHandler).
"""

from __future__ import annotations

from typing import Any


def keep(event: dict[str, Any], ssm: Any) -> str:
    """Carry out a request of CloudFormation.

    A parameter that is there already, from an earlier release or a stage that was taken away, stays as it is. What this
    resource didn't make it doesn't delete either: an update that adopts a parameter may be rolled back.

    Returns:
        The physical id, which says whether the parameter was made or found.
    """
    properties, kind = event["ResourceProperties"], event["RequestType"]
    name = properties["Name"]
    renamed = kind == "Update" and event["OldResourceProperties"]["Name"] != name
    if kind == "Create" or renamed:
        return _make(ssm, name, properties["Value"], properties["Description"])
    if kind == "Delete" and event["PhysicalResourceId"] == _made(name):
        try:
            ssm.delete_parameter(Name=name)
        except ssm.exceptions.ParameterNotFound:
            pass
    return str(event["PhysicalResourceId"])


def _make(ssm: Any, name: str, value: str, description: str) -> str:
    try:
        ssm.put_parameter(Name=name, Value=value, Description=description, Type="StringList", Overwrite=False)
    except ssm.exceptions.ParameterAlreadyExists:
        return f"found {name}"
    return _made(name)


def _made(name: str) -> str:
    return f"made {name}"
