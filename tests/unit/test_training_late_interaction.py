"""Training late interaction: the padded gradient, the calibration, one and two workers, a resumed run, a better model."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from late_interaction_models import bge, edit, ours, pylate, stanford
from safetensors.torch import load_file
from training_jobs import ALONE, CPU, distance, job_folders, records_with_negatives
from transformers import AutoModel

from ko_reranker.container import JobError, TrainingFolders
from ko_reranker.data.jsonl import write_jsonl
from ko_reranker.data.records import TrainingRecord
from ko_reranker.rankers import load_ranker
from ko_reranker.rankers.late_interaction_folders import Expansion, read_layout
from ko_reranker.recipes import RecipeError, changed
from ko_reranker.recipes.shipped import load_recipe, recipes
from training_job.families import load_family
from training_job.families.late_interaction import LateInteraction, fit_calibration
from training_job.launch import run_training
from training_job.loop.checkpoints import CheckpointStore
from training_job.loop.dataset import RecordFile
from training_job.loop.groups import Group, GroupSampler, group_loss, micro_batches
from training_job.loop.in_batch import in_batch_losses
from training_job.loop.max_sim import Passages, max_sims
from training_job.loop.worker import Worker
from training_job.train import train

QUICK = {"recipe": "tiny-colbert", "epochs": "1", "batch_queries": "5", "checkpoint_every_steps": "2", "log_every_steps": "1"}


def job(base: Path, records: list[TrainingRecord], dev: list[TrainingRecord] = (), **changes: str) -> TrainingFolders:
    return job_folders(base, QUICK | changes, records, dev)


@pytest.fixture(scope="module")
def records() -> list[TrainingRecord]:
    return records_with_negatives()


def weights(folders: TrainingFolders) -> dict[str, torch.Tensor]:
    return load_file(folders.model / "model.safetensors") | load_file(folders.model / "projection.safetensors")


# The gradient.


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "modernbert"])
def test_a_packed_step_has_the_gradient_of_each_text_alone(kind, reduce, tmp_path) -> None:
    folder = ours(kind, tmp_path, reduce=reduce, skip=(".", "!"), drop_first=True, expansion=Expansion(12))
    recipe = load_recipe({"recipe": "tiny-colbert", "base_model": str(folder), "temperature": "0.1"})
    family = load_family(folder, recipe, CPU)
    family.model.eval()
    texts = [
        ("서울 의 인구 는?", ["서울 의 인구 는 940 만 명 이다.", "부산 은 항구 도시 이다!"]),
        ("강", ["한국 에서 강 이다", "만 명"]),
    ]
    groups = [family.encode(record, query, passages, None) for record, (query, passages) in enumerate(texts)]
    logits = family.logits(groups, step=0)
    family.loss(logits, groups).backward()

    plain, projection = AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval(), read_layout(folder).projection
    weight = projection.weight.clone().requires_grad_()

    def vectors(text) -> torch.Tensor:
        ids = torch.from_numpy(text.item.ids.astype(np.int64))[None]
        mask = torch.ones_like(ids)
        if text.item.attended is not None:
            mask[:, text.item.attended :] = 0
        states = plain(input_ids=ids, attention_mask=mask).last_hidden_state[0]
        return F.normalize(F.linear(states, weight, projection.bias), dim=-1)[text.counted]

    expected = []
    for group in groups:
        query, *passages = map(vectors, group.texts)
        best = torch.stack([(query @ rows.T).amax(1) for rows in passages])
        expected.append((best.mean(1) if reduce == "mean" else best.sum(1)) / 0.1)
    torch.testing.assert_close(logits, torch.cat(expected), atol=1e-4, rtol=1e-4)
    group_loss(torch.cat(expected), groups).backward()
    mine = {name: value.grad for name, value in family.model["transformer"].named_parameters() if value.grad is not None}
    theirs = {name: value.grad for name, value in plain.named_parameters() if value.grad is not None}
    shared = {name for name in mine.keys() & theirs.keys() if not name.endswith("key.bias")}
    assert "pooler" in "".join(mine.keys() ^ theirs.keys()) or not mine.keys() ^ theirs.keys()
    assert distance({name: mine[name] for name in shared}, {name: theirs[name] for name in shared}) < 1e-4
    torch.testing.assert_close(family.model["projection"].weight.grad, weight.grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("dropout", "dtype"), [(0.1, None), (0.0, torch.bfloat16), (0.1, torch.bfloat16)])
def test_an_added_token_whose_window_holds_no_token_of_the_query_sees_nothing_and_is_no_failure(
    dropout, dtype, tmp_path
) -> None:
    folder = ours("modernbert", tmp_path, expansion=Expansion(40))
    edit(folder / "config.json", attention_dropout=dropout)
    family = load_family(folder, load_recipe({"recipe": "tiny-colbert", "base_model": str(folder), "query_length": "40"}), CPU)
    groups = [family.encode(0, "강", ["서울 의 인구 는 940 만 명 이다.", "부산 은 항구 도시 이다!"], None)]
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        logits = family.logits(groups, step=0)
    family.loss(logits, groups).backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(value.grad).all() for value in family.model.parameters() if value.grad is not None)


@pytest.mark.parametrize("length", [12, 40])
def test_queries_that_are_expanded_to_one_length_are_expanded_to_the_recipes(length, tmp_path) -> None:
    folder = ours("bert", tmp_path, expansion=Expansion(16))
    recipe = load_recipe({"recipe": "tiny-colbert", "base_model": str(folder), "query_length": str(length)})
    family = load_family(folder, recipe, CPU)
    for query in ("강", "서울 의 인구 는 " * 20):
        assert len(family.encode(0, query, ["부산"], None).texts[0].item) == length
    assert family.settings.expansion == Expansion(length)


@pytest.mark.parametrize(
    ("layout", "own"),
    [
        (lambda folder: stanford(folder, query_maxlen=32), 32),
        (lambda folder: stanford(folder, query_maxlen=None), 32),
        (pylate, 16),
        (lambda folder: pylate(folder, query_length=None, do_query_expansion=False), 64),
        (lambda folder: ours("bert", folder, query_length=24), 24),
        (bge, 64),
    ],
)
def test_a_query_is_as_long_as_the_bases_folder_says_unless_the_recipe_does(layout, own, tmp_path) -> None:
    folder = layout(tmp_path)
    settings = {"recipe": "ko-colbert-v1", "base_model": str(folder)}
    for recipe, length in ((settings, own), (settings | {"query_length": "20"}, 20)):
        family = load_family(folder, load_recipe(recipe), CPU)
        assert (family.settings.query_length, family.query_room) == (length, length)
        assert family.settings.expansion is None or family.settings.expansion.length == length


def test_two_workers_shares_add_up_to_the_gradient_of_one(records, tmp_path) -> None:
    """Dropout included, and whatever is computed together."""
    folder = ours("bert", tmp_path / "model", query_prefix="[Q] ", expansion=Expansion(12))
    edit = json.loads((folder / "config.json").read_text()) | {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
    (folder / "config.json").write_text(json.dumps(edit))
    write_jsonl(tmp_path / "train.jsonl", [record.to_json() for record in records[:12]])
    file = RecordFile(tmp_path / "train.jsonl")

    def gradient(world: int, budget: int) -> dict[str, torch.Tensor]:
        family = load_family(folder, load_recipe({"recipe": "tiny-colbert", "base_model": str(folder)}), CPU)
        sampler = GroupSampler(file, family.encode, group_size=4, batch_queries=12, seed=0)
        for rank in range(world):
            batch = sampler.batch(0, rank, world)
            for groups in micro_batches(batch.groups, budget):
                (family.loss(family.logits(groups, 0), groups) / batch.queries).backward()
        named = {name: value.grad for name, value in family.model.named_parameters() if value.grad is not None}
        return {name: value for name, value in named.items() if not name.endswith("key.bias")}

    assert distance(gradient(2, 1_500), gradient(1, 100_000)) < 1e-5


def test_a_passage_whose_every_cosine_is_negative_scores_below_zero_and_one_of_no_token_lowest() -> None:
    query = F.normalize(torch.tensor([[1.0, 0.2], [1.0, -0.2]]), dim=1)
    passages = Passages(torch.cat([-query, query]), [2, 0, 2, 0])
    found = max_sims(query, passages.take(passages.nearest(query)), passages.absent, mean=True)
    assert found[1] == found[3] == -1 <= found[0] < 0 < found[2]
    nothing = Passages(query.new_zeros(0, 2), [0, 0])
    assert max_sims(query, nothing.take(nothing.nearest(query)), nothing.absent, mean=False).tolist() == [-2, -2]


def test_vectors_are_compared_in_fp32_whatever_the_model_computes_in(tmp_path) -> None:
    """A mean of cosines in bf16 goes by steps of 0.004: a fifth of a temperature of 0.02."""
    folder = ours("bert", tmp_path, reduce="mean")
    family = load_family(folder, load_recipe({"recipe": "tiny-colbert", "base_model": str(folder)}), CPU)
    family.model.eval()
    groups = [family.encode(0, "서울 의 인구 는?", ["서울 의 인구 는 940 만 명 이다.", "부산 은 항구 도시 이다!"], None)]
    with torch.autocast("cpu", torch.bfloat16):
        logits = family.logits(groups, step=0)
        query, *passages = family.vectors(groups, step=0)[0]
    assert logits.dtype == torch.float32
    expected = torch.stack([(query @ rows.T).amax(1).mean() for rows in passages]) / family.temperature
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)


def test_a_teachers_scores_are_taken_by_their_order_and_spacing_alone() -> None:
    groups = [Group(0, (None,) * 3, (3.0, -1.0, 0.5)), Group(1, (None,) * 3, (300.0, -100.0, 50.0))]
    logits = torch.tensor([3.0, -1.0, 0.5, 30.0, -10.0, 5.0])
    loss = group_loss(logits, groups, distillation_weight=1.0, min_max=True)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    flat = torch.zeros(6, requires_grad=True)
    group_loss(flat, groups, distillation_weight=1.0, min_max=True).backward()
    assert torch.isfinite(flat.grad).all()


# In-batch negatives.


class Met(Worker):
    """One of some workers that are threads: what a collective adds up lies in a list that all of them see."""

    met: threading.Barrier
    table: list[torch.Tensor]
    calls: list[str]

    def all_gather_rows(self, rows: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        assert len(rows) == counts[self.rank]
        self.calls.append("gather")
        return torch.cat(self._shown(rows))

    def all_reduce_rows(self, rows: torch.Tensor) -> None:
        self.calls.append("reduce")
        rows.copy_(sum(self._shown(rows.clone())))

    def _shown(self, rows: torch.Tensor) -> list[torch.Tensor]:
        self.table[self.rank] = rows
        self.met.wait()
        everyone = list(self.table)
        self.met.wait()
        return everyone


def with_dropout(folder: Path) -> Path:
    path = ours("bert", folder, reduce="mean", query_prefix="[Q] ", expansion=Expansion(12)) / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2})
    )
    return folder


def in_batch_gradient(folder: Path, file: RecordFile, world: int, budget: int, queries: int = 7) -> tuple[dict, float, list]:
    """Return the gradient of a step, the loss, and the collectives of each worker."""
    recipe = load_recipe({"recipe": "tiny-colbert", "base_model": str(folder), "in_batch_negatives": "true"})
    met, table, calls = threading.Barrier(world, timeout=60), [torch.empty(0)] * world, [[] for _ in range(world)]
    # Not by the threads: while transformers loads a model it has functions of its own replaced, for the whole process.
    families = [load_family(folder, recipe, CPU) for _ in range(world)]

    def work(rank: int) -> tuple[LateInteraction, float]:
        family = families[rank]
        batch = GroupSampler(file, family.encode, group_size=4, batch_queries=queries, seed=0, whole=True).batch(0, rank, world)
        worker = Met(rank, world, 0, CPU)
        for name, value in (("met", met), ("table", table), ("calls", calls[rank])):
            object.__setattr__(worker, name, value)
        parts, summed = micro_batches(batch.groups, budget), 0.0
        for loss in in_batch_losses(family, parts, batch.shares, 0, worker, torch.autocast("cpu", enabled=False)):
            (loss / batch.queries).backward()
            summed += loss.item() / batch.queries
        return family, summed

    with ThreadPoolExecutor(world) as threads:
        done = list(threads.map(work, range(world)))
    gradient: dict[str, torch.Tensor] = {}
    for family, _ in done:
        for name, value in family.model.named_parameters():
            if value.grad is not None and not name.endswith("key.bias"):
                gradient[name] = gradient.get(name, 0) + value.grad
    return gradient, sum(loss for _, loss in done), calls


@pytest.fixture(scope="module")
def few(records, tmp_path_factory) -> tuple[Path, RecordFile]:
    """A model with dropout, and records among which one passage is the positive of two and one question comes twice."""
    base = tmp_path_factory.mktemp("few")
    again = replace(records[1], negatives=(*records[1].negatives[:1], records[0].positives[0]))
    twice = replace(records[2], query=records[0].query)
    write_jsonl(base / "train.jsonl", [record.to_json() for record in (*records[:1], again, twice, *records[3:7])])
    return with_dropout(base / "model"), RecordFile(base / "train.jsonl")


def test_in_batch_negatives_have_the_gradient_of_the_whole_steps_graph(few) -> None:
    folder, file = few
    gradient, summed, _ = in_batch_gradient(folder, file, 1, 400)
    family = load_family(folder, load_recipe({"recipe": "tiny-colbert", "base_model": str(folder)}), CPU)
    groups = GroupSampler(file, family.encode, group_size=4, batch_queries=7, seed=0).batch(0).groups
    vectors = family.vectors(groups, 0)
    loss = torch.zeros(())
    for group, (query, *_) in zip(groups, vectors, strict=True):
        right = {text for other in groups if other.query == group.query for text in other.positives}
        sims = []
        for other, (_, *passages) in zip(groups, vectors, strict=True):
            for text, rows in zip(other.passages, passages, strict=True):
                if other is group or (text not in right and text not in group.passages):
                    sims.append((query @ rows.T).amax(1).mean() / 0.02)
            if other is group:
                place = len(sims) - len(passages)
        loss = loss + F.cross_entropy(torch.stack(sims)[None], torch.tensor([place])) / len(groups)
    loss.backward()
    assert summed == pytest.approx(loss.item(), rel=1e-5)
    expected = {name: value.grad for name, value in family.model.named_parameters() if value.grad is not None}
    assert distance(gradient, {name: value for name, value in expected.items() if not name.endswith("key.bias")}) < 1e-5


@pytest.mark.parametrize(("world", "budget"), [(2, 100_000), (2, 400), (3, 400)])
def test_in_batch_negatives_across_workers_have_the_gradient_of_one(few, world, budget) -> None:
    """By two collectives a step, whatever the number of micro-batches."""
    gradient, loss, calls = in_batch_gradient(*few, world, budget)
    alone, expected, _ = in_batch_gradient(*few, 1, 100_000)
    assert distance(gradient, alone) < 1e-5 and loss == pytest.approx(expected, rel=1e-5)
    assert calls == [["gather", "reduce"]] * world


def test_a_worker_that_has_no_query_of_a_step_takes_part_all_the_same(few) -> None:
    gradient, _, calls = in_batch_gradient(*few, 3, 400, queries=2)
    assert calls == [["gather", "reduce"]] * 3
    assert distance(gradient, in_batch_gradient(*few, 1, 400, queries=2)[0]) < 1e-5


def test_memory_is_that_of_a_micro_batch_however_many_there_are(few, monkeypatch) -> None:
    held = peak = 0
    forward = LateInteraction.vectors

    class Kept:
        """What a graph keeps for the backward pass."""

        def __init__(self, tensor: torch.Tensor) -> None:
            nonlocal held, peak
            self.tensor, self.numbers = tensor, tensor.numel()
            held += self.numbers
            peak = max(peak, held)

        def __del__(self) -> None:
            nonlocal held
            held -= self.numbers

    def watched(self, groups, step):
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            return forward(self, groups, step)

    monkeypatch.setattr(LateInteraction, "vectors", watched)
    in_batch_gradient(*few, 1, 100_000)
    whole, peak = peak, 0
    in_batch_gradient(*few, 1, 250)
    assert 0 < peak < whole / 3


# The calibration.


def test_scale_and_offset_are_those_of_a_logistic_regression() -> None:
    draw = np.random.default_rng(0)
    groups = [np.concatenate([draw.normal(0.6, 0.1, 1), draw.normal(0.5, 0.1, 7)]) for _ in range(400)]
    fitted = fit_calibration(groups)
    assert fitted == fit_calibration(groups), "twice the same"
    # Two normals of one spread: the log-odds are a line, of slope (difference of means) / variance, 0 in the middle.
    assert fitted.scale == pytest.approx(10, rel=0.25)
    assert -fitted.offset / fitted.scale == pytest.approx(0.55, abs=0.01)
    assert fitted.queries == 400


def test_scores_that_separate_positives_and_negatives_get_a_finite_scale() -> None:
    fitted = fit_calibration([np.array([0.9, 0.1]), np.array([0.8, 0.2])] * 50)
    assert 0 < fitted.scale < 1e3 and np.isfinite(fitted.offset)
    assert fit_calibration([np.array([0.5])]).queries == 0, "nothing to compare: the default"


def test_scores_that_rank_upside_down_are_refused() -> None:
    with pytest.raises(JobError, match="positives score no higher than negatives"):
        fit_calibration([np.array([0.1, 0.9]), np.array([0.2, 0.8])])


# Runs.


def test_a_run_gets_better_on_held_out_queries_and_says_what_it_fitted(records, tmp_path, capsys) -> None:
    folders = job(tmp_path, records[:240], records[240:300])
    recipe = load_recipe(QUICK | {"epochs": "3", "batch_queries": "16", "dev_queries": "60"})
    train(recipe, folders, ALONE)
    rows = [json.loads(line) for line in (folders.output_data / "metrics.jsonl").read_text().splitlines()]
    mrrs = [row["dev_mrr"] for row in rows if "dev_mrr" in row]
    assert mrrs[-1] > mrrs[0] + 0.02
    settings = json.loads((folders.model / "reranker.json").read_text())
    assert (settings["family"], settings["recipe"]) == ("late_interaction", "tiny-colbert")
    assert settings["calibration"]["queries"] == 60
    assert json.loads((folders.model / "run_card.json").read_text())["calibration"] == settings["calibration"]
    assert "On dev: calibration" in capsys.readouterr().out

    # Scored as it was trained: dev's MRR and the middle of the calibration are those of the ranker.
    ranker = load_ranker(folders.model)
    ranks, sides = [], []
    for record in records[240:300]:
        scores = ranker.score(record.query, [record.positives[0], *record.negatives[:3]])
        ranks.append(1 / (1 + int((scores[1:] >= scores[0]).sum())))
        sides.append((float(scores[0]), *map(float, scores[1:])))
    assert np.mean(ranks) == pytest.approx(mrrs[-1], abs=0.03)
    assert np.mean([side[0] for side in sides]) > 0 > np.mean([score for side in sides for score in side[1:]])


@pytest.mark.parametrize("in_batch", ["false", "true"])
def test_a_killed_and_resumed_run_ends_with_the_same_weights(records, tmp_path, in_batch, monkeypatch, capsys) -> None:
    recipe = load_recipe(QUICK | {"in_batch_negatives": in_batch})
    once = job(tmp_path / "once", records[:22])
    train(recipe, once, ALONE)
    cut, save = job(tmp_path / "cut", records[:22]), CheckpointStore.save

    def save_and_die(self, step, progress) -> None:
        save(self, step, progress)
        raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointStore, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, cut, ALONE)
    monkeypatch.setattr(CheckpointStore, "save", save)
    train(recipe, cut, ALONE)
    assert "Resuming after step 2" in capsys.readouterr().out
    assert all(torch.equal(value, weights(cut)[name]) for name, value in weights(once).items())


def test_two_workers_train_the_model_that_one_does(records, tmp_path) -> None:
    """With in-batch negatives; 21 records in batches of 5: of the last step one worker has nothing."""
    one, two = (job(tmp_path / name, records[:21], in_batch_negatives="true") for name in ("one", "two"))
    train(load_recipe(QUICK | {"in_batch_negatives": "true"}), one, ALONE)
    assert run_training(two, workers=2) == 0
    assert distance(weights(two), weights(one)) < 1e-4


def test_in_batch_negatives_teach_records_that_have_none_of_their_own(records, tmp_path) -> None:
    folders = job(tmp_path, [replace(record, negatives=()) for record in records[:160]], records[240:300])
    settings = {"epochs": "3", "batch_queries": "16", "dev_queries": "60"}
    with pytest.raises(JobError, match="has a negative"):
        train(load_recipe(QUICK | settings), folders, ALONE)
    train(load_recipe(QUICK | settings | {"in_batch_negatives": "true"}), folders, ALONE)
    rows = [json.loads(line) for line in (folders.output_data / "metrics.jsonl").read_text().splitlines()]
    mrrs = [row["dev_mrr"] for row in rows if "dev_mrr" in row]
    assert mrrs[-1] > mrrs[0] + 0.02


def test_a_model_goes_on_from_its_own_projection(records, tmp_path) -> None:
    first = job(tmp_path / "first", records[:10])
    train(load_recipe(QUICK), first, ALONE)
    again = load_family(first.model, load_recipe(QUICK | {"base_model": str(first.model)}), CPU)
    assert torch.equal(again.model["projection"].weight, load_file(first.model / "projection.safetensors")["weight"])


# Settings.


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        (
            {"recipe": "tiny-colbert", "family": "colbert"},
            "'colbert' must be one of cross_encoder, late_interaction, gen",
        ),
        ({"recipe": "ko-colbert-v1", "temperature": "0"}, "temperature = '0' must be a number above 0"),
        ({"recipe": "ko-colbert-v1", "query_length": "4"}, "query_length = '4' must be a whole number of at least 8"),
        ({"recipe": "tiny", "temperature": "0.5"}, "temperature is of family late_interaction, and this one is cross_encoder"),
        ({"recipe": "tiny", "in_batch_negatives": "true"}, "in_batch_negatives is of family late_interaction"),
        ({"recipe": "tiny-colbert", "in_batch_negatives": "true", "batch_queries": "1"}, "needs batch_queries of 2 or more"),
        ({"recipe": "tiny-colbert", "in_batch_negatives": "some"}, "in_batch_negatives = 'some' must be true or false"),
    ],
)
def test_wrong_settings_are_named(hyperparameters, message) -> None:
    with pytest.raises(RecipeError, match=message):
        changed(recipes(), hyperparameters)
