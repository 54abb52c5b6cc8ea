"""The build, stage by stage; each leaves its result in a folder of its own, and one that is there is not made again."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from transformers import BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from ko_reranker.container import JobError, TrainingFolders
from ko_reranker.data.jsonl import write_json
from ko_reranker.data.records import TrainingRecord
from ko_reranker.evaluation.questions import Question, TestSet
from ko_reranker.processor import usable_cores
from ko_reranker.rankers import load_ranker
from ko_reranker.rankers.folders import SETTINGS_FILE
from ko_reranker.samples.packed import pack, unpack
from training_job.launch import run_training
from training_job.mini_reranker.corpus import Corpus
from training_job.mini_reranker.distil import DistilSettings, distil, encode_all, english_encoder, new_student
from training_job.mini_reranker.embeddings import initial_embeddings
from training_job.mini_reranker.groups import FIRST_ROUND, SECOND_ROUND, Mixture, write_groups
from training_job.mini_reranker.kinds import KINDS, digest, validation_kinds
from training_job.mini_reranker.needle import LENGTHS, needle_table, summary
from training_job.mini_reranker.vocabulary import build_tokenizer, build_vocabulary
from training_job.mini_reranker.wiring import wire_matching_heads

RECIPE = "mini"
ENGLISH_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
POSITIONS = 512
_DONE = "done.json"
_KINDS = "validation_kinds"  # SHA-256 of each, in what the stage of the groups leaves
_MOST_WORKERS = 8


@dataclass(frozen=True)
class Build:
    """One build of the mini reranker.

    Attributes:
        corpus: the data.
        english: the folder of the English encoder, a BERT: config.json, model.safetensors, tokenizer.json.
        work: where the stages leave their results.
        pieces: the vocabulary's size.
        lines: aligned lines that vocabulary and alignment read.
        distillation: how the student is taught.
        mixture: the records of the first round of fine-tuning.
        finetuning: its hyperparameters that are not the recipe's.
        second_mixture: the records of the second round, whose negatives the model of the first chooses.
        second_finetuning: hyperparameters of the second round.
        members: models of the second round, of a seed and a share of the records each, whose weights are averaged.
        needle_lengths: of the needle test's documents, in characters.
    """

    corpus: Corpus
    english: Path
    work: Path
    pieces: int = 28_000
    lines: int = 90_000
    distillation: DistilSettings = field(default_factory=DistilSettings)
    mixture: Mixture = FIRST_ROUND
    finetuning: Mapping[str, str] = field(default_factory=lambda: {"epochs": "1", "learning_rate": "1e-4"})
    second_mixture: Mixture = SECOND_ROUND
    second_finetuning: Mapping[str, str] = field(
        default_factory=lambda: {"epochs": "1", "learning_rate": "5e-5", "group_size": "8"}
    )
    members: int = 2
    needle_lengths: tuple[int, ...] = LENGTHS

    def run(self, last: str | None = None) -> None:
        """Make every stage that is not there, up to ``last``."""
        names = list(STAGES)
        for name in names[: names.index(last) + 1] if last else names:
            folder = self.work / name
            if (folder / _DONE).is_file():
                print(f"{name}: there already", flush=True)
                continue
            folder.mkdir(parents=True, exist_ok=True)
            started = time.monotonic()
            result = STAGES[name](self, folder) | {"seconds": round(time.monotonic() - started, 1)}
            write_json(folder / _DONE, result)
            print(f"{name}: {json.dumps(result, ensure_ascii=False)}", flush=True)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        return build_tokenizer(json.loads((self.work / "vocabulary/pieces.json").read_text(encoding="utf-8")), POSITIONS)

    def some_lines(self) -> list[tuple[str, str]]:
        lines = list(dict.fromkeys(self.corpus.aligned))
        random.Random(0).shuffle(lines)  # noqa: S311  a seeded draw, no secret
        return lines[: self.lines]

    def english_tokenizer(self) -> Tokenizer:
        tokenizer = Tokenizer.from_file(str(self.english / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


def _vocabulary(build: Build, folder: Path) -> dict[str, Any]:
    english, korean = zip(*build.some_lines(), strict=True)
    pieces = build_vocabulary(build.corpus.native_texts(), korean, english, build.english_tokenizer(), build.pieces)
    (folder / "pieces.json").write_text(json.dumps(pieces, ensure_ascii=False), encoding="utf-8")
    tokenizer = build_tokenizer(pieces, POSITIONS)
    passages = [record.positives[0] for record in build.corpus.native("validation")]
    counts = [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch(passages, add_special_tokens=False)]
    total = sum(map(len, counts))
    return {
        "pieces": len(pieces),
        "characters_per_piece": round(sum(map(len, passages)) / total, 3),
        "unknown_share": round(sum(ids.count(tokenizer.unk_token_id) for ids in counts) / total, 5),
    }


def _embeddings(build: Build, folder: Path) -> dict[str, Any]:
    weights = load_file(build.english / "model.safetensors")
    (name,) = (name for name in weights if name.endswith("word_embeddings.weight"))
    tokenizer = build.tokenizer()
    start = initial_embeddings(
        list(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))),
        tokenizer.backend_tokenizer,
        build.english_tokenizer(),
        weights[name].astype(np.float32),
        build.some_lines(),
    )
    np.save(folder / "start.npy", start.embeddings)
    return start.sources | {"check": check(build, new_student(build.english, start.embeddings).encoder)}


def _distillation(build: Build, folder: Path) -> dict[str, Any]:
    tokenizer = build.tokenizer()
    start = np.load(build.work / "embeddings/start.npy")
    encoder = distil(build.corpus, tokenizer.backend_tokenizer, build.english, start, build.distillation, folder)
    encoder.save_pretrained(folder / "model")
    return {"steps": build.distillation.steps, "check": check(build, encoder)}


def _classifier(build: Build, folder: Path) -> dict[str, Any]:
    """Turn the encoder into a cross-encoder to be fine-tuned."""
    tokenizer = build.tokenizer()
    torch.manual_seed(0)
    # The English model's pooler starts the head, whose one logit is new.
    classifier = BertForSequenceClassification.from_pretrained(
        build.english,
        num_labels=1,
        vocab_size=len(tokenizer),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        ignore_mismatched_sizes=True,
        dtype=torch.float32,
    )
    encoder = BertModel.from_pretrained(build.work / "distillation/model", add_pooling_layer=False)
    classifier.bert.load_state_dict(encoder.state_dict(), strict=False)
    passages = list(dict.fromkeys(record.positives[0] for record in build.corpus.native("train")))[:300]
    texts = [encoding.ids[:192] for encoding in tokenizer.backend_tokenizer.encode_batch(passages)]
    wiring = wire_matching_heads(classifier.bert.eval(), texts)
    classifier.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return wiring


def _groups(build: Build, folder: Path) -> dict[str, Any]:
    # What choices will be made on is fixed before anything is fine-tuned.
    kinds = {name: digest(test_set) for name, test_set in validation_kinds(build.corpus).items()}
    return write_groups(build.corpus, build.mixture, folder) | {_KINDS: kinds}


def _finetuning(build: Build, folder: Path) -> dict[str, Any]:
    return _fine_tune(folder, build.work / "classifier/model", build.work / "groups", build.finetuning)


def _second_groups(build: Build, folder: Path) -> dict[str, Any]:
    """Make records for the second round: other draws, and negatives that the model of the first takes most for right."""
    ranker = load_ranker(build.work / "finetuning/model")
    counts = write_groups(build.corpus, build.second_mixture, folder, ranker)
    ranker.close()
    records = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    random.Random(build.second_mixture.seed).shuffle(records)  # noqa: S311  a seeded draw, no secret
    for member in range(build.members):
        share = folder / f"member-{member}"
        share.mkdir(exist_ok=True)
        (share / "train.jsonl").write_text("".join(records[member :: build.members]), encoding="utf-8")
        shutil.copyfile(folder / "dev.jsonl", share / "dev.jsonl")
    return counts


def _second_finetuning(build: Build, folder: Path) -> dict[str, Any]:
    """Fine-tune each member on its share from the model of the first round, and average their weights."""
    members = [folder / f"member-{member}" for member in range(build.members)]
    results = {}
    for seed, member in enumerate(members):
        settings = {"seed": str(seed), **build.second_finetuning}
        if not (member / "model" / "run_card.json").is_file():
            results[member.name] = _fine_tune(
                member, build.work / "finetuning/model", build.work / "second_groups" / member.name, settings
            )
    shutil.copytree(members[0] / "model", folder / "model", dirs_exist_ok=True)
    average([member / "model" for member in members], folder / "model")
    return results


def average(models: Sequence[Path], into: Path) -> None:
    """Write the mean of some models' weights (Wortsman et al. 2022, Model soups) into a folder that has the other files.

    The models have started from the same weights: else their mean is no model.
    """
    weights = [load_file(model / "model.safetensors") for model in models]
    mean = {name: np.stack([each[name] for each in weights]).mean(axis=0) for name in weights[0]}
    save_file(mean, into / "model.safetensors", metadata={"format": "pt"})


def _fine_tune(folder: Path, base: Path, groups: Path, settings: Mapping[str, str]) -> dict[str, Any]:
    """Run the project's trainer as a training job does, on a CPU with one worker a core.

    Threads that wait for each other spin, which on a machine that does something else besides costs more than it computes.
    """
    folders = TrainingFolders(folder.resolve())
    for place in (folders.config, folders.dataset):
        place.mkdir(parents=True, exist_ok=True)
    hyperparameters = {"recipe": RECIPE, "base_model": str(base.resolve()), **settings}
    (folders.config / "hyperparameters.json").write_text(json.dumps(hyperparameters), encoding="utf-8")
    for name in ("train.jsonl", "dev.jsonl"):
        target = folders.dataset / name
        target.unlink(missing_ok=True)
        os.link(groups / name, target)
    if run_training(folders, workers=1 if torch.cuda.is_available() else min(usable_cores(), _MOST_WORKERS)):
        raise JobError("Fine-tuning stopped: see above. The same command goes on from its checkpoint.")
    card = json.loads((folders.model / "run_card.json").read_text(encoding="utf-8"))
    return {"model": str(folder / "model"), "tokens_per_second": card["tokens_per_second"]}


def _package(build: Build, folder: Path) -> dict[str, Any]:
    size = pack(build.work / "second_finetuning/model", folder / "packed")
    # Where the base lay on the machine of the build is nobody's business.
    settings = folder / "packed" / SETTINGS_FILE
    told = json.loads(settings.read_text(encoding="utf-8")) | {"base_model": ENGLISH_MODEL}
    told.pop("base_commit", None)
    settings.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    unpack(folder / "packed", folder / "model")
    return {"megabytes": round(size / 1e6, 2)}


def _evaluation(build: Build, folder: Path) -> dict[str, Any]:
    """Judge the result, on the validation kinds as they were before the fine-tuning.

    Raises:
        JobError: a kind has changed since, or was not kept: choices made on it say nothing.
    """
    from ko_reranker.evaluation.evaluate import EvaluationSettings, evaluate, write_report

    frozen = json.loads((build.work / "groups" / _DONE).read_text(encoding="utf-8")).get(_KINDS, {})
    sets = test_sets(build.corpus)
    digests = {name: digest(test_set) for name, test_set in sets.items()}
    if changed := [name for name in KINDS if frozen.get(name) != digests[f"{name}-validation"]]:
        raise JobError(f"The validation kinds {', '.join(changed)} are not those of the stage groups: make it again.")
    results: dict[str, Any] = {}
    model = build.work / "package/model"
    models = {"bm25-morphemes": "bm25:morphemes", "mini": str(model)}
    for name, test_set in sets.items():
        if not test_set.questions:  # a small data folder has some kinds only
            continue
        report, _, _ = evaluate(test_set, EvaluationSettings(models, candidates=50, fuse=0.5))
        write_report(folder / name, report)
        results[name] = {"sha256": digests[name]} | {
            row: {metric: values[metric] for metric in ("mrr", "ndcg@10")} for row, values in report["rows"].items()
        }
    ranker = load_ranker(model)
    results["needle"] = summary(needle_table(ranker, build.corpus, lengths=build.needle_lengths))
    ranker.close()
    return results


def test_sets(corpus: Corpus) -> dict[str, TestSet]:
    """Return what the result is judged on, by name.

    Choices are made on the two validation sets and the five kinds; nothing looks at the other two before the end.
    """
    tydi = [record for side in corpus.tydi.values() for record in side]
    dev = corpus.kobest_dev()
    asked = {
        "tydi-validation": (corpus.tydi["validation"], tydi),
        "kobest-validation": (corpus.kobest["validation"], corpus.kobest["validation"]),
        "tydi-held-out": (corpus.tydi["held-out"], tydi),
        "kobest-dev": (dev, dev),
    }
    plain = {name: _test_set(name, questions, searched) for name, (questions, searched) in asked.items()}
    return plain | {f"{name}-validation": test_set for name, test_set in validation_kinds(corpus).items()}


def _test_set(name: str, questions: Sequence[TrainingRecord], searched: Sequence[TrainingRecord]) -> TestSet:
    """Return the questions of some records, each once, asked to the right passages of others."""
    right: dict[str, dict[str, float]] = {}
    for record in questions:
        right.setdefault(record.query, {}).update(dict.fromkeys(record.positives, 1))
    passages = dict.fromkeys(text for record in searched for text in record.positives)
    return TestSet([Question(query, relevance, name) for query, relevance in right.items()], list(passages))


def check(build: Build, encoder: BertModel) -> dict[str, float]:
    """Return how often an encoder finds the right text first, by its mean vectors alone.

    `alignment`: the English line of a Korean one, among the lines kept for this check. `questions`: the passage of a
    validation question, among all passages of the validation side.
    """
    encoder.eval()
    tokenizer, english = build.tokenizer().backend_tokenizer, build.english_tokenizer()

    def ids(of: Tokenizer, texts: Sequence[str], longest: int) -> list[list[int]]:
        return [encoding.ids[:longest] for encoding in of.encode_batch(list(texts))]

    sources, targets = zip(*build.corpus.alignment_check, strict=True)
    wanted = encode_all(english_encoder(build.english).eval(), ids(english, sources, 128))
    lines = encode_all(encoder, ids(tokenizer, targets, 128)) @ wanted.T
    records = build.corpus.native("validation")
    passages = list(dict.fromkeys(record.positives[0] for record in records))
    right = torch.tensor([passages.index(record.positives[0]) for record in records])
    questions = encode_all(encoder, ids(tokenizer, [record.query for record in records], 64))
    found = questions @ encode_all(encoder, ids(tokenizer, passages, 192)).T
    return {
        "alignment": round((lines.argmax(1) == torch.arange(len(lines))).float().mean().item(), 4),
        "questions": round((found.argmax(1) == right).float().mean().item(), 4),
    }


STAGES: dict[str, Callable[[Build, Path], dict[str, Any]]] = {
    "vocabulary": _vocabulary,
    "embeddings": _embeddings,
    "distillation": _distillation,
    "classifier": _classifier,
    "groups": _groups,
    "finetuning": _finetuning,
    "second_groups": _second_groups,
    "second_finetuning": _second_finetuning,
    "package": _package,
    "evaluation": _evaluation,
}
