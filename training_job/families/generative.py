"""Training a generative reranker: how much the logit of its positive answer is above that of its negative one.

Sequences are those of serving, prompt and all, and of the vocabulary the answers' rows alone are multiplied. By default the
base stays as it is and adapters of low rank (LoRA) are trained beside its layers; in the end they are merged into it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ko_reranker.container import JobError
from ko_reranker.data.jsonl import write_json
from ko_reranker.engine.answers import answer_logits
from ko_reranker.engine.decoders import Decoder, check_decoder
from ko_reranker.engine.positions import position_limit
from ko_reranker.models import hub_commit, model_digest
from ko_reranker.rankers.classifiers import load_decoder
from ko_reranker.rankers.folders import GENERATIVE, SETTINGS_FILE
from ko_reranker.rankers.generative_folders import Generative, read_generative, written_out
from ko_reranker.rankers.interface import RankerError, UnrankableError
from ko_reranker.rankers.placing import served_dtype
from ko_reranker.rankers.prompts import PROMPT_FILE, Prompt, PromptError, digest, shipped_prompts
from ko_reranker.rankers.prompts.encoding import PromptEncoder
from ko_reranker.recipes import Recipe
from training_job.loop.decoding import PackedDecoder
from training_job.loop.dev import reciprocal_rank
from training_job.loop.groups import Group, binary_loss, group_loss
from training_job.loop.lora import Adapters
from training_job.loop.packed import look_up
from training_job.loop.worker import precision_on

# The folder beside the merged model that holds what was trained.
ADAPTER = "adapter"
# MRR on dev that merging and casting may cost.
_MOST_LOST = 0.005
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class GenerativeReranker:
    """See `training_job.loop.family.TrainedFamily`."""

    reads = "prompt"

    def __init__(
        self,
        said: Generative,
        prompt: Prompt,
        prompt_text: str,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        adapters: Adapters | None,
        recipe: Recipe,
    ) -> None:
        self._said, self._prompt, self._prompt_text = said, prompt, prompt_text
        self._tokenizer, self._recipe = tokenizer, recipe
        self._base: Any = base  # PyTorch's types say of a module's attributes only that they are tensors or modules
        self._adapters = adapters
        self.max_length = min(recipe.max_length, position_limit(base))
        self.query_room = self.max_length // 2
        self.instructed = prompt.instructed
        self._encoder = PromptEncoder(tokenizer, prompt, self.max_length)
        self._decoding = PackedDecoder(base, recipe.seed, twice=recipe.gradient_checkpointing)
        self.model: nn.Module = base if adapters is None else adapters
        self.model.train()

    @classmethod
    def load(cls, folder: Path, recipe: Recipe, device: torch.device) -> GenerativeReranker:
        """Load a causal language model, or a classifier of one's last token; adapters start from PyTorch's generator."""
        said, prompt, prompt_text = _read_base(folder, recipe)
        precision, _ = precision_on(device, recipe.precision)
        # What is trained is in fp32; a base that stays as it is need not be.
        dtype = _DTYPES[precision] if recipe.tuning == "lora" else torch.float32
        loaded = load_decoder(said.source, check_decoder, dtype=dtype)
        base, adapters = loaded.transformer, None
        nn.Module.to(base, device)
        if recipe.tuning == "lora":
            adapters = Adapters(base, recipe, hub_commit(folder) or model_digest(folder))
        else:
            _freeze_rows_that_no_loss_sees(base)
        try:
            return cls(said, prompt, prompt_text, base, loaded.tokenizer, adapters, recipe)
        except PromptError as error:
            raise RankerError(f"{recipe.base_model} cannot be used: {error}.") from error

    def encode(
        self,
        record: int,
        query: str,
        passages: Sequence[str],
        teacher: tuple[float, ...] | None,
        instruction: str | None = None,
    ) -> Group:
        """Return the query's prompts, one for each passage, of which a long one is cut."""
        try:
            encoded = self._encoder.encode_documents(query, passages, instruction=instruction)
        except UnrankableError as error:
            raise JobError(f"The {error.field} of record {record + 1} cannot be read: {error}.") from None
        return Group(record, tuple(encoded.pairs), teacher, encoded.query_truncated)

    def logits(self, groups: Sequence[Group], step: int) -> torch.Tensor:
        """Return by how much each passage's positive answer is above its negative one."""
        states = self._decoding(groups, step)
        calibration = self._said.calibration
        with torch.autocast(states.device.type, enabled=False):  # the answers' logits are nearly the same, and both large
            return calibration.scale * answer_logits(states, *self._head()) + calibration.offset

    def loss(self, logits: torch.Tensor, groups: Sequence[Group]) -> torch.Tensor:
        """Return the groups' cross-entropy, or their divergence from the teacher's logits, and the share of each by itself."""
        recipe = self._recipe
        loss = group_loss(
            logits, groups, distillation_weight=recipe.distillation_weight, temperature=recipe.distillation_temperature
        )
        if recipe.binary_weight:
            loss = (1 - recipe.binary_weight) * loss + recipe.binary_weight * binary_loss(logits, groups)
        return loss

    def finish(self, batches: Sequence[Sequence[Group]], dev_mrr: float | None) -> dict[str, Any]:
        """Merge the adapters into the base, in its floating type, and see that this loses nothing on dev.

        Raises:
            JobError: in the floating type that it is served in, the merged model ranks worse there.
        """
        if self._adapters is None:
            return {}
        self._adapters.merge()
        dtype = served_dtype("auto", self._base.device)
        # From here on what is computed is what will be served.
        self._decoding.decoder = Decoder(self._base if self._base.dtype == dtype else copy.deepcopy(self._base).to(dtype))
        if not batches or dev_mrr is None:
            return {}
        found: list[float] = []
        with torch.no_grad():
            for groups in batches:
                logits = self.logits(groups, step=0).cpu()
                found += map(reciprocal_rank, logits.split([len(group.pairs) for group in groups]))
        mrr = sum(found) / len(found)
        # Of few queries one that rounding moves would be more than that.
        if mrr < dev_mrr - max(_MOST_LOST, 1 / len(found)):
            raise JobError(
                f"Merged into the base and computed in {str(dtype).removeprefix('torch.')}, as it is served, the model ranks "
                f"worse on dev: MRR {mrr:.4f} instead of {dev_mrr:.4f}. Rounding took what the adapters learned: train in "
                "precision fp32, or let them learn more (learning_rate, epochs)."
            )
        return {"merged": {"dev_mrr": round(mrr, 6), "dev_mrr_unmerged": round(dev_mrr, 6)}}

    def save(self, folder: Path, settings: dict[str, Any]) -> None:
        """Write the model as `transformers` does, its prompt, and the adapters that were merged into it beside it."""
        self._base.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)
        (folder / PROMPT_FILE).write_text(self._prompt_text, encoding="utf-8")
        generative = {
            "method": self._prompt.method,
            "prompt_sha256": digest(self._prompt_text),
            **{name: getattr(self._prompt, name) for name in ("instruction", "positive", "negative")},
        }
        recorded = {key: value for key, value in settings.items() if key != "merged"} | {
            GENERATIVE: {key: value for key, value in generative.items() if value is not None},
            "calibration": asdict(self._said.calibration),
        }
        write_json(folder / SETTINGS_FILE, recorded)
        if self._adapters is not None:
            (folder / ADAPTER).mkdir(exist_ok=True)
            self._adapters.save(folder / ADAPTER, self._recipe.base_model)

    def _head(self) -> tuple[torch.Tensor, torch.Tensor | None, float | None]:
        """Return rows, bias and cap of the answers."""
        if self._said.classifies:
            return self._base.score.weight, self._base.score.bias, None
        output = self._base.get_output_embeddings()
        ids = torch.tensor(self._encoder.answers, device=output.weight.device)
        bias = None if output.bias is None else output.bias[ids]
        return look_up(output.weight, ids), bias, getattr(self._base.config, "final_logit_softcapping", None)


