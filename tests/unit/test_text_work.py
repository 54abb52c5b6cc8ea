"""What undoing dumps and escapes may cost, whatever is sent; and that what anybody honest sends is undone all the same."""

from __future__ import annotations

import json
import time

import pytest
import yaml

from ko_reranker.text import normalise
from ko_reranker.text.normalising import normalise_all
from ko_reranker.text.work import TEXT_UNITS, Allowance, TooMuchWork

KOREAN = "서울특별시는 대한민국의 수도이자 최대 도시이다. "
LONG = (KOREAN * 2400)[:60_000].strip()
MANY = 20_000

# Texts that took from one to eighteen seconds each, by what makes them dear.
DEAR = {
    "values": yaml.dump({f"key {n}": "it's" for n in range(2 * MANY)}),
    "values on one line": "a: [" + "'', " * MANY + "'']",
    "a list": "a:\n" + "- ''\n" * 5 * MANY,
    "lists in lists": "a: ''\nb:\n" + "- - - - - - - - - - - - - - - ''\n" * MANY,
    "dates": "b: 'c'\na:\n" + "- 2001-12-14t21:59:43.10-05:00\n" * MANY,
    "numbers": "b: 'c'\na:\n" + "- 1:59:59.5\n" * 4 * MANY,
    "keys": yaml.dump({f"{n} {KOREAN}": 1 for n in range(MANY // 2)}),
    "one long text": yaml.dump({"text": "가나" * 400_000}, allow_unicode=True),
    "a long text that is no dump": 'a: "' + "가 " * 300_000 + '"',
    "documents": "a: 'b'\n" + "--- ''\n" * 5 * MANY,
    "escapes one by one": r"\uac00\x41" * 5 * MANY,
    "escapes in JSON": "{" + r"\uac00 \uac00 " * 4 * MANY + "}",
    "layers over a long text": "\\" * 2**17 + r"uac00 \uac00\uac00" + "a\u0301\u0327" * 5 * MANY,
}


@pytest.mark.parametrize("name", DEAR)
def test_one_text_takes_little_whatever_is_in_it(name: str) -> None:
    began = time.thread_time()
    normalise(DEAR[name])
    # On a quiet machine at most half a second; not bounded, up to eighteen.
    assert time.thread_time() - began < 3


def test_what_all_texts_of_a_request_may_take_is_bounded_too() -> None:
    texts = [f"{text} {place}" for place in range(3) for text in DEAR.values()]
    began = time.thread_time()
    plain, left_out = normalise_all(texts)
    assert time.thread_time() - began < 15, "each on its own is allowed more than that together"
    assert len(plain) == len(texts)
    assert len(left_out) > len(texts) / 2
    assert sum(map(len, texts)) > 25_000_000


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("text", [LONG, "가나" * 30_000], ids=["words", "one word"])
def test_a_dumped_document_of_60000_characters_is_repaired(text: str, unicode: bool) -> None:
    assert len(text) == 60_000 or text is LONG
    dumped = yaml.dump({"제목": "서울", "본문": text}, sort_keys=False, allow_unicode=unicode)
    assert normalise(dumped) == f"제목: 서울\n본문: {text}"


def test_an_escaped_document_of_60000_characters_is_repaired() -> None:
    assert normalise(json.dumps(LONG)) == normalise(json.dumps(LONG)[1:-1]) == LONG


def test_a_request_full_of_dumps_is_repaired() -> None:
    texts = [yaml.dump({"id": n, "title": "서울", "text": KOREAN * 10}, sort_keys=False) for n in range(300)]
    plain, left_out = normalise_all(texts)
    assert not left_out
    assert plain[7] == f"id: 7\ntitle: 서울\ntext: {KOREAN * 10}".strip()


def test_what_is_left_out_is_named_and_nothing_else() -> None:
    small = yaml.dump({"text": "서울 '부산'"}, allow_unicode=False)
    plain, left_out = normalise_all([small, DEAR["values"], "보통 글", DEAR["values"], small])
    assert left_out == [1, 3]
    assert plain == ["text: 서울 '부산'", DEAR["values"].strip(), "보통 글", DEAR["values"].strip(), "text: 서울 '부산'"]


def test_a_text_fares_alike_wherever_it_comes_in_an_affordable_request() -> None:
    texts = [yaml.dump({"text": f"{n} '서울' {KOREAN}"}) for n in range(50)]
    assert normalise_all(texts)[0] == [normalise(text) for text in texts] == normalise_all(texts[::-1])[0][::-1]


def test_an_equal_text_is_paid_for_once() -> None:
    dear = yaml.dump({"text": LONG})
    allowance = Allowance(units=TEXT_UNITS)
    assert not normalise_all([dear] * 5_000, allowance)[1]


def test_between_two_texts_it_is_asked_whether_they_are_still_wanted() -> None:
    class Gone(Exception):
        pass

    asked = []

    def between() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise Gone

    with pytest.raises(Gone):
        normalise_all(map(str, range(100)), between=between)
    assert len(asked) == 3


def test_an_allowance_is_never_overdrawn() -> None:
    allowance = Allowance(units=10, units_a_text=6)
    allowance.next_text()
    allowance.spend(6)
    with pytest.raises(TooMuchWork):
        allowance.spend(1)
    allowance.next_text()
    with pytest.raises(TooMuchWork):
        allowance.spend(5)
    allowance.spend(4)
    allowance.next_text()
    with pytest.raises(TooMuchWork):
        allowance.spend(1)
