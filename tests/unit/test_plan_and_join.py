"""Plan, translate and join together: every record comes out exactly once, and only as it may be trained on."""

from __future__ import annotations

import gzip
import json
import unicodedata
import uuid
from collections import Counter
from collections.abc import Iterator

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto import mock_aws

from ko_reranker.data.errors import PipelineError
from ko_reranker.data.splits import split_of
from ko_reranker.data.store import Store
from ko_reranker.data.translation.memory import TranslationMemory
from ko_reranker.text import identity
from tests.unit.pipeline_support import FakeTranslate, Table, a_run, load, pseudo_korean, put_records

planning = load("plan", "planning")
translation = load("translate", "translation")
joining = load("join", "joining")
explaining = load("shard_failures", "explaining")
PRICES = planning.Prices(usd_per_million_characters=15, characters_per_second=5000, shard_bytes=2_000)
QUICK = translation.Effort(concurrency=4, claim_seconds=5, backoff_seconds=0.002, most_seconds=0.01)
HOUR = 3_600_000


@pytest.fixture(scope="module", autouse=True)
def aws() -> Iterator[None]:
    with mock_aws():
        yield


def new_store() -> Store:
    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    name = f"bucket-{uuid.uuid4()}"  # not of random, which hypothesis seeds anew for each example
    client.create_bucket(Bucket=name)
    return Store(client, name)


@pytest.fixture
def store() -> Store:
    return new_store()


@pytest.fixture
def memory() -> TranslationMemory:
    return TranslationMemory(Table(), "memory")


def plan(req, store, memory, limits=None):
    return planning.plan(req, store, memory, PRICES, lambda: HOUR, limits)


def run(req, store, memory, client=None, skip=()):
    """The pipeline as the state machine runs it; shards in ``skip`` fail."""
    client = client or FakeTranslate()
    figures = plan(req, store, memory)
    if figures["shards"]:
        for shard in store.rows(figures["shards_key"]):
            if shard["shard"] not in skip:
                event = {**shard, "cursor": 0, "counts": {}, "request": req.to_json()}
                while not event.get("finished"):
                    event = translation.translate_shard(event, store, memory, client, QUICK, lambda: HOUR)
    return figures, joining.join(req, store)


def dataset(store, split):
    return list(store.rows(f"runs/r/dataset/{split}.jsonl"))


def quarantine(store, below=""):
    return [row for item in store.objects(f"runs/r/quarantine/{below}") for row in store.rows(item.key)]


def english(count, negatives=1):
    return [
        {
            "id": str(n),
            "query": f"what is subject number {n}",
            "pos": [f"Subject {n} is a river in the north."],
            "neg": [f"Subject {n + 1000 + k} is a town." for k in range(negatives)],
        }
        for n in range(count)
    ]


def test_records_come_back_in_korean_in_their_order(store, memory):
    rows = english(60)
    put_records(store, rows)
    figures, result = run(a_run(), store, memory)
    assert figures["records"] == 60
    assert result["train"] + result["dev"] == 60
    for split in ("train", "dev"):
        out = dataset(store, split)
        expected = [row for row in rows if split_of(row["query"], 0.3) == split]
        assert [row["id"] for row in out] == [row["id"] for row in expected]
        assert [row["query"] for row in out] == [pseudo_korean(row["query"]) for row in expected]
        assert [row["pos"] for row in out] == [[pseudo_korean(text) for text in row["pos"]] for row in expected]
    manifest = store.read_json("runs/r/dataset/manifest.json")
    assert manifest["train"] == result["train"]
    assert manifest["sources"][0]["key"] == "raw/d/a.jsonl"
    assert len(manifest["sha256"]["train"]) == 64


def test_the_plan_says_what_the_translation_then_costs(store, memory):
    put_records(store, [*english(80), *english(80)[:40]])
    client = FakeTranslate()
    figures, result = run(a_run(), store, memory, client)
    assert figures["characters_to_translate"] == result["translation"]["billed_characters"] == sum(map(len, client.requests))
    assert figures["requests"] == result["translation"]["requests"] == len(client.requests)
    assert figures["usd"] == pytest.approx(figures["characters_to_translate"] * 15e-6, abs=1e-4)
    assert figures["distinct_texts"] == 240
    assert figures["texts"] == 360
    assert result["duplicates"] == 40
    again = plan(a_run(), store, memory)
    assert (again["known_texts"], again["characters_to_translate"], again["usd"]) == (240, 0, 0)


