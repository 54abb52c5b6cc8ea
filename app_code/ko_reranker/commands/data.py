"""`ko-reranker data`: look at training data, and make it, with the pipeline's own logic and without an account."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from ko_reranker.commands.console import console, errors
from ko_reranker.data.conversion import Conversion, Format, Names, Options, convert
from ko_reranker.data.jsonl import SUFFIXES, DamagedFile, read_records, write_jsonl
from ko_reranker.data.records import RecordError, TrainingRecord
from ko_reranker.data.splits import Groups, fingerprint
from ko_reranker.data.survey import Survey, TextShards, finish_shard
from ko_reranker.data.tables import Quotes, Reading, TableError
from ko_reranker.data.translation.texts import TranslationSettings
from ko_reranker.languages import KOREAN, Language, UnknownLanguageError, find
from ko_reranker.operations.errors import OperationError
from ko_reranker.text import identity

app = typer.Typer(no_args_is_help=True)

Files = Annotated[
    list[Path],
    typer.Argument(exists=True, dir_okay=False, help="Training records, .jsonl or .jsonl.gz; several are one dataset."),
]


@app.command()
def validate(files: Files) -> None:
    """List every line that breaks the record contract, with its field and reason; exit code 1 if there is one."""
    survey, lines = Survey(), 0
    for path, number, record in _records(files):
        if isinstance(record, RecordError):
            lines += 1
            print(f"{path}:{number}: {record}")
        else:
            survey.counts["records"] += 1
    console.print(f"{survey.counts['records']:,} good records, {lines:,} that break the contract")
    raise typer.Exit(1 if lines else 0)


@app.command()
def plan(
    files: Files,
    source_language: Annotated[str, typer.Option(help="The texts' language, as Amazon Translate's code.")] = "en",
    target_language: Annotated[
        str, typer.Option(help="The language to translate to, as Amazon Translate's code.")
    ] = KOREAN.code,
    usd_per_million: Annotated[
        float, typer.Option(min=0, help="Amazon Translate's price for a million characters in your region, in US dollars.")
    ] = 15.0,
    characters_per_second: Annotated[
        float, typer.Option(min=1, help="Your account's Amazon Translate quota, which decides how long it takes.")
    ] = 5_000.0,
) -> None:
    """Say what a translation would take: distinct texts, characters, requests, dollars and hours; nothing is asked of AWS."""
    target = _language("--target-language", target_language)
    settings = TranslationSettings(source_language, target.code)
    survey, totals = Survey(), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with TextShards(folder, settings, _shards(files), survey) as texts:
            for path in files:
                lines = ((number, record) for _, number, record in _records([path]))
                for _, record in survey.records(path.name, lines):
                    texts.add(record)
        for path in texts.paths:
            totals += finish_shard(path, path.with_suffix(".jsonl"), settings, lambda keys: set())
            path.with_suffix(".jsonl").unlink()
    counts, characters = survey.counts, totals["characters_to_translate"]
    saved = counts["characters"] - characters
    _table(
        {
            "records": counts["records"],
            "lines that break the contract": counts["rejected_records"],
            "texts": counts["texts"],
            "distinct texts to translate": totals["distinct_texts"],
            f"texts in {target_language} already": counts["texts_in_target_language"],
            "texts without letters": counts["texts_without_letters"],
            "characters to translate": characters,
            "characters saved": max(0, saved),
            "requests": totals["requests"],
            "US dollars": f"{characters / 1e6 * usd_per_million:,.2f}",
            "US dollars saved": f"{max(0, saved) / 1e6 * usd_per_million:,.2f}",
            "hours at the quota": f"{characters / characters_per_second / 3600:.2f}",
        }
    )


@app.command()
def stats(
    files: Files,
    dev_fraction: Annotated[float, typer.Option(min=0, max=1, help="The share of queries to hold out, as in cdk.json.")] = 0.02,
    language: Annotated[
        str, typer.Option(help="The language that the texts should be in: translation.target_language of cdk.json.")
    ] = KOREAN.code,
) -> None:
    """Describe a dataset: sizes, lengths, repetitions, how much is in its language, and how it would be split."""
    meant = _language("--language", language)
    counts: Counter[str] = Counter()
    groups, handles, seen = Groups(dev_fraction), [], set()
    queries: set[int] = set()
    passages: set[int] = set()
    lengths: dict[str, list[int]] = {"query": [], "passage": [], "negatives": []}
    for _, _, record in _records(files):
        if isinstance(record, RecordError):
            counts["rejected"] += 1
            continue
        counts["records"] += 1
        key = fingerprint(record.query, "pos", *record.positives, "neg", *record.negatives)
        counts["duplicates"] += key in seen
        seen.add(key)
        queries.add(fingerprint(record.query))
        passages.update(map(fingerprint, (*record.positives, *record.negatives)))
        lengths["query"].append(len(record.query))
        lengths["passage"] += map(len, (*record.positives, *record.negatives))
        lengths["negatives"].append(len(record.negatives))
        counts["in_language"] += sum(map(meant.owns, record.texts()))
        counts["texts"] += sum(1 for _ in record.texts())
        right = set(map(identity, record.positives))
        counts["wrong"] += sum(identity(text) in right for text in record.negatives)
        handles.append(groups.add(record.query, record.query, record.positives))
    if not counts["records"]:
        raise OperationError(f"no good record in {', '.join(map(str, files))}: `ko-reranker data validate` says why")
    splits = Counter(groups.split(handle) for handle in handles)
    _table(
        {
            "records": counts["records"],
            "lines that break the contract": counts["rejected"],
            "records that repeat another": counts["duplicates"],
            "distinct queries": len(queries),
            "distinct passages": len(passages),
            "characters of a query": _spread(lengths["query"]),
            "characters of a passage": _spread(lengths["passage"]),
            "negatives of a record": _spread(lengths["negatives"]),
            "records without negatives": lengths["negatives"].count(0),
            "negatives equal to a positive": counts["wrong"],
            f"texts in {meant.name}": f"{counts['in_language'] / counts['texts']:.1%}",
            f"train / dev at {dev_fraction:g}": f"{splits['train']:,} / {splits['dev']:,}",
            "largest group of tied records": max(groups.sizes()),
        }
    )


@app.command(name="convert")
def convert_command(
    source: Annotated[
        Path, typer.Argument(exists=True, help="A JSON Lines, JSON, CSV, TSV or Parquet file (.gz too), or a BEIR folder.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the records: .jsonl or .jsonl.gz.")],
    kind: Annotated[
        Format, typer.Option("--format", help="Name it where the input's columns leave it open which format they are.")
    ] = "auto",
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Labels above it are positive: 0, if all labels are whole numbers. Raise it for grades such as 0 to 3.",
            show_default=False,
        ),
    ] = None,
    query: Annotated[
        str | None, typer.Option(help="The column of the query, by its name or its number from 1, where it isn't found.")
    ] = None,
    positive: Annotated[list[str] | None, typer.Option(help="A column of positives; repeat it for more.")] = None,
    negative: Annotated[list[str] | None, typer.Option(help="A column of negatives; repeat it for more.")] = None,
    document: Annotated[str | None, typer.Option(help="The column of documents that a label judges.")] = None,
    label: Annotated[str | None, typer.Option(help="The column of these labels.")] = None,
    score: Annotated[str | None, typer.Option(help="The column of a teacher's scores of these documents.")] = None,
    record_id: Annotated[str | None, typer.Option("--id", help="The column of the records' ids.")] = None,
    header: Annotated[
        bool | None, typer.Option("--header/--no-header", help="Whether the first line of a CSV or TSV names the columns.")
    ] = None,
    quotes: Annotated[
        Quotes, typer.Option(help="Whether fields of a table may stand in double quotes; auto: in CSV, and TSV that begins so.")
    ] = "auto",
    encoding: Annotated[str | None, typer.Option(help="The texts' encoding, such as cp949 or utf-16; else UTF-8.")] = None,
    corpus: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Passages by id, for qrels and triples of ids.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Queries by id, for qrels and triples of ids.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Which qrels/ of a BEIR folder to read; train, if it has them.")] = None,
) -> None:
    """Turn other formats into training records, and say what was left out: docs/data.md has a sample of each.

    Pairs, triplets and n-tuples, labelled pairs and lists, FlagEmbedding, Tevatron, MIRACL, DPR, MS MARCO, TREC qrels, BEIR.
    """
    if not output.name.endswith(SUFFIXES):
        raise OperationError(f"{output} must end in .jsonl or .jsonl.gz")
    if output.exists() and output.samefile(source):
        raise OperationError(f"{output} is the source: write the records to another file")
    result = Conversion()
    partial = output.with_name(f".{output.name}")  # keeps the suffix, which decides on gzip
    names = Names(query, document, label, score, record_id, tuple(positive or ()), tuple(negative or ()))
    try:
        with _progress() as progress:
            reading = Reading(progress.open, encoding, quotes)
            options = Options(kind, threshold, names, header, corpus, queries, split, reading)
            count = write_jsonl(partial, (record.to_json() for record in convert(source, result, options)))
        if count:
            partial.replace(output)
    except (TableError, DamagedFile) as error:
        raise OperationError(str(error)) from None
    except OSError as error:
        raise OperationError(f"{error.filename or source}: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
    _tell_what_was_left_out(result)
    left_out = result.left_out.total()
    if not count:
        raise OperationError(f"{source} gave no record: {result.rows:,} rows, {left_out:,} of them left out")
    console.print(f"{count:,} records from {result.rows:,} rows ({result.kind}), {left_out:,} left out: {escape(str(output))}")


def _tell_what_was_left_out(result: Conversion) -> None:
    def say(sentence: str) -> None:
        errors.print(sentence, markup=False)

    for name, line, reason in result.examples:
        say(f"{name}{f':{line}' if line else ''}: {reason}")
    if result.left_out.total() > len(result.examples):
        for reason, times in result.left_out.most_common():
            say(f"left out in all: {times:,} × {reason}")
    for what, times in result.dropped.most_common():
        say(f"left out of records: {times:,} × {what}")
    for sentence in result.notes:
        say(sentence)


# ---------------------------------------------------------------- reading, with progress


class _Reading:
    """Files opened through it move a bar as they are read."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def open(self, path: Path) -> BinaryIO:
        task = self._progress.add_task(path.name, total=path.stat().st_size)
        return self._progress.open(path, "rb", task_id=task, description=path.name)


