"""Training a late-interaction model (ColBERT): query and passages are read apart, and a passage's logit is its MaxSim.

Only what is scored later is computed: the tokens that count, by the rules of `ko_reranker.rankers.late_interaction_folders`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ko_reranker.container import JobError
from ko_reranker.engine.dense import OneDnnLinear
from ko_reranker.engine.positions import position_limit
from ko_reranker.rankers.classifiers import load_encoder
from ko_reranker.rankers.folders import LATE_INTERACTION, inspect_folder
from ko_reranker.rankers.interface import RankerError
from ko_reranker.rankers.late_interaction_folders import (
    Calibration,
    LateInteractionSettings,
    Projection,
    read_layout,
    write_layout,
)
from ko_reranker.rankers.late_interaction_texts import ApartEncoder, EncodedText
from ko_reranker.rankers.loading import family_of
from ko_reranker.recipes import Recipe
from training_job.loop.groups import Group, group_loss
from training_job.loop.max_sim import Passages, max_sims
from training_job.loop.packed import PACKED_ATTENTION, PackedEncoder, check_architecture, compute_twice

# Newton's steps of the calibration at most; it takes some ten.
_NEWTON_STEPS = 100


@dataclass(frozen=True, slots=True)
class ApartGroup(Group):
    """A query and its passages, read apart; `pairs` are the passages' sequences alone.

    Attributes:
        texts: the query, then the passages.
    """

    texts: tuple[EncodedText, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens of query and passages."""
        return sum(len(text.item) for text in self.texts)


# Tokens of a query, where neither recipe nor base says how many.
_QUERY_LENGTH = 64


class LateInteraction:
    """See `training_job.loop.family.TrainedFamily`."""

    reads = "passage"
    instructed = False

    def __init__(
        self,
        transformer: PreTrainedModel,
        projection: nn.Linear,
        settings: LateInteractionSettings,
        tokenizer: PreTrainedTokenizerBase,
        recipe: Recipe,
    ) -> None:
        self.settings, self._tokenizer = settings, tokenizer
        self.max_length, self.query_room = settings.document_length, settings.query_length
        self.channels, self.temperature, self.mean = settings.dim, recipe.temperature, settings.reduce == "mean"
        self._share, self._teacher_temperature = recipe.distillation_weight, recipe.distillation_temperature
        self._texts = ApartEncoder(tokenizer, settings)
        if recipe.gradient_checkpointing:
            compute_twice(transformer)
        self._encoder = PackedEncoder(transformer, recipe.seed, reads="all")
        self._transformer = transformer
        self._projection = OneDnnLinear(projection) if torch.backends.mkldnn.is_available() else projection
        self.model = nn.ModuleDict({"transformer": transformer, "projection": self._projection})

    @classmethod
    def load(cls, folder: Path, recipe: Recipe, device: torch.device) -> LateInteraction:
        """Load a late-interaction model, or a transformer whose projection starts from PyTorch's generator."""
        name = recipe.base_model
        projected: Projection | None = None
        query_length = recipe.query_length or _QUERY_LENGTH
        if family_of(folder, name) == LATE_INTERACTION:
            layout = read_layout(folder, name)
            source, settings, projected = layout.source, layout.settings, layout.projection
            if recipe.query_length is None and layout.names_query_length:
                query_length = settings.query_length
        else:
            source = inspect_folder(folder, name, body=True)
            settings = LateInteractionSettings(dim=recipe.projection_dim, reduce="mean")
        check_architecture(source)
        loaded = load_encoder(source, dtype=torch.float32, attn_implementation=PACKED_ATTENTION)
        transformer = loaded.transformer
        limit = position_limit(transformer)
        settings = replace(
            settings,
            query_length=min(query_length, limit),
            document_length=min(recipe.max_length, limit),
        )
        expansion = settings.expansion
        if expansion and expansion.strategy == "fixed":  # its length is the queries': they are cut or made longer to it
            settings = replace(settings, expansion=replace(expansion, length=settings.query_length))
        hidden = transformer.config.hidden_size
        layer = nn.Linear(hidden, settings.dim, bias=projected is not None and projected.bias is not None)
        if projected is not None:
            layer.weight.data.copy_(projected.weight)
            if projected.bias is not None:
                layer.bias.data.copy_(projected.bias)
        nn.Module.to(transformer, device).train()
        try:
            return cls(transformer, layer.to(device), settings, loaded.tokenizer, recipe)
        except ValueError as error:
            raise RankerError(f"{name} cannot be used: {error}") from error

    def encode(
        self,
        record: int,
        query: str,
        passages: Sequence[str],
        teacher: tuple[float, ...] | None,
        instruction: str | None = None,
    ) -> Group:
        """Return the query and its passages; the end of a long one is cut off."""
        asked, query_cut = self._texts.query(query)
        encoded = self._texts.documents(passages).texts
        return ApartGroup(record, tuple(text.item for text in encoded), teacher, query_cut, texts=(asked, *encoded))

    def logits(self, groups: Sequence[Group], step: int) -> torch.Tensor:
        """Return the passages' MaxSim by the temperature."""
        return torch.cat(self._max_sims(groups, step)) / self.temperature

    def vectors(self, groups: Sequence[Group], step: int) -> list[list[torch.Tensor]]:
        """Return of each group the vectors of the query, then of each passage: float32, (vectors, dim), each of length 1."""
        texts = [text for group in groups for text in _apart(group).texts]
        streams = [(step, group.record, index) for group in groups for index in range(len(_apart(group).texts))]
        states = self._encoder([text.item for text in texts], streams)
        vectors = F.normalize(self._projection(states).float(), dim=-1)  # (tokens, dim)
        counted = (
            own[torch.from_numpy(text.counted).to(own.device)]
            for own, text in zip(vectors.split(self._encoder.batch.lengths), texts, strict=True)
        )
        return [[next(counted) for _ in _apart(group).texts] for group in groups]

    def counts(self, group: Group) -> list[int]:
        """Return how many vectors each passage of a group has."""
        return [len(text.counted) for text in _apart(group).texts[1:]]

    def loss(self, logits: torch.Tensor, groups: Sequence[Group], others: torch.Tensor | None = None) -> torch.Tensor:
        """Return the groups' cross-entropy, or their divergence from the teacher's scores.

        MaxSim and a teacher's scores have nothing of a scale in common: each group's are brought to 0..1.

        Args:
            logits: (passages,), group after group.
            groups: what they are of.
            others: (groups, any); logits of other groups' passages, negatives as well.
        """
        return group_loss(
            logits,
            groups,
            distillation_weight=self._share,
            temperature=self._teacher_temperature,
            min_max=True,
            others=others,
        )

    def finish(self, batches: Sequence[Sequence[Group]], dev_mrr: float | None) -> dict[str, Any]:
        """Return scale and offset that turn the mean of a query's best matches into a logit, fitted on dev."""
        if not batches:
            return {"calibration": asdict(Calibration())}
        means: list[np.ndarray] = []
        self.model.eval()
        with torch.no_grad():
            for groups in batches:
                for group, sims in zip(groups, self._max_sims(groups, 0), strict=True):
                    count = 1 if self.mean else len(_apart(group).texts[0].counted)
                    means.append((sims.double() / count).cpu().numpy())
        return {"calibration": asdict(fit_calibration(means))}

    def save(self, folder: Path, settings: dict[str, Any]) -> None:
        """Write transformer, projection and rules."""
        self._transformer.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)
        recorded = {key: value for key, value in settings.items() if key not in ("family", "max_length", "calibration")}
        projection = Projection(self._projection.weight.detach(), self._bias)
        write_layout(folder, self.settings, projection, Calibration(**settings["calibration"]), **recorded)

    @property
    def _bias(self) -> torch.Tensor | None:
        return None if self._projection.bias is None else self._projection.bias.detach()

    def _max_sims(self, groups: Sequence[Group], step: int) -> list[torch.Tensor]:
        """Return each group's MaxSims, (passages,)."""
        found = []
        for query, *own in self.vectors(groups, step):
            passages = Passages(torch.cat(own), [len(rows) for rows in own])
            found.append(max_sims(query, passages.take(passages.nearest(query)), passages.absent, mean=self.mean))
        return found


