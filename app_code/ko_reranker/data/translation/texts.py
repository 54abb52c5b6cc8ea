"""Which texts are translated, under which settings, and in which pieces."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from ko_reranker.data.translation.language import has_letters, is_in_language
from ko_reranker.data.translation.sentences import split_text

# TranslateText's limit on the text of one request.
MAX_REQUEST_BYTES = 10_000

Treatment = Literal["translate", "target_language", "no_letters"]


@dataclass(frozen=True, slots=True)
class TranslationSettings:
    """What a translation depends on besides its text.

    Attributes:
        source_language: Amazon Translate's code of the language to translate from, never ``auto`` (it bills a second service).
        target_language: its code of the language to translate to.
        formality: FORMAL, INFORMAL or None for the service's own choice.
        terminology: the name of a custom terminology, or None.
    """

    source_language: str
    target_language: str
    formality: str | None = None
    terminology: str | None = None

    @classmethod
    def of(cls, request: dict[str, Any]) -> TranslationSettings:
        """Take them from a resolved request."""
        return cls(
            request["source_language"],
            request["target_language"],
            request.get("formality"),
            request.get("terminology"),
        )

    def key(self, text: str) -> str:
        """Return the memory's key of a text under these settings (hexadecimal SHA-256); white space around it is no matter."""
        parts = (self.source_language, self.target_language, self.formality or "", self.terminology or "", text.strip())
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()

    def treatment(self, text: str) -> Treatment:
        """Say what becomes of a text: it is translated, or stays as it is because there is nothing to translate."""
        if not has_letters(text):
            return "no_letters"
        return "target_language" if is_in_language(text, self.target_language) else "translate"


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of text that the memory knows under its own key and that fits into one request.

    Attributes:
        key: the memory's key.
        text: without white space around it.
    """

    key: str
    text: str

    @property
    def size(self) -> int:
        """Bytes in a request."""
        return len(self.text.encode())


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text, with what must come back around it.

    Attributes:
        before: white space before the part.
        unit: what to translate, or None for a part that stays as it is.
        text: the part itself.
        after: white space after the part.
    """

    before: str
    unit: Unit | None
    text: str
    after: str


def pieces_of(text: str, settings: TranslationSettings, limit: int = MAX_REQUEST_BYTES) -> list[Piece]:
    """Cut a text into pieces of at most ``limit`` bytes, at sentence ends; most texts are one piece.

    A long text's pieces are units of their own in the memory: whoever is stopped half-way through a long text has paid
    for the pieces that came back, and keeps them.
    """
    return [_piece(part, settings) for part in split_text(text.strip(), limit)]


def assemble(pieces: list[Piece], translations: dict[str, str]) -> str:
    """Put a text together again from its pieces and the translations of their units, by key."""
    return "".join(
        piece.before + (piece.text if piece.unit is None else translations[piece.unit.key]) + piece.after for piece in pieces
    )


def _piece(part: str, settings: TranslationSettings) -> Piece:
    text = part.strip()
    start = part.index(text) if text else 0
    unit = Unit(settings.key(text), text) if settings.treatment(text) == "translate" else None
    return Piece(part[:start], unit, text, part[start + len(text) :])
