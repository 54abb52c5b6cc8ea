"""Late interaction: MaxSim as others compute it, from any layout, whatever the batch, the cache and the length."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from late_interaction_models import DOCUMENTS, HIDDEN, QUERY, bge, edit, ours, pylate, stanford
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.util.similarity import maxsim
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import Metaspace
from transformers import AutoModel, AutoTokenizer

from ko_reranker.rankers import EngineOptions, RankerError, load_ranker
from ko_reranker.rankers.late_interaction import LateInteraction, mean_of_best_matches
from ko_reranker.rankers.late_interaction_folders import Calibration, Expansion, read_layout, write_layout
from ko_reranker.rankers.late_interaction_texts import ApartEncoder

# Other libraries cut a long document off, and compare in float32.
CUT = EngineOptions(max_chunks=1, workers=1, vector_cache_bytes=0)


def load(folder: Path, options: EngineOptions = CUT) -> LateInteraction:
    ranker = load_ranker(folder, options)
    assert isinstance(ranker, LateInteraction)
    return ranker


def plain_pylate(folder: Path) -> Path:
    return pylate(folder, kind="xlm-roberta", query_prefix="[Q] ", document_prefix="질문: ", do_query_expansion=False)


def attending_stanford(folder: Path) -> Path:
    return stanford(folder, attend_to_mask_tokens=True, mask_punctuation=False)


def expanding_modernbert(folder: Path) -> Path:
    return pylate(folder, kind="modernbert")


def sentence_transformers_own(folder: Path) -> Path:
    """Save a model by sentence-transformers itself, with rules that PyLate's and Stanford's layouts cannot say."""
    pylate(folder / "first", kind="bert")
    encoder = MultiVectorEncoder(str(folder / "first"), device="cpu")
    encoder[0].query_expansion = {"strategy": "min", "attend": False, "length": 6}
    encoder[0].query_length, encoder.similarity_fn_name = 12, "meanmaxsim"
    encoder.save(str(folder / "saved"))
    return folder / "saved"


def prompted_by_words(folder: Path) -> Path:
    """Save prompts whose first words stand bare in the vocabulary, where a text has them with a mark of their beginning."""
    pylate(folder / "first", kind="xlm-roberta", query_prefix=None, document_prefix=None, do_query_expansion=False)
    encoder = MultiVectorEncoder(str(folder / "first"), device="cpu", prompts={"query": "도시 ", "document": "search : "})
    encoder.save(str(folder / "saved"))
    return folder / "saved"


def prompted_by_added_tokens(folder: Path) -> Path:
    """Save prompts that are tokens with a space in them, as PyLate adds them."""
    plain = pylate(folder / "first", kind="bert", query_prefix="? ", document_prefix="[unused1] ")
    encoder = MultiVectorEncoder(str(plain), device="cpu")
    encoder.tokenizer.add_tokens(["? "])
    encoder[0].model.resize_token_embeddings(len(encoder.tokenizer))
    encoder.save(str(folder / "saved"))
    return folder / "saved"


LAYOUTS = [
    stanford,
    attending_stanford,
    pylate,
    plain_pylate,
    expanding_modernbert,
    sentence_transformers_own,
    prompted_by_words,
    prompted_by_added_tokens,
]


@pytest.mark.parametrize("make", LAYOUTS)
@pytest.mark.parametrize("query", [QUERY, QUERY * 6, "?"])
def test_a_layouts_vectors_and_scores_are_those_of_sentence_transformers(tmp_path, make, query):
    folder = make(tmp_path)
    ranker, theirs = load(folder), MultiVectorEncoder(str(folder), device="cpu")
    queries, documents = theirs.encode_query([query]), theirs.encode_document(DOCUMENTS)
    np.testing.assert_allclose(ranker.encode_query(query), queries[0], atol=1e-5)
    for mine, other in zip(ranker.encode_documents(DOCUMENTS), documents, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)
    scores = theirs.similarity(queries, documents)[0]
    np.testing.assert_allclose(ranker.score_detailed(query, DOCUMENTS).raw, scores, rtol=1e-5, atol=1e-5)
    ranker.close()


def test_bge_m3s_scores_are_the_mean_over_all_tokens_but_the_first(tmp_path):
    folder = bge(tmp_path)
    linear = torch.load(folder / "colbert_linear.pt", weights_only=True)
    dense = Dense(HIDDEN, HIDDEN, activation_function=None, module_input_name="token_embeddings")
    dense.linear.load_state_dict(linear)
    modules = [Transformer(str(folder)), dense, MultiVectorMask(), Normalize(module_input_name="token_embeddings")]
    theirs = MultiVectorEncoder(modules=modules, device="cpu", similarity_fn_name="meanmaxsim")
    queries = [vectors[1:] for vectors in theirs.encode_query([QUERY])]
    documents = [vectors[1:] for vectors in theirs.encode_document(DOCUMENTS)]
    ranker = load(folder)
    scored = ranker.score_detailed(QUERY, DOCUMENTS)
    np.testing.assert_allclose(scored.raw, theirs.similarity(queries, documents)[0], rtol=0, atol=1e-5)
    assert ranker.raw_scale == "maxsim_mean"
    ranker.close()


def test_a_folder_of_our_own_ranks_as_the_one_it_was_read_from(tmp_path):
    theirs = stanford(tmp_path / "theirs")
    layout = read_layout(theirs)
    AutoModel.from_pretrained(theirs).save_pretrained(tmp_path / "ours")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "ours" / file).write_bytes((theirs / file).read_bytes())
    write_layout(tmp_path / "ours", layout.settings, layout.projection)
    one, other = load(theirs), load(tmp_path / "ours")
    np.testing.assert_array_equal(one.score(QUERY, DOCUMENTS), other.score(QUERY, DOCUMENTS))
    one.close()
    other.close()


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_maxsim_is_sentence_transformers_and_padding_takes_no_part_where_every_cosine_is_negative(reduce):
    generator = np.random.default_rng(0)
    query = np.abs(generator.normal(size=(7, 16)).astype(np.float32))
    documents = [-np.abs(generator.normal(size=(tokens, 16)).astype(np.float32)) for tokens in (1, 9, 30, 2)]
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    documents = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in documents]
    means = mean_of_best_matches(query, documents)
    scores = maxsim([torch.from_numpy(query)], list(map(torch.from_numpy, documents)), length_normalize=reduce == "mean")[0]
    assert (means < -0.1).all()
    np.testing.assert_allclose(means * (7 if reduce == "sum" else 1), scores, rtol=0, atol=1e-5)


def test_a_document_without_a_token_that_counts_is_the_farthest(tmp_path):
    edit_rules(ours("bert", tmp_path), skip=["[CLS]", "[SEP]", "."])
    ranker = load(tmp_path)
    raw = ranker.score_detailed(QUERY, ["서울", "...", ""]).raw
    vectors = len(ranker.encode_query(QUERY))
    assert raw[1:].tolist() == [-vectors, -vectors] and raw[0] > -vectors
    ranker.close()


def test_many_documents_are_compared_in_blocks_with_the_same_result():
    generator = np.random.default_rng(1)
    query = generator.normal(size=(4, 512)).astype(np.float32)
    documents = [generator.normal(size=(tokens, 512)).astype(np.float16) for tokens in [900, 4000, 4500, 0, 5] * 3]
    wanted = [(query @ rows.T.astype(np.float32)).max(1).mean() if len(rows) else -1 for rows in documents]
    np.testing.assert_allclose(mean_of_best_matches(query, documents), wanted, rtol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "modernbert"])
def test_documents_together_score_as_each_alone(tmp_path, kind):
    ranker = load(
        ours(kind, tmp_path, expansion=Expansion(24)), EngineOptions(workers=2, batch_tokens=64, vector_cache_bytes=0)
    )
    documents = [*DOCUMENTS, *(f"{number} {document}" for number in range(8) for document in DOCUMENTS)]
    together = ranker.score(QUERY, documents)
    alone = [ranker.score(QUERY, [document])[0] for document in documents]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-4)
    np.testing.assert_allclose(ranker.score_pairs([(QUERY, document) for document in documents]), alone, rtol=0, atol=1e-4)
    ranker.close()


def test_scores_go_through_the_calibration_of_the_folder(tmp_path):
    folder = ours("bert", tmp_path)
    first = load(folder)
    default = first.score_detailed(QUERY, DOCUMENTS)
    means = default.raw / len(first.encode_query(QUERY))
    np.testing.assert_allclose(default.logits, 20 * means - 10, atol=1e-4)
    edit(folder / "reranker.json", calibration={"scale": 3.5, "offset": 0.25, "queries": 40})
    second = load(folder)
    assert second.calibration == Calibration(3.5, 0.25, 40)
    np.testing.assert_allclose(second.score(QUERY, DOCUMENTS), 3.5 * means + 0.25, atol=1e-4)
    assert first.absolute and first.rank(QUERY, DOCUMENTS) == second.rank(QUERY, DOCUMENTS)
    first.close()
    second.close()


def test_added_tokens_are_scored_and_seen_by_nobody(tmp_path):
    plain, expanded = load(ours("bert", tmp_path / "plain")), load(ours("bert", tmp_path / "more", expansion=Expansion(20)))
    seen = load(ours("bert", tmp_path / "seen", expansion=Expansion(20, attend=True)))
    own = plain.encode_query(QUERY)
    more = expanded.encode_query(QUERY)
    assert (len(own), len(more)) == (7, 20)
    np.testing.assert_allclose(more[:7], own, atol=1e-5)
    assert np.abs(seen.encode_query(QUERY)[:7] - own).max() > 1e-3
    assert not np.array_equal(expanded.score(QUERY, DOCUMENTS), plain.score(QUERY, DOCUMENTS))
    for ranker in (plain, expanded, seen):
        ranker.close()


def test_a_long_document_is_read_in_chunks_and_has_the_score_of_its_best(tmp_path):
    ranker = load(ours("bert", tmp_path, document_length=16), EngineOptions(chunk_overlap=4, vector_cache_bytes=0))
    words = [*["부산", "항구", "도시", "강", "바다", "많다", "한국", "이다"]] * 4
    long = " ".join([*words, "서울 의 인구 는", *words])
    scored = ranker.score_detailed(QUERY, [long, "서울"])
    assert scored.chunks[0] > 4 and scored.chunks[1] == 1 and not scored.truncated.any()
    cut = ranker.score_detailed(QUERY, [long], max_chunks_per_doc=1)
    assert cut.truncated[0] and cut.chunks[0] == 1 and cut.logits[0] < scored.logits[0]
    short = ranker.score_detailed(QUERY, [long], max_tokens_per_doc=14)
    assert short.truncated[0] and short.logits[0] == cut.logits[0]
    assert scored.cost.tokens == scored.tokens.sum() and scored.cost.model_calls == 1 + scored.chunks.sum()
    ranker.close()


def test_a_query_that_is_too_long_is_cut_and_told(tmp_path):
    ranker = load(ours("bert", tmp_path, query_length=8))
    assert ranker.score_detailed(QUERY * 4, DOCUMENTS).query_truncated and len(ranker.encode_query(QUERY * 4)) == 8
    assert not ranker.score_detailed("서울", DOCUMENTS).query_truncated
    ranker.close()


def test_equal_documents_tie_and_none_are_no_work(tmp_path):
    ranker = load(ours("bert", tmp_path))
    scored = ranker.score_detailed(QUERY, [DOCUMENTS[0], DOCUMENTS[1], DOCUMENTS[0]])
    assert scored.logits[0] == scored.logits[2] and scored.raw[0] == scored.raw[2] and scored.tokens[2] == 0
    nothing = ranker.score_detailed(QUERY, [])
    assert len(nothing.logits) == 0 and nothing.cost.model_calls == 0
    ranker.close()


def test_vectors_that_are_kept_give_the_same_scores_and_only_the_query_is_read(tmp_path):
    folder = ours("xlm-roberta", tmp_path)
    ranker, exact = load(folder, EngineOptions(vector_cache_bytes=1_000_000)), load(folder)
    first, again = ranker.score_detailed(QUERY, DOCUMENTS), ranker.score_detailed(QUERY, DOCUMENTS)
    np.testing.assert_array_equal(first.logits, again.logits)
    np.testing.assert_allclose(first.raw, exact.score_detailed(QUERY, DOCUMENTS).raw, atol=5e-3)
    assert first.cost.model_calls == 1 + len(DOCUMENTS) and again.cost.model_calls == 1
    assert again.cost.tokens == again.tokens.sum() == len(ranker.encoder.query(QUERY)[0].item)
    assert (ranker.vectors.hits, ranker.vectors.misses) == (len(DOCUMENTS), len(DOCUMENTS))
    mixed = ranker.score_detailed("부산", [*DOCUMENTS, "새 문서"])
    assert mixed.cost.model_calls == 2
    exact.close()
    ranker.close()


def test_the_cache_stays_within_its_bytes_and_lets_go_of_what_was_used_longest_ago(tmp_path):
    folder = ours("bert", tmp_path)
    whole = load(folder, EngineOptions(vector_cache_bytes=1_000_000))
    whole.score(QUERY, DOCUMENTS[:3])
    room = whole.vectors.held
    small = load(folder, EngineOptions(vector_cache_bytes=room))
    small.score(QUERY, DOCUMENTS[:3])
    small.score(QUERY, DOCUMENTS[:1])  # the first document was used last
    small.score(QUERY, ["도시 이다"])
    assert small.vectors.held <= room
    small.score(QUERY, DOCUMENTS[:1])
    assert small.vectors.misses == 4 and small.vectors.hits == 2
    whole.close()
    small.close()


def test_a_model_that_is_none_is_refused(tmp_path):
    with pytest.raises(RankerError, match="expands queries to 4000 tokens and has positions for"):
        load(ours("bert", tmp_path / "long", expansion=Expansion(4000)))
    with pytest.raises(RankerError, match="document_length is 2"):
        load(stanford(tmp_path / "short", doc_maxlen=2))
    with pytest.raises(RankerError, match="no such token"):
        load(ours("bert", tmp_path / "token", expansion=Expansion(8, token="<more>")))
    folder = ours("bert", tmp_path / "other")
    edit(folder / "config.json", model_type="ernie")
    with pytest.raises(RankerError, match="ernie, whose"):
        load(folder)


def edit_rules(folder: Path, **rules: object) -> Path:
    settings = json.loads((folder / "reranker.json").read_text())["late_interaction"]
    edit(folder / "reranker.json", late_interaction=settings | rules)
    return folder


def example():
    path = Path(__file__).parents[2] / "docs" / "examples" / "late_interaction.py"
    spec = importlib.util.spec_from_file_location("late_interaction_example", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_does_what_open_retrievals_page_does(tmp_path):
    ranker, page = load(bge(tmp_path)), example()
    query, document = page.PAIRS[0]
    vectors = page.encode(ranker, [query, document])
    assert [one.shape[1] for one in vectors] == [HIDDEN, HIDDEN]
    np.testing.assert_allclose(np.linalg.norm(vectors[0], axis=1), 1, atol=1e-5)
    wanted = (vectors[0] @ vectors[1].T).max(1).mean()
    np.testing.assert_allclose(page.compute_score(ranker, page.PAIRS)[0], wanted, atol=1e-5)
    ranker.close()


@pytest.mark.skipif("KO_RERANKER_BGE_M3" not in os.environ, reason="KO_RERANKER_BGE_M3 names no folder or hub id of bge-m3")
def test_the_scores_that_open_retrievals_page_prints_are_sums_or_means_by_its_temperature():
    ranker, page = load_ranker(os.environ["KO_RERANKER_BGE_M3"]), example()
    printed = np.array([5.445939, 3.0762713])
    means = np.array(page.compute_score(ranker, page.PAIRS))
    tokens = len(ranker.encode_query(page.PAIRS[0][0]))
    ranker.close()
    # In fp16, padded to 256 tokens, and in one version of two divided by the number of the query's tokens.
    scales = {"sum": means * tokens, "mean / 0.02": means / 0.02}
    assert any(np.allclose(values, printed, rtol=0.02) for values in scales.values()), scales


def test_a_query_is_read_as_far_as_its_expansion_is_long(tmp_path):
    ranker = load(ours("bert", tmp_path, query_length=8, document_length=16, expansion=Expansion(200)))
    encoded, truncated = ranker.encoder.query("서울 의 " * 90)
    assert not truncated and int((encoded.item.ids == ranker.encoder.tokenizer.mask_token_id).sum()) == 200 - 182
    ranker.close()


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("prepend", [None, "first"])
def test_a_text_behind_a_marker_that_the_tokenizer_knows_has_the_tokens_that_it_has_there(prepend, normalized, tmp_path):
    folder = pylate(tmp_path, kind="xlm-roberta", query_prefix="[Q] ", document_prefix="[D] ", do_query_expansion=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if prepend:
        tokenizer.backend_tokenizer.pre_tokenizer = Metaspace(prepend_scheme=prepend)
    tokenizer.add_tokens([AddedToken(marker, normalized=normalized) for marker in ("[Q] ", "[D] ")])
    encoder = ApartEncoder(tokenizer, read_layout(folder).settings)
    for text in ("서울의 인구", "", " ", "\t\n", "\u3000", " 서울", "서울 ", "▁", "##a", " <mask>", "[D] 서울"):
        assert encoder.query(text)[0].item.ids.tolist() == tokenizer(f"[Q] {text}")["input_ids"][:16]
        assert encoder.documents([text]).texts[0].item.ids.tolist() == tokenizer(f"[D] {text}")["input_ids"]
    long = ApartEncoder(tokenizer, read_layout(folder).settings, max_chunks=9).documents(["서울의 인구 " * 20]).texts
    assert len(long) > 1
    assert {tokenizer.convert_ids_to_tokens(int(chunk.item.ids[1])) for chunk in long} == {"[D] "}


def test_a_marker_behind_which_a_text_has_other_tokens_is_refused(tmp_path):
    # A piece that the tokenizer would not make of these characters, as they begin a text.
    folder = pylate(tmp_path, kind="xlm-roberta", query_prefix="니다", document_prefix="", do_query_expansion=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert "니다" in tokenizer.get_vocab() and tokenizer.tokenize("니다") != ["니다"]
    tokenizer.backend_tokenizer.pre_tokenizer = Metaspace(prepend_scheme="first")
    with pytest.raises(ValueError, match="other tokens for a text behind its query_prefix"):
        ApartEncoder(tokenizer, read_layout(folder).settings)
