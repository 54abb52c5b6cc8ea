"""Stage 3: the student learns to put Korean where the English model puts its translation.

Each step is of one kind, drawn in an order that the seed fixes:

- `lines`: aligned lines; the Korean line's mean vector is pulled to the English one's, in cosine and against the batch.
- `passages`: neighbouring lines joined to the length of real passages, the same loss. Lines alone teach short texts only.
- `questions`: native questions, headings, and sentences of native passages against their passage (or the rest of it),
  contrastively: the language that will be searched.
- `masked`: masked-language modelling of native passages, against drift towards documentation.

The loop writes a checkpoint every few minutes and goes on from it; the same seed gives the same steps.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer
from torch import nn
from transformers import BertModel

from training_job.mini_reranker.corpus import Corpus
from training_job.mini_reranker.texts import told_sentences

_TEMPERATURE = 0.05
_COSINE_WEIGHT = 3.0
_MASKED_SHARE = 0.2
_LOG_EVERY = 25


@dataclass(frozen=True)
class DistilSettings:
    """How the student is taught.

    Attributes:
        steps: optimiser steps.
        shares: of the steps that are of each kind.
        sizes: texts (or pairs) of a step of each kind.
        embedding_rate: the largest learning rate of the word embeddings.
        body_rate: the same of everything else.
        line_tokens: the longest line, in tokens.
        passage_tokens: the longest passage, in tokens.
        checkpoint_seconds: between checkpoints.
        seed: of everything drawn.
    """

    steps: int = 800
    shares: tuple[tuple[str, float], ...] = (("lines", 0.06), ("passages", 0.06), ("questions", 0.82), ("masked", 0.06))
    sizes: tuple[tuple[str, int], ...] = (("lines", 64), ("passages", 12), ("questions", 32), ("masked", 16))
    embedding_rate: float = 5e-4
    body_rate: float = 1e-4
    warmup: int = 40
    line_tokens: int = 64
    passage_tokens: int = 192
    checkpoint_seconds: float = 240
    seed: int = 0


class Student(nn.Module):
    """The encoder, and a head that guesses masked tokens; the guess is compared with the embeddings themselves."""

    def __init__(self, encoder: BertModel) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.config.hidden_size
        self.guess = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.guess_bias = nn.Parameter(torch.zeros(encoder.config.vocab_size))

    def guesses(self, states: torch.Tensor) -> torch.Tensor:  # (masked, width) -> (masked, vocabulary)
        return F.linear(self.guess(states), self.encoder.embeddings.word_embeddings.weight, self.guess_bias)


def english_encoder(folder: Path) -> BertModel:
    """Return the English model.

    Attention is spelt out: in bf16 on a CPU the fused kernel is slower, which makes a step take 1.7 times as long.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return BertModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32, attn_implementation="eager")


def new_student(english_model: Path, embeddings: np.ndarray) -> Student:
    """Return the English body under the new embeddings."""
    encoder = english_encoder(english_model)
    token_count, width = embeddings.shape
    table = nn.Embedding(token_count, width, padding_idx=0)
    table.weight.data.copy_(torch.from_numpy(embeddings))
    encoder.set_input_embeddings(table)
    encoder.config.vocab_size = len(embeddings)
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    encoder.config.hidden_dropout_prob = encoder.config.attention_probs_dropout_prob = 0.0
    return Student(encoder)


