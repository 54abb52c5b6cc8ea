"""`convert` reads what people have, says what it leaves out, and refuses what could be two things."""

from __future__ import annotations

import codecs
import gzip
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ko_reranker.commands.data import app
from ko_reranker.operations.errors import OperationError

PASSAGE = "환불은 영업일 기준으로 3일 안에 카드로 처리됩니다."
OTHER = "배송은 주문한 날로부터 2일 안에 도착합니다."
RECORD = {"query": "환불은 며칠 걸리나요?", "pos": [PASSAGE], "neg": [OTHER]}


def convert(tmp_path: Path, name: str, content: str | bytes | list, *options: str, encoding: str = "utf-8") -> tuple:
    source = tmp_path / name
    if isinstance(content, list):
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
    source.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    output = tmp_path / "out.jsonl"
    result: Result = CliRunner().invoke(app, ["convert", str(source), "-o", str(output), *options], env={"COLUMNS": "300"})
    rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    output.unlink(missing_ok=True)
    assert result.exception is None or isinstance(result.exception, (OperationError, SystemExit)), result.exception
    assert "Aborted" not in result.output
    return result, rows


def refused(tmp_path: Path, name: str, content: str | bytes | list, *options: str, encoding: str = "utf-8") -> str:
    result, rows = convert(tmp_path, name, content, *options, encoding=encoding)
    assert isinstance(result.exception, OperationError), result.output
    assert rows == []
    return str(result.exception)


@pytest.mark.parametrize(
    "header",
    [
        "query,positive,negative",
        "질문,긍정,부정",
        "질문,정답,오답",
        '"Query","Positive Passage","Hard-Negative"',
        "\ufeffQUESTION,pos,neg_1",
    ],
)
@pytest.mark.parametrize("mark", [",", "\t"])
def test_headers_in_korean_quoted_and_spelt_otherwise_are_known(tmp_path: Path, header: str, mark: str) -> None:
    quote = '"' if '"' in header else ""
    line = mark.join(f"{quote}{text}{quote}" for text in (RECORD["query"], PASSAGE, OTHER))
    name = "rows.csv" if mark == "," else "rows.tsv"
    assert convert(tmp_path, name, f"{header.replace(',', mark)}\n{line}\n")[1] == [RECORD]


def test_the_order_of_the_columns_is_no_matter(tmp_path: Path) -> None:
    rows = f"negative\tid\tpositive\tquery\n{OTHER}\t7\t{PASSAGE}\t{RECORD['query']}\n"
    assert convert(tmp_path, "rows.tsv", rows)[1] == [{"id": "7", **RECORD}]


@pytest.mark.parametrize("header", ["물음\t좋은글\t나쁜글", "foo\tbar\tbaz", "검색 문장\t맞는 글\t다른 글"])
def test_a_header_it_does_not_know_is_not_taken_for_a_triplet(tmp_path: Path, header: str) -> None:
    rows = f"{header}\n{RECORD['query']}\t{PASSAGE}\t{OTHER}\n"
    said = refused(tmp_path, "rows.tsv", rows)
    assert "--query" in said and "--no-header" in said
    first, second, third = header.split("\t")
    named = ("--query", first, "--positive", second, "--negative", third)
    assert convert(tmp_path, "rows.tsv", rows, *named)[1] == [RECORD]
    assert len(convert(tmp_path, "rows.tsv", rows, "--no-header")[1]) == 2


def test_columns_may_be_numbered(tmp_path: Path) -> None:
    rows = f"7,{OTHER},{RECORD['query']},{PASSAGE}\n"
    said = refused(tmp_path, "rows.csv", rows)
    assert "4 columns without names" in said and "--no-header" in said
    numbered = ("--no-header", "--query", "3", "--positive", "4", "--negative", "2", "--id", "1")
    assert convert(tmp_path, "rows.csv", rows, *numbered)[1] == [{"id": "7", **RECORD}]


def test_a_row_of_four_fields_is_no_triplet(tmp_path: Path) -> None:
    result, rows = convert(tmp_path, "rows.tsv", f"{RECORD['query']}\t{PASSAGE}\t{OTHER}\n질문?\t정답이다.\t오답\t이다.\n")
    assert rows == [RECORD]
    assert "1 left out" in result.output and "rows.tsv:2: has not 3 fields but 4" in result.output


