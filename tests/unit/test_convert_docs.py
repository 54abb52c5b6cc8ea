"""docs/data.md shows every format with a sample, what the command says and what comes out: here each of them runs."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from rich.console import Console

from ko_reranker.cli import main
from ko_reranker.commands import data

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
_BLOCK = re.compile(r"^```(\S*)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def samples() -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Yield each sample's title and its blocks, ``(language, file, content)``."""
    section = PAGE.read_text(encoding="utf-8").partition("### Converting\n")[2].partition("\n## ")[0]
    parts = re.split(r"^\*\*(.+?)\*\*", section, flags=re.MULTILINE)
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        yield title, _BLOCK.findall(body)


SAMPLES = dict(samples())


def write(path: Path, language: str, content: str) -> None:
    path.parent.mkdir(exist_ok=True)
    if language == "parquet":
        import pyarrow
        from pyarrow import parquet

        rows = [json.loads(line) for line in content.splitlines()]
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return
    path.write_bytes(content.encode(language.partition("-")[2] or "utf-8"))


def run(line: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what a command prints, and the records that it wrote."""
    said = io.StringIO()
    console = Console(file=said, highlight=False, soft_wrap=True, width=400)
    monkeypatch.setattr(data, "console", console)
    monkeypatch.setattr(data, "errors", console)
    monkeypatch.setattr("sys.argv", shlex.split(line)[0:])
    with redirect_stdout(said), redirect_stderr(said), pytest.raises(SystemExit):
        main()
    output = Path("out.jsonl")
    written = output.read_text(encoding="utf-8") if output.exists() else ""
    output.unlink(missing_ok=True)
    return said.getvalue() + written


def transcript(blocks: list[tuple[str, str, str]], lines: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    for language, name, content in blocks:
        if name:
            write(Path(name), language, content)
    return "".join(f"$ {line}\n{run(line, monkeypatch)}" for line in lines)


@pytest.mark.parametrize("title", SAMPLES)
def test_a_sample_of_the_docs_gives_what_they_say(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for earlier in SAMPLES.values():  # a corpus may stand with an earlier sample
        transcript(earlier, [], monkeypatch)
    blocks = SAMPLES[title]
    (shown,) = [content for language, _, content in blocks if language == "console"]
    lines = [line[2:] for line in shown.splitlines() if line.startswith("$ ")]
    assert lines and transcript(blocks, lines, monkeypatch) == shown


def test_the_table_of_the_docs_names_every_format() -> None:
    from typing import get_args

    section = PAGE.read_text(encoding="utf-8").partition("### Converting\n")[2]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)[: len(get_args(data.Format)) - 1] == [
        kind for kind in get_args(data.Format) if kind != "auto"
    ]
    assert len(SAMPLES) >= 12