def distil(
    corpus: Corpus, tokenizer: Tokenizer, english_model: Path, start: np.ndarray, settings: DistilSettings, folder: Path
) -> BertModel:
    """Return the distilled encoder, resuming from the checkpoint in ``folder`` if there is one."""
    torch.manual_seed(settings.seed)
    teacher = english_encoder(english_model).eval()
    english = Tokenizer.from_file(str(english_model / "tokenizer.json"))
    english.no_padding()
    english.no_truncation()
    student = new_student(english_model, start)
    words = student.encoder.embeddings.word_embeddings.weight
    body = [parameter for parameter in student.parameters() if parameter is not words]
    optimizer = torch.optim.AdamW(
        [{"params": [words], "peak": settings.embedding_rate}, {"params": body, "peak": settings.body_rate}],
        lr=0.0,
        weight_decay=0.0,
        fused=True,
    )
    checkpoint, first = folder / "checkpoint.pt", 0
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        print(f"distil: going on after step {first} of {settings.steps}", flush=True)

    material = Material(corpus, tokenizer, english, settings)
    losses: dict[str, list[float]] = {kind: [] for kind, _ in settings.shares}
    started = saved = time.monotonic()
    tokens = 0
    student.train()
    for step, (kind, batch) in enumerate(material.batches(first), start=first):
        factor = min(1.0, (step + 1) / settings.warmup) * max(0.02, 1 - step / settings.steps)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        with torch.autocast("cpu", torch.bfloat16):
            loss = _LOSSES[kind](student, teacher, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses[kind].append(loss.item())
        tokens += sum(map(len, batch[0])) + (sum(map(len, batch[1])) if kind == "questions" else 0)
        done = step + 1
        if done % _LOG_EVERY == 0 or done == settings.steps:
            elapsed = time.monotonic() - started
            means = " ".join(f"{kind}={np.mean(values[-_LOG_EVERY:]):.3f}" for kind, values in losses.items() if values)
            rate = (done - first) / elapsed
            print(
                f"distil: step={done}/{settings.steps} {means} tokens_per_second={tokens / elapsed:.0f} "
                f"eta_seconds={(settings.steps - done) / rate:.0f}",
                flush=True,
            )
        if time.monotonic() - saved > settings.checkpoint_seconds or done == settings.steps:
            draft = checkpoint.with_suffix(".new")
            torch.save({"student": student.state_dict(), "optimizer": optimizer.state_dict(), "step": done}, draft)
            draft.replace(checkpoint)
            saved = time.monotonic()
    student.encoder.eval()
    return student.encoder


def _id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no {token}")
    return found


class Material:
    """What the steps are made of: encoded texts, and the order in which they come."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, english: Tokenizer, settings: DistilSettings) -> None:
        self.settings = settings
        self.special = {name: _id(tokenizer, name) for name in ("[CLS]", "[SEP]", "[MASK]")}
        self._tokenizer = tokenizer
        lines = corpus.aligned
        korean, others = self._bare(tokenizer, [ko for _, ko in lines]), self._bare(english, [en for en, _ in lines])
        ends = _id(english, "[CLS]"), _id(english, "[SEP]")
        longest = settings.line_tokens - 2
        unique = {lines[index]: index for index in range(len(lines)) if 3 <= len(korean[index]) <= 2 * longest}
        self.lines = [
            (self._framed(korean[index], longest), [ends[0], *others[index][:longest], ends[1]]) for index in unique.values()
        ]
        # Joined lines: from every place in the documents to some length between 64 tokens and the longest.
        draw = random.Random(settings.seed)  # noqa: S311  a seeded order, no secret
        self.passages, place = [], 0
        while place < len(lines):
            wanted = draw.randint(64, settings.passage_tokens - 2)
            mine: list[int] = []
            theirs: list[int] = []
            while place < len(lines) and len(mine) < wanted:
                mine, theirs, place = mine + korean[place], theirs + others[place], place + 1
            room = settings.passage_tokens - 2
            if len(mine) <= 2 * room:
                self.passages.append((self._framed(mine, room), [ends[0], *theirs[: 254 - 2], ends[1]]))
        native = [(record.query, record.positives[0]) for record in corpus.native("train")]
        headings = [(record.query, record.positives[0]) for record in corpus.pages]
        told = [pair for _, passage in native for pair in told_sentences(passage)]
        asked = [*native, *native, *headings, *dict.fromkeys(told)]
        room = settings.passage_tokens - 2
        self.questions = [
            (self._framed(question, 48), self._framed(passage, room))
            for question, passage in zip(
                self._bare(tokenizer, [question for question, _ in asked]),
                self._bare(tokenizer, [passage for _, passage in asked]),
                strict=True,
            )
        ]
        texts = [text for text in corpus.native_texts() if len(text) > 60]
        self.masked = [(self._framed(ids, 126),) for ids in self._bare(tokenizer, texts)]

    def batches(self, first: int) -> Iterator[tuple[str, tuple[list[list[int]], ...]]]:
        """Yield (kind, batch) of every step from ``first`` on."""
        names, shares = zip(*self.settings.shares, strict=True)
        kinds = random.Random(self.settings.seed).choices(names, shares, k=self.settings.steps)  # noqa: S311
        counts = dict.fromkeys(names, 0)
        for step, kind in enumerate(kinds):
            number = counts[kind]
            counts[kind] += 1
            if step >= first:
                yield kind, self._batch(kind, number)

    def _batch(self, kind: str, number: int) -> tuple[list[list[int]], ...]:
        """Return the ``number``-th batch of a kind: texts of like length, in an order drawn anew every epoch."""
        size, pool = dict(self.settings.sizes)[kind], getattr(self, kind)
        epoch, place = divmod(number, len(pool) // size)
        draw = random.Random(f"{self.settings.seed} {kind} {epoch}")  # noqa: S311
        order = list(range(len(pool)))
        draw.shuffle(order)
        window = 32 * size
        for start in range(0, len(order), window):
            order[start : start + window] = sorted(order[start : start + window], key=lambda index: len(pool[index][-1]))
        places = list(range(len(pool) // size))
        draw.shuffle(places)
        place = places[place]
        chosen = [pool[index] for index in order[place * size : (place + 1) * size]]
        if kind == "masked":
            return self._mask([text for (text,) in chosen], random.Random(f"{self.settings.seed} mask {number}"))  # noqa: S311
        return tuple(map(list, zip(*chosen, strict=True)))

    def _mask(self, texts: Sequence[list[int]], draw: random.Random) -> tuple[list[list[int]], list[list[int]]]:
        """Return (masked texts, targets): a target is the token that was there, or -100 where nothing is asked."""
        masked, targets = [], []
        for ids in texts:
            asked = [0 < place < len(ids) - 1 and draw.random() < _MASKED_SHARE for place in range(len(ids))]
            hidden = self.special["[MASK]"]
            masked.append([hidden if ask and draw.random() < 0.9 else token for token, ask in zip(ids, asked, strict=True)])
            targets.append([token if ask else -100 for token, ask in zip(ids, asked, strict=True)])
        return masked, targets

    def _framed(self, ids: Sequence[int], room: int) -> list[int]:
        return [self.special["[CLS]"], *ids[:room], self.special["[SEP]"]]

    @staticmethod
    def _bare(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def padded(texts: Sequence[Sequence[int]], fill: int = 0) -> torch.Tensor:
    """Return (texts, longest) ids."""
    longest = max(map(len, texts))
    return torch.tensor([[*ids, *[fill] * (longest - len(ids))] for ids in texts])


def mean_vectors(encoder: BertModel, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the texts' mean last states, of length 1: (texts, width)."""
    ids = padded(texts)
    mask = (ids != 0).long()
    states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float()
    weights = mask[..., None].float()
    return F.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)


