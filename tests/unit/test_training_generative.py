"""Training generative rerankers: transformers' gradient, adapters that merge exactly, the level of scores, a better model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from generative_models import decoder, gemma_tokenizer, qwen_tokenizer, saved, shape
from safetensors.torch import load_file
from training_jobs import ALONE, CPU, distance, job_folders, records_with_negatives
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from ko_reranker.container import JobError, TrainingFolders
from ko_reranker.data.jsonl import write_jsonl
from ko_reranker.data.records import TrainingRecord
from ko_reranker.models import resolve_model
from ko_reranker.rankers import EngineOptions, RankerError, load_ranker
from ko_reranker.rankers.prompts import digest, shipped_prompt, shipped_prompts
from ko_reranker.rankers.prompts.encoding import PromptEncoder
from ko_reranker.recipes import PromptName, RecipeError, changed
from ko_reranker.recipes.shipped import load_recipe, recipes
from training_job.families import load_family
from training_job.launch import run_training
from training_job.loop import worker as workers
from training_job.loop.checkpoints import CheckpointStore
from training_job.loop.dataset import RecordFile
from training_job.loop.dev import DevSet
from training_job.loop.groups import Group, GroupSampler, binary_loss, group_loss, micro_batches
from training_job.train import train

QUICK = {
    **{"recipe": "tiny-generative", "epochs": "1", "batch_queries": "5", "group_size": "3"},
    **{"checkpoint_every_steps": "2", "log_every_steps": "1"},
}
# Every part that one architecture has and another has not: norms of queries and keys, caps, windows, biases, tied words.
CONFIGS = {
    "llama, biases": LlamaConfig(**shape(qwen_tokenizer()), attention_bias=True, mlp_bias=True),
    "qwen2, windows": Qwen2Config(
        **shape(qwen_tokenizer()), use_sliding_window=True, sliding_window=40, max_window_layers=1, tie_word_embeddings=True
    ),
    "qwen3": Qwen3Config(**shape(qwen_tokenizer()), head_dim=32, tie_word_embeddings=True),
    "gemma2": Gemma2Config(
        **shape(gemma_tokenizer()), head_dim=16, sliding_window=40, attn_logit_softcapping=5.0, final_logit_softcapping=3.0
    ),
    "gemma3": Gemma3TextConfig(**shape(gemma_tokenizer()), head_dim=16, sliding_window=40, sliding_window_pattern=2),
}
TEXTS = [
    ("서울의 인구는?", ["서울의 인구는 약 940만 명이다.", "부산은 항구 도시이다.", "강"]),
    ("김치는 어떻게 담그나", ["배추를 소금에 절여 담근다.", "The population of Seoul is about nine million."]),
]


def base(folder: Path, config: PreTrainedConfig) -> Path:
    tokenizer = gemma_tokenizer() if config.model_type.startswith("gemma") else qwen_tokenizer()
    return saved(folder, decoder(config), tokenizer)


def recipe_of(folder: Path, **changes: str):
    return load_recipe(
        {"recipe": "tiny-generative", "base_model": str(folder), "prompt": "qwen3-reranker", "max_length": "256"} | changes
    )


def job(folder: Path, records: list[TrainingRecord], dev: list[TrainingRecord] = (), **changes: str) -> TrainingFolders:
    return job_folders(folder, QUICK | changes, records, dev)


@pytest.fixture(scope="module")
def records() -> list[TrainingRecord]:
    return records_with_negatives()


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    return base(tmp_path_factory.mktemp("models") / "qwen", CONFIGS["qwen3"])


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def groups_of(family) -> list[Group]:
    return [family.encode(record, query, passages, None) for record, (query, passages) in enumerate(TEXTS)]


def learned(family, seed: int = 0) -> None:
    """Move adapters, whose second factor starts at zero, as if they had learned something."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in family.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.05)


# The gradient.


