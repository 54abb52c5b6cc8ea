"""The translate function: every text is translated, none whose translation was stored is paid for twice."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import boto3
import pytest
from moto import mock_aws

from ko_reranker.data.errors import PipelineError
from ko_reranker.data.store import Store
from ko_reranker.data.translation.memory import TranslationMemory
from ko_reranker.data.translation.texts import TranslationSettings
from tests.unit.pipeline_support import (
    FakeTranslate,
    KillableClient,
    Killed,
    Machine,
    OneAtATime,
    Table,
    load,
    pseudo_korean,
    put_shard,
)

translation = load("translate", "translation")
SETTINGS = TranslationSettings("en", "ko")
QUICK = translation.Effort(concurrency=4, claim_seconds=0.5, backoff_seconds=0.002, most_seconds=0.01)


@pytest.fixture(scope="module", autouse=True)
def aws() -> Iterator[None]:
    with mock_aws():
        yield


@pytest.fixture
def store() -> Store:
    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    name = f"bucket-{random.randrange(10**9)}"
    client.create_bucket(Bucket=name)
    return Store(client, name)


@pytest.fixture
def memory() -> TranslationMemory:
    return TranslationMemory(Table(), "memory")


@pytest.fixture
def moto_memory() -> Iterator[TranslationMemory]:
    client = boto3.client("dynamodb", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    client.create_table(
        TableName="memory",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    yield TranslationMemory(OneAtATime(client), "memory")
    client.delete_table(TableName="memory")


def texts(count: int) -> list[str]:
    words = ["what", "river", "mountain", "is", "longest", "city", "between", "history", "engine", "of"]
    draw = random.Random(1)
    return [f"{' '.join(draw.choices(words, k=draw.randrange(3, 30)))} {number}" for number in range(count)]


def translate(event, store, memory, client, milliseconds=lambda: 10**6, effort=QUICK):
    return translation.translate_shard(event, store, memory, client, effort, milliseconds)


def rows(store: Store) -> dict[str, dict]:
    return {
        row["id"]: row
        for item in store.objects("runs/r/translated/")
        if item.key.endswith(".jsonl")
        for row in store.rows(item.key)
    }


def assert_complete(store: Store, wanted: list[str]) -> None:
    assert {key: row.get("text") for key, row in rows(store).items()} == {SETTINGS.key(t): pseudo_korean(t) for t in wanted}


def test_texts_are_packed_and_come_back_one_to_one(store, memory):
    wanted = [*texts(300), "two lines\nof one text", "carriage\rreturn goes alone"]
    client = FakeTranslate()
    result = translate(put_shard(store, SETTINGS, wanted), store, memory, client)
    assert_complete(store, wanted)
    assert result["finished"] and result["cursor"] == len(wanted)
    assert result["counts"]["translated"] == len(wanted)
    assert len(client.requests) < 20
    assert result["counts"]["billed_characters"] == sum(map(len, client.requests))


def test_what_the_memory_knows_is_not_asked_for_again(store, memory):
    wanted = texts(120)
    translate(put_shard(store, SETTINGS, wanted[:100]), store, memory, FakeTranslate())
    client = FakeTranslate()
    result = translate(put_shard(store, SETTINGS, wanted), store, memory, client)
    assert_complete(store, wanted)
    assert result["counts"]["from_memory"] == 100
    assert set(client.billed) == set(wanted[100:])


def test_formality_terminology_and_explicit_languages_reach_the_service(store, memory):
    settings = TranslationSettings("en", "ko", "FORMAL", "products")
    event = put_shard(store, settings, ["one text only"])
    event["request"] |= {"formality": "FORMAL", "terminology": "products"}
    client = FakeTranslate()
    translate(event, store, memory, client)
    assert client.arguments == [
        {
            "SourceLanguageCode": "en",
            "TargetLanguageCode": "ko",
            "Settings": {"Formality": "FORMAL"},
            "TerminologyNames": ["products"],
        }
    ]


def test_an_answer_with_merged_lines_is_refused_and_its_texts_go_one_by_one(store, memory):
    wanted = texts(40)
    client = FakeTranslate(lambda text: pseudo_korean(text).replace("\n", " ", 1))
    result = translate(put_shard(store, SETTINGS, wanted), store, memory, client)
    assert_complete(store, wanted)
    assert result["counts"]["unpacked_texts"] == 40
    assert result["counts"]["unpacked_characters"] > 0
    assert max(client.billed.values()) == 2


def test_an_answer_whose_lines_changed_places_is_refused(store, memory):
    wanted = texts(40)  # each ends in a number of its own

    def swapped(text: str) -> str:
        lines = pseudo_korean(text).split("\n")
        return "\n".join([*lines[1:], lines[0]])

    translate(put_shard(store, SETTINGS, wanted), store, memory, FakeTranslate(swapped))
    assert_complete(store, wanted)


def test_a_long_text_is_cut_at_sentence_ends_and_put_together_again(store, memory):
    long = " ".join(f"Sentence number {n} is about the river." for n in range(900))
    client = FakeTranslate()
    result = translate(put_shard(store, SETTINGS, [long]), store, memory, client)
    assert len(long.encode()) > 30_000
    assert_complete(store, [long])
    assert all(request.endswith(".") for request in client.requests)
    assert result["counts"]["translated"] == len(client.requests) == 4


def test_a_bad_translation_is_asked_for_once_more_and_then_given_up_with_its_reason(store, memory):
    wanted = texts(30)
    poison = {wanted[3]: "", wanted[7]: wanted[7], wanted[9]: "english again without any reason"}

    def bad(text: str) -> str:
        return "\n".join(poison.get(line, pseudo_korean(line)) or "가" for line in text.split("\n"))

    client = FakeTranslate(bad)
    result = translate(put_shard(store, SETTINGS, wanted), store, memory, client)
    errors = {key: row["error"] for key, row in rows(store).items() if "error" in row}
    assert set(errors) == {SETTINGS.key(text) for text in poison} - {SETTINGS.key(wanted[3])} | (
        {SETTINGS.key(wanted[3])} & errors.keys()
    )
    assert errors[SETTINGS.key(wanted[7])] == "came back as it was"
    assert client.billed[wanted[7]] == 2
    assert result["counts"]["quality_retries"] == len(errors)


def test_a_bad_translation_in_company_may_be_a_good_one_alone(store, memory):
    wanted = texts(10)
    client = FakeTranslate(lambda text: text if "\n" in text else pseudo_korean(text))
    result = translate(put_shard(store, SETTINGS, wanted), store, memory, client)
    assert_complete(store, wanted)
    assert result["counts"]["quality_retries"] == 10


def test_a_text_that_the_service_refuses_is_found_and_blamed_alone(store, memory):
    wanted = texts(30)
    client = FakeTranslate()
    client.fault = lambda text, number: "UnsupportedOperationException" if wanted[5] in text.split("\n") else None
    translate(put_shard(store, SETTINGS, wanted), store, memory, client)
    failed = {key: row["error"] for key, row in rows(store).items() if "error" in row}
    assert failed == {SETTINGS.key(wanted[5]): "UnsupportedOperationException: by the test"}


def test_refused_settings_end_the_run(store, memory):
    client = FakeTranslate()
    client.fault = lambda text, number: "UnsupportedLanguagePairException"
    with pytest.raises(PipelineError, match="language pair is not supported"):
        translate(put_shard(store, SETTINGS, texts(5)), store, memory, client)


def test_a_throttling_storm_slows_it_down_and_loses_nothing(store, memory):
    wanted = texts(400)
    client = FakeTranslate()
    draw = random.Random(3)
    client.fault = lambda text, number: (
        "TooManyRequestsException"
        if number < 20 or draw.random() < 0.4
        else "InternalServerException"
        if number == 31
        else None
    )
    result = translate(put_shard(store, SETTINGS, wanted), store, memory, client)
    assert_complete(store, wanted)
    assert result["counts"]["throttled"] >= 19
    assert max(client.billed.values()) == 1


def test_the_pace_halves_once_for_requests_that_were_under_way_together_and_recovers():
    pace = load("translate", "amazon_translate").Pace(16, lambda: True)
    numbers = []
    for _ in range(3):
        with pace.slot() as number:
            numbers.append(number)
    for number in numbers:
        pace.throttled(number)
    assert pace.limit == 8
    for _ in range(200):
        pace.succeeded()
    assert pace.limit == 16


def test_a_service_that_throttles_everything_hands_back_nothing_but_a_sentence(store, memory):
    left = iter(range(200, 0, -1))
    client = FakeTranslate()
    client.fault = lambda text, number: "TooManyRequestsException"
    with pytest.raises(PipelineError, match=r"lower translation\.max_concurrency"):
        translate(put_shard(store, SETTINGS, texts(50)), store, memory, client, lambda: 60_000 + 100 * (next(left, 0) - 50))


def test_short_time_hands_back_a_cursor_and_the_next_invocation_goes_on(store, memory, monkeypatch):
    monkeypatch.setattr(translation, "WINDOW", 20)
    wanted = texts(130)
    event = put_shard(store, SETTINGS, wanted)
    client = FakeTranslate()
    invocations = 0
    while not event.get("finished"):
        invocations += 1
        left = iter(range(5))
        event = translate(event, store, memory, client, lambda left=left: 60_000 * (next(left, None) is not None))
    assert invocations > 2
    assert event["cursor"] == 130
    assert event["counts"]["translated"] == 130
    assert_complete(store, wanted)
    assert max(client.billed.values()) == 1


def test_duplicate_invocations_in_parallel_do_not_pay_for_one_text(store, memory):
    wanted = texts(400)
    event = put_shard(store, SETTINGS, wanted)
    client = FakeTranslate()
    one_bucket = Store(OneAtATime(store.client), store.bucket)
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: translate(event, one_bucket, memory, client), range(3)))
    assert all(result["finished"] for result in results)
    assert_complete(store, wanted)
    assert max(client.billed.values()) == 1


@pytest.mark.parametrize("seed", range(8))
def test_a_kill_pays_again_for_the_requests_in_flight_at_most(store, memory, seed):
    """The machine dies at any call, before or after it took effect: between a reply and its store, too."""
    wanted = texts(150)
    event = put_shard(store, SETTINGS, wanted)
    client = FakeTranslate()
    draw = random.Random(seed)
    for _ in range(3):
        machine = client.machine = Machine(kill_at=draw.randrange(1, 40))
        before, made = dict(client.billed), len(client.requests)
        stored = set(memory.find(map(SETTINGS.key, wanted)))
        with suppress(Killed):
            translate(
                event,
                Store(KillableClient(store.client, machine), store.bucket),
                TranslationMemory(KillableClient(memory.client, machine), memory.table),
                client,
            )
        assert all(client.billed[text] == before.get(text, 0) for text in wanted if SETTINGS.key(text) in stored)
        lost = [request for request in client.requests[made:] if not memory.find([SETTINGS.key(request.split("\n")[0])])]
        assert len(lost) <= QUICK.concurrency
    client.machine = Machine()
    assert translate(event, store, memory, client)["finished"]
    assert_complete(store, wanted)
    assert max(client.billed.values()) <= 4, "once, and once more for each time the machine died"


def test_a_memory_that_answers_in_part_and_conflicts_loses_nothing(store):
    class Busy(Table):
        """Leaves keys out, as a throttled table does, and calls transactions off."""

        draw = random.Random(5)

        def batch_get_item(self, RequestItems):
            answer = super().batch_get_item(RequestItems)
            ((table, wanted),) = RequestItems.items()
            if len(wanted["Keys"]) > 1 and self.draw.random() < 0.5:
                late = wanted["Keys"][::2]
                names = {key["id"]["S"] for key in late}
                answer["Responses"][table] = [item for item in answer["Responses"][table] if item["id"]["S"] not in names]
                answer["UnprocessedKeys"] = {table: {**wanted, "Keys": late}}
            return answer

        def transact_write_items(self, TransactItems):
            if self.draw.random() < 0.4:
                code = self.draw.choice(["TransactionConflict", "ThrottlingError"])
                reasons = [{"Code": code}, *({"Code": "None"} for _ in TransactItems[1:])]
                error = {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons}
                raise self.exceptions.TransactionCanceledException(error, "TransactWriteItems")
            return super().transact_write_items(TransactItems)

    memory = TranslationMemory(Busy(), "memory", sleep=lambda seconds: None)
    wanted = texts(250)
    translate(put_shard(store, SETTINGS, wanted[:200]), store, memory, FakeTranslate())
    client = FakeTranslate()
    translate(put_shard(store, SETTINGS, wanted), store, memory, client)
    assert_complete(store, wanted)
    assert set(client.billed) == set(wanted[200:])
    assert max(client.billed.values()) == 1


def test_a_claim_that_was_left_behind_is_waited_for_until_it_runs_out(store, memory):
    wanted = texts(5)
    memory.claim([SETTINGS.key(wanted[0])], "somebody who died", 0.4)
    client = FakeTranslate()
    translate(put_shard(store, SETTINGS, wanted), store, memory, client)
    assert_complete(store, wanted)
    assert client.billed[wanted[0]] == 1


def test_claims_go_to_one_and_its_translation_to_all(moto_memory):
    keys = [f"{n:064x}" for n in range(150)]
    first = moto_memory.claim(keys[:120], "one", 60)
    second = moto_memory.claim(keys, "two", 60)
    assert first.granted == set(keys[:120])
    assert second.granted == set(keys[120:])
    assert second.held == set(keys[:120])
    assert moto_memory.claim(keys[:3], "one", 60).granted == set(keys[:3]), "its owner may renew a claim"
    assert moto_memory.store({keys[0]: "가"}) == {}
    assert moto_memory.store({keys[0]: "나"}) == {keys[0]: "가"}, "the first translation stays"
    assert moto_memory.claim(keys[:1], "two", 60).known == {keys[0]: "가"}
    moto_memory.release(keys[1:3], "one")
    assert moto_memory.claim(keys[1:4], "two", 60).granted == set(keys[1:3])
    with ThreadPoolExecutor(2) as pool:
        assert moto_memory.known(keys, pool) == {keys[0]}, "a claim is no translation"


def test_one_text_is_granted_to_one_of_many_at_once(moto_memory):
    barrier = threading.Barrier(6)

    def ask(owner: str) -> int:
        barrier.wait()
        return len(moto_memory.claim([f"{n:064x}" for n in range(30)], owner, 60).granted)

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(ask, "abcdef")) == 30
