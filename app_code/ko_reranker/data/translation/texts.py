"""Which texts are translated, under which settings, and in which parts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from ko_reranker.data.translation.sentences import split_text
from ko_reranker.languages import Language, find, has_letters

# TranslateText's limit on the text of one request.
MAX_REQUEST_BYTES = 10_000

Treatment = Literal["translate", "target_language", "no_letters"]


@dataclass(frozen=True, slots=True)
class TranslationSettings:
    """What a translation depends on besides its text.

    Attributes:
        source_language: Amazon Translate's code of the language to translate from, never ``auto`` (it bills a second service).
        target_language: its code of the language to translate to, one of `ko_reranker.languages`.
        formality: FORMAL, INFORMAL or None for the service's own choice.
        terminology: the name of a custom terminology, or None.
    """

    source_language: str
    target_language: str
    formality: str | None = None
    terminology: str | None = None

    @property
    def target(self) -> Language:
        """The language to translate to.

        Raises:
            UnknownLanguageError: nothing is known of it.
        """
        return find(self.target_language)

    def key(self, text: str) -> str:
        """Return the memory's key of a text under these settings (hexadecimal SHA-256); white space around it is no matter."""
        parts = (self.source_language, self.target_language, self.formality or "", self.terminology or "", text.strip())
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()

    def treatment(self, text: str) -> Treatment:
        """Say what becomes of a text: it is translated, or stays as it is because there is nothing to translate."""
        if not has_letters(text):
            return "no_letters"
        return "target_language" if self.target.owns(text) else "translate"


@dataclass(frozen=True, slots=True)
class Segment:
    """What is translated: a text or a part of a long one, which fits into a request and has a key of its own in the memory.

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
class Part:
    """A part of a text, with what must come back around it.

    Attributes:
        before: white space before the part.
        segment: what to translate, or None for a part that stays as it is.
        text: the part itself.
        after: white space after the part.
    """

    before: str
    segment: Segment | None
    text: str
    after: str


def parts_of(text: str, settings: TranslationSettings, limit: int = MAX_REQUEST_BYTES) -> list[Part]:
    """Cut a text into parts of at most ``limit`` bytes, at sentence ends; most texts are one part.

    A long text's parts are segments of their own in the memory: whoever is stopped half-way through a long text has paid
    for the parts that came back, and keeps them.
    """
    return [_part(cut, settings) for cut in split_text(text.strip(), limit)]


def assemble(parts: list[Part], translations: dict[str, str]) -> str:
    """Put a text together again from its parts and the translations of their segments, by key."""
    return "".join(
        part.before + (part.text if part.segment is None else translations[part.segment.key]) + part.after for part in parts
    )


def _part(cut: str, settings: TranslationSettings) -> Part:
    text = cut.strip()
    start = cut.index(text) if text else 0
    segment = Segment(settings.key(text), text) if settings.treatment(text) == "translate" else None
    return Part(cut[:start], segment, text, cut[start + len(text) :])