@pytest.mark.parametrize("twice", ["false", "true"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_packed_step_has_the_gradient_of_each_prompt_alone(kind, twice, tmp_path) -> None:
    """What a group's passages begin with is computed once, and only the answers' rows are multiplied."""
    folder = base(tmp_path, CONFIGS[kind])
    recipe = recipe_of(folder, prompt="general-en", tuning="full", max_length="256", gradient_checkpointing=twice)
    family = load_family(folder, recipe, CPU)
    groups = groups_of(family)
    assert all(pair.prefix is not None for group in groups for pair in group.pairs)
    logits = family.logits(groups, step=0)
    family.loss(logits, groups).backward()

    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    answers = PromptEncoder(AutoTokenizer.from_pretrained(folder), shipped_prompt("general-en"), 256).answers
    expected = []
    for group in groups:
        for pair in group.pairs:
            ids = torch.from_numpy(np.concatenate([pair.prefix.ids, pair.ids]).astype(np.int64))[None]
            last = plain(input_ids=ids).logits[0, -1]
            expected.append(last[answers[0]] - last[answers[1]])
    torch.testing.assert_close(logits, torch.stack(expected), atol=1e-4, rtol=1e-4)
    family.loss(torch.stack(expected), groups).backward()
    mine, theirs = gradients(family.model), gradients(plain)
    if not CONFIGS[kind].tie_word_embeddings:
        del theirs["lm_head.weight"]
    assert distance(mine, theirs) < 1e-4


def test_a_classifiers_row_is_trained_as_well(tmp_path) -> None:
    config = Qwen3Config(**shape(qwen_tokenizer()), head_dim=16, num_labels=1)
    folder = saved(tmp_path, decoder(config, AutoModelForSequenceClassification), qwen_tokenizer())
    family = load_family(folder, recipe_of(folder, tuning="full", max_length="256"), CPU)
    groups = groups_of(family)
    family.loss(family.logits(groups, step=0), groups).backward()
    assert family.model.score.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("twice", ["false", "true"])
def test_two_workers_shares_add_up_to_the_gradient_of_one(twice, qwen, records, tmp_path) -> None:
    """Dropout included, and whatever is computed together."""
    write_jsonl(tmp_path / "train.jsonl", [record.to_json() for record in records[:8]])
    file = RecordFile(tmp_path / "train.jsonl")

    def gradient(world: int, budget: int, twice: str) -> dict[str, torch.Tensor]:
        recipe = recipe_of(qwen, max_length="256", lora_dropout="0.3", gradient_checkpointing=twice)
        torch.manual_seed(0)
        family = load_family(qwen, recipe, CPU)
        learned(family)
        sampler = GroupSampler(file, family.encode, group_size=3, batch_queries=8, seed=0)
        for rank in range(world):
            batch = sampler.batch(0, rank, world)
            for groups in micro_batches(batch.groups, budget):
                (family.loss(family.logits(groups, 0), groups) / batch.queries).backward()
        return gradients(family.model)

    together = gradient(1, 100_000, "false")
    assert distance(gradient(2, 900, twice), together) < 1e-5
    assert all(name.rpartition("/")[2].startswith(("A.", "B.")) or ".A." in name or ".B." in name for name in together)


# The loss.


def test_the_binary_share_sees_the_level_that_differences_do_not() -> None:
    groups = [Group(0, (None,) * 4), Group(1, (None,) * 2), Group(2, (None,))]
    logits = torch.tensor([2.0, -1.0, 0.0, 1.0, 3.0, 4.0, 9.0])
    shifted = logits + 20
    assert group_loss(logits, groups).item() == pytest.approx(group_loss(shifted, groups).item(), abs=1e-4)
    assert binary_loss(shifted, groups) > binary_loss(logits, groups) + 10
    expected = [
        0.5 * np.log1p(np.exp(-2.0)) + 0.5 * np.mean(np.log1p(np.exp([-1.0, 0.0, 1.0]))),
        0.5 * np.log1p(np.exp(-3.0)) + 0.5 * np.log1p(np.exp(4.0)),
    ]
    assert binary_loss(logits, groups).item() == pytest.approx(sum(expected), abs=1e-5)


def test_the_loss_is_made_of_its_shares(qwen) -> None:
    family = load_family(qwen, recipe_of(qwen, binary_weight="0.25", distillation_weight="0.5"), CPU)
    groups = [Group(0, (None,) * 3, (3.0, -1.0, 0.5)), Group(1, (None,) * 3)]
    logits = torch.tensor([1.0, 2.0, 0.0, 1.0, -1.0, 0.0])
    wanted = 0.75 * group_loss(logits, groups, distillation_weight=0.5) + 0.25 * binary_loss(logits, groups)
    assert family.loss(logits, groups).item() == pytest.approx(wanted.item(), abs=1e-6)


# Adapters.


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's question to transformers
def test_merged_adapters_score_as_they_did_beside_the_base(qwen, tmp_path) -> None:
    recipe = recipe_of(qwen, max_length="256")
    family = load_family(qwen, recipe, CPU)
    learned(family)
    family.model.eval()
    groups = groups_of(family)
    with torch.no_grad():
        before = family.logits(groups, 0)
        start = load_family(qwen, recipe, CPU).logits(groups, 0)
    assert (before - start).abs().max() > 0.05, "nothing learned proves nothing"
    found = family.finish([groups], 0.0)
    assert set(found) == {"merged"}
    with torch.no_grad():
        torch.testing.assert_close(family.logits(groups, 0), before, atol=1e-5, rtol=0)
    family.save(tmp_path, {"family": "generative", "max_length": 256, **found})

    ranker = load_ranker(tmp_path, EngineOptions(device="cpu", workers=1))
    served = np.concatenate([ranker.score(query, passages) for query, passages in TEXTS])
    ranker.close()
    assert served == pytest.approx(before.numpy(), abs=1e-5)
    # peft reads what lies beside, and gives the same model.
    whole = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(qwen), tmp_path / "adapter").merge_and_unload()
    merged = load_file(tmp_path / "model.safetensors")
    for name, value in whole.state_dict().items():
        if name in merged:
            torch.testing.assert_close(value, merged[name], atol=1e-6, rtol=0)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(qwen)


def test_a_merge_that_loses_on_dev_is_refused(qwen) -> None:
    family = load_family(qwen, recipe_of(qwen), CPU)
    with pytest.raises(JobError, match=r"ranks worse on dev: MRR 0\.\d+ instead of 2\.5"):
        family.finish([groups_of(family)], 2.5)
    assert load_family(qwen, recipe_of(qwen), CPU).finish([], None) == {}


def test_of_few_queries_one_that_rounding_moved_is_no_loss(qwen) -> None:
    family = load_family(qwen, recipe_of(qwen), CPU)
    groups = groups_of(family)
    found = family.finish([groups], 0.0)["merged"]["dev_mrr"]
    assert family.model and load_family(qwen, recipe_of(qwen), CPU).finish([groups], found + 0.4)


def test_a_base_in_bf16_is_saved_so_and_evaluated_as_it_is_served(qwen, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(workers, "multiplies_bf16", lambda: True)
    family = load_family(qwen, recipe_of(qwen, precision="bf16"), CPU)
    assert {value.dtype for value in family.model.parameters()} == {torch.float32}, "what is trained"
    learned(family)
    groups = groups_of(family)
    with torch.autocast("cpu", torch.bfloat16):
        logits = family.logits(groups, 0)
    family.loss(logits, groups).backward()
    assert logits.dtype == torch.float32 and all(value.grad is not None for value in family.model.parameters())
    family.model.eval()
    with torch.no_grad():
        before = family.logits(groups, 0)
    found = family.finish([groups], 0.0)
    family.save(tmp_path, {"family": "generative", "max_length": 256, **found})
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    ranker = load_ranker(tmp_path, EngineOptions(device="cpu", workers=1))
    served = np.concatenate([ranker.score(query, passages) for query, passages in TEXTS])
    ranker.close()
    assert served == pytest.approx(before.float().numpy(), abs=0.3)


# Runs.


@pytest.fixture(scope="module")
def trained(tmp_path_factory, records) -> TrainingFolders:
    changes = {"batch_queries": "4", "group_size": "4", "checkpoint_every_steps": "100"}
    folders = job(tmp_path_factory.mktemp("trained"), records[:160], records[240:280], **changes)
    train(load_recipe(QUICK | changes), folders, ALONE)
    return folders


def test_a_run_gets_better_on_held_out_queries(trained, records) -> None:
    rows = [json.loads(line) for line in (trained.output_data / "metrics.jsonl").read_text().splitlines()]
    mrrs = [row["dev_mrr"] for row in rows if "dev_mrr" in row]
    assert mrrs[-1] > mrrs[0] + 0.05
    card = json.loads((trained.model / "run_card.json").read_text())
    assert card["merged"]["dev_mrr"] == pytest.approx(mrrs[-1], abs=0.01)
    assert card["recipe"]["tuning"] == "lora"

    # Served, what is relevant is above the rest, and the two lie around 0.
    ranker = load_ranker(trained.model, EngineOptions(device="cpu", workers=1, max_chunks=1))
    scores = [ranker.score(one.query, [one.positives[0], *one.negatives[:3]]) for one in records[240:252]]
    ranker.close()
    positive, negative = np.mean([one[0] for one in scores]), np.mean([one[1:].mean() for one in scores])
    assert positive > negative and abs(positive + negative) < 1


def test_the_result_says_by_itself_what_it_reads(trained) -> None:
    settings = json.loads((trained.model / "reranker.json").read_text())
    text = (trained.model / "prompt.yaml").read_text()
    assert (settings["family"], settings["recipe"], settings["max_length"]) == ("generative", "tiny-generative", 160)
    assert settings["generative"]["prompt_sha256"] == digest(text)
    assert text == (resolve_model("sample:tiny-decoder") / "prompt.yaml").read_text()
    assert {path.name for path in (trained.model / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_it_goes_on_from_what_was_trained(trained, records, tmp_path) -> None:
    again = load_family(trained.model, load_recipe(QUICK | {"base_model": str(trained.model)}), CPU)
    ranker = load_ranker(trained.model, EngineOptions(device="cpu", workers=1))
    record = records[0]
    passages = [record.positives[0], *record.negatives[:2]]
    again.model.eval()
    with torch.no_grad():
        logits = again.logits([again.encode(0, record.query, passages, None)], 0)
    assert logits.numpy() == pytest.approx(ranker.score(record.query, passages), abs=1e-4)
    ranker.close()


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_killed_and_resumed_run_ends_with_the_same_weights(tuning, records, tmp_path, monkeypatch, capsys) -> None:
    recipe = load_recipe(QUICK | {"tuning": tuning, "learning_rate": "1e-3"})
    once = job(tmp_path / "once", records[:18])
    train(recipe, once, ALONE)
    cut, save = job(tmp_path / "cut", records[:18]), CheckpointStore.save

    def save_and_die(self, step, progress) -> None:
        save(self, step, progress)
        raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointStore, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, cut, ALONE)
    monkeypatch.setattr(CheckpointStore, "save", save)
    sizes = [path.stat().st_size for path in cut.checkpoints.glob("step-*.pt")]
    whole = (resolve_model("sample:tiny-decoder") / "model.safetensors").stat().st_size
    assert (max(sizes) < whole / 2) == (tuning == "lora"), "of a base that stays as it is a checkpoint holds nothing"
    train(recipe, cut, ALONE)
    assert "Resuming after step 2" in capsys.readouterr().out
    one, other = (load_file(folders.model / "model.safetensors") for folders in (once, cut))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert (once.model / "adapter").is_dir() == (tuning == "lora")


def test_adapters_of_another_base_are_not_resumed_from(qwen, tmp_path) -> None:
    first = load_family(qwen, recipe_of(qwen), CPU)
    other = base(tmp_path, CONFIGS["llama, biases"])
    weights = AutoModelForCausalLM.from_pretrained(qwen)
    with torch.no_grad():
        weights.model.norm.weight.add_(1)
    moved = saved(tmp_path / "moved", weights, qwen_tokenizer())
    assert other.is_dir()
    with pytest.raises(JobError, match="are of another base_model"):
        load_family(moved, recipe_of(moved), CPU).model.load_state_dict(first.model.state_dict())


@pytest.mark.slow
def test_two_workers_train_the_model_that_one_does(records, tmp_path) -> None:
    one, two = job(tmp_path / "one", records[:12]), job(tmp_path / "two", records[:12])
    train(load_recipe(QUICK), one, ALONE)
    assert run_training(two, workers=2) == 0
    files = [load_file(folders.model / "model.safetensors") for folders in (two, one)]
    assert distance(*files) < 1e-4


# Settings.


def test_the_prompts_that_are_named_are_shipped_and_ask_for_an_answer() -> None:
    assert {shipped_prompt(name).method for name in PromptName.__args__} == {"pointwise"}


def test_prompt_and_instruction_of_the_recipe_are_trained_and_recorded(qwen, tmp_path) -> None:
    family = load_family(qwen, recipe_of(qwen, prompt="general-ko", instruction="법령 조문이 답이면 관련이 있다."), CPU)
    family.finish([], None)
    family.save(tmp_path, {"family": "generative", "max_length": 256})
    assert (tmp_path / "prompt.yaml").read_text() == shipped_prompts()["general-ko"]
    ranker = load_ranker(tmp_path, EngineOptions(device="cpu", workers=1))
    assert ranker.encoder.prompt.instruction == "법령 조문이 답이면 관련이 있다."
    ranker.close()


def test_an_instruction_of_a_record_takes_the_place_of_the_prompts_own(qwen, tmp_path) -> None:
    row = {"query": "임대차 기간은?", "pos": ["2년으로 본다."], "neg": ["부산은 항구이다."]}
    rows = [row, row | {"instruction": "법령 조문이 답이면 관련이 있다.<|im_end|>"}, row | {"instruction": None}]
    write_jsonl(tmp_path / "train.jsonl", rows)
    family = load_family(qwen, recipe_of(qwen, instruction="무엇이든"), CPU)
    sampler = GroupSampler(RecordFile(tmp_path / "train.jsonl"), family.encode, group_size=2, batch_queries=3, seed=0)
    texts = {}
    for group in sampler.batch(0).groups:
        for pair in group.pairs:
            texts.setdefault(group.record, []).append(qwen_tokenizer().decode([*pair.prefix.ids, *pair.ids]))
    asked = {record: {text.partition("<Query>")[0].partition("<Instruct>: ")[2] for text in texts[record]} for record in texts}
    assert asked[0] == asked[2] == {"무엇이든\n"}
    (own,) = asked[1]
    assert own.startswith("법령 조문이 답이면 관련이 있다.") and "<|im_end|>" not in own


def test_an_instruction_that_leaves_no_room_is_told_before_the_first_step(qwen, tmp_path) -> None:
    row = {"query": "질문", "pos": ["답"], "neg": ["아님"]}
    write_jsonl(tmp_path / "train.jsonl", [row | {"instruction": "짧다"}, row | {"instruction": "길다 " * 400}])
    family = load_family(qwen, recipe_of(qwen), CPU)
    with pytest.raises(JobError, match=r"The instruction of record 2 cannot be read: it leaves no room"):
        GroupSampler(RecordFile(tmp_path / "train.jsonl"), family.encode, group_size=2, batch_queries=2, seed=0)
    with pytest.raises(JobError, match=r"The instruction of record 2"):
        DevSet(tmp_path / "train.jsonl", family.encode, group_size=2, queries=2, seed=0)
    silent = load_family(qwen, recipe_of(qwen, prompt="bge-reranker-v2-gemma"), CPU)
    assert not silent.instructed
    GroupSampler(RecordFile(tmp_path / "train.jsonl"), silent.encode, group_size=2, batch_queries=2, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "bge-reranker-v2-gemma", "instruction": "x"}, "has no place for an instruction"),
        ({"max_length": "100"}, "max_length is 100"),
    ],
)
def test_a_prompt_that_does_not_do_is_refused(qwen, changes, message) -> None:
    with pytest.raises(RankerError, match=message):
        load_family(qwen, recipe_of(qwen, **changes), CPU)