def test_the_budget_is_named_with_both_figures(store, memory):
    put_records(store, english(60))
    figures = plan(a_run(max_translation_usd=0.01), store, memory)
    assert not figures["within_budget"]
    assert "$0.0" in figures["message"] and "allows ($0.01)" in figures["message"]
    assert store.read_json("runs/r/plan.json")["message"] == figures["message"]


def test_gzip_and_many_objects_are_one_dataset(store, memory):
    put_records(store, english(30), "raw/d/a.jsonl")
    packed = gzip.compress("\n".join(json.dumps(row) for row in english(60)[30:]).encode())
    store.client.put_object(Bucket=store.bucket, Key="raw/d/b.jsonl.gz", Body=packed)
    _, result = run(a_run(), store, memory)
    assert result["train"] + result["dev"] == 60


def test_a_damaged_gzip_is_named(store, memory):
    body = gzip.compress(b"\n".join(json.dumps(row).encode() for row in english(500)))[:-40]
    store.client.put_object(Bucket=store.bucket, Key="raw/d/b.jsonl.gz", Body=body)
    with pytest.raises(PipelineError, match=r"raw/d/b\.jsonl\.gz can't be read after line \d+.*upload s3://"):
        plan(a_run(), store, memory)


@pytest.mark.parametrize("limits", [{"gigabytes": 1e-6}, {"records": 10}, {"objects": 0}], ids=["bytes", "records", "objects"])
def test_what_cannot_be_planned_in_time_is_refused_with_the_limit(store, memory, limits):
    put_records(store, english(30))
    with pytest.raises(PipelineError, match=r"takes at most .* in its 15 minutes"):
        plan(a_run(), store, memory, planning.Limits(**limits))


def test_a_plan_that_runs_out_of_time_says_so_instead_of_timing_out(store, memory):
    put_records(store, english(1500))
    with pytest.raises(PipelineError, match="more than the 999 records"):
        planning.plan(a_run(), store, memory, PRICES, lambda: 30_000)


def test_records_that_break_the_contract_are_quarantined_and_too_many_stop_before_anything_is_paid(store, memory):
    bad = [{"query": "q"}, {"query": " ", "pos": ["x"]}, "text", {"query": "a", "pos": ["b"], "more": "\ud800"}]
    body = b"".join(json.dumps(row).encode() + b"\n" for row in [*english(30), *bad]) + b'{"query": NaN}\n\xff\xfe\n'
    store.client.put_object(Bucket=store.bucket, Key="raw/d/a.jsonl", Body=body)
    _, result = run(a_run(), store, memory)
    assert result["rejected"] == 6
    assert [row["line"] for row in quarantine(store)] == [31, 32, 33, 34, 35, 36]
    assert all(row["file"] == "raw/d/a.jsonl" and row["reason"] for row in quarantine(store))
    with pytest.raises(
        PipelineError, match=r"6 of 36 records break the contract.*line 31 of raw/d/a\.jsonl\. Nothing was spent"
    ):
        plan(a_run(max_rejected_fraction=0.1), store, memory)


def test_records_of_a_failed_shard_are_quarantined_and_a_redrive_completes_them(store, memory):
    put_records(store, english(60))
    client = FakeTranslate()
    _, partial = run(a_run(max_rejected_fraction=0.9), store, memory, client, skip={1})
    assert partial["rejected"] > 0
    assert partial["train"] + partial["dev"] + partial["rejected"] == 60
    assert {row["reason"] for row in quarantine(store)} == {"was not translated: its shard failed"}
    _, whole = run(a_run(), store, memory, client)
    assert (whole["train"] + whole["dev"], whole["rejected"]) == (60, 0)
    assert quarantine(store) == []
    assert max(client.billed.values()) == 1


def test_a_text_that_fails_takes_its_record_along_and_nothing_else(store, memory):
    rows = english(60)
    put_records(store, rows)
    poison = rows[7]["pos"][0]
    client = FakeTranslate(lambda text: "\n".join(line if line == poison else pseudo_korean(line) for line in text.split("\n")))
    _, result = run(a_run(), store, memory, client)
    assert result["rejected"] == 1
    (row,) = quarantine(store)
    assert (row["line"], row["field"]) == (8, "pos[0]")
    assert row["reason"] == "could not be translated: came back as it was"
    assert row["record"] == rows[7]


