"""Bytes to JSON values and back: everything a hostile or careless client can put into a body ends here."""

from __future__ import annotations

import json
import math
import re
import zlib
from typing import Any

from .errors import ProtocolError, invalid

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# At least one character that can be seen: no control, no white space, nothing that Unicode has as Default_Ignorable (zero-width
# characters, Hangul fillers, variation selectors, tags), nor Braille's blank. Written out, because the OpenAPI document holds
# it, too, and what \\s means differs from language to language; beyond the 16-bit plane by the characters themselves.
SOMETHING = (
    "[^\\u0000-\\u0020\\u007f-\\u00a0\\u00ad\\u034f\\u061c\\u115f\\u1160\\u1680\\u17b4\\u17b5\\u180b-\\u180f"
    "\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u206f\\u2800\\u3000\\u3164\\ufe00-\\ufe0f\\ufeff\\uffa0\\ufff0-\\ufffb\\ufffe\\uffff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_SOMETHING = re.compile(SOMETHING)
# What a body may be made of: each list or object takes Python as much memory and time as a few other values.
MAX_VALUES, _VALUES_A_CONTAINER = 1_000_000, 4
# Strings are passed over; what is left tells how many values there are.
_STRING_OR_MARK = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{,]', re.DOTALL)
_GZIP = b"\x1f\x8b"
_CHARSETS = {"utf-8", "utf8", "us-ascii", "ascii"}
# A longer body is refused. What it is once decompressed counts, so that a few kilobytes can't become gigabytes.
MAX_BODY_BYTES = 25_000_000


def check_content_type(content_type: str | None) -> None:
    """Refuse a body that says it is not JSON; one that says nothing is taken as JSON.

    Raises:
        ProtocolError: 415.
    """
    if not content_type:
        return
    media_type, *parameters = (part.strip().lower() for part in content_type.split(";"))
    # SageMaker's tools send octet-stream when nobody chose a type.
    if "json" not in media_type and media_type not in {"application/octet-stream", "*/*"}:
        raise ProtocolError(415, "the body must be JSON: send the header Content-Type: application/json")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip(" \"'") not in _CHARSETS:
            raise ProtocolError(415, "the body must be UTF-8: send the header Content-Type: application/json")


def is_compressed(body: bytes, content_encoding: str | None) -> bool:
    """Return whether a body says that it is compressed, or shows it: some clients forget the header, and no JSON begins so."""
    return bool(_codings(content_encoding)) or body.startswith(_GZIP)


def decompress_body(body: bytes, content_encoding: str | None, limit: int = MAX_BODY_BYTES) -> bytes:
    """Return a body without its Content-Encoding; gzip is understood, and nothing is decompressed past the limit.

    Args:
        body: as it was sent.
        content_encoding: the header, or None.
        limit: the most bytes that it may have once decompressed.

    Raises:
        ProtocolError: 400 for a broken body, 413 past the limit, 415 for another encoding.
    """
    if not is_compressed(body, content_encoding):
        return body
    if _codings(content_encoding) not in ([], ["gzip"], ["x-gzip"]):
        raise ProtocolError(
            415,
            "the body is compressed in a way that is not understood: send gzip, or as it is",
            headers={"Accept-Encoding": "gzip"},
        )
    member = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        plain = member.decompress(body, limit + 1)
    except zlib.error:
        raise ProtocolError(400, "the body is not the gzip that it claims to be") from None
    if len(plain) > limit:
        raise ProtocolError(
            413, f"the body is over the limit of {limit / 1e6:g} MB decompressed: send fewer documents at a time"
        )
    if not member.eof or member.unused_data:
        raise ProtocolError(400, "the body is not one whole gzip member: it ends too early, or something follows it")
    return plain


def _codings(content_encoding: str | None) -> list[str]:
    codings = (part.strip().lower() for part in (content_encoding or "").split(","))
    return [coding for coding in codings if coding not in {"", "identity"}]


def decode_body(body: bytes | str | None) -> Any:
    """Return the JSON value of a body.

    Raises:
        ProtocolError: 400; 422 where it has more values than any request has use for.
    """
    try:
        text = body if isinstance(body, str) else bytes(body or b"").decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError(400, f"the body is not UTF-8 (byte {error.start})") from None
    text = text.removeprefix("\ufeff")
    if not text or text.isspace():
        raise ProtocolError(400, "the body is empty: send a JSON object")
    _check_values(text)
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite)
    except json.JSONDecodeError as error:
        raise ProtocolError(400, f"the body is not JSON: {error.msg} (line {error.lineno})") from None
    except ValueError:
        raise ProtocolError(400, "the body is not JSON: a number is out of range") from None
    except RecursionError:
        raise ProtocolError(400, "the body is nested too deeply") from None


def encode_body(value: Any) -> bytes:
    """Return a JSON body: UTF-8, Korean unescaped, no NaN, lone surrogates replaced."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _LONE_SURROGATE.sub("\ufffd", text).encode()


def clean(text: str) -> str:
    """Return text that any tokenizer takes: no NUL, no leading byte-order mark, no lone surrogate."""
    if "\x00" in text:
        text = text.replace("\x00", " ")
    if not text.isascii():
        text = _LONE_SURROGATE.sub("\ufffd", text.removeprefix("\ufeff"))
    return text


def is_blank(text: str) -> bool:
    """Return whether there is nothing to read in a text."""
    return _SOMETHING.search(text) is None


def _check_values(text: str) -> None:
    """Refuse a body of very many values, before any of them takes memory.

    Raises:
        ProtocolError: 422.
    """
    if _values(text.count(","), text.count("["), text.count("{")) <= MAX_VALUES:
        return
    # Most of these may stand in texts.
    counts = {",": 0, "[": 0, "{": 0}
    for match in _STRING_OR_MARK.finditer(text):
        mark = match[0]
        if mark in counts:
            counts[mark] += 1
            if _values(*counts.values()) > MAX_VALUES:
                most = f"{MAX_VALUES} values, or {MAX_VALUES // _VALUES_A_CONTAINER} lists and objects"
                raise invalid("body", f"has more than {most}: send fewer documents at a time, or texts")


def _values(commas: int, lists: int, objects: int) -> int:
    return commas + _VALUES_A_CONTAINER * (lists + objects)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(number)
    return value