@contextmanager
def _progress() -> Iterator[_Reading]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not sys.stderr.isatty()) as progress:
        yield _Reading(progress)


def _records(files: list[Path]) -> Iterator[tuple[Path, int, TrainingRecord | RecordError]]:
    with _progress() as progress:
        for path in files:
            if not path.name.endswith(SUFFIXES):
                raise OperationError(f"{path} must end in .jsonl or .jsonl.gz: `ko-reranker data convert` makes such files")
            try:
                with progress.open(path) as stream:
                    for number, record in read_records(stream, path.name):
                        yield path, number, record
            except DamagedFile as error:
                raise OperationError(str(error)) from None


def _language(option: str, code: str) -> Language:
    try:
        return find(code)
    except UnknownLanguageError as error:
        raise OperationError(f"{option} {error}") from None


def _shards(files: list[Path]) -> int:
    """As many temporary files as keep the distinct texts of one of them small."""
    return min(200, 1 + sum(path.stat().st_size for path in files) // (8 << 20))


def _spread(values: list[int]) -> str:
    if len(values) < 2:
        return str(values[0]) if values else "none"
    parts = statistics.quantiles(values, n=20, method="inclusive")
    return f"median {parts[9]:g}, 5 % to 95 % {parts[0]:g} to {parts[18]:g}, longest {max(values)}"


def _table(rows: dict[str, int | str]) -> None:
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else value)
    console.print(table)