def test_too_many_rejected_records_stop_the_run(store, memory):
    put_records(store, english(60))
    with pytest.raises(PipelineError, match=r"max_rejected_fraction allows 1\.0%.*quarantine/"):
        run(a_run(max_rejected_fraction=0.01), store, memory, skip={0, 1})


def test_data_that_changed_since_the_plan_is_refused(store, memory):
    put_records(store, english(30))
    plan(a_run(), store, memory)
    put_records(store, english(31))
    with pytest.raises(PipelineError, match=r"raw/d/a\.jsonl was added, removed or changed"):
        joining.join(a_run(), store)


def test_korean_texts_and_numbers_are_kept_and_counted(store, memory):
    rows = english(40)
    for row in rows[:10]:
        row["pos"] = [f"{row['id']}번 질문의 답은 한국어로 되어 있습니다."]
    rows[11]["neg"] = ["2024-01-01"]
    put_records(store, rows)
    figures, result = run(a_run(), store, memory)
    assert (figures["texts_in_target_language"], figures["texts_without_letters"]) == (10, 1)
    assert result["kept_texts"] == {"target_language": 10, "no_letters": 1}
    out = {row["id"]: row for split in ("train", "dev") for row in dataset(store, split)}
    assert out["3"]["pos"] == rows[3]["pos"]
    assert out["11"]["neg"] == ["2024-01-01"]


def test_negatives_that_are_positives_are_dropped_with_their_scores(store, memory):
    rows = [{"query": f"질문 {n}", "pos": [f"정답 {n}", f"정답  {n}"], "neg": [f"오답 {n}", f"정답 {n}"]} for n in range(40)]
    rows[0] |= {"pos_scores": [3.0, 2.0], "neg_scores": [1.0, 9.0], "instruction": "찾아라"}
    # Another record of the same question says that this one's negative answers it.
    rows.append({"query": "질문 1", "pos": ["오답 1"], "neg": ["딴소리"]})
    put_records(store, rows)
    _, result = run(a_run(source_language="ko"), store, memory)
    out = {(row["query"], row["pos"][0]): row for split in ("train", "dev") for row in dataset(store, split)}
    assert out["질문 0", "정답 0"]["neg"] == ["오답 0"]
    assert out["질문 0", "정답 0"]["pos"] == ["정답 0"]
    assert (out["질문 0", "정답 0"]["pos_scores"], out["질문 0", "정답 0"]["neg_scores"]) == ([3.0], [1.0])
    assert out["질문 0", "정답 0"]["instruction"] == "찾아라"
    assert "오답 1" not in out["질문 1", "정답 1"]["neg"]
    assert out["질문 1", "정답 1"]["neg"], "it was filled again"
    assert result["dropped_negatives"] == 41


def test_a_duplicate_is_kept_aside_with_the_place_of_the_first(store, memory):
    rows = [{"query": f"질문 {n}", "pos": [f"정답 {n}"], "neg": []} for n in range(40)]
    put_records(store, [*rows, {**rows[4], "id": "again"}])
    _, result = run(a_run(source_language="ko"), store, memory)
    assert (result["duplicates"], result["rejected"]) == (1, 0)
    (row,) = quarantine(store, "duplicates/")
    assert (row["line"], row["reason"]) == (41, "repeats line 5 of raw/d/a.jsonl")


def test_a_dataset_in_the_target_language_needs_no_service(store, memory):
    put_records(store, [{"query": f"질문 {n}", "pos": [f"정답 {n}"]} for n in range(40)])
    figures, result = run(a_run(source_language="ko"), store, memory)
    assert (figures["shards"], figures["usd"]) == (0, 0)
    assert result["filled_negatives"] == 40 * 4


def test_why_shards_failed_is_told_in_one_sentence(store):
    cause = json.dumps({"errorMessage": "Amazon Translate: the language pair is not supported", "errorType": "PipelineError"})
    store.write_json("runs/r/map/x/FAILED_0.json", [{"Cause": cause}, {"Cause": cause}, {"Error": "Lambda.Unknown"}])
    threshold = {"Error": "States.ExceedToleratedFailureThreshold", "Cause": "The threshold was exceeded"}
    sentence = explaining.explain("runs/r", threshold, store)
    assert sentence.startswith("3 shards failed")
    assert "the language pair is not supported" in sentence


