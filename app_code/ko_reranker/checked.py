"""Dataclasses whose fields say what they take. Standard library only: Lambdas check by them, too."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

_BOOLEANS = {
    **dict.fromkeys(("true", "1", "yes", "on", "t", "y"), True),
    **dict.fromkeys(("false", "0", "no", "off", "f", "n"), False),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a number has to lie within; None is no limit.

    A field says so in its type: ``epochs: Annotated[float, Limits(above=0)]``.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        named = (("of at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below))
        words = [f"{word} {value:g}" for word, value in named if value is not None]
        return f" {' and '.join(words)}" if words else ""


def read(cls: type[T], values: Mapping[str, Any]) -> T:
    """Return a dataclass made of values, each of its field's type or a text that says one.

    Fields are str (which must not be empty), int, float (which must be finite), bool, or a Literal of texts; any of them may be
    optional.

    Args:
        values: by field name; names of no field are not looked at.

    Raises:
        ValueError: naming every field that is missing or has a value that does not do.
    """
    read_values: dict[str, Any] = {}
    problems = []
    for name, hint, limits, required in _fields(cls):
        if name not in values:
            problems += [f"{name} is missing"] if required else []
            continue
        try:
            read_values[name] = _read(values[name], hint, limits)
        except (ValueError, OverflowError):
            problems.append(f"{name} = {values[name]!r} must be {_described(hint, limits)}")
    if problems:
        raise ValueError("; ".join(problems))
    return cls(**read_values)


def check(value: DataclassInstance) -> None:
    """Check a dataclass that was made without `read`, such as in its own ``__post_init__``.

    Raises:
        ValueError: naming every field whose value lies outside its limits.
    """
    problems = []
    for name, hint, limits, _ in _fields(type(value)):
        held = getattr(value, name)
        if held is not None and not limits.hold(held if isinstance(held, (int, float)) else 0):
            problems.append(f"{name} must be {_described(hint, limits)}, is {held}")
    if problems:
        raise ValueError("; ".join(problems))


@functools.cache
def _fields(cls: type[DataclassInstance]) -> tuple[tuple[str, Any, Limits, bool], ...]:
    hints = get_type_hints(cls, include_extras=True)
    return tuple((item.name, *_limits(hints[item.name]), item.default is MISSING) for item in fields(cls))


def _limits(hint: Any) -> tuple[Any, Limits]:
    """The type itself, and the limits that it comes with."""
    if get_origin(hint) is not Annotated:
        return hint, Limits()
    kind, *extras = get_args(hint)
    return kind, next((extra for extra in extras if isinstance(extra, Limits)), Limits())


def _read(value: Any, hint: Any, limits: Limits) -> Any:
    if type(None) in get_args(hint):
        if value is None:
            return None
        (hint,) = (item for item in get_args(hint) if item is not type(None))
    if hint is bool:
        return value if isinstance(value, bool) else _boolean(value)
    if hint is int or hint is float:
        number = (_whole if hint is int else _finite)(value)
        if not limits.hold(number):
            raise ValueError
        return number
    if not isinstance(value, str) or not value or (get_origin(hint) is Literal and value not in get_args(hint)):
        raise ValueError
    return value


def _boolean(value: Any) -> bool:
    found = _BOOLEANS.get(value.lower()) if isinstance(value, str) else None
    if found is None:
        raise ValueError
    return found


def _whole(value: Any) -> int:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not math.isfinite(number := float(value)):
        raise ValueError
    return number


def _described(hint: Any, limits: Limits) -> str:
    if type(None) in get_args(hint):
        (hint,) = (item for item in get_args(hint) if item is not type(None))
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text that is not empty"}
    return f"{words[hint]}{limits}"
