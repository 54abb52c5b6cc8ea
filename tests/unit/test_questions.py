"""A test set is read in the format people have it in, and what is wrong with one is told by file, line and field."""

from __future__ import annotations

import gzip
import json
import math
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ko_reranker.commands.evaluate import evaluate
from ko_reranker.evaluation.candidates import candidate_sets
from ko_reranker.evaluation.metrics import ranking_metrics
from ko_reranker.evaluation.questions import TestSetError, read_test_set

RECORD = {"query": "환불은 며칠 걸리나요?", "pos": ["환불은 3일 안에 처리됩니다."], "neg": ["배송은 2일 걸립니다."]}


def write_lines(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


@pytest.mark.parametrize("name", ["faq.jsonl", "faq.jsonl.gz"])
def test_training_records_are_questions_and_all_their_passages_are_searched(tmp_path: Path, name: str) -> None:
    found = read_test_set([write_lines(tmp_path / name, RECORD, {**RECORD, "query": "다른 질문", "source": "app"})])
    assert [question.query for question in found.questions] == ["환불은 며칠 걸리나요?", "다른 질문"]
    assert [question.source for question in found.questions] == ["faq", "app"]
    assert found.questions[0].relevance == {RECORD["pos"][0]: 1}
    assert found.passages == [*RECORD["pos"], *RECORD["neg"]]


def test_a_query_that_comes_twice_is_one_question_with_all_its_right_passages(tmp_path: Path) -> None:
    again = {"query": RECORD["query"], "pos": ["사흘이면 됩니다."], "neg": ["아니요."]}
    (question,) = read_test_set([write_lines(tmp_path / "faq.jsonl", RECORD, again)]).questions
    assert set(question.relevance) == {RECORD["pos"][0], "사흘이면 됩니다."}
    assert set(question.candidates) == {*RECORD["pos"], *RECORD["neg"], *again["pos"], *again["neg"]}


def test_given_candidates_keep_scores_and_graded_relevance(tmp_path: Path) -> None:
    row = {
        "query": "질문",
        "candidates": [
            {"text": "가", "score": 3.5},
            {"text": "나", "score": 9, "relevance": 2},
            {"text": "다", "score": 1, "relevance": 0},
        ],
        "pos": ["라"],
    }
    (question,) = read_test_set([write_lines(tmp_path / "given.jsonl", row)]).questions
    assert question.candidates == ("가", "나", "다")
    assert question.candidate_scores == (3.5, 9.0, 1.0)
    assert question.relevance == {"나": 2, "라": 1}


def test_given_candidates_without_scores_are_ranked_as_they_stand(tmp_path: Path) -> None:
    row = {"query": "질문", "candidates": ["가", "나", "다"], "pos": ["나"]}
    (question,) = read_test_set([write_lines(tmp_path / "given.jsonl", row)]).questions
    first, second, third = question.candidate_scores
    assert first > second > third


def test_the_published_csv_is_read(tmp_path: Path) -> None:
    path = tmp_path / "eval.csv"
    path.write_text(
        "\ufeffquestion,answer,doc_id,doc\n"
        '질문 하나,답,1,"문서 하나, 쉼표"\n질문 하나,답,2,문서 둘\n질문 둘,답,1,"문서 하나, 쉼표"\n',
        encoding="utf-8",
    )
    one, two = read_test_set([path]).questions
    assert one.relevance == {"문서 하나, 쉼표": 1, "문서 둘": 1}
    assert two.relevance == {"문서 하나, 쉼표": 1}


def test_a_query_that_comes_with_candidates_and_without_has_them_found(tmp_path: Path) -> None:
    (tmp_path / "faq.csv").write_text(
        f"question,answer,doc_id,doc,source\n{RECORD['query']},답,1,다른 문서,faq\n", encoding="utf-8"
    )
    paths = [write_lines(tmp_path / "faq.jsonl", {**RECORD, "source": "faq"}), tmp_path / "faq.csv"]
    (question,) = read_test_set(paths).questions
    assert question.candidates is None
    assert set(question.relevance) == {*RECORD["pos"], "다른 문서"}


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    write_lines(
        folder / "corpus.jsonl", {"_id": "d1", "title": "환불", "text": "3일"}, {"_id": "d2", "title": "", "text": "배송"}
    )
    write_lines(folder / "queries.jsonl", {"_id": "q1", "text": "환불?"}, {"_id": "q2", "text": "아무도 판정하지 않은 질문"})
    (folder / "qrels").mkdir()
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\n", encoding="utf-8")
    return folder


def test_a_beir_folder_gives_judged_queries_and_its_whole_corpus(beir: Path) -> None:
    found = read_test_set([beir])
    (question,) = found.questions
    assert (question.query, question.relevance, question.source) == ("환불?", {"환불\n3일": 2}, "shop")
    assert found.passages == ["환불\n3일", "배송"]


def test_qrels_are_read_by_their_columns_names(beir: Path) -> None:
    (beir / "qrels/test.tsv").write_text("score\tcorpus-id\tquery-id\n0.5\td2\tq1\n", encoding="utf-8")
    assert list(read_test_set([beir]).questions[0].relevance.values()) == [0.5]


def test_qrels_may_be_json_lines(beir: Path) -> None:
    (beir / "qrels/test.tsv").unlink()
    write_lines(beir / "qrels.jsonl", {"query-id": "q1", "corpus-id": "d2", "score": 1})
    assert read_test_set([beir]).questions[0].relevance == {"배송": 1}


def test_several_files_are_one_test_set(tmp_path: Path, beir: Path) -> None:
    found = read_test_set([beir, write_lines(tmp_path / "faq.jsonl", RECORD)])
    assert [question.source for question in found.questions] == ["shop", "faq"]
    assert len(found.passages) == 4


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**RECORD, "pos": []}, "pos: needs at least one passage"),
        ({**RECORD, "query": " "}, "query: is blank"),
        ({"query": "q", "candidates": []}, "candidates: must be a list"),
        ({"query": "q", "candidates": ["a", 3], "pos": ["a"]}, "candidates[1]: must be a string"),
        ({"query": "q", "candidates": ["a", "a"], "pos": ["a"]}, "candidates[1]: is the same document"),
        ({"query": "q", "candidates": ["a"]}, "which one is right?"),
        ({"query": "q", "candidates": [{"text": "a", "score": 1}, "b"], "pos": ["a"]}, "candidates[1].score: is missing"),
        ({"query": "q", "candidates": [{"text": "a", "score": "1"}], "pos": ["a"]}, "candidates[0].score: must be a finite"),
        ({"query": "q", "candidates": [{"text": "a", "relevance": -1}]}, "candidates[0].relevance: must be a whole number"),
        ({"candidates": ["a"], "pos": ["a"]}, "query: is missing"),
    ],
)
def test_what_is_wrong_with_a_line_is_told_by_file_line_and_field(tmp_path: Path, row: dict, said: str) -> None:
    with pytest.raises(TestSetError) as caught:
        read_test_set([write_lines(tmp_path / "bad.jsonl", RECORD, row)])
    assert "bad.jsonl line 2, " in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("question,answer,doc_id\nq,a,1\n", "eval.csv line 2, doc: is missing"),
        ("question,answer,doc_id,doc\nq,a,1,d\nq,a,,d\n", "eval.csv line 3, doc_id: is blank"),
        ("question,answer,doc_id,doc\nq,a,1,d\np,a,1,other\n", "eval.csv line 3, doc_id: 1 has another doc"),
        ("question,answer,doc_id,doc\n", "holds no question"),
    ],
)
def test_what_is_wrong_with_a_csv_is_told_by_line_and_column(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "eval.csv").write_text(content, encoding="utf-8")
    with pytest.raises(TestSetError) as caught:
        read_test_set([tmp_path / "eval.csv"])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("qrels", "said"),
    [
        ("query-id\tcorpus-id\tscore\nq1\td9\t1\n", "1 × judgements of passages that corpus.jsonl has not"),
        ("query-id\tcorpus-id\tscore\nq9\td1\t1\n", "1 × questions that queries.jsonl has not"),
        ("query-id\tcorpus-id\tscore\nq1\td1\tnan\n", "test.tsv line 2: is not query-id, corpus-id, score"),
        ("query-id\tcorpus-id\tscore\nq1\td1\thigh\n", "test.tsv line 2: is not query-id, corpus-id, score"),
        ("q1\td1\t1\nq1\td2\t1\n", "as the first line has to name the columns"),
        ("q1\t0\td1\t1\nq1\t0\td2\t1\n", "as the first line has to name the columns"),
        ("query-id\tcorpus-id\tscore\nq1\td1\t0\n", "holds no question with a right passage"),
    ],
)
def test_what_is_wrong_with_a_beir_folder_is_told(beir: Path, qrels: str, said: str) -> None:
    (beir / "qrels/test.tsv").write_text(qrels, encoding="utf-8")
    with pytest.raises(TestSetError) as caught:
        read_test_set([beir])
    assert said in str(caught.value)