def _apart(group: Group) -> ApartGroup:
    if not isinstance(group, ApartGroup):
        raise TypeError(f"a group of {type(group).__name__} is not read apart")
    return group


def fit_calibration(groups: Sequence[np.ndarray]) -> Calibration:
    """Return scale and offset of a logistic regression (Platt) of relevance on the mean of a query's best matches.

    Positives and negatives weigh alike, whatever the size of the groups: 0.5 is where both are as likely. The targets are
    Platt's, a little inside of 0 and 1, which keeps the scale finite where the scores separate the two.

    Args:
        groups: of each query float64 means, (passages,), the positive's first.

    Raises:
        JobError: positives score no higher than negatives, so that no scale above 0 fits.
    """
    groups = [means for means in groups if len(means) > 1]
    positives = np.array([means[0] for means in groups])
    negatives = np.concatenate([means[1:] for means in groups]) if groups else np.zeros(0)
    if not len(groups):
        return Calibration()
    values = np.concatenate([positives, negatives])
    counts = len(positives), len(negatives)
    targets = np.repeat([(counts[0] + 1) / (counts[0] + 2), 1 / (counts[1] + 2)], counts)
    weights = np.repeat([0.5 / counts[0], 0.5 / counts[1]], counts)
    center, spread = values.mean(), max(values.std(), 1e-9)
    design = np.stack([(values - center) / spread, np.ones_like(values)], 1)
    found = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        chances = 1 / (1 + np.exp(-np.clip(design @ found, -500, 500)))
        gradient = design.T @ (weights * (chances - targets))
        curvature = (design * (weights * chances * (1 - chances))[:, None]).T @ design + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        step *= min(1.0, 5 / max(np.abs(step).max(), 1e-300))  # far from the end, Newton overshoots
        found -= step
        if np.abs(step).max() < 1e-10:
            break
    scale, offset = float(found[0] / spread), float(found[1] - found[0] * center / spread)
    if not (math.isfinite(scale) and math.isfinite(offset) and scale > 0):
        raise JobError(
            "On dev, positives score no higher than negatives: no scale turns such scores into ones from 0 to 1. The model "
            "ranks nothing: look at the records, or lower learning_rate."
        )
    return Calibration(scale, offset, len(groups))
