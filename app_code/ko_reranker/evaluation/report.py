"""`report.html`: one file with plots and tables, to be opened in a browser or mailed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ko_reranker.evaluation.comparison import MAIN_METRICS
from ko_reranker.evaluation.metrics import CONFIDENCE
from ko_reranker.evaluation.plots import bars, curves, places

TITLES = {
    "mrr": "MRR",
    "mrr@10": "MRR@10",
    "ndcg@10": "nDCG@10",
    **{f"has_right@{k}": f"has right@{k}" for k in (1, 2, 3, 5, 10)},
    **{f"recall@{k}": f"recall@{k}" for k in (5, 10, 20)},
    "latency_ms_p50": "ms, p50",
    "latency_ms_p95": "ms, p95",
    "tokens_per_second": "tokens/s",
    "calls_per_query": "calls/query",
    "tokens_per_query": "tokens/query",
    "minutes_per_1000": "min/1,000 queries",
    "usd_per_1000": "US$/1,000 queries",
}
# What a row takes, beside what it is good for.
COSTS = ("latency_ms_p50", "calls_per_query", "tokens_per_query", "minutes_per_1000", "usd_per_1000")
# In the table beside quality alone.
_BESIDE = COSTS[1:]
_LABELS = {"none": "no reranker"}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
.wide { overflow-x: auto; } .plots { display: flex; flex-wrap: wrap; gap: 1rem; }
.plots svg { flex: 1 1 22rem; max-width: 36rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; font-size: .9rem; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
table.texts th, table.texts td { text-align: left; } table.texts td { max-width: 28rem; overflow-wrap: anywhere; }
tr.judged { font-weight: 600; } code { overflow-wrap: anywhere; } summary { cursor: pointer; }
"""
_SHOWN_CHARACTERS = 300


