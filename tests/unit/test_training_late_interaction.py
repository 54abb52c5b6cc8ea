"""Training late interaction: the padded gradient, the calibration, one and two workers, a resumed run, a better model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from late_interaction_models import ours
from safetensors.torch import load_file
from transformers import AutoModel

from ko_reranker.container import JobError, TrainingFolders
from ko_reranker.data.jsonl import read_record_file, write_jsonl
from ko_reranker.data.records import TrainingRecord
from ko_reranker.rankers import load_ranker
from ko_reranker.rankers.late_interaction_folders import Expansion, read_layout
from ko_reranker.recipes import RecipeError, changed
from ko_reranker.recipes.shipped import load_recipe, recipes
from ko_reranker.samples import paths
from training_job.families import load_family
from training_job.families.late_interaction import fit_calibration, max_sims
from training_job.launch import run_training
from training_job.loop.checkpoints import CheckpointStore
from training_job.loop.dataset import RecordFile
from training_job.loop.groups import Group, GroupSampler, group_loss, micro_batches
from training_job.loop.worker import Worker
from training_job.train import train

CPU = torch.device("cpu")
ALONE = Worker(0, 1, 0, CPU)
QUICK = {"recipe": "tiny-colbert", "epochs": "1", "batch_queries": "5", "checkpoint_every_steps": "2", "log_every_steps": "1"}


def job(base: Path, records: list[TrainingRecord], dev: list[TrainingRecord] = (), **changes: str) -> TrainingFolders:
    folders = TrainingFolders(base)
    folders.dataset.mkdir(parents=True)
    folders.config.mkdir(parents=True)
    write_jsonl(folders.dataset / "train.jsonl", [record.to_json() for record in records])
    if dev:
        write_jsonl(folders.dataset / "dev.jsonl", [record.to_json() for record in dev])
    (folders.config / "hyperparameters.json").write_text(json.dumps(QUICK | changes))
    return folders


@pytest.fixture(scope="module")
def records() -> list[TrainingRecord]:
    return [record for record in read_record_file(paths.SAMPLE) if record.negatives]


def weights(folders: TrainingFolders) -> dict[str, torch.Tensor]:
    return load_file(folders.model / "model.safetensors") | load_file(folders.model / "projection.safetensors")


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    difference = sum((one[name] - other[name]).double().square().sum() for name in one)
    return float((difference / sum(value.double().square().sum() for value in other.values())).sqrt())


# The gradient.


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "modernbert"])
def test_a_packed_step_has_the_gradient_of_each_text_alone(kind, reduce, tmp_path) -> None:
    # Of ModernBERT, an added token's window may hold none of the query's: what it then sees is no model's intent.
    expansion = Expansion(8, attend=kind == "modernbert")
    folder = ours(kind, tmp_path, reduce=reduce, skip=(".", "!"), drop_first=True, expansion=expansion)
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

    plain, projection = AutoModel.from_pretrained(folder, attn_implementation="eager").eval(), read_layout(folder).projection
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
    found = max_sims(query, [-query, query.new_zeros(0, 2), query], mean=True)
    assert found[1] == -1 <= found[0] < 0 < found[2]


def test_a_teachers_scores_are_taken_by_their_order_and_spacing_alone() -> None:
    groups = [Group(0, (None,) * 3, (3.0, -1.0, 0.5)), Group(1, (None,) * 3, (300.0, -100.0, 50.0))]
    logits = torch.tensor([3.0, -1.0, 0.5, 30.0, -10.0, 5.0])
    loss = group_loss(logits, groups, distillation_weight=1.0, min_max=True)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    flat = torch.zeros(6, requires_grad=True)
    group_loss(flat, groups, distillation_weight=1.0, min_max=True).backward()
    assert torch.isfinite(flat.grad).all()


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
    looks = [row["dev_mrr"] for row in rows if "dev_mrr" in row]
    assert looks[-1] > looks[0] + 0.02
    settings = json.loads((folders.model / "reranker.json").read_text())
    assert (settings["family"], settings["recipe"]) == ("late_interaction", "tiny-colbert")
    assert settings["calibration"]["queries"] == 60
    assert json.loads((folders.model / "run_card.json").read_text())["calibration"] == settings["calibration"]
    assert "Fitted on dev: calibration" in capsys.readouterr().out

    # Scored as it was trained: dev's MRR and the middle of the calibration are those of the ranker.
    ranker = load_ranker(folders.model)
    ranks, sides = [], []
    for record in records[240:300]:
        scores = ranker.score(record.query, [record.positives[0], *record.negatives[:3]])
        ranks.append(1 / (1 + int((scores[1:] >= scores[0]).sum())))
        sides.append((float(scores[0]), *map(float, scores[1:])))
    assert np.mean(ranks) == pytest.approx(looks[-1], abs=0.03)
    assert np.mean([side[0] for side in sides]) > 0 > np.mean([score for side in sides for score in side[1:]])


def test_a_killed_and_resumed_run_ends_with_the_same_weights(records, tmp_path, monkeypatch, capsys) -> None:
    recipe = load_recipe(QUICK)
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
    one, two = job(tmp_path / "one", records[:22]), job(tmp_path / "two", records[:22])
    assert run_training(one, workers=1) == 0
    assert run_training(two, workers=2) == 0
    assert distance(weights(two), weights(one)) < 1e-4


def test_a_model_goes_on_from_its_own_projection(records, tmp_path) -> None:
    first = job(tmp_path / "first", records[:10])
    train(load_recipe(QUICK), first, ALONE)
    again = load_family(first.model, load_recipe(QUICK | {"base_model": str(first.model)}), CPU)
    assert torch.equal(again.model["projection"].weight, load_file(first.model / "projection.safetensors")["weight"])


# Settings.


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"recipe": "tiny-colbert", "family": "colbert"}, "family = 'colbert' must be one of cross_encoder, late_interaction"),
        ({"recipe": "ko-colbert-v1", "temperature": "0"}, "temperature = '0' must be a number above 0"),
        ({"recipe": "ko-colbert-v1", "query_length": "4"}, "query_length = '4' must be a whole number of at least 8"),
        ({"recipe": "tiny", "temperature": "0.5"}, "temperature is of late interaction"),
    ],
)
def test_wrong_settings_are_named(hyperparameters, message) -> None:
    with pytest.raises(RecipeError, match=message):
        changed(recipes(), hyperparameters)
