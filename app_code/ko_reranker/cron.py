"""Times of the clock as Amazon's schedulers write them, and how much of the time lies between two of them.

https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from itertools import product
from typing import Self

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_PART = re.compile(r"(\*|\w+)(?:-(\w+))?(?:/(\d+))?")
# After 28 years weekdays and leap years are where they were: what is true of these days is true of any.
_FROM, _DAYS = date(2025, 1, 1), 7 * 1461
_DAY_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class Cron:
    """The times of a ``cron(minutes hours day-of-month month day-of-week year)``, of every year.

    Attributes:
        minutes, hours, months: when it is due.
        days: of a month; every one where `weekdays` decide.
        weekdays: 1 for Sunday to 7; every one where `days` decide.
    """

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]

    @classmethod
    def parse(cls, expression: str) -> Self:
        """Read an expression.

        Raises:
            ValueError: it is none, has a year, or one of ``L``, ``W`` and ``#``, which are not known here, or never comes.
        """
        found = re.fullmatch(r"cron\((\S+) (\S+) (\S+) (\S+) (\S+) (\S+)\)", expression)
        if not found:
            raise ValueError(f"{expression!r} is not cron(minutes hours day-of-month month day-of-week year)")
        minutes, hours, days, months, weekdays, year = found.groups()
        if year != "*":
            raise ValueError(f"{expression}: the year must be *")
        if (days == "?") == (weekdays == "?"):
            raise ValueError(f"{expression}: one of day-of-month and day-of-week must be ?, and the other not")
        cron = cls(
            _field("minutes", minutes, 0, 59),
            _field("hours", hours, 0, 23),
            _field("day-of-month", days.replace("?", "*"), 1, 31),
            _field("month", months, 1, 12, {name: place for place, name in enumerate(_MONTHS, 1)}),
            _field("day-of-week", weekdays.replace("?", "*"), 1, 7, {name: place for place, name in enumerate(_WEEKDAYS, 1)}),
        )
        if next(cron._times(), None) is None:
            raise ValueError(f"{expression} never comes")
        return cron

    def _times(self) -> Iterator[int]:
        """Minutes from the first of 28 years on, in order."""
        of_day = sorted(60 * hour + minute for hour, minute in product(self.hours, self.minutes))
        for place, (month, day, weekday) in enumerate(_calendar()):
            if month in self.months and day in self.days and weekday in self.weekdays:
                yield from (place * _DAY_MINUTES + minute for minute in of_day)


@cache
def _calendar() -> tuple[tuple[int, int, int], ...]:
    """Month, day and weekday of each day."""
    days = (_FROM + timedelta(days=place) for place in range(_DAYS))
    return tuple((day.month, day.day, day.isoweekday() % 7 + 1) for day in days)


def share_between(begin: Cron, end: Cron) -> float:
    """Return the share of all time, 0 to 1, that lies between a time of `begin` and the next of `end`; summer time aside."""
    # At the same minute the end comes last.
    events = sorted([*((at, False) for at in begin._times()), *((at, True) for at in end._times())])
    whole = _DAYS * _DAY_MINUTES
    between, since, ended = 0, 0, events[-1][1]  # as the 28 years before did
    for at, ends in [*events, (whole, True)]:
        between += 0 if ended else at - since
        since, ended = at, ends
    return between / whole


def _field(name: str, text: str, least: int, most: int, names: Mapping[str, int] | None = None) -> frozenset[int]:
    def number(value: str) -> int:
        found = (names or {}).get(value.upper(), int(value) if value.isdecimal() else None)
        if found is None or not least <= found <= most:
            raise ValueError(f"{name} {value!r} is not from {least} to {most}, as it is understood here")
        return found

    values: set[int] = set()
    for part in text.split(","):
        matched = _PART.fullmatch(part)
        if not matched or (matched[1] == "*" and matched[2]):
            raise ValueError(f"{name} {part!r} is not understood here: numbers, names, *, and - , / between them are")
        first, last, step = matched.groups()
        begin = least if first == "*" else number(first)
        end = number(last) if last else most if first == "*" or step else begin
        if end < begin or step == "0":
            raise ValueError(f"{name} {part!r} goes backwards" if end < begin else f"{name} {part!r} has a step of 0")
        values |= set(range(begin, end + 1, int(step or 1)))
    return frozenset(values)
