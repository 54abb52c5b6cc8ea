"""Prompts of generative rerankers: what stands around query and document, and which answers count, as data in YAML files.

A prompt is a contract of a published model, byte for byte: a space more, and its scores are those of another model. The files
beside this module say where each one comes from; a model's folder may hold its own, as ``prompt.yaml``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

PROMPT_FILE = "prompt.yaml"
# What of a request stands in a prompt.
FIELDS = ("query", "document", "instruction")
_STRICT = ConfigDict(extra="forbid", strict=True)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
Text = Annotated[str, Field(min_length=1)]


class PromptError(ValueError):
    """A prompt cannot be used; the message says which part and why."""


@validated(frozen=True, slots=True, config=_STRICT)
class SpecialPiece:
    """A special token by its part, not its spelling: ``bos``. Left out where the tokenizer has none, or pads with it."""

    special: Literal["bos"]


@validated(frozen=True, slots=True, config=_STRICT)
class LiteralPiece:
    """What stands there as it is, special tokens included: ``<|im_end|>`` is one token here, and in no other piece."""

    literal: Text


@validated(frozen=True, slots=True, config=_STRICT)
class TextPiece:
    """A text with the request's fields, as in ``"<Query>: {query}"``.

    Attributes:
        text: with ``{query}``, ``{document}`` or ``{instruction}``; other braces stand for themselves.
        without_instruction: what stands there instead where there is no instruction; None for the same.
    """

    text: Text
    without_instruction: str | None = None


Piece = SpecialPiece | LiteralPiece | TextPiece


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


@validated(frozen=True, slots=True, config=_STRICT)
class Prompt:
    """What a generative reranker reads of a query and a document, and how its answer is understood.

    Attributes:
        pieces: in order. There is one ``{query}`` and one ``{document}``, and at most one ``{instruction}``.
        positive: the answer for a relevant document; one token. None asks for no answer, but for how likely the query is, which
            comes last, in a piece of its own.
        negative: the answer for an irrelevant one, whose logit is subtracted; None takes the positive one's logit alone.
        join: ``ids`` tokenises each piece by itself and joins the ids, ``text`` joins the texts and tokenises once. The two
            may give other tokens: it is what the model's own code does that counts.
        instruction: what is asked for if a request says nothing; None leaves it out.
        chat: whether the pieces are the user's turn in the chat template of the model's tokenizer, if that has one.
        source: where it comes from, for people.
    """

    pieces: tuple[Piece, ...]
    positive: Text | None = None
    negative: Text | None = None
    join: Literal["ids", "text"] = "ids"
    instruction: Text | None = None
    chat: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        for instructed in (True, False):
            fields = [part.text for run in self.runs(instructed=instructed) for part in run if part.kind == "field"]
            for field in ("query", "document"):
                if fields.count(field) != 1:
                    raise ValueError(
                        f"{{{field}}} has to stand in the pieces once, and stands there {fields.count(field)} times"
                    )
            if fields.count("instruction") > 1:
                raise ValueError("{instruction} may stand in the pieces once")
            if not instructed and "instruction" in fields and self.instruction is None:
                raise ValueError(
                    "{instruction} stands in a text that has no without_instruction: say the instruction that is read if a "
                    "request has none"
                )
        if self.positive is None:
            self._check_likelihood()
        elif self.positive == self.negative:
            raise ValueError(f"positive and negative are both {self.positive!r}")

    def _check_likelihood(self) -> None:
        if self.negative is not None:
            raise ValueError("there is a negative answer and no positive one")
        if any(self.runs(instructed=instructed)[-1] != [Part("query", "field")] for instructed in (True, False)):
            raise ValueError(
                'there is no positive answer: name one, or, for the likelihood of the query, let the last piece be "{query}" '
                "alone, with join: ids"
            )

    @property
    def instructed(self) -> bool:
        """Whether it reads an instruction."""
        return any(part.text == "instruction" and part.kind == "field" for run in self.runs(instructed=True) for part in run)

    def runs(self, *, instructed: bool) -> list[Run]:
        """Return what is tokenised together; special pieces are none of it.

        Args:
            instructed: whether there is an instruction.
        """
        pieces = [list(_parts(piece, instructed=instructed)) for piece in self.pieces if not isinstance(piece, SpecialPiece)]
        return [[part for piece in pieces for part in piece]] if self.join == "text" else [*pieces]

    @property
    def begins_with_bos(self) -> bool:
        """Whether the model's first special token comes first."""
        return isinstance(self.pieces[0], SpecialPiece)

    def render(self, query: str, document: str, instruction: str | None = None) -> list[str]:
        """Return the strings that are tokenised, each by itself; a special piece is none, and a chat template not in them.

        Args:
            query, document: any texts.
            instruction: None for the prompt's own.
        """
        instruction = self.instruction if instruction is None else instruction
        values = {"query": query, "document": document, "instruction": instruction or ""}
        runs = self.runs(instructed=instruction is not None)
        return ["".join(values[part.text] if part.kind == "field" else part.text for part in run) for run in runs]


def _parts(piece: LiteralPiece | TextPiece, *, instructed: bool) -> Iterator[Part]:
    if isinstance(piece, LiteralPiece):
        yield Part(piece.literal, "literal")
        return
    other = piece.without_instruction
    text = piece.text if instructed or other is None else other
    # Every second one is what stood in braces.
    for number, part in enumerate(_PLACEHOLDER.split(text)):
        if number % 2 and part not in FIELDS:
            raise ValueError(f"{{{part}}} is none of {', '.join(f'{{{field}}}' for field in FIELDS)}")
        if part:
            yield Part(part, "field" if number % 2 else "text")


_PROMPT = TypeAdapter(Prompt)


def parse_prompt(text: str, name: str) -> Prompt:
    """Return the prompt that a YAML document describes.

    Args:
        text: of the document.
        name: what to call it in sentences.

    Raises:
        PromptError: it is not valid; the message says where.
    """
    try:
        prompt = _PROMPT.validate_json(json.dumps(yaml.safe_load(text), default=str))
    except yaml.YAMLError as error:
        raise PromptError(f"{name} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise PromptError(f"{name} is not valid: {_first(error)}") from None
    if any(isinstance(piece, SpecialPiece) for piece in prompt.pieces[1:]):
        raise PromptError(f"{name} is not valid: special: bos can only come first")
    return prompt


def _first(error: ValidationError) -> str:
    """Return what is wrong first: of a piece that is of no kind, what each kind lacks would be more than helps."""
    found = error.errors()[0]
    where = [str(step) for step in found["loc"] if not str(step).endswith("Piece")]
    if where and where[0] == "pieces" and found["type"] != "value_error":
        return f"{'.'.join(where[:2])} is no piece: it has one of special, literal and text (and without_instruction), a string"
    said = found["msg"].removeprefix("Value error, ")
    return f"{'.'.join(where)}: {said}" if where else said


def digest(text: str) -> str:
    """Return a prompt file's SHA-256, in hexadecimal, as reranker.json tells it."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


@functools.cache
def shipped_prompts() -> Mapping[str, str]:
    """Return the text of each prompt file that comes with the library, by its name."""
    files = sorted(Path(__file__).parent.glob("*.yaml"))
    return {path.stem: path.read_text(encoding="utf-8") for path in files}


def shipped_prompt(name: str) -> Prompt:
    """Return a prompt that comes with the library.

    Raises:
        PromptError: there is none of this name; the message lists those that there are.
    """
    if name not in shipped_prompts():
        raise PromptError(f"there is no prompt {name!r}: there are {', '.join(shipped_prompts())}")
    return parse_prompt(shipped_prompts()[name], name)