def test_a_map_that_failed_before_any_shard_gives_its_own_reason(store):
    denied = {"Error": "States.ItemReaderFailed", "Cause": "not authorized to perform: kms:Decrypt"}
    assert "kms:Decrypt" in explaining.explain("runs/r", denied, store)
    assert "States.Timeout" in explaining.explain("runs/r", {"Error": "States.Timeout"}, store)


words = st.text(st.sampled_from("ab 가나\n\t\u2028é😀0"), min_size=1, max_size=8).filter(lambda text: text.strip())
records = st.fixed_dictionaries(
    {"query": words, "pos": st.lists(words, min_size=1, max_size=3), "neg": st.lists(words, max_size=3)}
)
broken = st.sampled_from([{"query": ""}, {"pos": ["x"]}, [], 3, {"query": "x", "pos": []}])


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(records, records, records, broken), min_size=1, max_size=25), st.booleans())
def test_nothing_is_lost_and_nothing_leaks(rows, translated):
    """Every line is in train, dev, quarantine or among the duplicates exactly once; the sides share no query, no positive."""
    store = new_store()
    numbered = [{**row, "line": n} if isinstance(row, dict) else row for n, row in enumerate(rows, start=1)]
    put_records(store, numbered)
    req = a_run(source_language="en" if translated else "ko", max_rejected_fraction=1.0, dev_fraction=0.5)
    try:
        run(req, store, TranslationMemory(Table(), "memory"), FakeTranslate())
    except PipelineError as error:
        assert "split is empty" in str(error)  # too few good records for two sides
        return
    out = {split: dataset(store, split) for split in ("train", "dev")}
    kept = [row["line"] for split in out.values() for row in split]
    aside = [row["line"] for row in quarantine(store)]
    assert sorted(kept + aside) == list(range(1, len(rows) + 1))
    for texts in (lambda row: [row["query"]], lambda row: row["pos"]):
        sides = [{" ".join(text.split()).casefold() for row in side for text in texts(row)} for side in out.values()]
        assert not sides[0] & sides[1]
    answers = Counter((row["query"], text) for side in out.values() for row in side for text in row["pos"])
    assert not any((row["query"], text) in answers for side in out.values() for row in side for text in row["neg"])


TWINS = {
    "NFD": lambda text: unicodedata.normalize("NFD", text),
    "byte-order mark": lambda text: "\ufeff" + text,
    "zero-width space": lambda text: text[:2] + "\u200b" + text[2:],
    "case": str.upper,
    "width": lambda text: text.replace("0", "０"),
}


@pytest.mark.parametrize("spelt", TWINS.values(), ids=TWINS)
def test_the_spelling_of_a_text_divides_nothing(store, memory, spelt):
    rows = [{"query": f"{n}00 번째 질문 a?", "pos": [f"{n}00 번째 대답 b."], "neg": [f"{n}00 번째 오답 c."]} for n in range(60)]
    for n, row in enumerate(rows[::3]):  # twins of the query, of the positive, and of the whole record
        rows.append(
            {"query": spelt(row["query"]), "pos": [f"{n}00 다른 대답"], "neg": [spelt(row["pos"][0]), spelt(row["query"])]}
        )
        rows.append({"query": f"{n}00 다른 질문", "pos": [spelt(row["pos"][0])]})
        rows.append({key: spelt(value) if key == "query" else [spelt(value[0])] for key, value in row.items()})
    put_records(store, rows)
    _, result = run(a_run(source_language="ko"), store, memory)
    assert result["duplicates"] == 20
    assert result["dropped_negatives"] == 40
    sides = {split: dataset(store, split) for split in ("train", "dev")}
    for kind in ("query", "pos"):
        texts = [
            {identity(text) for row in side for text in ([row["query"]] if kind == "query" else row["pos"])}
            for side in sides.values()
        ]
        assert not texts[0] & texts[1]
    for row in (*sides["train"], *sides["dev"]):
        right = {identity(row["query"]), *map(identity, row["pos"])}
        assert row["neg"] and not right & set(map(identity, row["neg"]))


def test_a_query_is_not_filled_in_as_its_own_negative(store, memory):
    rows = [{"query": f"{n} 번째 질문", "pos": [f"{(n + 1) % 12} 번째 질문\u200b"]} for n in range(12)]
    put_records(store, rows * 1 + [{"query": f"다른 {n}", "pos": [f"답 {n}"]} for n in range(12)])
    run(a_run(source_language="ko"), store, memory)
    for split in ("train", "dev"):
        for row in dataset(store, split):
            assert identity(row["query"]) not in map(identity, row["neg"])


