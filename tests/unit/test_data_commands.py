"""`ko-reranker data`: the pipeline's logic on a laptop."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ko_reranker.commands.data import app
from ko_reranker.languages import KOREAN, LANGUAGES
from ko_reranker.operations.errors import OperationError
from ko_reranker.samples import paths


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def converted(tmp_path: Path, source: Path, *options: str) -> tuple[Result, list[dict]]:
    output = tmp_path / "out.jsonl"
    result = run("convert", source, "-o", output, *options)
    return result, [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []


def test_the_sample_is_valid() -> None:
    result = run("validate", paths.SAMPLE)
    assert (result.exit_code, result.output) == (0, "600 good records, 0 that break the contract\n")


def test_every_bad_line_is_listed_with_its_place(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"query": "q", "pos": ["p"]}\n{"query": "q"}\nnonsense\n')
    result = run("validate", path)
    assert result.exit_code == 1
    assert f"{path}:2: pos: needs at least one passage" in result.output
    assert f"{path}:3: line: is not JSON" in result.output


def test_the_plan_of_the_sample_counts_every_text_once() -> None:
    result = run("plan", paths.SAMPLE)
    assert result.exit_code == 0
    row = {
        line.strip().rsplit("  ", 1)[0].strip(): line.strip().rsplit("  ", 1)[-1].strip() for line in result.output.splitlines()
    }
    assert row["distinct texts to translate"] == "2,417"
    assert row["US dollars"] == "6.52"


def test_stats_of_the_sample() -> None:
    result = run("stats", paths.SAMPLE, "--dev-fraction", "0.25")
    assert result.exit_code == 0
    assert "records without negatives" in result.output and "122" in result.output
    assert "458 / 142" in result.output
    assert "texts in Korean" in result.output


def test_stats_tell_how_much_is_in_the_language_that_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(LANGUAGES, "ja", replace(KOREAN, code="ja", name="Japanese", script=re.compile("[ぁ-ヿ一-鿿]")))
    path = tmp_path / "a.jsonl"
    path.write_text('{"query": "質問はなに", "pos": ["これはこたえ"], "neg": ["오답", "ちがうこたえ"]}\n')
    result = run("stats", path, "--language", "ja")
    assert re.search(r"texts in Japanese +75\.0%", result.output)
    assert re.search(r"texts in Korean +25\.0%", run("stats", path).output)


def test_a_language_that_is_not_known_is_refused_with_those_that_are() -> None:
    result = run("stats", paths.SAMPLE, "--language", "xx")
    assert result.exit_code != 0
    assert "--language must be ko (Korean), is 'xx'" in str(result.exception or result.output)


def test_pointwise_rows_become_records(tmp_path) -> None:
    source = tmp_path / "rows.csv"
    source.write_text('query,document,label\n질문,"정답, 하나",1\n질문,오답,0\n질문,정답 둘,2\n홀로,오답,0\n나쁨,문서,x\n')
    result, rows = converted(tmp_path, source)
    assert rows == [{"query": "질문", "pos": ["정답, 하나", "정답 둘"], "neg": ["오답"]}]
    assert "2 left out" in result.output
    _, graded = converted(tmp_path, source, "--threshold", "1")
    assert graded == [{"query": "질문", "pos": ["정답 둘"], "neg": ["정답, 하나", "오답"]}]


def test_jsonl_rows_may_use_other_names(tmp_path) -> None:
    source = tmp_path / "rows.jsonl.gz"
    rows = [{"question": "질문", "passage": "정답", "relevance": 1}, {"question": "질문", "passage": "오답", "relevance": 0}]
    source.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert converted(tmp_path, source)[1] == [{"query": "질문", "pos": ["정답"], "neg": ["오답"]}]


def test_ms_marco_triplets_need_no_header_and_have_no_quoting(tmp_path) -> None:
    source = tmp_path / "triples.train.small.tsv"
    source.write_text('what is x\tx is "y\tz is w\nwhat is a\ta is b\tc is d\n')
    _, rows = converted(tmp_path, source)
    assert rows[0] == {"query": "what is x", "pos": ['x is "y'], "neg": ["z is w"]}
    assert len(rows) == 2


def test_a_beir_folder_becomes_records(tmp_path) -> None:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "title": "제목", "text": "본문"}\n{"_id": "d2", "text": "다른 글"}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "질문"}\n')
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq1\td9\t1\nq9\td1\t1\n")
    result, rows = converted(tmp_path, folder)
    assert rows == [{"id": "q1", "query": "질문", "pos": ["제목\n본문"], "neg": ["다른 글"]}]
    assert "2 left out" in result.output


@pytest.mark.parametrize("content", ["a,b\n1,2\n", ""])
def test_what_is_no_known_format_is_told(tmp_path, content) -> None:
    source = tmp_path / "rows.csv"
    source.write_text(content)
    result, rows = converted(tmp_path, source)
    assert isinstance(result.exception, OperationError)
    assert rows == []
