"""From a query and documents to the token ids that a prompt makes of them: of what is too long the document is cut.

Training and scoring both go through here, so that a model is asked what it was taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ko_reranker.engine.items import Item
from ko_reranker.engine.prefixes import Prefix
from ko_reranker.rankers.interface import UnrankableError
from ko_reranker.rankers.pairs import EncodedDocuments
from ko_reranker.rankers.prompts import Prompt
from ko_reranker.rankers.prompts.pieces import Part, PromptError, Run
from ko_reranker.rankers.prompts.tokens import ControlTokens, answer_token, bos_of, chat_frame, common
from ko_reranker.rankers.texts import Chunks, TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tokens of a document that there is always room for.
_LEAST_ROOM = 16


@dataclass(frozen=True, slots=True)
class _Frame:
    """What stands around the documents of one query.

    Attributes:
        before: int32, (tokens,); what comes before the string that the document stands in.
        lead, trail: what stands before and behind the document in that string.
        lead_ids: int32, (tokens,); of the lead alone.
        targets: how many tokens at the end are the query's, whose likelihood is wanted; 0 where that of an answer is.
        after: int32, (tokens,); what comes behind the document, the trail tokenised alone.
        rest: int32, (tokens,); of that, what comes behind the trail.
    """

    before: np.ndarray
    lead: str
    trail: str
    lead_ids: np.ndarray
    after: np.ndarray
    rest: np.ndarray
    targets: int

    @property
    def tokens(self) -> int:
        """How many tokens stand around a document."""
        return len(self.before) + len(self.lead_ids) + len(self.after)


class PromptEncoder:
    """Encodes queries and documents in a prompt, for one model. May be used by many threads at once.

    What a query, a document or an instruction contains of special tokens, or of tokens that the prompt's own literals use, is
    taken out of it: it could end its part of the prompt and give the answer.

    Args:
        tokenizer: a fast tokenizer of `transformers`.
        prompt: what stands around query and document.
        max_length: the most tokens of a sequence.
        max_chunks: chunks that a document is read in at most.
        cache_tokens: the tokens of documents that are kept for when they come again; 0 keeps none.

    Attributes:
        answers: the token ids of the positive answer and, if the prompt has one, of the negative one; none for the likelihood
            of the query.

    Raises:
        PromptError: an answer is no single token, a text contains special tokens, or the length leaves no room.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Prompt,
        max_length: int,
        *,
        max_chunks: int = 1,
        cache_tokens: int = 0,
    ) -> None:
        self.prompt, self.max_length, self.max_chunks = prompt, max_length, max_chunks
        self.texts = TextEncoder(tokenizer, (max_chunks + 1) * max_length, cache_tokens=cache_tokens)
        self._chat = chat_frame(tokenizer) if prompt.chat else None
        self._bos = bos_of(tokenizer, wanted=prompt.begins_with_bos and self._chat is None)
        self._control = ControlTokens(tokenizer, self._literals())
        self._control.check(self._plain_texts())
        self.answers = [
            answer_token(self.texts, f"the {name} answer", answer)
            for name in ("positive", "negative")
            if (answer := getattr(prompt, name)) is not None
        ]
        frame = self._frame("", prompt.instruction)
        if not frame.tokens:
            raise PromptError("nothing stands around query and document")
        if frame.tokens + 2 * _LEAST_ROOM > max_length:
            raise PromptError(
                f"max_length is {max_length}, and {frame.tokens} tokens stand around query and document: at least "
                f"{frame.tokens + 2 * _LEAST_ROOM} are needed"
            )

    def encode_documents(
        self,
        query: str,
        documents: Sequence[str],
        *,
        instruction: str | None = None,
        max_chunks: int | None = None,
        overlap: int = 0,
        max_tokens: int | None = None,
        share: bool = True,
    ) -> EncodedDocuments:
        """Return the sequences of one query.

        Args:
            query: cut to half of the tokens, should it be longer.
            documents: any number of them.
            instruction: never cut; None for the prompt's own. Left aside where the prompt reads none.
            max_chunks: chunks that a document is read in, if it does not fit; 1 cuts its end off. None for the encoder's own
                limit, which it cannot pass.
            overlap: tokens that neighbouring chunks share.
            max_tokens: tokens of a document that are read; None for all that the chunks hold.
            share: whether what the sequences begin with is one prefix, which is computed once.

        Raises:
            UnrankableError: the instruction leaves no room for query and document, or the query has no tokens to be likely.
        """
        if not documents:
            return EncodedDocuments([], np.zeros(0, np.int32), np.zeros(0, bool), False)
        frame, query_truncated = self._cut_to_fit(self._control.taken_out(query), self._instruction(instruction))
        if self.prompt.positive is None and not frame.targets:
            raise UnrankableError("query", "it has no tokens, and how likely they are is the score")
        texts = [frame.lead + self._control.taken_out(document) for document in documents]
        sequences: list[np.ndarray] = []
        chunks = Chunks(len(documents), self.max_chunks, max_chunks, overlap, max_tokens)
        shared = len(frame.lead_ids)
        for index, ids in enumerate(self.texts.recall(texts)):
            # Where the lead ends and the document begins, one token may hold the end of one and the beginning of the other.
            head = common(frame.lead_ids, ids)
            room = max(1, self.max_length - len(frame.before) - head - len(frame.after))
            parts = chunks.cut(index, len(ids) - head, room)
            whole = len(parts) == 1 and not chunks.truncated[index]
            made = self._at_once(frame, texts[index]) if whole and frame.trail else []
            made = made or [
                np.concatenate([frame.before, ids[:head], ids[head + start : head + end], frame.after]) for start, end in parts
            ]
            sequences += made
            shared = min(shared, *(common(frame.lead_ids, one[len(frame.before) :]) for one in made))
        items = _items(sequences, len(frame.before) + shared if share else 0, frame.targets)
        return EncodedDocuments(items, chunks.counts, chunks.truncated, query_truncated)

    def _at_once(self, frame: _Frame, text: str) -> list[np.ndarray]:
        """Return the sequence of a document that is tokenised together with what stands behind it, if that fits."""
        ids = np.concatenate([frame.before, self.texts.encode([text + frame.trail])[0], frame.rest])
        return [ids] if len(ids) <= self.max_length else []

    def _cut_to_fit(self, query: str, instruction: str | None) -> tuple[_Frame, bool]:
        """Return what stands around the documents, and whether the query was cut."""
        empty = self._frame("", instruction).tokens
        free = self.max_length - empty - _LEAST_ROOM
        if free < _LEAST_ROOM:
            raise UnrankableError(
                "instruction",
                f"it leaves no room for query and document: with the prompt it takes {empty} of {self.max_length} tokens",
            )
        room, cut = min(self.max_length // 2, free), False
        while True:
            beginning = self.texts.beginning(query, room)
            cut |= len(beginning) < len(query)
            frame = self._frame(beginning, instruction)
            missing = frame.tokens + 1 - self.max_length
            # Beside its neighbours a query may take some tokens more than alone.
            if missing <= 0 or not room:
                return frame, cut
            room = max(0, room - missing)

    def _frame(self, query: str, instruction: str | None) -> _Frame:
        values = {"query": query, "instruction": instruction or ""}
        runs = self._runs(instructed=instruction is not None)
        places = enumerate(map(_place_of_document, runs))
        place, inside = next((index, found) for index, found in places if found is not None)

        def text(parts: Sequence[Part]) -> str:
            return "".join(values[part.text] if part.kind == "field" else part.text for part in parts)

        lead, trail = text(runs[place][:inside]), text(runs[place][inside + 1 :])
        before, after = [text(run) for run in runs[:place]], [text(run) for run in runs[place + 1 :]]
        ids = self.texts.encode([*before, lead, trail, *after])
        rest = np.concatenate([np.zeros(0, np.int32), *ids[len(before) + 2 :]])
        return _Frame(
            before=np.concatenate([self._bos, *ids[: len(before)]]),
            lead=lead,
            trail=trail,
            lead_ids=ids[len(before)],
            after=np.concatenate([ids[len(before) + 1], rest]),
            rest=rest,
            targets=0 if self.prompt.positive is not None else len(ids[-1]),
        )

    def _runs(self, *, instructed: bool) -> list[Run]:
        runs = self.prompt.runs(instructed=instructed)
        if self._chat is None:
            return runs
        before, after = (Part(text, "literal") for text in self._chat)
        if self.prompt.positive is None:  # the query is what the model would say
            return [[before], *runs[:-1], [after], runs[-1]]
        return [[before, *runs[0], after]] if self.prompt.join == "text" else [[before], *runs, [after]]

    def _instruction(self, instruction: str | None) -> str | None:
        if not self.prompt.instructed:
            return None
        return self.prompt.instruction if instruction is None else self._control.taken_out(instruction)

    def _literals(self) -> str:
        return "".join(part.text for run in self._runs(instructed=True) for part in run if part.kind == "literal")

    def _plain_texts(self) -> list[str]:
        runs = [run for instructed in (True, False) for run in self.prompt.runs(instructed=instructed)]
        return [*(part.text for run in runs for part in run if part.kind == "text"), self.prompt.instruction or ""]


def _place_of_document(run: Run) -> int | None:
    return next((index for index, part in enumerate(run) if part == Part("document", "field")), None)


def _items(sequences: list[np.ndarray], shared: int, targets: int) -> list[Item]:
    """Return items of one prefix, of which each has at least one token of its own that is read.

    Args:
        sequences: int32, (tokens,) each.
        shared: tokens that all of them begin with.
        targets: tokens at the end of each whose likelihood is wanted.
    """
    shared = min(shared, *(len(ids) - 1 - targets for ids in sequences)) if len(sequences) > 1 else 0
    prefix = Prefix(sequences[0][:shared]) if shared > 0 else None
    longest = max(range(len(sequences)), key=lambda index: len(sequences[index]))
    return [
        Item(
            ids[shared : -1 if targets else None],
            prefix=prefix,
            leads=prefix is not None and index == longest,
            targets=ids[-targets:] if targets else None,
        )
        for index, ids in enumerate(sequences)
    ]
