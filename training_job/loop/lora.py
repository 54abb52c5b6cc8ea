"""Adapters of low rank (LoRA) beside a decoder's linear layers: what they learn, how they are merged, what is kept of them.

The adapters are peft's, in its layers and in its files; they are run here, so that what they read is not copied to fp32 first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as AdaptedLinear
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from ko_reranker.container import JobError
from ko_reranker.recipes import Recipe

# The linear layers of every decoder that is computed.
_ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# peft's name of a model's first adapter, and what its files put before a module's name.
_NAME, _PREFIX = "default", "base_model.model."


class Adapters(nn.Module):
    """The adapters of a model: what is trained, and kept in checkpoints, of a base that stays as it is.

    Args:
        model: gets them beside its linear layers; the rest of it is frozen.
        recipe: says their rank, their weight and their dropout. They start from PyTorch's generator, and add nothing at first.
        identity: tells the base from any other; a checkpoint of another one is refused.
    """

    def __init__(self, model: PreTrainedModel, recipe: Recipe, identity: str) -> None:
        super().__init__()
        self.config = peft.LoraConfig(
            r=recipe.lora_rank,
            lora_alpha=recipe.lora_alpha,  # type: ignore[arg-type]  # a factor, which need not be whole
            lora_dropout=recipe.lora_dropout,
            target_modules=list(_ADAPTED),
        )
        model.requires_grad_(False)
        peft.inject_adapter_in_model(self.config, model)
        self._model, self._identity = [model], identity  # in a list: the base is no part of this module
        self.layers: dict[str, Any] = {}
        for name, layer in model.named_modules():
            if isinstance(layer, AdaptedLinear):
                self.layers[name] = layer
                # In fp32, though the base may be in 16 bits: Adam's steps are too small for these.
                parts = {"A": layer.lora_A.float(), "B": layer.lora_B.float(), "dropout": layer.lora_dropout}
                self.add_module(name.replace(".", "/"), nn.ModuleDict(parts))

    def get_extra_state(self) -> str:
        """Return what tells the base that they are of."""
        return self._identity

    def set_extra_state(self, state: str) -> None:
        """See that a checkpoint's adapters are of this base.

        Raises:
            JobError: they are not.
        """
        if state != self._identity:
            raise JobError(
                "The checkpoint's adapters are of another base_model than the one that lies there now: name its commit "
                "(ORG/NAME@COMMIT), or empty the checkpoints folder to start anew."
            )

    @torch.no_grad()
    def merge(self) -> None:
        """Add what they learned to the base's weights, and take them away from it."""
        for name, layer in self.layers.items():
            linear = layer.get_base_layer()
            # In fp32 as far as possible: what is added is small beside the weights.
            linear.weight.copy_(linear.weight.float() + layer.get_delta_weight(_NAME))
            self._model[0].set_submodule(name, linear)

    def save(self, folder: Path, base_model: str) -> None:
        """Write them as peft does.

        Args:
            folder: is there.
            base_model: what they are of.
        """
        self.config.base_model_name_or_path = base_model
        self.config.save_pretrained(str(folder))
        tensors = {
            f"{_PREFIX}{name}.lora_{part}.weight": getattr(layer, f"lora_{part}")[_NAME].weight.detach().contiguous()
            for name, layer in self.layers.items()
            for part in "AB"
        }
        save_file(tensors, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})


def is_adapted(linear: nn.Module) -> bool:
    """Return whether a layer has an adapter beside it."""
    return isinstance(linear, AdaptedLinear)


def adapted(layer: Any, rows: torch.Tensor) -> torch.Tensor:
    """Return what a layer and its adapter give, in the floating type of the rows."""
    down, up = (part[_NAME].weight.to(rows.dtype) for part in (layer.lora_A, layer.lora_B))
    low = F.linear(layer.lora_dropout[_NAME](rows), down)
    result: torch.Tensor = layer.base_layer(rows) + F.linear(low, up) * layer.scaling[_NAME]
    return result
