"""What users rely on in a ranker: stable scores, the query kept whole, honest facts about what was cut."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    ElectraConfig,
    ModernBertConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from ko_reranker.engine.forwards import padded_batches
from ko_reranker.engine.packing import pad
from ko_reranker.rankers import EngineOptions, RankerError, load_ranker
from ko_reranker.rankers.cross_encoder import CrossEncoder
from ko_reranker.rankers.pairs import PairEncoder
from ko_reranker.samples import tiny_model
from ko_reranker.text import spans

QUERY = "함수 오버로드를 해결하는 방법"
DOCUMENTS = [
    "오버로드된 함수를 호출하면 컴파일러가 인수의 형식에 맞는 함수를 고릅니다.",
    "이 속성은 창의 배경색을 지정합니다.",
    "DLL",
    "",
    "원본 및 대상은 메시지 전달의 두 참가자입니다. " * 40,
    *(f"{number}번째 예제에서는 지시문을 중첩하는 규칙을 보여 줍니다." * (number % 5 + 1) for number in range(20)),
]


@pytest.fixture(scope="module")
def ranker() -> CrossEncoder:
    return load_ranker("sample:tiny", EngineOptions(dtype="fp32"))


def test_a_pair_scores_the_same_whatever_else_is_in_the_batch(ranker: CrossEncoder) -> None:
    together = ranker.score(QUERY, DOCUMENTS)
    alone = np.concatenate([ranker.score(QUERY, [document]) for document in DOCUMENTS])
    backwards = ranker.score(QUERY, DOCUMENTS[::-1])[::-1]
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-4)
    np.testing.assert_allclose(together, backwards, atol=1e-4)


def test_pairs_of_many_queries_score_like_each_query_alone(ranker: CrossEncoder) -> None:
    pairs = [(QUERY, DOCUMENTS[0]), ("DLL 빌드", DOCUMENTS[2]), (QUERY, DOCUMENTS[1])]
    expected = [ranker.score(query, [document])[0] for query, document in pairs]
    np.testing.assert_allclose(ranker.score_pairs(pairs), expected, atol=1e-4)


def test_equal_documents_tie_wherever_they_stand_and_are_read_once(ranker: CrossEncoder) -> None:
    documents = [DOCUMENTS[0], *DOCUMENTS[5:], DOCUMENTS[0], DOCUMENTS[4], DOCUMENTS[0], DOCUMENTS[4]]
    scored = ranker.score_detailed(QUERY, documents)
    copies = [0, len(documents) - 4, len(documents) - 2]
    assert len(set(scored.logits[copies])) == 1
    assert scored.logits[-1] == scored.logits[-3]
    assert np.abs(scored.logits - np.concatenate([ranker.score(QUERY, [document]) for document in documents])).max() < 1e-4
    assert scored.tokens[copies[0]] > 0 and not scored.tokens[copies[1:]].any()
    assert len(scored.truncated) == len(scored.chunks) == len(documents)


def test_no_documents_give_no_scores(ranker: CrossEncoder) -> None:
    assert ranker.score(QUERY, []).shape == (0,)
    assert ranker.score_pairs([]).shape == (0,)


def test_a_long_document_is_cut_and_reported_and_the_query_is_kept(ranker: CrossEncoder) -> None:
    scored = ranker.score_detailed(QUERY, DOCUMENTS, max_chunks_per_doc=1)
    assert scored.truncated.tolist() == [index == 4 for index in range(len(DOCUMENTS))]
    assert scored.tokens[4] == ranker.max_length
    assert not scored.query_truncated
    pairs, _ = ranker.encoder.encode(QUERY, DOCUMENTS)
    query_ids = ranker.encoder.tokenizer(QUERY, add_special_tokens=False)["input_ids"]
    assert all(pair.features["input_ids"][1 : len(query_ids) + 1] == query_ids for pair in pairs)


def test_a_query_longer_than_half_the_budget_leaves_room_for_the_document(ranker: CrossEncoder) -> None:
    scored = ranker.score_detailed(QUERY * 100, [DOCUMENTS[0], "다른 문서"])
    assert scored.query_truncated
    assert np.isfinite(scored.logits).all()
    assert scored.logits[0] != scored.logits[1]
    assert scored.tokens.max() <= ranker.max_length


def test_batches_stay_within_the_budget_and_hold_every_pair_once() -> None:
    lengths = [3, 100, 40, 41, 39, 7, 300, 1]
    batches = padded_batches(lengths, budget=120)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        width = max(lengths[index] for index in batch)
        assert width * len(batch) <= 120 or len(batch) == 1


def test_max_length_is_the_models_own_unless_asked_for_less(ranker: CrossEncoder) -> None:
    assert ranker.max_length == tiny_model.MAX_LENGTH  # asked for 512, has positions for 128
    assert load_ranker("sample:tiny", EngineOptions(max_length=32)).max_length == 32


def test_a_classifier_with_two_labels_is_no_reranker(tmp_path) -> None:
    config = XLMRobertaConfig(
        vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, num_labels=2
    )
    XLMRobertaForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_model.load_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(RankerError, match="2 labels"):
        load_ranker(tmp_path)


def test_loading_bounds_the_caches_that_grow_with_every_length(monkeypatch) -> None:
    """How far memory grows then is for `make test-slow` to see."""
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    load_ranker("sample:tiny").close()
    assert (os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"], os.environ["LRU_CACHE_CAPACITY"]) == ("256", "7")


def test_pairs_are_padded_to_the_longest(ranker: CrossEncoder) -> None:
    encoder = PairEncoder(ranker.encoder.tokenizer, 64)
    pairs, _ = encoder.encode(QUERY, DOCUMENTS[:3])
    batch = pad(pairs, 1)
    assert batch["input_ids"].shape == (3, max(map(len, pairs)))
    assert batch["attention_mask"].sum(1).tolist() == [len(pair) for pair in pairs]


SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "num_labels": 1}
XLMR = {**SHAPE, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}


def word_pieces() -> PreTrainedTokenizerBase:
    """A BERT tokenizer, which tells query and document apart by token types."""
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *sorted({letter for text in [QUERY, *DOCUMENTS] for letter in text}),
    ]
    tokenizer = Tokenizer(WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


WORD_PIECES, SENTENCE_PIECES = word_pieces(), tiny_model.load_tokenizer()

# The configuration classes of what people serve, with the published numbers of positions.
PUBLISHED = {
    "Dongjin-kr/ko-reranker, BAAI/bge-reranker-large and -base": (XLMRobertaConfig, {**XLMR, "max_position_embeddings": 514}),
    "BAAI/bge-reranker-v2-m3": (XLMRobertaConfig, {**XLMR, "max_position_embeddings": 8194}),
    "BERT": (BertConfig, SHAPE),
    "ModernBERT": (ModernBertConfig, {**SHAPE, "local_attention": 16, "pad_token_id": 1, "cls_token_id": 0, "bos_token_id": 0}),
    "ELECTRA": (ElectraConfig, {**SHAPE, "embedding_size": 32}),
    "ELECTRA, whose embeddings are narrower": (ElectraConfig, {**SHAPE, "embedding_size": 16}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_kind_of_model_scores_as_transformers_does(name: str, tmp_path: Path) -> None:
    config_class, values = PUBLISHED[name]
    tokenizer = WORD_PIECES if config_class in (BertConfig, ElectraConfig) else SENTENCE_PIECES
    torch.manual_seed(0)
    config = config_class(vocab_size=len(tokenizer), **{"eos_token_id": 2, "sep_token_id": 2, **values})
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ranker = load_ranker(tmp_path, EngineOptions(dtype="fp32", max_chunks=1))
    assert ranker.max_length == min(512, values.get("max_position_embeddings", 512))
    expected = []
    for document in DOCUMENTS:
        # As lists: of single texts it takes an empty document for none.
        limits = {"truncation": "only_second", "max_length": ranker.max_length}
        inputs = tokenizer([QUERY], [document], **limits, return_tensors="pt")
        with torch.inference_mode():
            expected.append(model(**inputs).logits[0, 0].item())
    np.testing.assert_allclose(ranker.score(QUERY, DOCUMENTS), expected, atol=1e-4)
    assert np.std(expected) > 1e-3


def test_a_long_document_is_as_good_as_its_best_piece(ranker: CrossEncoder) -> None:
    filler = "원본 및 대상은 메시지 전달의 두 참가자입니다. " * 60
    scored = ranker.score_detailed(QUERY, [filler + DOCUMENTS[0], filler, DOCUMENTS[0]])
    assert scored.chunks[0] > 3 and scored.chunks[2] == 1
    assert not scored.truncated.any()
    pieces = next(ranker.rounds(QUERY, [filler + DOCUMENTS[0]]))
    logits = np.array(ranker.engine.score(pieces))
    assert scored.logits[0] == pytest.approx(logits.max(), abs=1e-5)
    assert scored.logits[0] >= scored.logits[1] - 1e-5 or logits.argmax() == len(pieces) - 1


def test_limits_of_a_request_bound_what_is_read_of_a_document(ranker: CrossEncoder) -> None:
    long = "원본 및 대상은 메시지 전달의 두 참가자입니다. " * 200
    whole = ranker.score_detailed(QUERY, [long])
    two = ranker.score_detailed(QUERY, [long], max_chunks_per_doc=2)
    short = ranker.score_detailed(QUERY, [long], max_tokens_per_doc=10)
    assert whole.chunks[0] > 2 and not whole.truncated[0]
    assert two.chunks[0] == 2 and two.truncated[0]
    assert short.chunks[0] == 1 and short.truncated[0] and short.tokens[0] < 40
    assert ranker.score_detailed(QUERY, [long], max_chunks_per_doc=10**6).chunks[0] <= ranker.encoder.max_chunks


@pytest.mark.parametrize("dtype", ["int8", "bf16"])
def test_a_coarser_arithmetic_ranks_nearly_alike(ranker: CrossEncoder, dtype: str, request: pytest.FixtureRequest) -> None:
    if dtype == "int8":
        request.getfixturevalue("int8")
    documents = [document for document in DOCUMENTS if document]
    coarse = load_ranker("sample:tiny", EngineOptions(dtype=dtype))
    assert coarse.precision == {"int8": "int8", "bf16": "bfloat16"}[dtype]
    assert spearmanr(coarse.score(QUERY, documents), ranker.score(QUERY, documents)).statistic > 0.9


def test_documents_that_come_again_are_not_tokenised_again(ranker: CrossEncoder) -> None:
    encoder = PairEncoder(ranker.encoder.tokenizer, 64, cache_tokens=1_000)
    tokenised: list[str] = []
    encode = encoder.texts.encode
    encoder.texts.encode = lambda texts: tokenised.extend(texts) or encode(texts)
    first = encoder.encode_documents(QUERY, DOCUMENTS[:3])
    again = encoder.encode_documents(QUERY, [DOCUMENTS[2], DOCUMENTS[0]])
    assert tokenised == [QUERY, *DOCUMENTS[:3], QUERY]
    assert [pair.ids.tolist() for pair in again.pairs] == [first.pairs[place].ids.tolist() for place in (2, 0)]
    for number in range(200):
        encoder.encode_documents(QUERY, [f"{number}번째 문서입니다"])
    assert encoder.texts.cache.held <= 1_000
    tokenised.clear()
    encoder.encode_documents(QUERY, DOCUMENTS[:1])
    assert tokenised == [QUERY, DOCUMENTS[0]]


LETTERS = st.sampled_from("가나다라 서울의 인구는.abc 09-\n")


@settings(deadline=None, max_examples=40)
@given(
    part=st.lists(LETTERS, min_size=1, max_size=60).map("".join),
    times=st.integers(1, 400),
    chunks=st.integers(1, 4),
    typed=st.booleans(),
)
def test_a_long_document_is_tokenised_only_as_far_as_it_is_read_and_to_the_same_tokens(part, times, chunks, typed) -> None:
    tokenizer = WORD_PIECES if typed else SENTENCE_PIECES
    document = part * times
    encoder = PairEncoder(tokenizer, 32, max_chunks=chunks)
    encoded = encoder.encode_documents("가", [document, "나"], overlap=4)
    whole = tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
    beside = len(tokenizer("가", "나")["input_ids"]) - len(tokenizer("나", add_special_tokens=False)["input_ids"])
    pieces = spans(len(whole), 32 - beside, 4, chunks)
    before = tokenizer("가", "나", verbose=False).encodings[0].sequence_ids.index(1)
    read = [pair.ids[before:-1].tolist() for pair in encoded.pairs[:-1]]
    assert read == [whole[start:end] for start, end in pieces]
    assert encoded.chunks.tolist() == [len(pieces), 1]
    assert encoded.truncated.tolist() == [pieces[-1][1] < len(whole), False]


def test_white_space_between_two_words_does_not_hide_the_second(ranker: CrossEncoder) -> None:
    far, near = (ranker.encoder.encode_documents(QUERY, [f"가{gap}나"], max_chunks=1) for gap in (" " * 3_000_000, " "))
    assert far.pairs[0].ids.tolist() == near.pairs[0].ids.tolist()
    assert not far.truncated.any()


def test_a_machine_without_a_gpu_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(RankerError, match="sees no GPU"):
        load_ranker("sample:tiny", EngineOptions(device="cuda"))
    with pytest.raises(RankerError, match="int8 is for CPUs"):
        load_ranker("sample:tiny", EngineOptions(device="cuda", dtype="int8"))
