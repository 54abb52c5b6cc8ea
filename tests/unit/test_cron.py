"""Times of the clock, and how much lies between them."""

from __future__ import annotations

import pytest

from ko_reranker.cron import Cron, share_between


@pytest.mark.parametrize(
    ("begin", "end", "hours_a_week"),
    [
        ("cron(0 8 ? * MON-FRI *)", "cron(0 20 ? * MON-FRI *)", 60),
        ("cron(0 8 ? * MON *)", "cron(0 20 ? * FRI *)", 108),
        ("cron(30 7 * * ? *)", "cron(0 20 * * ? *)", 7 * 12.5),
        ("cron(0 22 * * ? *)", "cron(0 2 * * ? *)", 7 * 4),  # over midnight
        ("cron(0 8 * * ? *)", "cron(0 20-23,0-6/2 * * ? *)", 7 * 12),  # an end that comes again is none
        ("cron(0 8,9,10 ? * 2-6 *)", "cron(0 20 ? * 2,3,4,5,6 *)", 60),
        ("cron(0/30 8 * * ? *)", "cron(0 9 * * ? *)", 7),
        ("cron(0 8 * * ? *)", "cron(0 8 ? * MON-FRI *)", 48),  # at the same time the end counts
        ("cron(0 8 * * ? *)", "cron(0 8 * * ? *)", 0),
    ],
)
def test_the_time_between_two_times_is_what_the_calendar_says(begin: str, end: str, hours_a_week: float) -> None:
    assert share_between(Cron.parse(begin), Cron.parse(end)) == pytest.approx(hours_a_week / 168)


def test_days_of_months_are_counted_too() -> None:
    first_days = share_between(Cron.parse("cron(0 0 1 * ? *)"), Cron.parse("cron(0 0 2 * ? *)"))
    assert first_days == pytest.approx(12 / 365.25)
    summer = share_between(Cron.parse("cron(0 0 1 JUN ? *)"), Cron.parse("cron(0 0 1 SEP ? *)"))
    assert summer == pytest.approx(92 / 365.25)


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("rate(1 day)", "is not cron"),
        ("cron(0 25 * * ? *)", "hours '25' is not from 0 to 23"),
        ("cron(0 8 * * * *)", "one of day-of-month and day-of-week must be"),
        ("cron(0 8 ? * ? *)", "one of day-of-month and day-of-week must be"),
        ("cron(0 8 L * ? *)", "day-of-month 'L' is not from 1 to 31"),
        ("cron(0 8 ? * 6#3 *)", "is not understood"),
        ("cron(0 8 ? * FRI-MON *)", "goes backwards"),
        ("cron(0/0 8 * * ? *)", "step of 0"),
        ("cron(0 8 30 FEB ? *)", "never comes"),
        ("cron(0 8 * * ? 2027)", "the year must be"),
    ],
)
def test_what_cannot_be_counted_is_refused(expression: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Cron.parse(expression)
