"""Prompts that show a model several documents at once, and ask which is the best, or how they are to be ordered."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as validated

from ko_reranker.rankers.prompts.pieces import (
    STRICT,
    LiteralPiece,
    Part,
    Run,
    SpecialPiece,
    Text,
    TextPiece,
    check_instruction,
    parts,
    parts_of,
)

# What of a request stands in such a prompt, and what of each of its documents.
FIELDS, DOCUMENT_FIELDS = ("query", "instruction", "num"), ("label", "document")
_MOST_LABELS = {"letters": 26, "numbers": 100}


@validated(frozen=True, slots=True, config=STRICT)
class DocumentsPiece:
    """All documents of a comparison, one after the other.

    Attributes:
        documents: what stands there for each, with ``{label}`` and ``{document}``.
    """

    documents: Text


ComparingPiece = SpecialPiece | LiteralPiece | TextPiece | DocumentsPiece


@validated(frozen=True, slots=True, config=STRICT)
class ComparingPrompt:
    """What a language model reads of a query and several documents, and how its answer is understood.

    Attributes:
        method: ``pairwise`` asks for the better one of two, in both orders; ``setwise`` for the best one of a few;
            ``listwise`` for an order of many.
        pieces: in order, each tokenised by itself, as is each document with what stands around it. One of them has the
            documents; ``{query}``, ``{num}``, how many documents there are, and one ``{instruction}`` stand in the others.
        window: how many documents are shown at once; 2 if pairwise.
        stride: by how much the next window of listwise is nearer to the front; None for half of one.
        labels: what documents are called: ``letters`` from A, ``numbers`` from 1.
        reply: what the model's answer begins with.
        answer: what it goes on with, a single token for each ``{label}``, whose logits count; None, of listwise, lets it write
            an order such as ``[2] > [1]``, which is read leniently.
        instruction: what is asked for if a request says nothing; None leaves it out.
        chat: whether the pieces are the user's turn in the chat template of the model's tokenizer, if that has one.
        source: where it comes from, for people.
    """

    method: Literal["pairwise", "setwise", "listwise"]
    pieces: tuple[ComparingPiece, ...]
    window: Annotated[int, Field(ge=2)]
    stride: Annotated[int, Field(ge=1)] | None = None
    labels: Literal["letters", "numbers"] = "letters"
    reply: str = ""
    answer: Text | None = None
    instruction: Text | None = None
    chat: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        shown = [piece.documents for piece in self.pieces if isinstance(piece, DocumentsPiece)]
        if len(shown) != 1:
            raise ValueError(f"one piece has documents, and {len(shown)} have")
        fields = [part.text for part in parts(shown[0], DOCUMENT_FIELDS) if part.kind == "field"]
        if fields.count("document") != 1 or "label" not in fields:
            raise ValueError("documents has {label}, and {document} once")
        for instructed in (True, False):
            runs = [*self.before(instructed=instructed), *self.after(instructed=instructed)]
            fields = [part.text for run in runs for part in run if part.kind == "field"]
            if "query" not in fields:
                raise ValueError("{query} has to stand in the pieces")
            check_instruction(fields, instructed=instructed, default=self.instruction)
        self._check_windows()
        self._check_answer()

    def _check_windows(self) -> None:
        least, most = {"pairwise": (2, 2), "setwise": (3, 100), "listwise": (2, 100)}[self.method]
        most = min(most, _MOST_LABELS[self.labels])
        if not least <= self.window <= most:
            raise ValueError(
                f"{self.method} with {self.labels} has a window of {least} to {most}, and this one is {self.window}"
            )
        if self.stride is not None and (self.method != "listwise" or self.stride > self.window):
            raise ValueError("stride is for listwise, and at most as long as the window")

    def _check_answer(self) -> None:
        if self.answer is None and self.method != "listwise":
            raise ValueError("there is no answer: say what the model says of a {label}")
        if self.answer is not None and [part.text for part in parts(self.answer, ("label",)) if part.kind == "field"] != [
            "label"
        ]:
            raise ValueError("answer has {label} once")

    @property
    def step(self) -> int:
        """By how much the next window is nearer to the front."""
        return self.stride or max(1, self.window // 2)

    @property
    def names(self) -> tuple[str, ...]:
        """The labels of a window."""
        return (
            tuple(string.ascii_uppercase[: self.window])
            if self.labels == "letters"
            else tuple(str(number) for number in range(1, self.window + 1))
        )

    @property
    def answers(self) -> tuple[str, ...]:
        """What the model says of each label; nothing where it writes an order."""
        return () if self.answer is None else tuple(self.answer.replace("{label}", name) for name in self.names)

    @property
    def instructed(self) -> bool:
        """Whether it reads an instruction."""
        runs = [*self.before(instructed=True), *self.after(instructed=True)]
        return any(part == Part("instruction", "field") for run in runs for part in run)

    @property
    def begins_with_bos(self) -> bool:
        """Whether the model's first special token comes first."""
        return isinstance(self.pieces[0], SpecialPiece)

    @property
    def document(self) -> tuple[Run, Run]:
        """What stands before a document and behind it; of fields there is the label alone."""
        (shown,) = (list(parts(piece.documents, DOCUMENT_FIELDS)) for piece in self.pieces if isinstance(piece, DocumentsPiece))
        place = shown.index(Part("document", "field"))
        return shown[:place], shown[place + 1 :]

    def before(self, *, instructed: bool) -> list[Run]:
        """Return what is tokenised before the documents, run by run; special pieces are none of it.

        Args:
            instructed: whether there is an instruction.
        """
        return self._runs(self.pieces[: self._place], instructed=instructed)

    def after(self, *, instructed: bool) -> list[Run]:
        """Return what is tokenised behind the documents, as `before` does; the reply is none of it."""
        return self._runs(self.pieces[self._place + 1 :], instructed=instructed)

    def render(self, query: str, documents: Sequence[str], instruction: str | None = None) -> str:
        """Return the prompt for some documents, without a special piece, a chat template and the reply.

        Args:
            query: any text.
            documents: at most as many as the window.
            instruction: None for the prompt's own.
        """
        instruction = self.instruction if instruction is None else instruction
        values = {"query": query, "instruction": instruction or "", "num": str(len(documents))}
        lead, trail = self.document
        shown = [
            filled(lead, {"label": name}) + document + filled(trail, {"label": name})
            for name, document in zip(self.names, documents, strict=False)
        ]
        before, after = (
            "".join(filled(run, values) for run in runs)
            for runs in (self.before(instructed=instruction is not None), self.after(instructed=instruction is not None))
        )
        return before + "".join(shown) + after

    @property
    def _place(self) -> int:
        return next(place for place, piece in enumerate(self.pieces) if isinstance(piece, DocumentsPiece))

    def _runs(self, pieces: Sequence[ComparingPiece], *, instructed: bool) -> list[Run]:
        return [
            list(parts_of(piece, FIELDS, instructed=instructed))
            for piece in pieces
            if isinstance(piece, LiteralPiece | TextPiece)
        ]


def filled(run: Run, values: dict[str, str]) -> str:
    """Return a run as text, its fields by their values."""
    return "".join(values[part.text] if part.kind == "field" else part.text for part in run)
