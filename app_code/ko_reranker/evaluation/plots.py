"""Plots of a report: SVG that stands in the page itself, without scripts, the same for the same figures."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

_GREY, _BLUE = "#b6c2d1", "#2563eb"
_LINES = (_BLUE, "#64748b", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2", "#854d0e")


def bars(title: str, intervals: Mapping[str, Mapping[str, float]], marked: str | None) -> str:
    """Return one bar a row from 0 to 1, with its interval.

    Args:
        title: what is plotted.
        intervals: by row, with ``mean``, ``low`` and ``high``.
        marked: the row in colour.
    """
    import pygal

    chart = pygal.HorizontalBar(
        **_options(title, height=90 + 34 * len(intervals)),
        show_legend=False,
        range=(0, 1),
        spacing=12,
    )
    # The first row on top: this chart counts from below.
    names = list(intervals)[::-1]
    chart.x_labels = names
    chart.add("", [_bar(intervals[name], _BLUE if name == marked else _GREY) for name in names])
    return _svg(chart, f"bars {title}")


def curves(title: str, x_labels: Sequence[str], values: Mapping[str, Sequence[float]]) -> str:
    """Return one line a row."""
    import pygal

    chart = pygal.Line(**_options(title, height=320), range=(0, 1), legend_at_bottom=True, legend_at_bottom_columns=3)
    chart.x_labels = list(x_labels)
    for name, points in values.items():
        chart.add(name, [round(float(point), 4) for point in points])
    return _svg(chart, f"curves {title}")


def paths(title: str, points: Mapping[str, Sequence[tuple[float, float]]], *, x_title: str, highest: float) -> str:
    """Return one line a row through points of any places, from 0 up.

    Args:
        title: what is plotted.
        points: by row, (place, value) each.
        x_title: what the places are.
        highest: the upper end of the values' axis.
    """
    import pygal

    options = _options(title, height=340)
    chart = pygal.XY(**options, range=(0, highest), x_title=x_title, legend_at_bottom=True, legend_at_bottom_columns=1)
    for name, row in points.items():
        chart.add(name, [(round(float(place), 4), round(float(value), 4)) for place, value in row])
    return _svg(chart, f"paths {title}")


def courses(
    title: str,
    left: Mapping[str, Sequence[float]],
    right: Mapping[str, Sequence[float]],
    *,
    x_title: str,
) -> str:
    """Return one line a row, a value a step, from 0 up: on the left axis or on the right one.

    Args:
        title: what is plotted.
        left, right: by row, values of steps 0, 1, …; none may be empty.
        x_title: what the steps are.
    """
    import pygal

    def axis(rows: Mapping[str, Sequence[float]]) -> tuple[float, float]:
        return 0, 1.1 * max(max(row) for row in rows.values())

    steps = max(len(row) for row in (*left.values(), *right.values()))
    chart = pygal.XY(
        **_options(title, height=400),
        range=axis(left),
        secondary_range=axis(right),
        xrange=(0, steps - 1),
        x_title=x_title,
        value_formatter=lambda value: f"{value:.3g}",
        legend_at_bottom=True,
        legend_at_bottom_columns=2,
        truncate_legend=-1,
        show_dots=False,
    )
    for rows, secondary in ((left, False), (right, True)):
        for name, row in rows.items():
            chart.add(name, [(step, round(float(value), 4)) for step, value in enumerate(row)], secondary=secondary)
    return _svg(chart, f"courses {title}")


def places(title: str, points: Mapping[str, tuple[float, Mapping[str, float]]], *, x_title: str) -> str:
    """Return one point a row, of a value from 0 to 1 with its interval, by a quantity above 0 whose axis is logarithmic.

    Args:
        title: what is plotted.
        points: by row, the quantity, and the value's ``mean``, ``low`` and ``high``.
        x_title: what the quantity is.
    """
    import pygal

    ends = [math.log10(quantity) for quantity, _ in points.values()]
    span = (math.floor(min(ends)), math.ceil(max(ends)) + (max(ends) == math.floor(min(ends))))
    columns = 3
    chart = pygal.XY(
        **_options(title, height=330 + 26 * math.ceil(len(points) / columns)),
        range=(0, 1),
        xrange=span,
        x_title=x_title,
        x_value_formatter=lambda place: f"{10**place:,.0f}" if place >= 0 else f"{10**place:g}",
        legend_at_bottom=True,
        legend_at_bottom_columns=columns,
        margin_bottom=40,  # it takes the axis's title for none of its own height
    )
    chart.x_labels = list(range(span[0], span[1] + 1))
    for name, (quantity, interval) in points.items():
        place = math.log10(quantity)
        # A line through the interval; of its three points the middle one is seen.
        ends_of = [{"value": (place, interval[end]), "node": {"r": 1}} for end in ("low", "high")]
        chart.add(name, [ends_of[0], (place, round(interval["mean"], 4)), ends_of[1]])
    return _svg(chart, f"places {title}")


def differences(title: str, rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return bars up or down from 0 with their intervals, side by side in each group.

    Args:
        title: what is plotted.
        rows: by row, in whose colour its bars are, and by group: ``mean``, ``low`` and ``high``; all rows have the same groups.
    """
    import pygal

    groups = list(next(iter(rows.values())))
    farthest = max(abs(interval[end]) for row in rows.values() for interval in row.values() for end in ("low", "high"))
    chart = pygal.Bar(
        **_options(title, height=340),
        range=(-1.05 * farthest, 1.05 * farthest),
        legend_at_bottom=True,
        legend_at_bottom_columns=3,
        x_label_rotation=25,
        value_formatter=lambda value: f"{value:+.2f}",
    )
    chart.x_labels = groups
    for index, (name, row) in enumerate(rows.items()):
        chart.add(name, [_bar(row[group], _LINES[index]) for group in groups])
    return _svg(chart, f"differences {title}")


def _bar(interval: Mapping[str, float], color: str) -> dict[str, Any]:
    return {"value": round(interval["mean"], 4), "ci": {"low": interval["low"], "high": interval["high"]}, "color": color}


def _options(title: str, *, height: int) -> dict[str, Any]:
    from pygal.style import Style

    style = Style(
        background="transparent",
        plot_background="transparent",
        foreground="#334155",
        foreground_strong="#1a1a1a",
        foreground_subtle="#94a3b8",
        opacity="1",
        guide_stroke_color="#e2e8f0",
        guide_stroke_dasharray="none",
        major_guide_stroke_color="#e2e8f0",
        major_guide_stroke_dasharray="none",
        colors=_LINES,
        font_family="system-ui, sans-serif",
        label_font_size=12,
        major_label_font_size=12,
        legend_font_size=12,
        title_font_size=15,
    )
    return {"title": title, "width": 520, "height": height, "style": style, "js": [], "dots_size": 3}


def _svg(chart: Any, name: str) -> str:
    # The id ties the chart to its style: one of its own in the page, and no other in the next page of the same figures.
    chart.uuid = re.sub(r"[^a-z0-9]+", "-", name.lower())
    tree = chart.render_tree()
    for parent in tree.iter():
        for child in list(parent):
            # Scripts, and comments that hold the date.
            if not isinstance(child.tag, str) or child.tag.endswith("script"):
                parent.remove(child)
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    return ElementTree.tostring(tree, encoding="unicode")