def test_ids_are_not_texts(tmp_path: Path) -> None:
    for rows in ("121352\t9139255\t2912791\n634306\t1\t2\n", "q1\td7\td8\n", "q1\t0\td7\t1\n"):
        said = refused(tmp_path, "qidpidtriples.tsv", rows)
        assert "--corpus" in said and "--queries" in said


def test_every_negative_of_a_tuple_comes_along(tmp_path: Path) -> None:
    rows = [{"anchor": "질문", "positive": "정답", "negative_1": "오답 1", "negative_2": "오답 2", "negative_3": None}]
    assert convert(tmp_path, "rows.jsonl", rows)[1] == [{"query": "질문", "pos": ["정답"], "neg": ["오답 1", "오답 2"]}]


@pytest.mark.parametrize("label", ["nan", "NaN", "", "inf", "entailment", None, float("nan")])
def test_what_is_no_label_makes_nothing_positive(tmp_path: Path, label: object) -> None:
    rows = [{"query": "질문", "document": "정답", "label": 1}, {"query": "질문", "document": "모름", "label": label}]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    result, out = convert(tmp_path, "rows.jsonl", content)
    assert out == [{"query": "질문", "pos": ["정답"], "neg": []}]
    assert "1 left out" in result.output


@pytest.mark.parametrize(
    ("right", "wrong"), [("true", "false"), (True, False), ("예", "아니오"), ("정답", "오답"), (2, 0), ("1.0", "0.0"), (1, -1)]
)
def test_labels_may_be_words(tmp_path: Path, right: object, wrong: object) -> None:
    rows = [{"query": "질문", "document": "가", "label": right}, {"query": "질문", "document": "나", "label": wrong}]
    assert convert(tmp_path, "rows.jsonl", rows)[1] == [{"query": "질문", "pos": ["가"], "neg": ["나"]}]


def test_fractions_need_a_threshold(tmp_path: Path) -> None:
    rows = [{"query": "질문", "document": "가", "label": 0.9}, {"query": "질문", "document": "나", "label": 0.2}]
    assert "--threshold" in refused(tmp_path, "rows.jsonl", rows)
    assert convert(tmp_path, "rows.jsonl", rows, "--threshold", "0.5")[1] == [{"query": "질문", "pos": ["가"], "neg": ["나"]}]


def test_ids_scores_and_source_come_along(tmp_path: Path) -> None:
    labelled = [
        {"qid": 3, "query": "질문", "document": "가", "label": 1, "score": 4.5, "출처": "faq"},
        {"qid": 3, "query": "질문", "document": "나", "label": 0, "score": -1, "출처": "faq"},
    ]
    whole = {
        "id": "3",
        "query": "질문",
        "pos": ["가"],
        "neg": ["나"],
        "pos_scores": [4.5],
        "neg_scores": [-1.0],
        "source": "faq",
    }
    assert convert(tmp_path, "rows.jsonl", labelled)[1] == [whole]
    flag = {**whole, "neg": ["나", "가", "다"], "neg_scores": [-1, 9, 0.5], "prompt": "p"}
    assert convert(tmp_path, "flag.jsonl", [flag])[1] == [
        {**whole, "neg": ["나", "다"], "neg_scores": [-1.0, 0.5], "prompt": "p"}
    ]
    dpr = {
        "question": "질문",
        "positive_ctxs": [{"text": "가", "title": "", "score": 7}],
        "hard_negative_ctxs": [],
        "answers": ["가"],
    }
    assert convert(tmp_path, "dpr.json", [dpr])[1] == [
        {"query": "질문", "pos": ["가"], "neg": [], "pos_scores": [7.0], "answers": ["가"]}
    ]


def test_what_differs_among_a_querys_rows_is_not_carried_and_said(tmp_path: Path) -> None:
    rows = [{"id": n, "query": "질문", "document": f"글 {n}", "label": n, "source": "faq"} for n in range(2)]
    result, out = convert(tmp_path, "rows.jsonl", rows)
    assert out == [{"query": "질문", "pos": ["글 1"], "neg": ["글 0"], "source": "faq"}]
    assert "id is not carried" in result.output