def test_what_is_no_test_set_is_told(tmp_path: Path) -> None:
    for name, content, said in (
        ("a.txt", b"q", "none of .jsonl, .csv, .tsv"),
        ("a.jsonl", b"{", "a.jsonl line 1 is not JSON"),
        ("b.jsonl.gz", b"no gzip", "b.jsonl.gz can't be read"),
        ("c.csv", b"question,answer,doc_id,doc\n\xff\xfe,a,1,d\n", "c.csv can't be read"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TestSetError) as caught:
            read_test_set([tmp_path / name])
        assert said in str(caught.value)
    with pytest.raises(TestSetError, match="there is no"):
        read_test_set([tmp_path / "nowhere.jsonl"])
    with pytest.raises(TestSetError, match="is no BEIR folder"):
        read_test_set([tmp_path])


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder as FiQA's, ArguAna's and NFCorpus's are: empty and missing texts, questions out of the corpus, graded."""
    folder = tmp_path / "fiqa"
    texts = ["환불은 3일 안에 처리됩니다.", "", "배송은 2일 걸립니다.", "교환은 7일 안에 됩니다.", "환불은 며칠 걸리나요?"]
    write_lines(
        folder / "corpus.jsonl",
        *({"_id": f"d{n}", "title": "" if n % 2 else None, "text": text} for n, text in enumerate(texts)),
        {"_id": "d9", "text": "\u200b"},
    )
    write_lines(
        folder / "queries.jsonl",
        {"_id": "d4", "text": texts[4]},
        {"_id": "q1", "text": "교환은 며칠 안에 되나요?"},
        {"_id": "q2", "text": ""},
        {"_id": "q3", "text": "아무 답도 없는 질문"},
    )
    (folder / "qrels").mkdir()
    judged = [("d4", "d0", "1"), ("d4", "d1", "1"), ("q1", "d3", "0.5"), ("q1", "d2", "0.25"), ("q1", "d0", "0")]
    judged += [("q2", "d0", "1"), ("q3", "d1", "1"), ("q3", "d77", "2"), ("q8", "d0", "1")]
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join("\t".join(row) + "\n" for row in judged))
    return folder


