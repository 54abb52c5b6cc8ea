"""Amazon States Language paths, as strict as AWS.

MiniStack resolves a JSONPath that matches nothing to null, so a misspelt field travels on silently; AWS ends the
execution with States.Runtime, which no Catch catches. MiniStack also knows neither slices nor filters, nor ``.$``
keys in nested lists, and lacks some fields of the context object (``$$``).
"""

from __future__ import annotations

import contextvars
import functools
import json
import re
from typing import Any

from ministack.services import stepfunctions as sfn

from local_cloud.extensions.patching import Patcher

_MODULE = "ministack.services.stepfunctions"
PATCHED = tuple(
    (_MODULE, name)
    for name in (
        "_resolve_path",
        "_resolve_ctx_path",
        "_evaluate_rule",
        "_evaluate_intrinsic",
        "_resolve_params_obj",
        "_apply_result_path_raw",
        "_error_matches",
    )
)

# What a Choice rule's own paths did not find: the rule decides what that means (IsPresent, or an error).
_not_found: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("asl_not_found", default=None)

# AWS: "States.ALL" and "States.TaskFailed" match neither of these, which end the execution at once.
_UNCATCHABLE = frozenset({"States.Runtime", "States.DataLimitExceeded"})

_CAUSE_INPUT_LENGTH = 2000


class _Missing(Exception):
    """A definite path matched nothing."""


@functools.lru_cache(maxsize=4096)
def _compile(path: str) -> tuple[Any, bool]:
    """A path beyond fields and indexes, parsed, and whether it may match any number of values."""
    from jsonpath_ng.ext.parser import parse  # 0.1 s to import and rarely needed

    unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "", path)
    indefinite = bool(re.search(r"\*|\.\.|\[\?|:|\[[^\]]*,", unquoted))
    return parse(re.sub(r"\[\?\(\s*@", "[?(@", path)), indefinite


def find(path: str, data: Any) -> Any:
    """The value at a path; a list of all matches for a path with a wildcard, slice or filter."""
    tokens = sfn._parse_jsonpath_tokens(path)
    if tokens is not None and all(kind in ("field", "index") for kind, _ in tokens):
        for kind, key in tokens:
            present = (isinstance(data, dict) and key in data) if kind == "field" else _has_index(data, key)
            if not present:
                raise _Missing(path)
            data = data[key]
        return data
    try:
        expression, indefinite = _compile(path)
    except Exception as error:
        raise sfn._ExecutionError("States.Runtime", f"Invalid path '{path}': {error}") from error
    values = [match.value for match in expression.find(data)]
    if indefinite:
        return values
    if not values:
        raise _Missing(path)
    return values[0]


def _has_index(data: Any, index: int) -> bool:
    return isinstance(data, list) and index < len(data)


def resolve_path(path: str, data: Any) -> Any:
    """Resolve a path as a state does; a path that matches nothing ends the execution."""
    if not path or path == "$" or not path.startswith("$"):
        return data
    try:
        return find(path, data)
    except _Missing:
        missing = _not_found.get()
        if missing is not None:
            missing.append(path)
            return None
        shown = json.dumps(data, ensure_ascii=False)[:_CAUSE_INPUT_LENGTH]
        raise sfn._ExecutionError(
            "States.Runtime", f"The JSONPath '{path}' could not be found in the input '{shown}'"
        ) from None


def _resolve_context_path(original: Any) -> Any:
    def resolve(path: str, ctx: dict[str, Any]) -> Any:
        execution = dict((ctx or {}).get("Execution") or {})
        execution.setdefault("RedriveCount", 0)
        return original(path, {**(ctx or {}), "Execution": execution})

    return resolve


def _evaluate_rule(original: Any) -> Any:
    def evaluate(rule: dict[str, Any], data: Any, ctx: dict[str, Any] | None = None) -> bool:
        if any(key in rule for key in ("And", "Or", "Not")):
            return original(rule, data, ctx)
        missing: list[str] = []
        token = _not_found.set(missing)
        try:
            result = original(rule, data, ctx)
        finally:
            _not_found.reset(token)
        if "IsPresent" in rule:
            return (not missing) == rule["IsPresent"]  # a field that is there and null is present
        if missing:
            raise sfn._ExecutionError(
                "States.Runtime",
                f"Invalid path '{missing[0]}': The choice state's condition path references an invalid value.",
            )
        return result

    return evaluate


def _evaluate_intrinsic(original: Any) -> Any:
    def evaluate(expression: str, data: Any, ctx: dict[str, Any]) -> Any:
        try:
            return original(expression, data, ctx)
        except sfn._ExecutionError:
            raise
        except Exception as error:
            raise sfn._ExecutionError("States.IntrinsicFailure", f"{expression}: {error}") from error

    return evaluate


def _resolve_params(original: Any) -> Any:
    def resolve(template: Any, data: Any, ctx: dict[str, Any] | None = None) -> Any:
        if isinstance(template, list):
            return [resolve(item, data, ctx) for item in template]
        if not isinstance(template, dict):
            return template
        resolved = {key: resolve(value, data, ctx) for key, value in template.items() if not key.endswith(".$")}
        paths = {key: value for key, value in template.items() if key.endswith(".$")}
        return {**resolved, **(original(paths, data, ctx) if paths else {})}

    return resolve


def _apply_result_path(original: Any) -> Any:
    def apply(result_path: str | None, source: Any, result: Any) -> Any:
        if result_path not in (None, "$") and not isinstance(source, dict):
            raise sfn._ExecutionError(
                "States.ResultPathMatchFailure", f"Unable to apply ResultPath '{result_path}' to a non-object input"
            )
        return original(result_path, source, result)

    return apply


def _error_matches(original: Any) -> Any:
    def matches(error_equals: list[str], error: str) -> bool:
        if error in _UNCATCHABLE:
            return error in error_equals
        return original(error_equals, error)

    return matches


def install(patch: Patcher) -> None:
    """Replace MiniStack's path and parameter functions."""
    patch.replace(sfn, "_resolve_path", lambda _: resolve_path)
    patch.replace(sfn, "_resolve_ctx_path", _resolve_context_path)
    patch.replace(sfn, "_evaluate_rule", _evaluate_rule)
    patch.replace(sfn, "_evaluate_intrinsic", _evaluate_intrinsic)
    patch.replace(sfn, "_resolve_params_obj", _resolve_params)
    patch.replace(sfn, "_apply_result_path_raw", _apply_result_path)
    patch.replace(sfn, "_error_matches", _error_matches)
