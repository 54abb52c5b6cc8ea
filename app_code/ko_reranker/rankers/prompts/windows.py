"""From a query and documents to the token ids of prompts that show several of these: the documents are cut to fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ko_reranker.engine.items import Item
from ko_reranker.engine.prefixes import Prefix
from ko_reranker.rankers.interface import UnrankableError
from ko_reranker.rankers.prompts.comparing import ComparingPrompt, filled
from ko_reranker.rankers.prompts.pieces import PromptError, Run
from ko_reranker.rankers.prompts.tokens import ControlTokens, answer_token, bos_of, chat_frame, common
from ko_reranker.rankers.sorting import Group
from ko_reranker.rankers.texts import TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tokens of the query, and of each document, that there is always room for.
_LEAST_ROOM = 16
# Tokens that a model may write beside an order, such as a thought that is none.
_SPARE_WRITTEN = 16
_NOTHING = np.zeros(0, np.int32)
# Of a document at a place of a window what stands before it, and its own tokens: int32, (tokens,) each.
Encoded = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True)
class _Frame:
    """What stands around the documents of a window: int32, (tokens,) each."""

    before: np.ndarray
    after: np.ndarray

    @property
    def tokens(self) -> int:
        return len(self.before) + len(self.after)


class WindowEncoder:
    """Encodes windows of documents in a prompt, for one model. May be used by many threads at once.

    Special tokens, and tokens that the prompt's literals use, are taken out of what a request says.

    Args:
        tokenizer: a fast tokenizer of `transformers`.
        prompt: what stands around query and documents.
        max_length: the most tokens of a sequence.
        cache_tokens: the tokens of documents that are kept for when they come again; 0 keeps none.

    Attributes:
        answers: the token ids of the answers, one a label; none where the model writes an order.

    Raises:
        PromptError: an answer is no single token or is another's, a text contains special tokens, or the length leaves no room.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt: ComparingPrompt, max_length: int, *, cache_tokens: int = 0
    ) -> None:
        self.prompt, self.max_length = prompt, max_length
        self.texts = TextEncoder(tokenizer, max_length, cache_tokens=cache_tokens)
        self._chat = ("", "") if not prompt.chat else chat_frame(tokenizer) or ("", "")
        self._bos = bos_of(tokenizer, wanted=prompt.begins_with_bos and not any(self._chat))
        runs = [
            run
            for instructed in (True, False)
            for run in (*prompt.before(instructed=instructed), *prompt.after(instructed=instructed))
        ]
        self._control = ControlTokens(tokenizer, "".join([*self._chat, prompt.reply, *_of_kind(runs, "literal")]))
        self._control.check([*_of_kind([*runs, *prompt.document], "text"), prompt.instruction or ""])
        self.answers = [answer_token(self.texts, "the answer", answer) for answer in prompt.answers]
        if len(set(self.answers)) < len(self.answers):
            raise PromptError(f"the answers {', '.join(map(repr, prompt.answers))} are not all different tokens: name others")
        self._leads, self._trails = ([filled(run, {"label": name}) for name in prompt.names] for run in prompt.document)
        self._lead_ids, self._trail_ids = self.texts.encode(self._leads), self.texts.encode(self._trails)
        self._answer_room = 0 if self.answers else self.most_written(prompt.names)
        least = self._taken("", prompt.instruction, prompt.window) + (prompt.window + 1) * _LEAST_ROOM
        if least > max_length:
            raise PromptError(
                f"max_length is {max_length}, and with the prompt and {prompt.window} documents at least {least} are needed"
            )

    def begin(
        self, query: str, documents: Sequence[str], *, instruction: str | None = None, max_tokens: int | None = None
    ) -> Comparisons:
        """Return what makes sequences of one query's documents.

        Args:
            query: cut to half of the tokens, or to what the prompt leaves, should it be longer.
            documents: any number of them.
            instruction: never cut; None for the prompt's own. Left aside where the prompt reads none.
            max_tokens: tokens of a document that are read; None for as many as fit.

        Raises:
            UnrankableError: the instruction leaves no room for query and documents.
        """
        if not self.prompt.instructed:
            instruction = None
        else:
            instruction = self.prompt.instruction if instruction is None else self._control.taken_out(instruction)
        shown = max(1, min(self.prompt.window, len(documents)))
        query, cut = self._cut_to_fit(self._control.taken_out(query), instruction, shown)
        texts = [self._control.taken_out(document) for document in documents]
        return Comparisons(self, query, texts, instruction=instruction, max_tokens=max_tokens, query_truncated=cut)

    def most_written(self, names: Sequence[str]) -> int:
        """Return how many tokens a model may write for an order of some labels: what that takes, and some more."""
        return len(self.texts.encode([" > ".join(f"[{name}]" for name in names)])[0]) + _SPARE_WRITTEN

    def frame(self, query: str, instruction: str | None, count: int) -> _Frame:
        """Return what stands around ``count`` documents."""
        values = {"query": query, "instruction": instruction or "", "num": str(count)}
        instructed = instruction is not None
        head, tail = self._chat
        before = [head, *(filled(run, values) for run in self.prompt.before(instructed=instructed))]
        after = [*(filled(run, values) for run in self.prompt.after(instructed=instructed)), tail, self.prompt.reply]
        ids = self.texts.encode([*before, *after])
        return _Frame(
            before=np.concatenate([self._bos, *ids[: len(before)]]), after=np.concatenate([_NOTHING, *ids[len(before) :]])
        )

    def document(self, place: int, texts: Sequence[str]) -> list[Encoded]:
        """Return documents as each of them is at a place of a window."""
        lead, found = self._lead_ids[place], []
        for ids in self.texts.recall([self._leads[place] + text for text in texts]):
            # Where the lead ends and the document begins, one token may hold the end of one and the beginning of the other.
            head = common(lead, ids)
            found.append((ids[:head], ids[head:]))
        return found

    def window(self, frame: _Frame, documents: Sequence[Encoded], most: int | None) -> tuple[np.ndarray, list[int]]:
        """Return the tokens behind the frame's beginning, int32, and how many of each document's own are among them.

        Args:
            frame: what stands around the documents.
            documents: from `document`, at places from 0.
            most: tokens of a document that are read; None for as many as fit.
        """
        trails = self._trail_ids[: len(documents)]
        room = (
            self.max_length - self._answer_room - frame.tokens - sum(len(head) for head, _ in documents) - sum(map(len, trails))
        )
        lengths = [len(ids) if most is None else min(len(ids), most) for _, ids in documents]
        read = [min(length, _fair(lengths, room)) for length in lengths]
        parts = [
            part
            for (head, ids), length, trail in zip(documents, read, trails, strict=True)
            for part in (head, ids[:length], trail)
        ]
        return np.concatenate([*parts, frame.after]), read

    def _taken(self, query: str, instruction: str | None, count: int) -> int:
        """Return how many tokens are taken by everything but the documents."""
        around = sum(map(len, [*self._lead_ids[:count], *self._trail_ids[:count]]))
        return self.frame(query, instruction, count).tokens + around + self._answer_room

    def _cut_to_fit(self, query: str, instruction: str | None, count: int) -> tuple[str, bool]:
        """Return as much of a query as there is room for beside some documents, and whether it was cut."""
        free = self.max_length - count * _LEAST_ROOM
        taken = self._taken("", instruction, count)
        if taken + _LEAST_ROOM > free:
            raise UnrankableError(
                "instruction",
                f"it leaves no room for query and documents: with the prompt it takes {taken} of {self.max_length} tokens",
            )
        runs = [*self.prompt.before(instructed=True), *self.prompt.after(instructed=True)]
        times = _of_kind(runs, "field").count("query")
        room, cut = min(self.max_length // 2, free - taken) // times, False
        while True:
            beginning = self.texts.beginning(query, room)
            cut |= len(beginning) < len(query)
            missing = self._taken(beginning, instruction, count) - free
            # Beside its neighbours a query may take some tokens more than alone.
            if missing <= 0 or not room:
                return beginning, cut
            room = max(0, room - -(-missing // times))


class Comparisons:
    """The windows of one query: which documents are shown is said later, round by round.

    Attributes:
        tokens: int32, (documents,); tokens computed for each document so far, what stands around a window with its first one.
        truncated: bool, (documents,); whether a part of a document was not read in some window.
        query_truncated: whether the query was cut.
    """

    def __init__(
        self,
        encoder: WindowEncoder,
        query: str,
        documents: Sequence[str],
        *,
        instruction: str | None,
        max_tokens: int | None,
        query_truncated: bool,
    ) -> None:
        self.tokens = np.zeros(len(documents), np.int32)
        self.truncated = np.zeros(len(documents), bool)
        self.query_truncated = query_truncated
        self._encoder, self._query, self._documents = encoder, query, documents
        self._instruction, self._max_tokens = instruction, max_tokens
        self._frames: dict[int, _Frame] = {}
        self._prefixes: dict[bytes, Prefix] = {}
        self._encoded: dict[tuple[int, int], Encoded] = {}

    def items(self, groups: Sequence[Group], *, share: bool = True) -> list[Item]:
        """Return a sequence for each group, which shows its documents in their order.

        Args:
            groups: of documents.
            share: whether what the windows of a query begin with is computed once, in whichever round.
        """
        self._encode(groups)
        items: list[Item] = []
        longest: dict[Prefix, int] = {}  # of those that are new, which item stands in for them
        for group in groups:
            frame = self._frame(len(group))
            documents = [self._encoded[place, document] for place, document in enumerate(group)]
            ids, read = self._encoder.window(frame, documents, self._max_tokens)
            if not share:
                ids = np.concatenate([frame.before, ids])
            self._count(group, documents, read, len(ids))
            key = frame.before.tobytes()
            if (prefix := self._prefixes.get(key)) is None and share and len(frame.before):
                prefix = self._prefixes[key] = Prefix(frame.before)
                longest[prefix] = len(items)
            items.append(Item(ids, prefix=prefix))
            if prefix in longest:
                longest[prefix] = max(longest[prefix], len(items) - 1, key=lambda index: len(items[index].ids))
        for prefix, index in longest.items():
            items[index] = replace(items[index], leads=True)
            group = groups[index]
            self.tokens[group[0]] += len(prefix)
        return items

    def _frame(self, count: int) -> _Frame:
        if count not in self._frames:
            self._frames[count] = self._encoder.frame(self._query, self._instruction, count)
        return self._frames[count]

    def _count(self, group: Group, documents: Sequence[Encoded], read: Sequence[int], tokens: int) -> None:
        """Count a window's tokens: each document's own for it, and what stands around them for the first one."""
        for document, (_, own), length in zip(group, documents, read, strict=True):
            self.tokens[document] += length
            self.truncated[document] |= length < len(own)
        self.tokens[group[0]] += tokens - sum(read)

    def _encode(self, groups: Sequence[Group]) -> None:
        wanted = dict.fromkeys((place, document) for group in groups for place, document in enumerate(group))
        missing: dict[int, list[int]] = {}
        for place, document in wanted:
            if (place, document) not in self._encoded:
                missing.setdefault(place, []).append(document)
        for place, documents in missing.items():
            encoded = self._encoder.document(place, [self._documents[document] for document in documents])
            self._encoded |= {(place, document): ids for document, ids in zip(documents, encoded, strict=True)}


def _fair(lengths: Sequence[int], room: int) -> int:
    """Return the most tokens of a document with which all fit, each as long as it is or as long as that."""
    left = room
    for place, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - place)
        if length > share:
            return max(0, share)
        left -= length
    return max(lengths)


def _of_kind(runs: Sequence[Run], kind: str) -> list[str]:
    return [part.text for run in runs for part in run if part.kind == kind]