def _read_base(folder: Path, recipe: Recipe) -> tuple[Generative, Prompt, str]:
    """Return what a base's folder says, the prompt to train it with, by the recipe or else by the folder, and that one's file.

    Raises:
        RankerError: it is no generative model, nothing says what it reads, or that asks for no answer.
    """
    name = recipe.base_model
    said = read_generative(folder, name, prompt=recipe.prompt)
    prompt, beside = said.prompt, folder / PROMPT_FILE
    if recipe.prompt is not None:
        text = shipped_prompts()[recipe.prompt]
    else:
        text = beside.read_text(encoding="utf-8") if beside.is_file() else written_out(folder, name)[PROMPT_FILE]
    if not isinstance(prompt, Prompt) or prompt.positive is None:
        raise said.source.refused(
            f"reads a prompt for {prompt.method} ranking, and what is trained is the answer to one for pointwise: name one in "
            "the recipe (prompt), such as general-ko."
        )
    if recipe.instruction is not None:
        if not prompt.instructed:
            raise said.source.refused("reads a prompt that has no place for an instruction: leave instruction out.")
        prompt = replace(prompt, instruction=recipe.instruction)
    return said, prompt, text


def _freeze_rows_that_no_loss_sees(model: Any) -> None:
    """Leave a vocabulary's output rows as they are, where they are not the words' own: no loss sees most of them."""
    output, words = model.get_output_embeddings(), model.get_input_embeddings()
    if output is not None and output.weight is not words.weight:
        output.requires_grad_(False)
