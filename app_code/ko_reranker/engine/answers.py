"""Heads of decoders: what is wanted of the states of a sequence's last tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from .items import Item

# States that are multiplied by the whole vocabulary at once: 150,000 tokens make 40 MB of logits.
_BLOCK = 64


class DecoderHead(Protocol):
    """From the states that a decoder gives to a number, or to several, for each sequence."""

    def __call__(self, states: torch.Tensor, items: Sequence[Item]) -> np.ndarray:
        """Return (sequences,) or (sequences, numbers), on the host.

        Args:
            states: (tokens that are read, hidden); of each sequence its last `Item.read` tokens, sequence after sequence.
            items: the sequences.
        """
        ...


class ChoiceHead:
    """The logits of some answers: of the vocabulary's many rows only theirs are multiplied.

    Args:
        rows: (answers, hidden); copied to float32.
        bias: (answers,), or None.
        cap: logits are ``cap * tanh(logit / cap)``; None for as they are.
    """

    def __init__(self, rows: torch.Tensor, bias: torch.Tensor | None = None, *, cap: float | None = None) -> None:
        # In fp32: in bf16 the answers' logits would be rounded apart, and at 18 their difference be off by some hundredths.
        self.rows, self.bias, self.cap = rows.float().clone(), None if bias is None else bias.float().clone(), cap

    def __call__(self, states: torch.Tensor, items: Sequence[Item]) -> np.ndarray:
        """Return the logits, (sequences, answers), of sequences of which the last token is read."""
        return choice_logits(states, self.rows, self.bias, self.cap).cpu().numpy()


class AnswerHead(ChoiceHead):
    """The logit of an answer, or how much it is above another's: its rows are (1, hidden) or (2, hidden)."""

    def __call__(self, states: torch.Tensor, items: Sequence[Item]) -> np.ndarray:
        """Return the first answer's logits less the second one's, (sequences,)."""
        return answer_logits(states, self.rows, self.bias, self.cap).cpu().numpy()


def choice_logits(
    states: torch.Tensor, rows: torch.Tensor, bias: torch.Tensor | None = None, cap: float | None = None
) -> torch.Tensor:
    """Return float32, (sequences, answers): what `ChoiceHead` gives, with a gradient where one is wanted."""
    return _capped(F.linear(states.float(), rows.float(), None if bias is None else bias.float()), cap)


def answer_logits(
    states: torch.Tensor, rows: torch.Tensor, bias: torch.Tensor | None = None, cap: float | None = None
) -> torch.Tensor:
    """Return float32, (sequences,): what `AnswerHead` gives, with a gradient where one is wanted."""
    logits = choice_logits(states, rows, bias, cap)
    return logits[:, 0] if len(rows) == 1 else logits[:, 0] - logits[:, 1]


class GreedyHead:
    """The token that is likeliest to follow.

    Args:
        vocabulary: (tokens, hidden), in the floating type and on the device of the states.
        bias: (tokens,), or None.
    """

    def __init__(self, vocabulary: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.vocabulary, self.bias = vocabulary, bias

    def __call__(self, states: torch.Tensor, items: Sequence[Item]) -> np.ndarray:
        """Return token ids, int64, (sequences,); caps of logits change none of them."""
        found = [F.linear(rows, self.vocabulary, self.bias).float().argmax(1) for rows in states.split(_BLOCK)]
        return torch.cat(found).cpu().numpy()


class LikelihoodHead:
    """How likely the tokens are that are to follow: the mean of their log-probabilities.

    Args:
        vocabulary: (tokens, hidden), in the floating type and on the device of the states.
        bias: (tokens,), or None.
        cap: of logits, as of `ChoiceHead`.
    """

    def __init__(self, vocabulary: torch.Tensor, bias: torch.Tensor | None = None, *, cap: float | None = None) -> None:
        self.vocabulary, self.bias, self.cap = vocabulary, bias, cap

    def __call__(self, states: torch.Tensor, items: Sequence[Item]) -> np.ndarray:
        """Return the mean log-probability of each sequence's targets."""
        targets = torch.from_numpy(np.concatenate([item.targets for item in items])).long().to(states.device)
        found = []
        for rows, wanted in zip(states.split(_BLOCK), targets.split(_BLOCK), strict=True):
            logits = _capped(F.linear(rows, self.vocabulary, self.bias).float(), self.cap)
            found.append(logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(1))
        values = torch.cat(found).cpu().numpy()
        lengths = np.array([item.read for item in items])
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        return np.add.reduceat(values, starts) / lengths.astype(np.float32)


def _capped(logits: torch.Tensor, cap: float | None) -> torch.Tensor:
    return logits if cap is None else (logits / cap).tanh() * cap