def test_one_query_in_two_spellings_is_one_record(tmp_path: Path) -> None:
    rows = [
        {"query": "Café 질문", "document": "가", "label": 1},
        {"query": "cafe\u0301 질문\u200b", "document": "나", "label": 0},
        {"query": "Café 질문", "document": "\ufeff가", "label": 0},
    ]
    result, out = convert(tmp_path, "rows.jsonl", rows)
    assert out == [{"query": "Café 질문", "pos": ["가"], "neg": ["나"]}]
    assert "1 × judgements as wrong" in result.output


def test_negatives_that_are_right_or_the_query_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"query": "질문", "pos": ["정답", "정답 "], "neg": ["정답\u200b", "질문", "오답", "오답", "", None]}]
    result, out = convert(tmp_path, "rows.jsonl", rows)
    assert out == [{"query": "질문", "pos": ["정답"], "neg": ["오답"]}]
    for said in (
        "2 × negatives that are a positive or the query",
        "1 × negatives that stand there twice",
        "2 × blank negatives",
    ):
        assert said in result.output


@pytest.mark.parametrize(
    "passages",
    [
        {"is_selected": [0, 1], "passage_text": [OTHER, PASSAGE]},
        [{"passage_text": OTHER, "is_selected": 0}, {"passage_text": PASSAGE, "is_selected": 1}],
        [{"text": OTHER, "relevance": 0}, {"text": PASSAGE, "relevance": 3}],
    ],
)
def test_labelled_lists(tmp_path: Path, passages: object) -> None:
    assert convert(tmp_path, "rows.jsonl", [{"query": RECORD["query"], "passages": passages}])[1] == [RECORD]
    lists = {"query": RECORD["query"], "docs": [OTHER, PASSAGE], "labels": [0, 1]}
    assert convert(tmp_path, "rows.jsonl", [lists])[1] == [RECORD]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.json.gz"])
def test_json_arrays(tmp_path: Path, name: str, indent: int | None) -> None:
    content = json.dumps([RECORD] * 3, ensure_ascii=False, indent=indent).encode()
    assert convert(tmp_path, name, gzip.compress(content) if name.endswith(".gz") else content)[1] == [RECORD] * 3


def test_a_long_array_is_read_piece_by_piece(tmp_path: Path) -> None:
    rows = [{**RECORD, "id": str(n), "n": n, "neg": [OTHER * 50]} for n in range(2_000)]
    out = convert(tmp_path, "rows.json", json.dumps(rows, ensure_ascii=False))[1]
    assert [row["n"] for row in out] == list(range(2_000))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"query": "q"', "after row 0"),
        ('{"data": {"a": "b"}}', "data"),
        ("[1, 2]", "gave no record"),
        ("nonsense", "not JSON"),
        ("[]", "holds no row"),
    ],
)
def test_json_that_is_no_list_of_rows_is_told(tmp_path: Path, content: str, said: str) -> None:
    assert said in refused(tmp_path, "rows.json", content)


def test_a_bad_line_is_left_out_with_its_place(tmp_path: Path) -> None:
    content = json.dumps(RECORD) + "\nnonsense\n[1]\n" + json.dumps({"other": 1}) + "\n" + json.dumps(RECORD) + "\n"
    result, rows = convert(tmp_path, "rows.jsonl", content)
    assert len(rows) == 2
    for place in ("rows.jsonl:2:", "rows.jsonl:3:", "rows.jsonl:4:", "3 left out"):
        assert place in result.output


