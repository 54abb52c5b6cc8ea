r"""Korean that arrives as ``\uc11c\uc6b8``: telling a text that a program escaped from one that writes about escapes.

A program that escapes, escapes every letter that is not ASCII. So a text counts as escaped when

- it holds a word of at least two East Asian letters in escapes standing side by side, or no ASCII letter beside escapes;
- and it has at least as many East Asian letters escaped as unescaped.

``The letter A is \u0041`` stays, and so does a Korean page that shows ``\uac00`` as an example.
"""

from __future__ import annotations

import json
import re

_HEX = r"u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|x([0-9A-Fa-f]{2})"
# A run of backslashes is taken whole and never in part, so that a text of nothing but backslashes is read once.
_CODE = re.compile(rf"(?<!\\)\\++(?:{_HEX})")
_ESCAPE = re.compile(rf"""(?<!\\)(\\++)(?:{_HEX}|([nrtbf"'/ ]|\r?\n[ \t]*+))?""")
_SHORT = {"n": "\n", "r": "\r", "t": "\t", "b": " ", "f": " "}

# Hangul, CJK ideographs and kana.
_EAST_ASIAN = "\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\u3400-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
_EAST_ASIAN_LETTER = re.compile(f"[{_EAST_ASIAN}]")
_ASCII_LETTER = re.compile("[A-Za-z]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def is_escaped(text: str) -> bool:
    """Return whether a program escaped the text, by the rule above."""
    escaped, word, end = 0, False, -1
    for match in _CODE.finditer(text):
        if _EAST_ASIAN_LETTER.match(_character(match[1], match[2], match[3])):
            escaped += 1
            word |= match.start() == end
            end = match.end()
    if not escaped or len(_EAST_ASIAN_LETTER.findall(text)) > escaped:
        return False
    return word or not _ASCII_LETTER.search(_CODE.sub("", text))


def unescape(text: str) -> str:
    r"""Return an escaped text as it was.

    Escapes of JSON, Python and YAML are undone: ``\uXXXX`` (pairs of surrogates included), ``\UXXXXXXXX``, ``\xXX``, ``\n`` and
    its kind, and a line that YAML broke with a backslash. One layer is undone: of a text escaped twice another call undoes the
    second. A JSON string loses its quotes; a JSON object or array stays JSON, with its letters readable. An escaped backslash
    (``\u005c``) stays, or it would begin a new escape.
    """
    stripped = text.strip()
    if len(stripped) > 1 and stripped[0] == stripped[-1] == '"':
        try:
            return str(json.loads(stripped))
        except ValueError:
            pass
    is_json = stripped[:1] in {"{", "["} and stripped[-1:] in {"}", "]"}
    plain = _ESCAPE.sub(_in_json if is_json else _in_text, text)
    if _SURROGATE.search(plain):
        plain = plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return plain


def _in_text(match: re.Match[str]) -> str:
    slashes, kept = len(match[1]), "\\" * (len(match[1]) // 2)
    code = match[0][slashes:]
    # An even number: backslashes that were escaped themselves, and what follows means itself.
    if slashes % 2 == 0:
        return kept + code
    if short := match[5]:
        return kept + ("" if "\n" in short else _SHORT.get(short, short))
    character = _character(*match.group(2, 3, 4))
    return kept + (character if character and character != "\\" else f"\\{code}")


def _in_json(match: re.Match[str]) -> str:
    character = _character(match[2], None, None)
    if not character or character.isascii():
        return match[0]
    slashes = len(match[1])
    return "\\" * (slashes - 1 if slashes % 2 else 0) + character


def _character(short: str | None, long: str | None, byte: str | None) -> str:
    """Return the character of an escape, "" when there is none."""
    code = int(short or long or byte or "110000", 16)
    return chr(code) if code < 0x110000 else ""
