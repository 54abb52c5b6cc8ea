"""The CrossEncoder that sentence-transformers saves in modules: a transformer, a pooling, and layers of which the last scores.

Its layout (sentence-transformers 6.2): the transformer lies in the folder itself, modules.json names what follows, each with
a folder of its config.json and weights. The score is the last Dense's output behind its activation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ko_reranker.rankers.folders import HEAD_MODULES, ModelFolder, Module, check_safetensors

# What a Dense names as its activation, by the last part of its path: nothing is imported by a name from a file.
_ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    activation.__name__: activation for activation in (nn.Identity, nn.Tanh, nn.GELU, nn.ReLU, nn.SiLU, nn.Sigmoid)
}


# From states, (pairs, tokens, channels), and attention mask, (pairs, tokens), to (pairs, channels).
Pooling = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class ModularClassifier(nn.Module):
    """A transformer with modules behind it, called like a sequence classifier of `transformers`.

    Args:
        body: gives states, (pairs, tokens, channels).
        pooling: from states and attention mask, (pairs, tokens), to (pairs, channels).
        layers: from there to the logits, (pairs, 1).
    """

    base_model_prefix = "body"

    def __init__(self, body: PreTrainedModel, pooling: Pooling, layers: nn.Sequential) -> None:
        super().__init__()
        self.body, self.pooling, self.layers, self.config = body, pooling, layers, body.config

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.body.device

    @property
    def dtype(self) -> torch.dtype:
        """What its weights are."""
        return self.body.dtype

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of its tokens."""
        return self.body.get_input_embeddings()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> SimpleNamespace:
        """Return ``logits``, (pairs, 1), of pairs padded at their ends, (pairs, tokens)."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        states = self.body(input_ids=input_ids, attention_mask=attention_mask, **types).last_hidden_state
        return SimpleNamespace(logits=self.layers(self.pooling(states, attention_mask)))


def load_modular(source: ModelFolder, config: PretrainedConfig, dtype: torch.dtype) -> ModularClassifier:
    """Load a CrossEncoder of modules.

    Raises:
        RankerError: it is broken, or has a setting that is not known here.
    """
    transformers_logging.disable_progress_bar()
    try:
        body, facts = AutoModel.from_pretrained(
            source.path, config=config, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
    except Exception as error:  # as many kinds as there are ways to be broken
        raise source.refused(f"cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    lost = sorted({key for key in facts["missing_keys"] if "pooler." not in key} | set(facts["unexpected_keys"]))
    if lost:
        raise source.refused(f"has weights that are not those of its config.json ({lost[0]}): copy both from the same place.")
    channels = config.get_text_config().hidden_size
    pooling, channels = _pooling(source, source.head[0], channels)
    layers = []
    _check_chain(source)
    for module in source.head[1:]:
        layer, channels = _layer(source, module, channels)
        layers.append(layer)
    if channels != 1:
        raise source.refused(f"has {channels} labels by its last Dense: a reranker has one, its relevance.")
    return ModularClassifier(body, pooling, nn.Sequential(*layers).to(dtype))


def _settings(source: ModelFolder, module: Module, name: str = "config.json") -> dict[str, Any]:
    try:
        return dict(json.loads((module.folder / name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise source.refused(f"lacks {module.folder.name}/{name}, of its {module.kind}: copy it whole.") from None


def _check_chain(source: ModelFolder) -> None:
    """See that every Dense reads what the module before it wrote, and that no text is changed before it is read."""
    given = "sentence_embedding"
    for module in source.head:
        if module.kind == "Dense":
            settings = _settings(source, module)
            read = settings.get("module_input_name") or "sentence_embedding"
            if read != given:
                raise source.refused(
                    f"has a Dense that reads {read} where {given} comes in ({module.folder.name}): not supported."
                )
            given = settings.get("module_output_name") or read
    told = source.path / "sentence_bert_config.json"
    if told.is_file() and _settings(source, Module("Transformer", source.path), told.name).get("do_lower_case"):
        raise source.refused(
            "puts every text into lower case (do_lower_case in sentence_bert_config.json), which is not supported."
        )


def _pooling(source: ModelFolder, module: Module, channels: int) -> tuple[Pooling, int]:
    settings = _settings(source, module)
    # Before version 6 a flag a mode: pooling_mode_cls_token and so on.
    flags = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "lasttoken": "lasttoken"}
    modes = settings.get("pooling_mode") or [key for key, flag in flags.items() if settings.get(f"pooling_mode_{flag}")]
    mode = modes if isinstance(modes, str) else modes[0] if len(modes) == 1 else None
    if mode not in _POOLINGS or any(
        settings.get(f"pooling_mode_{other}") for other in ("mean_sqrt_len_tokens", "weightedmean_tokens")
    ):
        raise source.refused(f"pools its tokens by {modes}, which is not supported: what is are {', '.join(_POOLINGS)}.")
    return _POOLINGS[mode], channels


def _first(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states[:, 0]


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask[:, :, None].float()
    return ((states.float() * weights).sum(1) / weights.sum(1)).to(states.dtype)


def _highest(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states.masked_fill(mask[:, :, None] == 0, float("-inf")).amax(1)


def _last(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]


_POOLINGS = {"cls": _first, "mean": _mean, "max": _highest, "lasttoken": _last}


class _Dense(nn.Module):
    """A linear layer, its activation, and perhaps its input added to that."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, activation: nn.Module, residual: bool) -> None:
        super().__init__()
        self.linear, self.activation, self.added = nn.Linear(inputs, outputs, bias=bias), activation, residual
        if residual and inputs != outputs:
            self.residual = nn.Linear(inputs, outputs, bias=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.activation(self.linear(rows))
        if not self.added:
            return outputs
        added: torch.Tensor = self.residual(rows) if hasattr(self, "residual") else rows
        return outputs + added


class _Norm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(rows)
        return normed


def _layer(source: ModelFolder, module: Module, channels: int) -> tuple[nn.Module, int]:
    if module.kind == "Dropout":
        return nn.Identity(), channels
    settings, outputs = _settings(source, module), channels
    if module.kind == "LayerNorm":
        layer: nn.Module = _Norm(channels)
    else:
        layer, outputs = _dense(source, module, settings, channels)
    weights = module.folder / "model.safetensors"
    older = module.folder / "pytorch_model.bin"
    try:
        if weights.is_file():
            check_safetensors(source, weights)
            layer.load_state_dict(load_file(weights))
        else:
            layer.load_state_dict(torch.load(older, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise source.refused(
            f"has no weights of its {module.kind}: {module.folder.name}/model.safetensors is missing."
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise source.refused(f"has weights of its {module.kind} that do not fit ({module.folder.name}): {reason}") from None
    return layer, outputs


def _dense(source: ModelFolder, module: Module, settings: Mapping[str, Any], channels: int) -> tuple[nn.Module, int]:
    named = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = _ACTIVATIONS.get(named.rpartition(".")[2]) if named.startswith("torch.nn.") else None
    if activation is None:
        known = ", ".join(sorted(_ACTIVATIONS))
        raise source.refused(f"has a {HEAD_MODULES[1]} with the activation {named}, which is not known: what is are {known}.")
    if module is source.head[-1] and settings.get("module_output_name", "scores") != "scores":
        raise source.refused(f"ends in a Dense that gives {settings['module_output_name']}, not scores: it is no reranker.")
    inputs, outputs = settings.get("in_features"), settings.get("out_features")
    if inputs != channels or not isinstance(outputs, int):
        raise source.refused(f"has a Dense of {inputs} inputs where {channels} come in ({module.folder.name}): copy it whole.")
    residual = bool(settings.get("use_residual"))
    if module is source.head[-1] and activation is nn.Sigmoid:
        activation = nn.Identity  # a logit is wanted, whose sigmoid the score is
    dense = _Dense(inputs, outputs, bias=bool(settings.get("bias", True)), activation=activation(), residual=residual)
    return dense, outputs
