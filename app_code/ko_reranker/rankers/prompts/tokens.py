"""What every prompt needs of a tokenizer: its chat template, special tokens kept out of texts, answers that are one token."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ko_reranker.rankers.prompts.pieces import PromptError
from ko_reranker.rankers.texts import TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Stands in for what a user says while a chat template is read.
_MARK = "\N{LEFT BLACK LENTICULAR BRACKET}user\N{RIGHT BLACK LENTICULAR BRACKET}"
# Llama's templates say the date, and a score does not depend on the day: theirs, if none is given.
_DATE = "26 Jul 2024"


class ControlTokens:
    """The tokens that a text must not have: a tokenizer's special ones, and those that a prompt's own literals use.

    Args:
        tokenizer: whose they are.
        literals: all of the prompt's, in one string.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, literals: str) -> None:
        added = tokenizer.added_tokens_decoder.values()
        tokens = [token for token in added if (token.special or token.content in literals) and token.content.strip()]
        found = {token.content for token in tokens}
        gaps = (" ", "\n", "\N{REPLACEMENT CHARACTER}")
        self._gap = next(gap for gap in gaps if not any(gap in token for token in found))
        self._spelt = _any_of(found)
        # Such a token is looked for in what the normaliser makes of a text: in full width, say, or in capitals.
        self._normaliser = tokenizer.backend_tokenizer.normalizer
        spelt = {self._normaliser.normalize_str(token.content) for token in tokens if token.normalized and self._normaliser}
        self._normalised = _any_of(spelt)

    def taken_out(self, text: str) -> str:
        """Return a text without them."""
        # Something is left where they were: else what stood around one could make up another.
        text = self._spelt.sub(self._gap, text) if self._spelt else text
        if self._normalised and self._normalised.search(normal := self._normaliser.normalize_str(text)):
            return self._normalised.sub(self._gap, normal)
        return text

    def check(self, texts: Iterable[str]) -> None:
        """See that a prompt's own texts have none.

        Raises:
            PromptError: one has.
        """
        for text in texts:
            if self._spelt and (found := self._spelt.search(text)):
                raise PromptError(f"the text {text!r} has the special token {found[0]!r}: it can only stand in a literal")
            if self.taken_out(text) != text:
                raise PromptError(
                    f"the text {text!r} has a special token once it is normalised: it can only stand in a literal"
                )


def _any_of(tokens: Iterable[str]) -> re.Pattern[str] | None:
    """Return a pattern of texts, the longest of those that match; None for no texts."""
    longest = sorted(filter(str.strip, tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest))) if longest else None


def bos_of(tokenizer: PreTrainedTokenizerBase, *, wanted: bool) -> np.ndarray:
    """Return the token that a sequence begins with, if it is wanted and there is one that is no padding: int32, (0 or 1,)."""
    bos = tokenizer.bos_token_id
    return np.array([bos] if wanted and bos is not None and bos != tokenizer.pad_token_id else [], np.int32)


def answer_token(texts: TextEncoder, name: str, answer: str) -> int:
    """Return the id of an answer.

    Raises:
        PromptError: it is no single token; the message calls it by ``name``.
    """
    ids = texts.encode([answer])[0]
    if len(ids) != 1:
        raise PromptError(f"{name} {answer!r} is {len(ids)} tokens of its tokenizer and has to be one: name another")
    return int(ids[0])


def chat_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str] | None:
    """Return what a chat template puts before and behind what a user says, None for a tokenizer without one."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    said = [{"role": "user", "content": _MARK}]
    try:
        text = tokenizer.apply_chat_template(
            said, tokenize=False, add_generation_prompt=True, enable_thinking=False, date_string=_DATE
        )
    except Exception as error:  # as many kinds as there are templates
        raise PromptError(f"its chat template cannot be used: {' '.join(str(error).split())[:200]}") from error
    before, *after = str(text).split(_MARK)
    if len(after) != 1:
        raise PromptError(f"its chat template says {len(after)} times what a user says once")
    return before, after[0]


def common(one: np.ndarray, other: np.ndarray) -> int:
    """Return how many tokens two sequences begin with alike."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length
