"""What prompts are made of: pieces of text with places for what a request says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated

STRICT = ConfigDict(extra="forbid", strict=True)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
Text = Annotated[str, Field(min_length=1)]


class PromptError(ValueError):
    """A prompt cannot be used; the message says which part and why."""


@validated(frozen=True, slots=True, config=STRICT)
class SpecialPiece:
    """A special token by its part, not its spelling: ``bos``. Left out where the tokenizer has none, or pads with it."""

    special: Literal["bos"]


@validated(frozen=True, slots=True, config=STRICT)
class LiteralPiece:
    """What stands there as it is, special tokens included: ``<|im_end|>`` is one token here, and in no other piece."""

    literal: Text


@validated(frozen=True, slots=True, config=STRICT)
class TextPiece:
    """A text with the request's fields, as in ``"<Query>: {query}"``.

    Attributes:
        text: with fields such as ``{query}``, those that its prompt has; other braces stand for themselves.
        without_instruction: what stands there instead where there is no instruction; None for the same.
    """

    text: Text
    without_instruction: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a rendered prompt.

    Attributes:
        text: as it stands there; of a field its name.
        kind: ``literal`` may hold special tokens, ``text`` may not, ``field`` is filled in with what a request says.
    """

    text: str
    kind: Literal["literal", "text", "field"]


# What is tokenised as one string.
Run = Sequence[Part]


def parts_of(piece: LiteralPiece | TextPiece, fields: Sequence[str], *, instructed: bool) -> Iterator[Part]:
    """Yield the parts of a piece.

    Args:
        piece: any.
        fields: that may stand in it.
        instructed: whether there is an instruction.

    Raises:
        ValueError: a field stands in it that may not.
    """
    if isinstance(piece, LiteralPiece):
        yield Part(piece.literal, "literal")
        return
    other = piece.without_instruction
    yield from parts(piece.text if instructed or other is None else other, fields)


def parts(text: str, fields: Sequence[str]) -> Iterator[Part]:
    """Yield the parts of a text with fields in braces; the arguments are those of `parts_of`."""
    # Every second one is what stood in braces.
    for number, part in enumerate(_PLACEHOLDER.split(text)):
        if number % 2 and part not in fields:
            raise ValueError(f"{{{part}}} is none of {', '.join(f'{{{field}}}' for field in fields)}")
        if part:
            yield Part(part, "field" if number % 2 else "text")


def check_instruction(fields: Sequence[str], *, instructed: bool, default: str | None) -> None:
    """See that a prompt has one place for an instruction at most, and an instruction wherever there is one.

    Args:
        fields: that stand in the pieces.
        instructed: whether these are the pieces of a request with an instruction.
        default: the prompt's own instruction.

    Raises:
        ValueError: it has not.
    """
    if fields.count("instruction") > 1:
        raise ValueError("{instruction} may stand in the pieces once")
    if not instructed and "instruction" in fields and default is None:
        raise ValueError(
            "{instruction} stands in a text that has no without_instruction: say the instruction that is read if a "
            "request has none"
        )