def test_what_published_sets_lack_is_passed_over_counted_and_said(published: Path) -> None:
    found = read_test_set([published])
    assert [question.relevance for question in found.questions] == [
        {"환불은 3일 안에 처리됩니다.": 1},
        {"교환은 7일 안에 됩니다.": 0.5, "배송은 2일 걸립니다.": 0.25},
    ]
    assert len(found.passages) == 4
    assert found.skipped == {
        "empty passages of corpus.jsonl": 2,
        "judgements of passages that are empty": 2,
        "judgements of passages that corpus.jsonl has not": 1,
        "questions that are empty": 1,
        "questions that queries.jsonl has not": 1,
        "questions without any right passage left": 1,
    }


def test_grades_count_as_they_are(published: Path) -> None:
    found = read_test_set([published])
    sets = candidate_sets(found, "morphemes+bigrams", 10, 0)
    assert sorted((*filter(None, sets[1].relevance), *sets[1].missed)) == [0.25, 0.5]
    best_first = ranking_metrics([[2.0, 1.0]], [[0.5, 0.25]], [[]])
    worst_first = ranking_metrics([[1.0, 2.0]], [[0.5, 0.25]], [[]])
    assert best_first["ndcg@10"][0] == pytest.approx(1.0)
    gain = (0.25 + 0.5 / math.log2(3)) / (0.5 + 0.25 / math.log2(3))
    assert worst_first["ndcg@10"][0] == pytest.approx(gain, abs=1e-4)
    assert worst_first["mrr"][0] == worst_first["has_right@1"][0] == 1.0
    whole = ranking_metrics([[1.0, 2.0]], [[2, 1]], [[]])
    assert whole["ndcg@10"][0] == pytest.approx(gain, abs=1e-6)


def test_a_question_out_of_the_corpus_is_not_its_own_candidate(published: Path) -> None:
    question = candidate_sets(read_test_set([published]), "morphemes+bigrams", 2, 0)[0]
    assert question.query not in question.documents
    assert "환불은 3일 안에 처리됩니다." in question.documents


def test_a_passage_in_two_spellings_is_one_passage_and_right_in_both(tmp_path: Path) -> None:
    twin = unicodedata.normalize("NFD", RECORD["pos"][0]) + "\u200b"
    rows = [
        RECORD,
        {**RECORD, "query": "\ufeff" + RECORD["query"], "pos": [twin]},
        {"query": "다른 질문", "pos": ["답"], "neg": [twin]},
    ]
    found = read_test_set([write_lines(tmp_path / "faq.jsonl", *rows)])
    assert found.passages == [*RECORD["pos"], *RECORD["neg"], "답"]
    assert [question.relevance for question in found.questions] == [{RECORD["pos"][0]: 1}, {"답": 1}]
    given = {
        "query": "질문",
        "candidates": [{"text": twin, "score": 2, "relevance": 0.5}, {"text": RECORD["pos"][0], "score": 1}],
    }
    found = read_test_set([write_lines(tmp_path / "given.jsonl", given)])
    assert found.questions[0].candidates == (twin,)
    assert found.questions[0].relevance == {twin: 0.5}
    assert sum(found.skipped.values()) == 1


def test_what_was_passed_over_is_said_by_the_command_and_in_the_report(published: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(published), "--model", "bm25:morphemes", "--output", str(tmp_path / "report")]
    program = typer.Typer()
    program.command()(evaluate)
    result = CliRunner().invoke(program, arguments)
    assert result.exit_code == 0, result.output
    assert "2 queries" in result.output
    assert "passed over: 2 × empty passages of corpus.jsonl" in result.output
    assert json.loads((tmp_path / "report/report.json").read_text())["skipped"]["questions that are empty"] == 1
    assert "Passed over" in (tmp_path / "report/report.html").read_text()