@pytest.mark.parametrize(
    ("options", "said"),
    [((), "--encoding cp949"), (("--encoding", "ascii"), "--encoding"), (("--encoding", "klingon"), "no encoding 'klingon'")],
)
def test_another_encoding_is_named_not_guessed(tmp_path: Path, options: tuple, said: str) -> None:
    rows = f"질문,답변\n{RECORD['query']},{PASSAGE}\n"
    assert said in refused(tmp_path, "rows.csv", rows, *options, encoding="cp949")
    assert convert(tmp_path, "rows.csv", rows, "--encoding", "euc-kr", encoding="cp949")[1] == [{**RECORD, "neg": []}]


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.json"])
@pytest.mark.parametrize(("encoding", "mark"), [("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE)])
def test_utf_16_is_told_by_its_mark(tmp_path: Path, name: str, encoding: str, mark: bytes) -> None:
    comma = "\t" if name == "rows.tsv" else ","
    text = (
        f"질문{comma}답변\n{RECORD['query']}{comma}{PASSAGE}\n"
        if "json" not in name
        else json.dumps({**RECORD, "neg": []}) + "\n"
    )
    content = mark + text.encode(encoding)
    assert "--encoding utf-16" in refused(tmp_path, name, content)
    assert convert(tmp_path, name, content, "--encoding", "utf-16")[1] == [{**RECORD, "neg": []}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.csv.gz", gzip.compress(b"query,positive\nq,p\n" * 10_000)[:-20], "gzip is damaged or cut off"),
        ("rows.jsonl.gz", b"no gzip", "gzip is damaged or cut off"),
        ("rows.parquet", b"no parquet", "rows.parquet can't be read"),
        ("rows.xlsx", b"PK", "save the sheet as CSV"),
        ("rows.txt", "q\tp\tn\n", "none of .jsonl"),
        ("rows.csv", 'query,positive\nq,"' + "x" * (5 << 20) + '"\n', "can't be read"),
        ("rows.csv", "query,query,positive\na,b,c\n", "two columns of one name"),
        ("rows.csv", "query,question,positive\na,b,c\n", "--query"),
        ("rows.csv", "query,text,passage,label\na,b,c,1\n", "--document"),
        ("rows.csv", "query,document\na,b\n", "--label"),
        ("rows.csv", "query,document,label,positive\na,b,1,c\n", "--format"),
        ("rows.csv", "title,positive\na,b\n", "--query"),
        ("rows.csv", "query,url\na,b\n", "--positive"),
        ("rows.csv", "", "holds no row"),
        ("rows.csv", "query,positive\n", "holds no row"),
    ],
)
def test_what_cannot_be_read_for_certain_is_refused(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    assert said in refused(tmp_path, name, content)


def test_the_option_that_is_named_settles_it(tmp_path: Path) -> None:
    two = f"query,question,positive\na,{RECORD['query']},{PASSAGE}\n"
    assert convert(tmp_path, "rows.csv", two, "--query", "question")[1] == [
        {"query": RECORD["query"], "pos": [PASSAGE], "neg": []}
    ]
    both = "query,document,label,positive\n질문,글,1,정답\n"
    assert convert(tmp_path, "rows.csv", both, "--format", "pointwise")[1][0]["pos"] == ["글"]
    assert convert(tmp_path, "rows.csv", both, "--format", "pairs")[1][0]["pos"] == ["정답"]
    unlabelled = "query,document\n질문,글\n"
    assert convert(tmp_path, "rows.csv", unlabelled, "--positive", "document")[1][0]["pos"] == ["글"]


def test_lists_in_a_tables_cell(tmp_path: Path) -> None:
    row = '질문,"[""정답 1"", ""정답 2""]","[""오답""]"\n둘,"[\'정답\', \'또\']",\n셋,[1] 머리말,\n'
    result, rows = convert(tmp_path, "rows.csv", "query,pos,neg\n" + row)
    assert rows == [
        {"query": "질문", "pos": ["정답 1", "정답 2"], "neg": ["오답"]},
        {"query": "셋", "pos": ["[1] 머리말"], "neg": []},
    ]
    assert "as Python prints it" in result.output


def test_quotes_of_a_tsv(tmp_path: Path) -> None:
    rows = 'query\tpositive\n질문\t"정답 ""하나""\n다음 줄"\n'
    assert "--quotes" in convert(tmp_path, "rows.tsv", rows)[0].output
    assert convert(tmp_path, "rows.tsv", rows, "--quotes", "yes")[1][0]["pos"] == ['정답 "하나"\n다음 줄']


def test_columns_without_a_name_are_no_matter(tmp_path: Path) -> None:
    rows = f",질문,답변,,\n0,{RECORD['query']},{PASSAGE},,\n"
    assert convert(tmp_path, "rows.csv", rows)[1] == [{**RECORD, "neg": []}]


def test_semicolons_of_a_korean_spreadsheet(tmp_path: Path) -> None:
    assert convert(tmp_path, "rows.csv", f"질문;답변\n{RECORD['query']};{PASSAGE}\n")[1][0]["pos"] == [PASSAGE]


def test_parquet(tmp_path: Path) -> None:
    import datetime

    import pyarrow
    from pyarrow import parquet

    rows = [
        {
            "query_id": "1",
            "query": "질문",
            "positive_passages": [{"docid": "d", "title": "제목", "text": "정답"}],
            "negative_passages": [],
        },
        {
            "query_id": "2",
            "query": None,
            "positive_passages": [{"docid": "d", "title": "", "text": "정답"}],
            "negative_passages": None,
        },
    ]
    for row in rows:
        row["day"] = datetime.date(2026, 1, 2)
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "whole.parquet")
    result, out = convert(tmp_path, "rows.parquet", (tmp_path / "whole.parquet").read_bytes())
    assert out == [{"id": "1", "query": "질문", "pos": ["제목\n정답"], "neg": [], "day": "2026-01-02"}]
    assert "rows.parquet:2: query is missing" in result.output


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert "pip install 'ko-reranker[parquet]'" in refused(tmp_path, "rows.parquet", b"PAR1")


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(
        '{"_id": "d1", "title": "", "text": "정답"}\n{"_id": "d2", "text": "다른 글"}\n{"_id": "d3", "text": " "}\n'
    )
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "질문"}\n{"_id": "q2", "text": ""}\n')
    return folder


def test_a_folder_with_several_judgements_is_read_by_name(beir: Path, tmp_path: Path) -> None:
    for name in ("dev", "test"):
        (beir / f"qrels/{name}.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td3\t1\nq2\td1\t1\n")
    arguments = ["convert", str(beir), "-o", str(tmp_path / "out.jsonl")]
    refusal = CliRunner().invoke(app, arguments)
    assert "--split" in str(refusal.exception)
    result = CliRunner().invoke(app, [*arguments, "--split", "dev"], env={"COLUMNS": "300"})
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {"id": "q1", "query": "질문", "pos": ["정답"], "neg": []}
    for said in ("not read: test.tsv", "corpus.jsonl has an empty passage", "queries.jsonl has an empty query", "2 left out"):
        assert said in result.output


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("qrels.txt", "q1 0 d1 2\nq1 0 d2 0\n", ()),
        ("qrels.tsv", "q1\t0\td1\t2\nq1\t0\td2\t0\n", ()),
        ("qrels.tsv", "corpus-id\tscore\tquery-id\nd1\t2\tq1\nd2\t0\tq1\n", ("--format", "qrels")),
        ("qrels.csv", "q1,d1,1\nq1,d2,0\n", ("--format", "qrels")),
        (
            "qrels.jsonl",
            '{"query-id": "q1", "corpus-id": "d1", "score": 1}\n{"query-id": "q1", "corpus-id": "d2", "score": 0}\n',
            ("--format", "qrels"),
        ),
        ("ids.tsv", "q1\td1\td2\n", ("--format", "ids")),
    ],
)
def test_judgements_of_ids_get_their_texts(beir: Path, tmp_path: Path, name: str, content: str, options: tuple) -> None:
    texts = ("--corpus", str(beir / "corpus.jsonl"), "--queries", str(beir / "queries.jsonl"))
    out = convert(tmp_path, name, content, *texts, *options)[1]
    assert out == [{"id": "q1", "query": "질문", "pos": ["정답"], "neg": ["다른 글"]}]


