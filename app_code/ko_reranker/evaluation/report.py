"""`report.html`: one file with a plot and a table, to be opened in a browser or mailed."""

from __future__ import annotations

import io
from collections.abc import Mapping
from html import escape
from typing import Any

_LABELS = {"none": "no reranker (BM25)", "base": "base", "deployed": "deployed", "candidate": "candidate"}
_TITLES = {"mrr": "MRR", "ndcg@10": "nDCG@10", "has_right@1": "has right@1"}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
tr.candidate { font-weight: 600; } svg { width: 100%; height: auto; } code { overflow-wrap: anywhere; }
"""


def render_report(metrics: Mapping[str, Any]) -> str:
    """Return the page of the content of `metrics.json`."""
    candidate = escape(metrics["models"].get("candidate", ""))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>ko-reranker: evaluation</title><style>{_STYLE}</style></head><body>
<h1>Evaluation</h1>
<p>{metrics["queries"]} queries, up to {metrics["candidates_per_query"]} candidates each, the same for every row
(seed {metrics["seed"]}). Candidate: <code>{candidate}</code></p>
<h2>Rows</h2>
{_plot(metrics)}
{_rows_table(metrics)}
<h2>Candidate minus the others</h2>
<p>Mean over the queries with its paired 95 % bootstrap interval. An interval above zero: the candidate is better, whichever
queries had been drawn.</p>
{_differences_table(metrics)}
</body></html>
"""


def _rows_table(metrics: Mapping[str, Any]) -> str:
    names = list(next(iter(metrics["rows"].values())))
    body = [
        (name, [_LABELS.get(name, name), *(_figure(key, row[key]) for key in names)]) for name, row in metrics["rows"].items()
    ]
    return _table(["row", *names], body)


def _figure(name: str, value: float) -> str:
    return f"{value:.1f}" if name.startswith("latency") else f"{value:.3f}"


def _differences_table(metrics: Mapping[str, Any]) -> str:
    names = list(next(iter(metrics["differences"].values())))
    body = [
        (name, [name, *(f"{item[key]['mean']:+.3f} [{item[key]['low']:+.3f}, {item[key]['high']:+.3f}]" for key in names)])
        for name, item in metrics["differences"].items()
    ]
    return _table(["difference", *names], body)


def _table(head: list[str], body: list[tuple[str, list[str]]]) -> str:
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(
        f'<tr class="{escape(name)}">' + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for name, row in body
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>"


def _plot(metrics: Mapping[str, Any]) -> str:
    """Return an SVG: one panel a metric, one bar a row, with its interval."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure

    # Fixed ids and no date: the same metrics give the same page.
    with matplotlib.rc_context({"svg.hashsalt": "ko-reranker", "svg.fonttype": "none", "font.size": 10}):
        names = list(metrics["rows"])
        figure = Figure(figsize=(10, 0.9 + 0.45 * len(names)), layout="constrained")
        panels = figure.subplots(1, len(_TITLES), sharey=True)
        for axes, (metric, title) in zip(panels, _TITLES.items(), strict=True):
            intervals = [metrics["intervals"][name][metric] for name in names]
            means = [item["mean"] for item in intervals]
            spread = [
                [max(0.0, item["mean"] - item["low"]) for item in intervals],
                [max(0.0, item["high"] - item["mean"]) for item in intervals],
            ]
            colors = ["#2563eb" if name == "candidate" else "#b6c2d1" for name in names]
            labels = [_LABELS.get(name, name) for name in names]
            axes.barh(labels, means, xerr=spread, color=colors, ecolor="#334155", capsize=3)
            axes.set_xlim(0, 1)
            axes.set_title(title)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].invert_yaxis()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]
