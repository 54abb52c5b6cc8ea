"""Lambda: Python functions under AWS's own runtime interface client, a clean environment, and the payload quotas.

MiniStack 1.5.33 runs Python handlers with a script of its own, which reports every exception as Runtime.HandlerError:
a state machine's Catch and Retry by error type then never match. It hands the server's whole environment to the
functions and passes payloads of any size. Here ``awslambdaric`` speaks MiniStack's Lambda Runtime API (which
MiniStack keeps for ``provided.*`` runtimes), and a function sees what AWS shows it.
"""

from __future__ import annotations

import functools
import io
import json
import os
import shlex
import sys
import zipfile
from pathlib import Path
from typing import Any

import awslambdaric
from ministack.core import lambda_runtime as runtime
from ministack.services import lambda_svc

from local_cloud.extensions.patching import Patcher

PATCHED = (
    ("ministack.core.lambda_runtime", "_worker_class_for"),
    ("ministack.services.lambda_svc", "_execute_function_warm"),
    ("ministack.services.lambda_svc", "_execute_function"),
    ("ministack.services.lambda_svc", "_provided_worker_env"),
)

REQUEST_LIMIT = 6 * 1024 * 1024
RESPONSE_LIMIT = 6 * 1024 * 1024 + 100

# Of the server's own environment, what a process needs to run and to reach the local cloud over TLS.
_INHERITED = frozenset({"PATH", "LANG", "LD_LIBRARY_PATH", "AWS_CA_BUNDLE", "SYSTEMROOT"})
# Written by MiniStack for the function.
_RUNTIME_VARIABLES = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_DEFAULT_REGION",
        "AWS_DISABLE_HOST_PREFIX_INJECTION",
        "AWS_ENDPOINT_URL",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_LAMBDA_RUNTIME_API",
        "AWS_REGION",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "LAMBDA_TASK_ROOT",
        "_HANDLER",
    }
)

SITE_PACKAGES = Path(awslambdaric.__file__).parent.parent
_BOOTSTRAP = Path(__file__).with_name("lambda_bootstrap.py")


@functools.lru_cache(maxsize=64)
def with_bootstrap(code: bytes) -> bytes:
    """The function's zip with the start command that a ``provided`` runtime looks for."""
    command = shlex.join([sys.executable, "-I", "-S", str(_BOOTSTRAP), str(SITE_PACKAGES)])
    entry = zipfile.ZipInfo("bootstrap", (1980, 1, 1, 0, 0, 0))
    entry.external_attr = 0o755 << 16
    archive = io.BytesIO(code)
    with zipfile.ZipFile(archive, "a") as bundle:
        bundle.writestr(entry, f"#!/bin/sh\nexec {command}\n")
    return archive.getvalue()


class PythonWorker(runtime.ProvidedWorker):
    """An execution environment of a managed Python runtime."""

    def __init__(self, func_name: str, config: dict[str, Any], code_zip: bytes) -> None:
        super().__init__(func_name, config, with_bootstrap(code_zip))

    def _build_handler_class(self, *args: Any, **kwargs: Any) -> Any:
        """The Runtime API's request handler, sending at once: it writes headers and body apart, and Nagle costs 40 ms."""
        handler = super()._build_handler_class(*args, **kwargs)
        handler.disable_nagle_algorithm = True
        return handler

    def _drain_stderr_bounded(self, first_line_wait: float = 0.01, idle_confirm: float = 0.003, hard_cap: float = 0.25) -> str:
        """Collect the invocation's log; MiniStack waits 50 ms for a first line, in every request of a quiet function."""
        return super()._drain_stderr_bounded(first_line_wait, idle_confirm, hard_cap)


def _is_python(config: dict[str, Any]) -> bool:
    return str(config.get("Runtime", "")).startswith("python")


def _worker_class(original: Any) -> Any:
    return lambda config: PythonWorker if _is_python(config) else original(config)


def _execute_warm(original: Any) -> Any:
    def execute(func: dict[str, Any], event: Any, request_id: str) -> dict[str, Any]:
        if _is_python(func.get("config") or func):
            return lambda_svc._execute_function_provided_warm(func, event, request_id)
        return original(func, event, request_id)

    return execute


def _payload_bytes(payload: Any) -> int:
    return len(json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode())


def failure(error_type: str, message: str, log: str = "") -> dict[str, Any]:
    """A failed invocation in MiniStack's shape."""
    return {"body": {"errorMessage": message, "errorType": error_type}, "error": True, "log": log}


def _execute(original: Any) -> Any:
    def execute(func: dict[str, Any], event: Any) -> dict[str, Any]:
        size = _payload_bytes(event)
        if size > REQUEST_LIMIT:
            return failure(
                "RequestEntityTooLargeException",
                f"{size} byte payload is too large for the RequestResponse invocation type (limit {REQUEST_LIMIT} bytes)",
            )
        result = original(func, event)
        if not result.get("error") and _payload_bytes(result.get("body")) > RESPONSE_LIMIT:
            return failure(
                "Function.ResponseSizeTooLarge",
                f"Response payload size exceeded maximum allowed payload size ({RESPONSE_LIMIT} bytes).",
                result.get("log", ""),
            )
        return result

    return execute


def _worker_environment(original: Any) -> Any:
    def environment(config: dict[str, Any], code_dir: str, port: int) -> dict[str, str]:
        configured = (config.get("Environment") or {}).get("Variables") or {}
        kept = _INHERITED | _RUNTIME_VARIABLES | configured.keys()
        variables = {key: value for key, value in original(config, code_dir, port).items() if key in kept}
        name = config.get("FunctionName", "")
        if "AWS_CA_BUNDLE" in variables:
            # What isn't botocore trusts the local cloud by this: a custom resource answers CloudFormation with urllib.
            variables.setdefault("SSL_CERT_FILE", variables["AWS_CA_BUNDLE"])
        return variables | {
            "AWS_EXECUTION_ENV": "AWS_Lambda_" + config.get("Runtime", ""),
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": (config.get("LoggingConfig") or {}).get("LogGroup", f"/aws/lambda/{name}"),
            "LAMBDA_RUNTIME_DIR": os.fspath(SITE_PACKAGES),
            "PYTHONDONTWRITEBYTECODE": "1",  # the code folder is read-only on AWS and shared here
            "TZ": ":UTC",
        }

    return environment


def install(patch: Patcher) -> None:
    """Run Python functions under the runtime interface client."""
    patch.replace(runtime, "_worker_class_for", _worker_class)
    patch.replace(lambda_svc, "_execute_function_warm", _execute_warm)
    patch.replace(lambda_svc, "_execute_function", _execute)
    patch.replace(lambda_svc, "_provided_worker_env", _worker_environment)
