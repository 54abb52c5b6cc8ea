"""Decoders on a GPU: flash attention behind a shared prefix, windows, capped scores, against fp32 on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma3TextConfig, LlamaConfig, PreTrainedConfig, Qwen3Config

from ko_reranker.engine import Item
from ko_reranker.engine.answers import AnswerHead
from ko_reranker.engine.decoders import Decoder, DecoderForward
from ko_reranker.engine.prefixes import Prefix
from ko_reranker.rankers.interface import LOGIT_BOUNDS
from tests.unit.generative_models import decoder, shape

pytestmark = pytest.mark.gpu

CONFIGS = {
    "llama": LlamaConfig(**shape()),
    "qwen3": Qwen3Config(**shape(), head_dim=64),
    "gemma2": Gemma2Config(**shape(), head_dim=32, sliding_window=16, attn_logit_softcapping=5.0),
    "gemma3": Gemma3TextConfig(**shape(), head_dim=32, sliding_window=16, sliding_window_pattern=2),
}
PREFIX, LENGTHS = 25, [1, 5, 40, 130]


def logits(config: PreTrainedConfig, device: str, dtype: torch.dtype, *, share: bool) -> np.ndarray:
    model = decoder(config).to(device, dtype)
    forward = DecoderForward(Decoder(model), AnswerHead(model.get_output_embeddings().weight[[7, 9]]))
    draw = np.random.default_rng(0)
    beginning, *rest = (draw.integers(3, 300, length).astype(np.int32) for length in [PREFIX, *LENGTHS])
    prefix = Prefix(beginning)
    items = [Item(own, prefix=prefix) if share else Item(np.concatenate([beginning, own])) for own in rest]
    return np.array(forward(items)[0])


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-3), (torch.bfloat16, 0.25), (torch.float16, 0.05)])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_gpu_gives_the_logits_of_the_cpu(name, dtype, bound, share):
    expected = logits(CONFIGS[name], "cpu", torch.float32, share=False)
    assert logits(CONFIGS[name], "cuda", dtype, share=share) == pytest.approx(expected, abs=bound)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shared_prefix_changes_no_more_than_company_does(name):
    shared, alone = (logits(CONFIGS[name], "cuda", torch.bfloat16, share=share) for share in (True, False))
    assert shared == pytest.approx(alone, abs=LOGIT_BOUNDS["bf16"])