def test_objects_that_are_not_read_are_named_in_the_plan(store, memory):
    put_records(store, english(20))
    names = ["more.json", "MORE.JSONL", "rows.ndjson", "rows.csv", "deep/er.parquet"]
    for name in names:
        store.client.put_object(Bucket=store.bucket, Key=f"raw/d/{name}", Body=b"{}")
    store.client.put_object(Bucket=store.bucket, Key="raw/d/folder/", Body=b"")
    figures = plan(a_run(), store, memory)
    assert figures["ignored_objects"] == 5
    assert "raw/d/MORE.JSONL" in figures["message"] and "and 2 more" in figures["message"]
    assert sorted(store.read_json("runs/r/plan.json")["ignored_keys"]) == sorted(f"raw/d/{name}" for name in names)
    with pytest.raises(PipelineError, match=r"raw/e/a\.ndjson is not read.*data convert"):
        store.client.put_object(Bucket=store.bucket, Key="raw/e/a.ndjson", Body=b"{}")
        plan(a_run(dataset="e"), store, memory)


def test_a_number_as_an_id_costs_no_record(store, memory):
    put_records(store, [row | {"id": float(n)} for n, row in enumerate(english(20))])
    figures, _ = run(a_run(), store, memory)
    assert (figures["records"], figures["rejected_records"]) == (20, 0)
    assert {row["id"] for split in ("train", "dev") for row in dataset(store, split)} == {str(n) for n in range(20)}


def test_a_translation_that_shows_nothing_goes_to_quarantine(store, memory):
    put_records(store, english(20))
    client = FakeTranslate(
        lambda text: "\n".join("\u200b\u3164" if "number 7" in line else pseudo_korean(line) for line in text.split("\n"))
    )
    _, result = run(a_run(), store, memory, client)
    assert result["rejected"] == 1
    assert "empty" in quarantine(store)[0]["reason"]


def written(store):
    """Everything under the runs, with what tells its content."""
    return {item.key: item.etag for item in store.objects("runs/")}


def continued(**changes):
    return a_run(**{"continues": True, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": "other"}, "dataset is 'd' there and 'other' here"),
        ({"source_language": "ko"}, "source_language is 'en' there and 'ko' here"),
        ({"formality": "FORMAL"}, "formality is not set there and 'FORMAL' here"),
        ({"mine_negatives": False}, "mine_negatives is True there and False here"),
        ({"base_model": "hub/other"}, "base_model is 'hub/base' there and 'hub/other' here"),
        ({"hyperparameters": {"epochs": "3"}}, "epochs is not set there and '3' here"),
        ({"hyperparameters": {"micro_batch_tokens": "9", "seed": "1"}}, "seed is not set there and '1' here"),
    ],
)
def test_a_run_is_not_gone_on_with_by_another_input_and_nothing_of_it_is_touched(store, memory, changes, said):
    put_records(store, english(30))
    put_records(store, english(30), "raw/other/a.jsonl")
    run(continued(continues=False), store, memory)
    before = written(store)
    with pytest.raises(PipelineError, match=r"runs/r/ was planned otherwise") as refused:
        plan(continued(**changes), store, memory)
    assert said in str(refused.value) and "Go on with it by its own input" in str(refused.value)
    assert written(store) == before


def test_a_run_whose_records_changed_is_not_gone_on_with(store, memory):
    put_records(store, english(30))
    run(continued(continues=False), store, memory)
    put_records(store, english(31))
    before = written(store)
    with pytest.raises(
        PipelineError, match=r"raw/d/a\.jsonl was added, removed or changed since the run .*without continue_run"
    ):
        plan(continued(), store, memory)
    assert written(store) == before


def test_a_run_that_does_not_exist_is_not_gone_on_with(store, memory):
    put_records(store, english(30))
    with pytest.raises(PipelineError, match=r"no run r to go on with.*runs/r/plan\.json does not exist"):
        plan(continued(), store, memory)
    assert written(store) == {}


def test_a_run_is_gone_on_with_by_the_same_input_however_it_is_computed_and_paid(store, memory):
    put_records(store, english(30))
    run(continued(continues=False), store, memory)
    same = {"max_translation_usd": 1.0, "max_rejected_fraction": 0.9, "instance_count": 4, "use_spot": True}
    figures = plan(continued(hyperparameters={"micro_batch_tokens": "64"}, **same), store, memory)
    assert figures["texts_to_translate"] == 0, "all of it is in the memory"