def test_three_columns_of_ids_may_be_two_things(beir: Path, tmp_path: Path) -> None:
    texts = ("--corpus", str(beir / "corpus.jsonl"), "--queries", str(beir / "queries.jsonl"))
    said = refused(tmp_path, "ids.tsv", "q1\td1\td2\n", *texts)
    assert "--format qrels" in said and "--format ids" in said
    assert "--corpus and --queries" in refused(tmp_path, "ids.tsv", "q1\td1\td2\n", *texts[:2])


def test_the_source_is_not_written_over(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps(RECORD))
    result = CliRunner().invoke(app, ["convert", str(source), "-o", str(source)])
    assert "is the source" in str(result.exception)
    assert json.loads(source.read_text()) == RECORD


def test_rows_used_and_left_out_are_all_the_rows(tmp_path: Path) -> None:
    rows = [{"query": f"질문 {n % 7}", "document": f"글 {n}", "label": n % 3 == 0 if n % 7 else 0} for n in range(70)]
    rows += [{"query": "", "document": "글", "label": 1}, {"query": "질문", "document": "글", "label": "?"}]
    result, out = convert(tmp_path, "rows.jsonl", rows)
    told = re.search(r"(\d+) records from (\d+) rows \(pointwise\), (\d+) left out", result.output)
    records, read, left_out = map(int, told.groups())
    assert (records, read) == (len(out), 72)
    assert sum(len(row["pos"]) + len(row["neg"]) for row in out) + left_out == 72


