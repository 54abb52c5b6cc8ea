"""What users rely on in a ranker: stable scores, the query kept whole, honest facts about what was cut."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

from ko_reranker.engine.forwards import padded_batches
from ko_reranker.rankers import RankerError, load_ranker
from ko_reranker.rankers.cross_encoder import CrossEncoder
from ko_reranker.rankers.pairs import PairEncoder
from ko_reranker.samples import tiny_model

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
    return load_ranker("sample:tiny")


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
    assert load_ranker("sample:tiny", max_length=32).max_length == 32


def test_a_classifier_with_two_labels_is_no_reranker(tmp_path) -> None:
    config = XLMRobertaConfig(
        vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, num_labels=2
    )
    XLMRobertaForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_model.load_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(RankerError, match="2 labels"):
        load_ranker(tmp_path)


def test_an_encoder_pads_to_the_longest_pair(ranker: CrossEncoder) -> None:
    encoder = PairEncoder(ranker.encoder.tokenizer, 64)
    pairs, _ = encoder.encode(QUERY, DOCUMENTS[:3])
    batch = encoder.pad(pairs)
    assert batch["input_ids"].shape == (3, max(map(len, pairs)))
    assert batch["attention_mask"].sum(1).tolist() == [len(pair) for pair in pairs]
