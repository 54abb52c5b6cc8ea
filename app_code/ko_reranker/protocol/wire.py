"""Bytes to JSON values and back: everything a hostile or careless client can put into a body ends here."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from .errors import ProtocolError

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# At least one character that is neither white space nor thrown away by `clean`. Written out, because the OpenAPI document
# holds it, too, and what \\s means differs from language to language.
SOMETHING = "[^\\u0000-\\u0020\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000\\ufeff]"
_SOMETHING = re.compile(SOMETHING)
_GZIP = b"\x1f\x8b"
_CHARSETS = {"utf-8", "utf8", "us-ascii", "ascii"}


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


def decode_body(body: bytes | str | None) -> Any:
    """Return the JSON value of a body.

    Raises:
        ProtocolError: 400, or 415 where it is compressed.
    """
    try:
        text = body if isinstance(body, str) else bytes(body or b"").decode("utf-8")
    except UnicodeDecodeError as error:
        if bytes(body[:2]) == _GZIP:
            raise ProtocolError(415, "the body is compressed: send it as it is, without Content-Encoding") from None
        raise ProtocolError(400, f"the body is not UTF-8 (byte {error.start})") from None
    text = text.removeprefix("\ufeff")
    if not text or text.isspace():
        raise ProtocolError(400, "the body is empty: send a JSON object")
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


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(number)
    return value