@pytest.mark.parametrize(
    "rows",
    [
        "what is this thing\tit is a thing for people\t1\nwhat is that\tit is that\t0\n",
        "what is this thing\tit is a thing for people\t0.93\nwhat is that\tit is that\t0.1\n",
        "0\twhat is this thing\tit is a thing for people\n1\twhat is that\tit is something else\n",
        "q12\twhat is this thing\tit is a thing for people\nq13\twhat is that\tit is something else\n",
        "이것은 무엇인가요?\t물건이라고 합니다.\t참\n저것은 무엇인가요?\t모르겠습니다.\t거짓\n",
    ],
)
def test_columns_of_labels_or_ids_without_names_are_no_passages(tmp_path: Path, rows: str) -> None:
    assert "--label 3" in refused(tmp_path, "rows.tsv", rows)
    assert len(convert(tmp_path, "rows.tsv", rows, "--format", "triplets", "--no-header")[1]) == 2


@pytest.mark.parametrize("rows", ['q,"never closed\nnext,line\n', 'q,"closed" too early\nnext,line\n'])
def test_a_quote_that_is_not_closed_takes_in_no_other_rows(tmp_path: Path, rows: str) -> None:
    said = refused(tmp_path, "rows.csv", f"query,positive\nfirst,row\n{rows}")
    assert "line 3" in said and "--quotes no" in said
    assert len(convert(tmp_path, "rows.csv", f"query,positive\nfirst,row\n{rows}", "--quotes", "no")[1]) == 3


def test_quotes_that_are_kept_are_told_of(tmp_path: Path) -> None:
    rows = 'query\tpositive\nq\t"p ""x"""\n'
    result, kept = convert(tmp_path, "rows.tsv", rows)
    assert "--quotes yes" in result.output and kept[0]["pos"] == ['"p ""x"""']
    result, kept = convert(tmp_path, "rows.tsv", rows, "--quotes", "yes")
    assert "--quotes" not in result.output and kept[0]["pos"] == ['p "x"']


@pytest.mark.parametrize("encoding", ["base64", "hex", "rot13", "no\x00ne"])
def test_what_is_no_encoding_of_texts_is_refused(tmp_path: Path, encoding: str) -> None:
    assert "there is no encoding" in refused(tmp_path, "rows.tsv", "query\tpositive\nq\tp\n", "--encoding", encoding)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("qrels.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\n"),
        ("qrels.csv", "rel,docid,qid\n1,d1,q1\n"),
        ("qrels.jsonl", '{"query-id": "q1", "corpus-id": "d1", "score": 1}\n'),
    ],
)
def test_judgements_whose_columns_have_names_need_no_format(beir: Path, tmp_path: Path, name: str, rows: str) -> None:
    texts = ("--corpus", str(beir / "corpus.jsonl"), "--queries", str(beir / "queries.jsonl"))
    result, records = convert(tmp_path, name, rows, *texts)
    assert "(qrels)" in result.output and len(records) == 1 and records[0]["id"] == "q1"


def test_a_run_is_not_taken_for_judgements(beir: Path, tmp_path: Path) -> None:
    texts = ("--corpus", str(beir / "corpus.jsonl"), "--queries", str(beir / "queries.jsonl"))
    assert "6 columns" in refused(tmp_path, "run.txt", "q1 Q0 d1 1 12.5 bm25\n", *texts)


@pytest.mark.parametrize("name", ["negative_sample_text", "rejected_answer", "오답해설"])
def test_a_column_that_may_hold_negatives_is_told_of(tmp_path: Path, name: str) -> None:
    row = {"query": RECORD["query"], "positive": PASSAGE, name: OTHER}
    result, rows = convert(tmp_path, "rows.jsonl", [row])
    assert "--negative" in result.output and rows[0][name] == OTHER
    assert convert(tmp_path, "rows.jsonl", [row], "--negative", name)[1] == [RECORD]
