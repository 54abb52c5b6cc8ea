r"""Korean that arrives as ``\uc11c\uc6b8``: telling a text that a program escaped from one that writes about escapes.

A program that escapes, escapes every letter that is not ASCII. So a text counts as escaped when

- it holds a word of at least two East Asian letters in escapes standing side by side, or no ASCII letter beside escapes;
- and it has at least as many East Asian letters escaped as unescaped.

``The letter A is \u0041`` stays, and so does a Korean page that shows ``\uac00`` as an example.
"""

from __future__ import annotations

import json
import re

from .work import Allowance

_HEX = r"u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|x([0-9A-Fa-f]{2})"
# A run of backslashes is taken whole and never in part, so that a text of nothing but backslashes is read once.
_CODE = re.compile(rf"(?<!\\)(?:((?:\\u[0-9A-Fa-f]{{4}}){{2,}}+)|\\++(?:{_HEX}))")
# What escaped Korean nearly always is: decoded at once, it costs a tenth.
_RUN = re.compile(r"(?<!\\)(?:\\u[0-9A-Fa-f]{4}){2,}+")
_ESCAPE = re.compile(rf"""(?<!\\)(\\++)(?:{_HEX}|([nrtbf"'/ ]|\r?\n[ \t]*+))?""")
_SHORT = {"n": "\n", "r": "\r", "t": "\t", "b": " ", "f": " "}

# Hangul, CJK ideographs and kana.
_EAST_ASIAN = "\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\u3400-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
_EAST_ASIAN_LETTER = re.compile(f"[{_EAST_ASIAN}]")
_EAST_ASIAN_WORD = re.compile(f"[{_EAST_ASIAN}]{{2}}")
_ASCII = re.compile("[\x00-\x7f]")
_ASCII_LETTER = re.compile("[A-Za-z]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# Units of work: an escape, or a run of them, looked at; one undone; and the characters of the text that comes of it.
_LOOK_UNITS, _UNDO_UNITS, _CHARACTERS_PER_UNIT = 5, 2, 8


def is_escaped(text: str, allowance: Allowance) -> bool:
    """Return whether a program escaped the text, by the rule above.

    Raises:
        TooMuchWork: finding out takes more than is allowed.
    """
    escaped, word, end = 0, False, -1
    for match in _CODE.finditer(text):
        allowance.spend(_LOOK_UNITS)
        letters = json.loads(f'"{match[1]}"') if match[1] else _character(*match.group(2, 3, 4))
        found = len(_EAST_ASIAN_LETTER.findall(letters))
        if found:
            escaped += found
            begins, ends = (bool(_EAST_ASIAN_LETTER.match(letter)) for letter in (letters[0], letters[-1]))
            word |= (begins and match.start() == end) or bool(_EAST_ASIAN_WORD.search(letters))
            end = match.end() if ends else -1
    if not escaped or len(_EAST_ASIAN_LETTER.findall(text)) > escaped:
        return False
    return word or not _ASCII_LETTER.search(_CODE.sub("", text))


def unescape(text: str, allowance: Allowance) -> str:
    r"""Return an escaped text as it was.

    Escapes of JSON, Python and YAML are undone: ``\uXXXX`` (pairs of surrogates included), ``\UXXXXXXXX``, ``\xXX``, ``\n`` and
    its kind, and a line that YAML broke with a backslash. One layer is undone: of a text escaped twice another call undoes the
    second. A JSON string loses its quotes; a JSON object or array stays JSON, with its letters readable. An escaped backslash
    (``\u005c``) stays, or it would begin a new escape.

    Raises:
        TooMuchWork: it takes more than is allowed.
    """
    allowance.spend(len(text) // _CHARACTERS_PER_UNIT)
    if (said := json_string(text)) is not None:
        return said
    is_json = text.lstrip()[:1] in {"{", "["} and text.rstrip()[-1:] in {"}", "]"}
    undo = _in_json if is_json else _in_text

    def paid(match: re.Match[str]) -> str:
        allowance.spend(_UNDO_UNITS)
        return undo(match)

    plain = _ESCAPE.sub(paid, _RUN.sub(_decoded, text))
    if _SURROGATE.search(plain):
        plain = plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return plain


def json_string(text: str) -> str | None:
    """Return what a text says that is a string of JSON, quotes and all; None if it is none."""
    stripped = text.strip()
    if not stripped[1:] or not stripped[0] == stripped[-1] == '"':
        return None
    try:
        return str(json.loads(stripped))
    except ValueError:
        return None


def _decoded(run: re.Match[str]) -> str:
    letters = json.loads(f'"{run[0]}"')
    # ASCII letters have rules of their own: backslashes and what JSON must escape.
    return run[0] if _ASCII.search(letters) else letters


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
