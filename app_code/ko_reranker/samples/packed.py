"""A model folder in a quarter of its size: how the shipped model lies in the package.

Every matrix is stored as int8 with one scale a row, everything else in fp16, the tokenizer compressed. Unpacked, it is an
ordinary fp32 folder for `transformers`; what was rounded stays rounded, so that every copy gives the same scores.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ko_reranker.data.jsonl import write_json

MINI = Path(__file__).parent / "mini"  # the mini reranker
WEIGHTS = "model.int8.safetensors"
_SCALE = ".scale"
_COMPRESSED = "tokenizer.json"
# What a model folder holds beside weights and tokenizer, as far as it is needed to run it.
_PLAIN = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "reranker.json")


def pack(model: Path, target: Path) -> int:
    """Write a packed copy of a model folder and return its bytes.

    Args:
        model: a folder with `model.safetensors` and `tokenizer.json`.
        target: the folder to write to.
    """
    target.mkdir(parents=True, exist_ok=True)
    packed: dict[str, torch.Tensor] = {}
    for name, values in load_file(model / "model.safetensors").items():
        if values.ndim == 2 and values.is_floating_point():
            scale = values.abs().amax(dim=1).clamp(min=1e-12) / 127
            packed[name] = (values / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
            packed[name + _SCALE] = scale.float()
        else:
            packed[name] = values.half() if values.is_floating_point() else values
    save_file(packed, target / WEIGHTS, metadata={"format": "pt"})
    # A fixed time stamp, so that the same model gives the same bytes.
    (target / f"{_COMPRESSED}.gz").write_bytes(gzip.compress((model / _COMPRESSED).read_bytes(), 9, mtime=0))
    for name in _PLAIN:
        if (model / name).is_file():
            (target / name).write_bytes((model / name).read_bytes())
    return sum(file.stat().st_size for file in target.iterdir() if file.is_file())


def version(packed: Path) -> str:
    """Return what tells this packed model from another one, for the name of a cached copy."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for file in sorted(packed.iterdir()):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def unpack(packed: Path, target: Path) -> None:
    """Write the ordinary model folder of a packed one."""
    target.mkdir(parents=True, exist_ok=True)
    tensors = load_file(packed / WEIGHTS)
    weights = {}
    for name, values in tensors.items():
        if name.endswith(_SCALE):
            continue
        scale = tensors.get(name + _SCALE)
        if scale is not None:
            values = values.float() * scale[:, None]
        weights[name] = values.float() if values.is_floating_point() else values
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    (target / _COMPRESSED).write_bytes(gzip.decompress((packed / f"{_COMPRESSED}.gz").read_bytes()))
    for name in _PLAIN:
        if (packed / name).is_file():
            (target / name).write_bytes((packed / name).read_bytes())
    config = json.loads((target / "config.json").read_text(encoding="utf-8")) | {"dtype": "float32"}
    write_json(target / "config.json", config)
