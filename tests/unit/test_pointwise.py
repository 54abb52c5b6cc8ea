"""Generative rerankers, from a folder to an answer: what transformers gives for the model's own prompt, never a guessed one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generative_models import decoder, gemma_tokenizer, qwen_tokenizer, saved, shape
from starlette.testclient import TestClient
from transformers import (
    AutoModelForSequenceClassification,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from ko_reranker.rankers import EngineOptions, RankerError, load_ranker
from ko_reranker.rankers.pointwise import Pointwise
from ko_reranker.rankers.prompts import digest, shipped_prompt, shipped_prompts
from ko_reranker.serving import create_app

QUERY = "서울의 인구는?"
DOCUMENTS = ["서울의 인구는 약 940만 명이다.", "부산은 항구 도시이다.", "", "The population of Seoul is nine million.", "김치"]
CPU = EngineOptions(device="cpu", workers=1)
QWEN3 = Qwen3Config(**shape(qwen_tokenizer()), head_dim=16, tie_word_embeddings=True)
QWEN2 = Qwen2Config(**shape(qwen_tokenizer()))
GEMMA = GemmaConfig(**shape(gemma_tokenizer()), head_dim=16)
LLAMA = LlamaConfig(**shape(qwen_tokenizer()))
INSTRUCTION = "Find the number of people who live there"


@torch.inference_mode()
def answers(model: PreTrainedModel, prompt: str, *tokens: str, instruction: str | None = None) -> np.ndarray:
    """Return the logits of the answers after each document, (documents, answers), each piece tokenised by itself."""
    tokenizer = gemma_tokenizer() if "gemma" in prompt else qwen_tokenizer()
    rows = tokenizer.convert_tokens_to_ids(list(tokens))
    found = []
    for document in DOCUMENTS:
        strings = shipped_prompt(prompt).render(QUERY, document, instruction)
        pieces = [index for text in strings for index in tokenizer(text, add_special_tokens=False)["input_ids"]]
        bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        found.append(model(input_ids=torch.tensor([bos + pieces])).logits[0, -1, rows].numpy())
    return np.array(found)


def scores(folder: Path, **options: object) -> np.ndarray:
    ranker = load_ranker(folder, CPU, **options)
    try:
        assert isinstance(ranker, Pointwise)
        return ranker.score(QUERY, DOCUMENTS)
    finally:
        ranker.close()


def settings(folder: Path, **generative: object) -> None:
    (folder / "reranker.json").write_text(json.dumps({"family": "generative", "generative": generative}))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> tuple[Path, PreTrainedModel]:
    model = decoder(QWEN3)
    return saved(tmp_path_factory.mktemp("models") / "Qwen3-Reranker-0.6B", model, qwen_tokenizer()), model


@pytest.fixture
def plain(tmp_path) -> Path:
    """A causal language model of no known name."""
    return saved(tmp_path / "mine", decoder(LLAMA), qwen_tokenizer())


def test_qwen3_reranker_is_known_by_its_name_and_scores_as_its_card_says(qwen):
    folder, model = qwen
    logits = answers(model, "qwen3-reranker", "yes", "no")
    assert scores(folder) == pytest.approx(logits[:, 0] - logits[:, 1], abs=1e-4)
    # The card takes the softmax of both, which is the sigmoid of the difference.
    ranker = load_ranker(folder, CPU)
    with TestClient(create_app(ranker)) as client:
        results = client.post("/rerank", json={"query": QUERY, "documents": DOCUMENTS[:2]}).json()["results"]
    softmax = torch.tensor(logits[:2]).softmax(-1)[:, 0]
    assert {one["index"]: one["relevance_score"] for one in results} == pytest.approx(
        dict(enumerate(softmax.tolist())), abs=1e-4
    )


def test_bge_reranker_v2_gemma_scores_by_yes_alone(tmp_path):
    model = decoder(GEMMA)
    folder = saved(tmp_path / "bge-reranker-v2-gemma", model, gemma_tokenizer())
    assert scores(folder) == pytest.approx(answers(model, "bge-reranker-v2-gemma", "Yes")[:, 0], abs=1e-4)


@pytest.mark.parametrize(("name", "half"), [("mxbai-rerank-base-v2", 4.5), ("mxbai-rerank-large-v2", 6.0)])
def test_mxbai_rerank_scores_by_its_digits_and_its_shift(tmp_path, name, half):
    model = decoder(QWEN2)
    folder = saved(tmp_path / name, model, qwen_tokenizer())
    logits = answers(model, "mxbai-rerank-v2", "1", "0")
    assert scores(folder) == pytest.approx(logits[:, 0] - logits[:, 1] - half, abs=1e-4)
    # The shift belongs to the prompt and its answers, by whichever way these are chosen.
    by_option = load_ranker(folder, replace(CPU, prompt="mxbai-rerank-v2"))
    assert by_option.score(QUERY, DOCUMENTS) == pytest.approx(scores(folder), abs=1e-5)
    by_option.close()
    settings(folder, prompt="qwen3-reranker")
    other = answers(model, "qwen3-reranker", "yes", "no")
    assert scores(folder) == pytest.approx(other[:, 0] - other[:, 1], abs=1e-4)
    settings(folder, positive="yes", negative="no")
    words = answers(model, "mxbai-rerank-v2", "yes", "no")
    assert scores(folder) == pytest.approx(words[:, 0] - words[:, 1], abs=1e-4)


@pytest.mark.parametrize("known", [True, False])
def test_a_conversion_to_sequence_classification_scores_by_its_one_row(tmp_path, qwen, known):
    _, model = qwen
    classifier = AutoModelForSequenceClassification.from_config(Qwen3Config(**{**QWEN3.to_dict(), "num_labels": 1}))
    classifier.model.load_state_dict(model.model.state_dict())
    yes, no = qwen_tokenizer().convert_tokens_to_ids(["yes", "no"])
    with torch.no_grad():
        classifier.score.weight.copy_(model.lm_head.weight[yes] - model.lm_head.weight[no])
    name = "Qwen3-Reranker-0.6B-seq-cls" if known else "mine"
    folder = saved(tmp_path / name, classifier, qwen_tokenizer())
    if not known:
        settings(folder, prompt="qwen3-reranker", head="classifier")
    logits = answers(model, "qwen3-reranker", "yes", "no")
    assert scores(folder) == pytest.approx(logits[:, 0] - logits[:, 1], abs=1e-4)


def test_a_name_counts_only_with_the_models_type(tmp_path, plain):
    folder = plain.rename(plain.with_name("Qwen3-Reranker-0.6B"))
    with pytest.raises(RankerError, match="which prompt it reads"):
        load_ranker(folder, CPU)
    qwen = saved(tmp_path / "models--Qwen--Qwen3-Reranker-0.6B" / "snapshots" / ("0" * 40), decoder(QWEN3), qwen_tokenizer())
    assert len(scores(qwen)) == len(DOCUMENTS)
    copied = shutil.copytree(qwen, tmp_path / "qwen3-reranker" / "download")
    with pytest.raises(RankerError, match="which prompt it reads"):
        load_ranker(copied, CPU)
    assert len(scores(copied, name="s3://bucket/qwen3-reranker-0.6b/")) == len(DOCUMENTS)
    assert len(scores(copied, name=f"Qwen/Qwen3-Reranker-0.6B@{'0' * 40}")) == len(DOCUMENTS)
    with pytest.raises(RankerError, match="which prompt it reads"):
        load_ranker(copied, CPU, name="s3://qwen3-reranker/experiments/of-mine/")


def test_a_model_whose_prompt_nothing_says_is_refused_with_what_to_write(plain):
    with pytest.raises(RankerError) as refused:
        load_ranker(plain, CPU)
    message = str(refused.value)
    assert "LlamaForCausalLM" in message and "scores at random" in message and "prompt.yaml" in message
    assert all(name in message for name in shipped_prompts())
    written = message[message.index("{") : message.rindex("}") + 1]
    (plain / "reranker.json").write_text(written)
    assert np.isfinite(scores(plain)).all()


def test_modules_of_sentence_transformers_are_generative_and_need_a_prompt_as_well(plain):
    modules = ["sentence_transformers.base.modules.transformer.Transformer", "sentence_transformers.cross_encoder.LogitScore"]
    entries = [
        {"idx": n, "name": str(n), "path": "" if n == 0 else "1_LogitScore", "type": kind} for n, kind in enumerate(modules)
    ]
    (plain / "modules.json").write_text(json.dumps(entries))
    (plain / "config_sentence_transformers.json").write_text(json.dumps({"model_type": "CrossEncoder"}))
    with pytest.raises(RankerError, match="which prompt it reads"):
        load_ranker(plain, CPU)
    settings(plain, prompt="general-ko")
    assert np.isfinite(scores(plain)).all()
    # Its head says which tokens it was trained to answer with.
    (plain / "1_LogitScore").mkdir()
    (plain / "1_LogitScore/config.json").write_text(json.dumps({"true_token_id": 5, "false_token_id": 6}))
    with pytest.raises(RankerError, match=r"was made to answer .*: write generative\.positive and"):
        load_ranker(plain, CPU)
    ranker = load_ranker(plain, replace(CPU, prompt="general-ko"))
    named = dict(zip(("true_token_id", "false_token_id"), ranker.encoder.answers, strict=True))
    ranker.close()
    (plain / "1_LogitScore/config.json").write_text(json.dumps(named))
    assert np.isfinite(scores(plain)).all()


def test_the_prompt_beside_the_settings_is_what_is_read(plain):
    settings(plain, prompt="qwen3-reranker")
    by_name = scores(plain)
    (plain / "prompt.yaml").write_text(shipped_prompts()["mxbai-rerank-v2"])
    beside = scores(plain)
    settings(plain, prompt="mxbai-rerank-v2", prompt_sha256=digest(shipped_prompts()["mxbai-rerank-v2"]))
    assert scores(plain) == pytest.approx(beside)
    assert np.abs(beside - by_name).max() > 1e-3
    settings(plain, prompt="qwen3-reranker", positive="0", negative="1", instruction=INSTRUCTION)
    (plain / "prompt.yaml").unlink()
    model = decoder(LLAMA)
    logits = answers(model, "qwen3-reranker", "0", "1", instruction=INSTRUCTION)
    assert scores(plain) == pytest.approx(logits[:, 0] - logits[:, 1], abs=1e-4)


@pytest.mark.parametrize(("config", "tokenizer"), [(LLAMA, qwen_tokenizer), (GEMMA, gemma_tokenizer)])
def test_the_likelihood_of_the_query_is_the_mean_of_its_tokens_log_probabilities(tmp_path, config, tokenizer):
    model = decoder(config)
    folder = saved(tmp_path / "mine", model, tokenizer())
    settings(folder, prompt="likelihood-ko", method="likelihood")
    expected = []
    with torch.inference_mode():
        for document in DOCUMENTS:
            *said, query = shipped_prompt("likelihood-ko").render(QUERY, document)
            strings = [*said, query]
            if tokenizer is qwen_tokenizer:
                strings = ["<|im_start|>user\n", *said, "<|im_end|>\n<|im_start|>assistant\n", query]
            pieces = [tokenizer()(text, add_special_tokens=False)["input_ids"] for text in strings]
            bos = [] if tokenizer().bos_token_id is None else [tokenizer().bos_token_id]
            ids = torch.tensor([bos + [index for piece in pieces for index in piece]])
            count = len(pieces[-1])
            likelihoods = model(input_ids=ids).logits[0, -count - 1 : -1].log_softmax(-1)
            expected.append(float(likelihoods.gather(1, ids[0, -count:, None]).mean()))
    assert scores(folder) == pytest.approx(expected, abs=1e-4)
    with TestClient(create_app(load_ranker(folder, CPU))) as client:
        body = {"query": QUERY, "documents": DOCUMENTS, "raw_scores": True}
        results = client.post("/rerank", json=body).json()["results"]
        assert results[0]["relevance_score"] == pytest.approx(
            max(one for one, text in zip(expected, DOCUMENTS, strict=True) if text), abs=1e-4
        )


def test_a_calibration_turns_what_the_head_gives_into_a_logit(plain):
    settings(plain, prompt="qwen3-reranker")
    bare = scores(plain)
    written = json.loads((plain / "reranker.json").read_text()) | {"calibration": {"scale": 0.5, "offset": -1, "queries": 40}}
    (plain / "reranker.json").write_text(json.dumps(written))
    assert scores(plain) == pytest.approx(0.5 * bare - 1, abs=1e-5)


@pytest.mark.parametrize(
    ("generative", "message"),
    [
        ({"prompt": "qwen"}, "there is no prompt 'qwen': there are"),
        ({"prompt": "qwen3-reranker", "prompt_sha256": "0" * 64}, "was trained with another prompt"),
        ({"prompt": "qwen3-reranker", "method": "bubble"}, "method = 'bubble'"),
        ({"prompt": "qwen3-reranker", "method": "pairwise"}, "a prompt for pointwise"),
        ({"prompt": "qwen3-reranker", "method": "likelihood"}, "generative.method likelihood, and a prompt for pointwise"),
        ({"prompt": "likelihood-ko", "negative": "no"}, "a negative answer and no positive one"),
        ({"prompt": "qwen3-reranker", "windows": 20}, "windows, which this version does not know: update it"),
        ({"prompt": "qwen3-reranker", "positive": "no"}, "are both 'no'"),
        ({"prompt": "qwen3-reranker", "positive": "그렇다"}, "'그렇다' is"),
        ({"prompt": "qwen3-reranker", "head": "classifier"}, "say rows, or leave it out"),
    ],
)
def test_settings_that_do_not_do_are_refused_by_name(plain, generative, message):
    settings(plain, **generative)
    with pytest.raises(RankerError) as refused:
        load_ranker(plain, CPU)
    assert message in str(refused.value) and str(plain) in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generative": []}, "has generative in its reranker.json with it = []: Input should be an object"),
        ({"calibration": ""}, "has calibration in its reranker.json with it = '': Input should be an object"),
        ({"calibration": {"scale": 1e30}}, "scale = 1e+30: Input should be less than or equal to 1000000"),
        ({"calibration": {"offset": -1e30}}, "offset = -1e+30: Input should be greater than or equal to -1000000"),
    ],
)
def test_what_is_no_object_or_no_logit_is_not_passed_over(plain, changes, message):
    said = {"family": "generative", "generative": {"prompt": "qwen3-reranker"}} | changes
    (plain / "reranker.json").write_text(json.dumps(said))
    with pytest.raises(RankerError) as refused:
        load_ranker(plain, CPU)
    assert message in str(refused.value)


def test_a_broken_prompt_file_is_told_with_the_line_that_is_wrong(plain):
    settings(plain)
    (plain / "prompt.yaml").write_text("pieces: [{text: '{query}'}]\npositive: 'yes'")
    with pytest.raises(RankerError, match=r"prompt.yaml is not valid: \{document\} has to stand"):
        load_ranker(plain, CPU)


def test_what_cannot_be_computed_is_refused_with_what_to_do(tmp_path, plain):
    mistral = saved(tmp_path / "mistral", decoder(MistralConfig(**shape(qwen_tokenizer()))), qwen_tokenizer())
    settings(mistral, prompt="general-en")
    with pytest.raises(RankerError, match="is a mistral, and the decoders that are computed here are llama, qwen2"):
        load_ranker(mistral, CPU)
    settings(plain, prompt="general-en")
    with pytest.raises(RankerError, match="int8 is not there for generative"):
        load_ranker(plain, EngineOptions(device="cpu", dtype="int8"))
    with pytest.raises(RankerError, match="max_length is 64"):
        load_ranker(plain, EngineOptions(device="cpu", max_length=64))
    config = json.loads((plain / "config.json").read_text()) | {"num_hidden_layers": 4}
    (plain / "config.json").write_text(json.dumps(config))
    with pytest.raises(RankerError, match="lacks weights"):
        load_ranker(plain, CPU)


def test_a_head_that_is_missing_is_not_made_up(qwen, tmp_path):
    model = decoder(LLAMA)
    folder = saved(tmp_path / "bare", model.model, qwen_tokenizer())
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    settings(folder, prompt="qwen3-reranker")
    with pytest.raises(RankerError, match=r"lacks weights.*lm_head"):
        load_ranker(folder, CPU)


def test_scores_depend_on_neither_neighbours_nor_workers_nor_the_shared_prefix(qwen):
    folder, _ = qwen
    ranker = load_ranker(folder, EngineOptions(device="cpu", workers=2, batch_tokens=300))
    documents = [f"{number}번 문서 " * (number % 7 + 1) for number in range(24)]
    together = ranker.score(QUERY, documents)
    apart = [ranker.score(QUERY, [document])[0] for document in documents]
    unshared = ranker.engine.score(ranker.encoder.encode_documents(QUERY, documents, share=False).pairs)
    alike = ranker.score(QUERY, [documents[0], documents[1], documents[0]])
    detailed = ranker.score_detailed(QUERY, documents)
    ranker.close()
    assert together == pytest.approx(apart, abs=1e-5)
    assert together == pytest.approx(unshared, abs=1e-5)
    assert alike[0] == alike[2]
    whole = sum(item.tokens for item in ranker.encoder.encode_documents(QUERY, documents).pairs)
    assert detailed.tokens.sum() == detailed.cost.tokens < 0.5 * whole
    assert detailed.cost.model_calls == len(documents)


def test_a_document_that_does_not_fit_gets_the_score_of_its_best_chunk(qwen):
    folder, _ = qwen
    ranker = load_ranker(folder, EngineOptions(device="cpu", max_length=280, max_chunks=3, chunk_overlap=8))
    scored = ranker.score_detailed(QUERY, [" ".join(map(str, range(200))), "짧다"])
    ranker.close()
    assert scored.chunks.tolist() == [3, 1] and scored.truncated.tolist() == [True, False]
    assert len(ranker.engine.score([])) == 0


@pytest.mark.parametrize("name", ["instruction", "instruct"])
def test_an_instruction_of_a_request_is_read(qwen, name):
    folder, model = qwen
    logits = answers(model, "qwen3-reranker", "yes", "no", instruction=INSTRUCTION)
    with TestClient(create_app(load_ranker(folder, CPU))) as client:
        body = {"query": QUERY, "documents": DOCUMENTS[:2], name: INSTRUCTION, "raw_scores": True}
        answer = client.post("/rerank", json=body).json()
        found = {one["index"]: one["relevance_score"] for one in answer["results"]}
        assert found == pytest.approx(dict(enumerate((logits[:, 0] - logits[:, 1])[:2].tolist())), abs=1e-4)
        assert not answer["meta"]["warnings"]
        refused = client.post("/rerank", json=body | {name: "찾아라 " * 2000})
    assert refused.status_code == 422
    assert "instruction" in json.dumps(refused.json()) and "leaves no room" in json.dumps(refused.json())


def test_a_model_that_reads_no_instruction_warns(tmp_path):
    folder = saved(tmp_path / "bge-reranker-v2-gemma", decoder(GEMMA), gemma_tokenizer())
    with TestClient(create_app(load_ranker(folder, CPU))) as client:
        body = {"query": QUERY, "documents": DOCUMENTS, "instruction": INSTRUCTION}
        (warning,) = client.post("/rerank", json=body).json()["meta"]["warnings"]
    assert "instruction" in warning