def render_report(report: Mapping[str, Any]) -> str:
    """Return the page of the content of `report.json`."""
    judged = list(report["models"] or report["rows"])[-1]
    first_stage = report["first_stage"]
    searched = "as given" if first_stage == "given" else f"found by BM25 over {first_stage.replace('+', ' and character ')}"
    models = "".join(
        f"<li>{escape(_label(name))}: <code>{escape(address)}</code>{_computed_in(report, name)}</li>"
        for name, address in report["models"].items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>ko-reranker: evaluation</title><style>{_STYLE}</style></head><body>
<h1>Evaluation</h1>
<p>{report["queries"]} queries, up to {report["candidates_per_query"]} candidates each, {searched}, the same for every row
(seed {report["seed"]}). {report["right_found"]:.1%} of the right passages are among the candidates: no reranker can find
more.{_skipped(report)}</p>
<ul>{models}</ul>
<h2>Rows</h2>
<div class="plots">{_plots(report, judged)}</div>
{_rows_table(report, judged)}
<p>has right@k is the published ko-reranker's has-right-in-contexts: the share of queries with a right passage among the first
k. Latency is that of one query's candidates on the machine of this evaluation.</p>
{_side_by_side(report, judged)}
<h2>Differences</h2>
<p>Mean over the queries with its paired {CONFIDENCE:.0%} bootstrap interval. An interval above zero: the first of the two is
better, whichever queries had been drawn.</p>
{_differences_table(report)}
{_slices(report, judged)}
{_worst(report)}
</body></html>
"""


def _computed_in(report: Mapping[str, Any], name: str) -> str:
    precision = report.get("precisions", {}).get(name)
    return f", computed in {escape(precision)}" if precision else ""


def _skipped(report: Mapping[str, Any]) -> str:
    passed_over = "; ".join(f"{times:,} × {what}" for what, times in report.get("skipped", {}).items())
    return f" Passed over: {escape(passed_over)}." if passed_over else ""


def _plots(report: Mapping[str, Any], judged: str) -> str:
    intervals = report["intervals"]
    plots = [
        bars(TITLES[metric], {_label(name): row[metric] for name, row in intervals.items()}, _label(judged))
        for metric in MAIN_METRICS
    ]
    cuts = ("1", "2", "3", "5", "10")
    lines = {_label(name): [row[f"has_right@{cut}"]["mean"] for cut in cuts] for name, row in intervals.items()}
    return "\n".join([*plots, curves("has right@k", cuts, lines)])


def side_by_side(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of what each ranker gives and takes, those that were not measured left out."""
    measured = {name: row for name, row in report["rows"].items() if "latency_ms_p50" in row}
    costs = [name for name in COSTS if any(name in row for row in measured.values())]
    metrics = ("ndcg@10", "mrr")
    return ["row", "kind", *(TITLES[name] for name in (*metrics, *costs))], [
        [
            _label(name),
            report["kinds"].get(name, "–"),
            *(_interval(report["intervals"][name][metric]) for metric in metrics),
            *(figure(cost, row.get(cost)) for cost in costs),
        ]
        for name, row in measured.items()
    ]


def _side_by_side(report: Mapping[str, Any], judged: str) -> str:
    """Quality beside what it costs: a table, and a plot of the same."""
    head, rows = side_by_side(report)
    if not rows:
        return ""
    points = {
        _label(name): (row["latency_ms_p50"], report["intervals"][name]["ndcg@10"])
        for name, row in report["rows"].items()
        if row.get("latency_ms_p50")
    }
    plot = places("nDCG@10 by milliseconds a query", points, x_title="ms a query, p50 (logarithmic)")
    table = _table(head, [("judged" if row[0] == _label(judged) else "", row) for row in rows])
    return f"""<h2>Side by side</h2>
<div class="plots">{plot}</div>
{table}
<p>Intervals are {CONFIDENCE:.0%}. 1,000 queries take so long one after the other on the machine of this evaluation. A call is a
sequence that the model computed: a document with the query, or several documents that are compared.</p>"""


def _rows_table(report: Mapping[str, Any], judged: str) -> str:
    names = [name for name in TITLES if any(name in row for row in report["rows"].values()) and name not in _BESIDE]
    body = [
        ("judged" if name == judged else "", [_label(name), *(figure(key, row.get(key)) for key in names)])
        for name, row in report["rows"].items()
    ]
    return _table(["row", *(TITLES[name] for name in names)], body)


def figure(name: str, value: float | None) -> str:
    """Return a figure as the tables show it."""
    if value is None:
        return "–"
    if name.startswith("tokens"):
        return f"{value:,.0f}"
    return f"{value:.1f}" if name.startswith(("latency", "calls")) else f"{value:.3f}"


def difference(item: Mapping[str, float]) -> str:
    """Return a paired difference as the tables show it."""
    return f"{item['mean']:+.3f} [{item['low']:+.3f}, {item['high']:+.3f}]"


def _differences_table(report: Mapping[str, Any]) -> str:
    rows = list(report["rows"])
    body = [
        (
            "",
            [
                f"{_label(name)} − {_label(other)}",
                *(difference(report["differences"][f"{name}-{other}"][key]) for key in MAIN_METRICS),
            ],
        )
        for index, name in enumerate(rows)
        for other in rows[:index]
    ]
    return _table(["difference", *(TITLES[name] for name in MAIN_METRICS)], body)


def _slices(report: Mapping[str, Any], judged: str) -> str:
    sections = []
    for kind in dict.fromkeys(item["by"] for item in report["slices"]):
        body = [
            (
                "judged" if name == judged else "",
                [item["name"], str(item["queries"]), _label(name), *(_interval(row[key]) for key in MAIN_METRICS)],
            )
            for item in report["slices"]
            if item["by"] == kind
            for name, row in item["rows"].items()
        ]
        head = [kind, "queries", "row", *(TITLES[name] for name in MAIN_METRICS)]
        sections.append(f"<h2>By {escape(kind)}</h2>{_table(head, body)}")
    return "".join(sections)


def _interval(item: Mapping[str, float]) -> str:
    return f"{item['mean']:.3f} [{item['low']:.3f}, {item['high']:.3f}]"


def _worst(report: Mapping[str, Any]) -> str:
    """The queries at which each ranker does worst, to be read: unmarked answers are as common among them as errors."""
    sections = []
    for name, queries in report["worst_queries"].items():
        body = [
            ("", [item["query"], f"{item['rank']} ({item['rank_without']})", _cut(item["right"]), _cut(item["first"])])
            for item in queries
        ]
        table = _table(["query", "rank of the right one (without)", "the right one", "ranked first"], body, kind="texts")
        sections.append(f"<details><summary>{escape(_label(name))}</summary>{table}</details>")
    return f"<h2>Worst queries</h2>{''.join(sections)}"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else line[:_SHOWN_CHARACTERS] + "…"


def _label(name: str) -> str:
    return _LABELS.get(name, name)


def _table(head: Sequence[str], body: Sequence[tuple[str, Sequence[str]]], *, kind: str = "figures") -> str:
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(
        f'<tr class="{mark}">' + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for mark, row in body
    )
    table = f'<table class="{kind}"><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>'
    return f'<div class="wide">{table}</div>'
