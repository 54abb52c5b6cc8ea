"""Small things that the tests of the local cloud share: free ports, roles, functions, state machines that run to their end."""

from __future__ import annotations

import io
import json
import socket
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from local_cloud.cloud import LocalCloud


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(check: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Call until the answer is true; return it, or the last one when time is up."""
    deadline = time.monotonic() + seconds
    while not (answer := check()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return answer


def bundle(source: str) -> bytes:
    """A function's zip with one module, ``handler``."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as code:
        code.writestr("handler.py", source)
    return archive.getvalue()


def allow(action: str | list[str], resource: str | list[str] = "*", **condition: Any) -> dict:
    """A policy statement."""
    return {"Effect": "Allow", "Action": action, "Resource": resource, **({"Condition": condition} if condition else {})}


def policy(*statements: dict) -> str:
    """A policy document."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


@dataclass
class Account:
    """A running local cloud and the clients of its root user."""

    cloud: LocalCloud
    number: int = 0
    clients: dict[str, Any] = field(default_factory=dict)

    region = "ap-northeast-2"
    id = "000000000000"

    def client(self, service: str) -> Any:
        """A client of the account's root user."""
        if service not in self.clients:
            self.clients[service] = self.cloud.client(service)
        return self.clients[service]

    def name(self, prefix: str) -> str:
        """A name not used yet."""
        self.number += 1
        return f"{prefix}-{self.number}"

    def arn(self, service: str, resource: str) -> str:
        """An ARN of this account and region."""
        return f"arn:aws:{service}:{self.region}:{self.id}:{resource}"

    def role(self, service: str, *statements: dict) -> str:
        """Create a role that a service assumes; return its ARN."""
        iam, name = self.client("iam"), self.name("role")
        trust = policy({"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"})
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
        if statements:
            iam.put_role_policy(RoleName=name, PolicyName="inline", PolicyDocument=policy(*statements))
        return arn

    def function(self, source: str, *statements: dict, **options: Any) -> str:
        """Create a function of one module; return its ARN."""
        created = self.client("lambda").create_function(
            FunctionName=self.name("function"),
            Runtime="python3.13",
            Handler="handler.handle",
            Role=self.role("lambda.amazonaws.com", *statements),
            Code={"ZipFile": bundle(source)},
            Timeout=20,
            **options,
        )
        return created["FunctionArn"]

    def machine(self, definition: dict, *statements: dict) -> str:
        """Create a state machine with a role of its own; return its ARN."""
        return self.client("stepfunctions").create_state_machine(
            name=self.name("machine"),
            definition=json.dumps(definition),
            roleArn=self.role("states.amazonaws.com", *statements),
        )["stateMachineArn"]

    def run(self, definition: dict, *statements: dict, data: Any = None, seconds: float = 25.0) -> dict:
        """Create a state machine, run it to its end, and describe the execution (``output`` parsed)."""
        return self.execute(self.machine(definition, *statements), data, seconds)

    def execute(self, machine: str, data: Any = None, seconds: float = 25.0) -> dict:
        """Run a state machine to its end and describe the execution (``output`` parsed)."""
        step_functions = self.client("stepfunctions")
        execution = step_functions.start_execution(stateMachineArn=machine, input=json.dumps(data or {}))["executionArn"]

        def ended() -> dict | None:
            described = step_functions.describe_execution(executionArn=execution)
            return described if described["status"] != "RUNNING" else None

        result = eventually(ended, seconds)
        assert result, "the execution did not end in time"
        if result.get("output"):
            result["output"] = json.loads(result["output"])
        return result


def one_state(state: dict) -> dict:
    """A state machine of one state."""
    return {"StartAt": "Only", "States": {"Only": {"End": True, **state}}}


def task(resource: str, parameters: dict, **fields: Any) -> dict:
    """A state machine of one task."""
    return one_state({"Type": "Task", "Resource": resource, "Parameters": parameters, **fields})
