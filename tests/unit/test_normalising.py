r"""A text that a client mangled on its way ranks like the text that it was, and a text about escapes stays what it is."""

from __future__ import annotations

import json
import unicodedata

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ko_reranker.protocol.documents import as_lines, read_document
from ko_reranker.text import normalise

PLAIN = "서울의 인구는 약 940만 명이다. (2024년)"
LONG = "서울특별시는 대한민국의 수도이자 최대 도시이다. " * 12 + "인구는 약 940만 명이다."
RECORD = {
    "제목": "서울의 인구",
    "text_ko": LONG,
    "lines": "첫 줄\n둘째 줄: 값\n\n넷째 줄 " + LONG,
    "quoted": "그는 \"940만\"이라고 했다. 'C:\\서울' 참고",
    "english": "plain words that are long enough to be folded by the dumper, which breaks every line after eighty columns",
    "emoji": "좋아요 😀",
    "year": 2024,
    "share": 0.18,
    "capital": True,
    "mayor": None,
    "looks_like_a_number": "0123",
    "tags": ["수도", "도시"],
    "nested": {"구": {"수": 25, "이름": ["종로구", "중구"]}},
}
KOREAN = st.text(st.sampled_from("가나다 라서울의인구.,:'\"\\\n-#é😀한글abc 09"), max_size=300)


@pytest.mark.parametrize(
    "escaped",
    [
        json.dumps(PLAIN)[1:-1],
        json.dumps(PLAIN),
        json.dumps(json.dumps(PLAIN)[1:-1])[1:-1],
        json.dumps(PLAIN)[1:-1].upper().replace("\\U", "\\u"),
        PLAIN.encode("unicode_escape").decode(),
        ascii(PLAIN)[1:-1],
        yaml.dump(PLAIN),
        "\ufeff" + PLAIN + "\x00\r\n",
        unicodedata.normalize("NFD", PLAIN),
        json.dumps(unicodedata.normalize("NFD", PLAIN))[1:-1],
    ],
)
def test_an_escaped_text_becomes_the_plain_one(escaped):
    assert normalise(escaped) == PLAIN


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("text", ["좋아요 😀😀 끝", '한 줄\n두 줄\t탭 "따옴표" a/b', "값은 C:\\서울\\강남 이다", "가"])
def test_what_json_escapes_comes_back_whole(text, layers):
    escaped = text
    for _ in range(layers):
        escaped = json.dumps(escaped)[1:-1]
    assert normalise(escaped) == text


@pytest.mark.parametrize(
    "text",
    [
        r'In JSON, the letter A may be written as "\u0041".',
        r"The escape \uac00 stands for the first Hangul syllable.",
        r"유니코드 이스케이프 \uac00\ub098 는 자바 소스에서 '가나'를 뜻하며, 한글 두 글자이다.",
        r"C:\users\nora\temp, \\server\share",
        r"re.compile('\\d+\\s*\\w')",
        "docker run \\\n  --publish 8080:8080 \\\n  image",
        '질문: "서울의 인구는?"',
        "주의: 'A'와 'B'를 확인하세요.\n  - 첫째\n  - 둘째",
        "- 가\n- 나",
        '{"text": "서울\\n부산", "n": [1, 2]}',
        "제목: 서울 # 수도\n본문: 인구",
        r"\u",
        "\\",
        "",
        '"',
    ],
)
def test_a_text_that_only_looks_escaped_stays(text):
    assert normalise(text) == text


def test_a_json_document_stays_json_with_its_letters_readable():
    document = {"제목": '그는 "서울"이라 했다', "본문": "첫 줄\n둘째 줄 \\ 😀"}
    assert normalise(json.dumps(document)) == json.dumps(document, ensure_ascii=False)
    assert normalise(json.dumps(document, indent=1)) == json.dumps(document, ensure_ascii=False, indent=1)


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("width", [None, 2**31 - 1])
def test_a_yaml_dump_ranks_like_the_object(unicode, width):
    dumped = yaml.dump(RECORD, sort_keys=False, allow_unicode=unicode, width=width)
    assert normalise(dumped) == normalise(read_document(RECORD, "documents[0]").text)
    assert LONG in normalise(dumped) and "\\u" not in normalise(dumped)


def test_a_piece_of_a_yaml_dump_is_readable():
    dumped = yaml.dump({"text": LONG})
    piece = dumped[len(dumped) // 3 : len(dumped) // 2]
    middle = piece[piece.index("\n") : piece.rindex("\n")]
    assert normalise(middle).strip().rstrip("\\") in LONG


@given(st.dictionaries(KOREAN.filter(str.strip), KOREAN | st.integers() | st.booleans(), min_size=1, max_size=5), st.booleans())
@settings(max_examples=200)
def test_any_dump_of_an_object_ranks_like_it(document, unicode):
    document = {key.replace("\n", " ").strip()[:40] or "키": value for key, value in document.items()}
    plain = "\n".join(as_lines(document, ""))
    assert normalise(yaml.dump(document, sort_keys=False, allow_unicode=unicode)) == normalise(plain)


@given(KOREAN.map(lambda text: "서울" + text))
@settings(max_examples=200)
def test_any_korean_text_that_json_escaped_comes_back(text):
    assert normalise(json.dumps(text)) == normalise(text)


PARTS = [*"가 \n:'\"-{}[]#au0\\", "\\u", "\\uac00\\uac01", "\\u005c", "\\n", "\\\n  ", "\ufeff", "\x00", "\ud83d", "키: "]


@given(st.lists(st.sampled_from(PARTS) | st.text(max_size=4)).map("".join) | st.text())
@settings(max_examples=500)
def test_normalising_twice_is_normalising_once(text):
    once = normalise(text)
    assert normalise(once) == once
    once.encode()
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(character) == "Cc" and character not in "\t\n\r" for character in once)


NOT_PLAIN = "\\\"':\ufeff\uffff\ufffe"


@given(st.text(st.characters(min_codepoint=0x20, exclude_categories=("Cs", "Cc"), exclude_characters=NOT_PLAIN)))
def test_a_text_without_escapes_is_only_composed(text):
    assert normalise(text) == unicodedata.normalize("NFC", text).strip()


MILLION = 300_000


@pytest.mark.parametrize(
    "hostile",
    [
        "\\" * 10 * MILLION,
        "\\" * 10 * MILLION + "uac00\\uac01",
        "\\u" * 5 * MILLION,
        "\\uac00" * MILLION,
        "가\\uac00\\uac00" * MILLION,
        '"' * 10 * MILLION,
        'a: "' + "\\" * MILLION,
        "a: '" + "''" * MILLION,
        "a: " + "[" * MILLION + '"',
        "a: " + "{a: " * MILLION + '"',
        "a: &a ['', ''\nb: " + "*a " * MILLION,
        "a: 'b'\nc: " + "1:" * MILLION + "1",
        "a: 'b'\nc: 0x" + "f" * MILLION,
        "- " * MILLION + ": '",
        "a" + "\u0301\u0327" * MILLION,
        "\ufeff" * 5 * MILLION,
        "\ud83d" * 5 * MILLION,
        "a: '\n" + "\n  '" * MILLION,
        "{" + "\\uac00\\uac00" * MILLION + "}",
    ],
    ids=lambda hostile: repr(hostile[:12]),
)
def test_a_hostile_text_is_read_in_linear_time(hostile):
    # Quadratic time would take hours here: the test would not fail but hang.
    normalise(hostile)