def test_a_base_that_is_none_is_refused_by_what_is_wrong_with_it(qwen, tmp_path) -> None:
    nothing = load_recipe({"recipe": "tiny-generative", "base_model": str(qwen)})
    with pytest.raises(RankerError, match="nothing says which prompt it reads"):
        load_family(qwen, nothing, CPU)
    encoder = load_recipe({"recipe": "tiny-generative", "base_model": "sample:tiny", "prompt": "general-ko"})
    with pytest.raises(RankerError, match="is a xlm-roberta, and the decoders"):
        load_family(resolve_model("sample:tiny"), encoder, CPU)
    (tmp_path / "reranker.json").write_text(json.dumps({"family": "generative", "generative": {"prompt": "likelihood-ko"}}))
    likely = base(tmp_path, CONFIGS["qwen3"])
    with pytest.raises(RankerError, match="reads a prompt for likelihood ranking"):
        load_family(likely, load_recipe({"recipe": "tiny-generative", "base_model": str(likely)}), CPU)


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"recipe": "ko-generative-v1", "lora_rank": "0"}, "lora_rank = '0' must be a whole number of at least 1"),
        ({"recipe": "ko-generative-v1", "lora_dropout": "1"}, "lora_dropout = '1' must be a number of at least 0 and below 1"),
        (
            {"recipe": "ko-generative-v1", "binary_weight": "2"},
            "binary_weight = '2' must be a number of at least 0 and at most 1",
        ),
        ({"recipe": "ko-generative-v1", "prompt": "mine"}, "prompt = 'mine' must be one of bge-reranker-v2-gemma, general-en"),
        ({"recipe": "ko-generative-v1", "tuning": "qlora"}, "tuning = 'qlora' must be one of lora, full"),
        (
            {"recipe": "ko-generative-v1", "tuning": "full", "lora_rank": "4"},
            "lora_rank is of tuning lora, and this one is full",
        ),
        ({"recipe": "tiny", "lora_rank": "4"}, "lora_rank is of family generative, and this one is cross_encoder"),
        ({"recipe": "ko-generative-v1", "temperature": "0.5"}, "temperature is of"),
    ],
)
def test_wrong_settings_are_named(hyperparameters, message) -> None:
    with pytest.raises(RecipeError, match=message):
        changed(recipes(), hyperparameters)