def encode_all(encoder: BertModel, texts: Sequence[Sequence[int]], size: int = 32) -> torch.Tensor:
    """Return the mean vectors of many texts, (texts, width), without gradients."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    vectors = torch.zeros(len(texts), encoder.config.hidden_size)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            vectors[chosen] = mean_vectors(encoder, [texts[index] for index in chosen])
    return vectors.clone()


def _contrast(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the two-way softmax loss of each left vector finding its right one in the batch."""
    scores = left @ right.T / _TEMPERATURE
    target = torch.arange(len(left))
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2


def _follow_teacher(student: Student, teacher: BertModel, batch: tuple[list[list[int]], ...]) -> torch.Tensor:
    korean, english = batch
    with torch.no_grad():
        wanted = mean_vectors(teacher, english)
    given = mean_vectors(student.encoder, korean)
    return _COSINE_WEIGHT * (1 - (given * wanted).sum(1)).mean() + _contrast(given, wanted)


def _find_passage(student: Student, teacher: BertModel, batch: tuple[list[list[int]], ...]) -> torch.Tensor:
    questions, passages = batch
    return _contrast(mean_vectors(student.encoder, questions), mean_vectors(student.encoder, passages))


def _guess_masked(student: Student, teacher: BertModel, batch: tuple[list[list[int]], ...]) -> torch.Tensor:
    ids, targets = padded(batch[0]), padded(batch[1], fill=-100)
    states = student.encoder(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
    asked = targets != -100
    return 0.2 * F.cross_entropy(student.guesses(states[asked]).float(), targets[asked])


_LOSSES = {"lines": _follow_teacher, "passages": _follow_teacher, "questions": _find_passage, "masked": _guess_masked}
