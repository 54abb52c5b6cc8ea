"""Prompts of generative rerankers: what stands around query and document, and which answers count, as data in YAML files.

A prompt is a contract of a published model, byte for byte: a space more, and its scores are those of another model. The files
beside this module say where each one comes from; a model's folder may hold its own, as ``prompt.yaml``.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from ko_reranker.problems import problems_of
from ko_reranker.rankers.prompts.comparing import ComparingPrompt
from ko_reranker.rankers.prompts.pieces import (
    STRICT,
    LiteralPiece,
    Part,
    PromptError,
    Run,
    SpecialPiece,
    Text,
    TextPiece,
    check_instruction,
    parts_of,
)

__all__ = [
    "PROMPT_FILE",
    "AnyPrompt",
    "ComparingPrompt",
    "Prompt",
    "PromptError",
    "digest",
    "parse_prompt",
    "shipped_prompt",
    "shipped_prompts",
]

PROMPT_FILE = "prompt.yaml"
# What of a request stands in a prompt.
FIELDS = ("query", "document", "instruction")

Piece = SpecialPiece | LiteralPiece | TextPiece


@validated(frozen=True, slots=True, config=STRICT)
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
            check_instruction(fields, instructed=instructed, default=self.instruction)
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
    def method(self) -> Literal["pointwise", "likelihood"]:
        """How it ranks."""
        return "likelihood" if self.positive is None else "pointwise"

    @property
    def instructed(self) -> bool:
        """Whether it reads an instruction."""
        return any(part.text == "instruction" and part.kind == "field" for run in self.runs(instructed=True) for part in run)

    def runs(self, *, instructed: bool) -> list[Run]:
        """Return what is tokenised together; special pieces are none of it.

        Args:
            instructed: whether there is an instruction.
        """
        pieces = [
            list(parts_of(piece, FIELDS, instructed=instructed)) for piece in self.pieces if not isinstance(piece, SpecialPiece)
        ]
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


AnyPrompt = Prompt | ComparingPrompt


# How a prompt may rank, and which of these ask of each document by itself.
_APART = ("pointwise", "likelihood")
_METHODS = (*_APART, "pairwise", "setwise", "listwise")
# A prompt is some lines; the longest that comes with the library has 1,000 characters.
_MOST_CHARACTERS = 100_000


class _Loader(yaml.SafeLoader):
    """Refuses keys that come twice, of which YAML takes the last, and aliases, which may stand for more than memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]  # as the stubs have it
            raise ValueError(f"the alias *{event.anchor} in line {event.start_mark.line + 1}: write out what it stands for")
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                raise ValueError(f"{key.value} twice, in lines {lines[key.value]} and {line}: leave one of them out")
            lines[key.value] = line
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def parse_prompt(text: str, name: str) -> AnyPrompt:
    """Return the prompt that a YAML document describes; its ``method`` says whether it compares documents.

    Args:
        text: of the document.
        name: what to call it in sentences.

    Raises:
        PromptError: it is not valid; the message says where.
    """
    if len(text) > _MOST_CHARACTERS:
        raise PromptError(f"{name} has {len(text):,} characters, over the limit of {_MOST_CHARACTERS:,}")
    try:
        value = yaml.load(text, _Loader)  # noqa: S506  # a safe loader
        method = value.pop("method", None) if isinstance(value, dict) else None
        if method is not None and method not in _METHODS:
            raise PromptError(f"{name} is not valid: method is {method!r}, and has to be one of {', '.join(_METHODS)}")
        compares = method is not None and method not in _APART
        kind: type[AnyPrompt] = ComparingPrompt if compares else Prompt
        prompt = TypeAdapter(kind).validate_json(json.dumps(value | {"method": method} if compares else value, default=str))
    except PromptError:
        raise
    except yaml.YAMLError as error:
        raise PromptError(f"{name} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise PromptError(f"{name} is not valid: {_first(error)}") from None
    except (ValueError, TypeError, RecursionError) as error:  # what YAML can say and JSON can't: circles, other keys, depth
        raise PromptError(f"{name} holds what no prompt has: {error}") from None
    if any(isinstance(piece, SpecialPiece) for piece in prompt.pieces[1:]):
        raise PromptError(f"{name} is not valid: special: bos can only come first")
    if method not in (None, prompt.method):
        raise PromptError(
            f"{name} is not valid: method is {method}, and it is {prompt.method} by its pieces and answers: "
            f"{'likelihood has no positive answer' if prompt.method == 'pointwise' else 'pointwise has a positive answer'}"
        )
    return prompt


def _first(error: ValidationError) -> str:
    """Return what is wrong first: of a piece that is of no kind, what each kind lacks would be more than helps."""
    found = problems_of(error)[0]
    where = [str(step) for step in found.path if not str(step).endswith("Piece")]
    if len(where) > 1 and where[0] == "pieces" and found.kind != "value_error":
        return (
            f"{'.'.join(where[:2])} is no piece: it has one of special, literal and text (and without_instruction), a string; "
            "where documents are compared, one has documents"
        )
    return f"{'.'.join(where)}: {found.reason}" if where else found.reason


def digest(text: str) -> str:
    """Return a prompt file's SHA-256, in hexadecimal, as reranker.json tells it."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


@functools.cache
def shipped_prompts() -> Mapping[str, str]:
    """Return the text of each prompt file that comes with the library, by its name."""
    files = sorted(Path(__file__).parent.glob("*.yaml"))
    return {path.stem: path.read_text(encoding="utf-8") for path in files}


def shipped_prompt(name: str) -> AnyPrompt:
    """Return a prompt that comes with the library.

    Raises:
        PromptError: there is none of this name; the message lists those that there are.
    """
    if name not in shipped_prompts():
        raise PromptError(f"there is no prompt {name!r}: there are {', '.join(shipped_prompts())}")
    return parse_prompt(shipped_prompts()[name], name)
