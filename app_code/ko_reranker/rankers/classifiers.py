"""From a model's folder to a classifier with one logit, or to a bare transformer, and its tokenizer, to train and to score.

Whatever a folder leaves open is settled here, or refused by name: nothing that scores may come from a random start or a guess.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from ko_reranker.rankers.folders import (
    FAMILY,
    GENERATIVE,
    SETTINGS_FILE,
    ModelFolder,
    inspect_folder,
    relevant_label,
)
from ko_reranker.rankers.interface import HeadlessError
from ko_reranker.rankers.modular import ModularClassifier, load_modular

# Tensors that older versions saved, or that other heads read: nothing is lost without them.
_SPARE = ("position_ids", "inv_freq", "masked_bias", "attn.bias", "token_type_ids")
# Of texts in two scripts, one of which any tokenizer knows some piece of.
_PROBE = "서울의 인구는 얼마인가? What is the population of Seoul in 2026?"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A classifier, or a transformer without a head, and its tokenizer.

    Attributes:
        model: with one label if it is a classifier, in the floating type that was asked for.
        tokenizer: a fast one, whose ids the model all has embeddings for.
        typed: whether the model is told query and document apart by token types.
        padding_id: what to pad with behind a text, masked; None for a model that takes sequences of one length at a time.
    """

    model: PreTrainedModel | ModularClassifier
    tokenizer: PreTrainedTokenizerBase
    typed: bool
    padding_id: int | None

    @property
    def transformer(self) -> PreTrainedModel:
        """The model, which is one of `transformers` with no modules of others behind it."""
        if isinstance(self.model, ModularClassifier):
            raise TypeError("the model has modules behind its transformer")
        return self.model


def load_scorer(folder: Path, name: str, *, dtype: torch.dtype, trust_remote_code: bool = False) -> Loaded:
    """Load a model to score with.

    Args:
        folder: where it lies.
        name: what to call it in sentences.
        dtype: of its weights.
        trust_remote_code: whether code that lies in the folder may be run.

    Raises:
        RankerError: it cannot score; the message says why and what to do.
    """
    source = inspect_folder(folder, name, trust_remote_code=trust_remote_code)
    tokenizer = _tokenizer(source, trust_remote_code)
    config = _config(source, tokenizer, trust_remote_code)
    if source.head:
        model: Any = load_modular(source, config, dtype)
    else:
        model = _classifier(source, config, head_will_start=False, dtype=dtype, trust_remote_code=trust_remote_code)
    _check_fit(source, model, tokenizer)
    _check_numbers(source, model)
    return Loaded(model, tokenizer, _takes_types(model, tokenizer), _padding_id(model, tokenizer))


def load_base(source: ModelFolder, **options: Any) -> Loaded:
    """Load a model to train from, in fp32; a head that it lacks starts from PyTorch's generator.

    Args:
        source: from `inspect_folder`.
        options: more for `from_pretrained`, such as ``attn_implementation``.

    Raises:
        RankerError: it cannot be trained; the message says why and what to do.
    """
    tokenizer = _tokenizer(source, False)
    model = load_base_model(source, tokenizer, **options)
    _check_fit(source, model, tokenizer)
    return Loaded(model, tokenizer, _takes_types(model, tokenizer), tokenizer.pad_token_id)


def load_base_model(source: ModelFolder, tokenizer: PreTrainedTokenizerBase | None = None, **options: Any) -> PreTrainedModel:
    """Load the model of :func:`load_base` alone.

    Args:
        source: from `inspect_folder`.
        tokenizer: the model's, whose padding it takes if it has none of its own.
        options: more for `from_pretrained`, such as ``attn_implementation``.

    Raises:
        RankerError: it cannot be trained.
    """
    if source.head:
        raise source.refused(
            "is a CrossEncoder of modules, which can score but not be trained further: train from the model it was made from."
        )
    config = _config(source, tokenizer, False)
    # Weights that are no numbers are the loop's business: it tells of them at its first step.
    return _classifier(source, config, head_will_start=True, dtype=torch.float32, **options)


def load_encoder(source: ModelFolder, *, dtype: torch.dtype, trust_remote_code: bool = False, **options: Any) -> Loaded:
    """Load a transformer without a head, for what reads the states of all of its tokens.

    Args:
        source: from `inspect_folder`.
        dtype: of its weights.
        trust_remote_code: whether code that lies in the folder may be run.
        options: more for `from_pretrained`, such as ``attn_implementation``.

    Raises:
        RankerError: it cannot be used; the message says why and what to do.
    """
    tokenizer = _tokenizer(source, trust_remote_code)
    config = _config(source, tokenizer, trust_remote_code)
    options = {"dtype": dtype, "trust_remote_code": trust_remote_code} | options
    model, facts = _from_pretrained(source, config, options, AutoModel, "a transformer")
    _check_whole(source, model, facts, headed=False)
    _check_fit(source, model, tokenizer)
    _check_numbers(source, model)
    return Loaded(model, tokenizer, _takes_types(model, tokenizer), _padding_id(model, tokenizer))


def load_decoder(
    source: ModelFolder, check: Callable[[Any], None], *, dtype: torch.dtype, trust_remote_code: bool = False
) -> Loaded:
    """Load a causal language model, or a classifier of one's last token, with the head that it scores with.

    Args:
        source: from `inspect_folder`.
        check: raises a ValueError for a configuration that is not computed, before there are any weights.
        dtype: of its weights.
        trust_remote_code: whether code that lies in the folder may be run.

    Raises:
        RankerError: it cannot be used; the message says why and what to do.
    """
    tokenizer = _tokenizer(source, trust_remote_code)
    config = _auto_config(source, trust_remote_code)
    try:
        check(config)
    except ValueError as error:
        raise source.refused(f"{error}: take another model, or a cross-encoder.") from None
    options = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if source.architecture.endswith("ForSequenceClassification"):
        model = _classifier(source, config, head_will_start=False, **options)
    else:
        model, facts = _from_pretrained(source, config, options, AutoModelForCausalLM, "a causal language model")
        _check_whole(source, model, facts, headed=True)
    _check_vocabulary(source, model, tokenizer)
    _check_numbers(source, model)
    return Loaded(model, tokenizer, False, None)


def _check_whole(source: ModelFolder, model: PreTrainedModel, facts: dict[str, Any], *, headed: bool) -> None:
    """See that the weights are those that the configuration tells of, a pooler that nobody reads aside."""
    absent = sorted(key for key in facts["missing_keys"] if "pooler." not in key)
    if absent:
        raise source.refused(
            f"lacks weights of its transformer ({_some(absent)}): they are not those of the {type(model).__name__} that "
            "config.json tells of. Copy both from the same place."
        )
    for key, there, here in facts["mismatched_keys"]:
        raise source.refused(
            f"has weights that are not those of its config.json: {key} is {tuple(there)} in the weights and {tuple(here)} by "
            "config.json. Copy both from the same place."
        )
    if left := _left_over(facts["unexpected_keys"], model, headed=headed):
        raise source.refused(
            f"has weights that config.json has no place for ({_some(left)}): a part of the model would be left out. Copy both "
            "from the same place."
        )


def _tokenizer(source: ModelFolder, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.path, trust_remote_code=trust_remote_code)
    except Exception as error:  # as many kinds as there are ways to be broken
        raise source.refused(f"has a tokenizer that cannot be loaded ({_sentence(error)}): copy its files again.") from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise source.refused("has a tokenizer written in Python only: what is needed is its tokenizer.json.")
    pieces = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    known = {tokenizer.convert_ids_to_tokens(index) for index in tokenizer(_PROBE, add_special_tokens=False)["input_ids"]}
    # A WordPiece list marks what continues a word by ##; one of SentencePiece's pieces marks what begins it by ▁.
    begins = sum(piece.startswith("▁") for piece in pieces)
    foreign = type(backend.model).__name__ == "WordPiece" and 10 * begins > len(pieces)
    if not pieces or known <= {tokenizer.unk_token} or foreign:
        raise source.refused(
            "has a tokenizer that knows none of the letters it is for: the files are not those of this model's tokenizer. Copy "
            "tokenizer.json and tokenizer_config.json from the model that it was trained from."
        )
    return tokenizer


def _config(source: ModelFolder, tokenizer: PreTrainedTokenizerBase | None, trust_remote_code: bool) -> PretrainedConfig:
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(source.path, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise source.refused(f"has a config.json that cannot be used: {_sentence(error)}") from error
    if source.architecture.endswith(("ForCausalLM", "ForConditionalGeneration")):
        raise source.refused(
            f"is a generative model ({source.architecture}), and what is asked for is a {FAMILY}: let family be {GENERATIVE} "
            f"in its {SETTINGS_FILE}, or take a cross-encoder."
        )
    own = source.runs_code and trust_remote_code
    if not own and not source.head and type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise source.refused(f"is a {config.model_type}, which `transformers` has no sequence classifier for.")
    # A model that numbers its positions from behind the padding needs it while it is made.
    text = config.get_text_config()
    if text.pad_token_id is None and tokenizer and tokenizer.pad_token_id != _last_token(tokenizer):
        text.pad_token_id = tokenizer.pad_token_id
    return config


def _auto_config(source: ModelFolder, trust_remote_code: bool) -> PretrainedConfig:
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(source.path, trust_remote_code=trust_remote_code)
    except Exception as error:  # as many kinds as there are ways to be broken
        raise source.refused(f"has a config.json that cannot be used: {_sentence(error)}") from error
    return config


def _classifier(source: ModelFolder, config: PretrainedConfig, *, head_will_start: bool, **options: Any) -> PreTrainedModel:
    """Load a classifier with one label; of two named ones the logit is how much the relevant one's is above the other's."""
    config.num_labels = 1  # it is the weights that say how many there are
    model, facts = _from_pretrained(source, config, options)
    body = getattr(model, model.base_model_prefix, None)
    in_body = {f"{model.base_model_prefix}.{key}" for key in body.state_dict()} if body is not None else set()
    missing = sorted(facts["missing_keys"])
    mismatched = {key: (tuple(there), tuple(here)) for key, there, here in facts["mismatched_keys"]}
    heads = {key: there for key, (there, here) in mismatched.items() if key not in in_body and here[0] == 1}
    if heads and len(heads) == len(mismatched):
        return _one_of_two(source, config, options, labels=next(iter(heads.values()))[0])
    if mismatched:
        key, (there, here) = next(iter(mismatched.items()))
        raise source.refused(
            f"has weights that are not those of its config.json: {key} is {there} in the weights and {here} by config.json. "
            "Copy both from the same place."
        )
    absent = [key for key in missing if key in in_body and ".pooler." not in key]
    if absent:
        raise source.refused(
            f"lacks weights of its transformer ({_some(absent)}): they are not those of the {type(model).__name__} that "
            "config.json tells of. Copy both from the same place."
        )
    if missing and not head_will_start:
        raise source.refused(
            f"has no head that scores ({_some(missing)} missing): it is a transformer to train from"
            f"{f', a {source.architecture},' if source.architecture else ''} and would score at random. Take a cross-encoder, "
            "or train one from it (base_model).",
            HeadlessError,
        )
    left = _left_over(facts["unexpected_keys"], model, headed=not missing)
    if left:
        raise source.refused(
            f"has weights that config.json has no place for ({_some(left)}): a part of the model would be left out. Copy both "
            "from the same place."
        )
    return model


def _from_pretrained(
    source: ModelFolder,
    config: PretrainedConfig,
    options: dict[str, Any],
    kind: Any = AutoModelForSequenceClassification,
    called: str = "a sequence classifier",
) -> tuple[PreTrainedModel, dict[str, Any]]:
    transformers_logging.disable_progress_bar()
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its tables of keys: what they say is said here
    try:
        loaded: tuple[PreTrainedModel, dict[str, Any]] = kind.from_pretrained(
            source.path,
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **{"trust_remote_code": False} | options,
        )
    except Exception as error:  # as many kinds as there are ways to be broken
        raise source.refused(f"cannot be loaded as {called}: {_sentence(error)}") from error
    finally:
        transformers_logging.set_verbosity(before)
    return loaded


def _one_of_two(source: ModelFolder, config: PretrainedConfig, options: dict[str, Any], *, labels: int) -> PreTrainedModel:
    """Turn a classifier of two named labels into one of their difference, whose sigmoid is the softmax of the two."""
    relevant = relevant_label(source.labels)
    if labels != 2 or relevant is None:
        named = f" ({', '.join(source.labels)})" if len(source.labels) == labels else " without names"
        advice = (
            'if one of them is how relevant a document is, say which in config.json, as in "id2label": {"0": "irrelevant", '
            '"1": "relevant"}; a pair\'s score is then the difference of their logits.'
            if labels == 2
            else "take a model with one, or a transformer without a head to train from."
        )
        raise source.refused(f"has {labels} labels{named}: a reranker has one, its relevance; {advice}")
    config.num_labels = 2
    model, facts = _from_pretrained(source, config, options)
    last = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == 2]
    if facts["missing_keys"] or facts["mismatched_keys"] or len(last) != 1:
        raise source.refused("has 2 labels, and a head whose last layer cannot be told: take a model with one.")
    layer = last[0]
    with torch.no_grad():
        layer.weight = nn.Parameter(layer.weight[relevant : relevant + 1] - layer.weight[1 - relevant : 2 - relevant])
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias[relevant : relevant + 1] - layer.bias[1 - relevant : 2 - relevant])
    layer.out_features = model.config.num_labels = 1
    model.num_labels = 1  # type: ignore[assignment]  # no part of the module, but a number
    model.config.id2label, model.config.label2id = {0: "relevant"}, {"relevant": 0}
    return model


def _left_over(unexpected: Sequence[str], model: PreTrainedModel, *, headed: bool) -> list[str]:
    """Return the tensors of body and head that the model took no notice of, though it should have."""
    prefix = f"{model.base_model_prefix}."
    # The parts of the body's and the classifier's own, by name: encoder, embeddings, classifier, …
    body = getattr(model, model.base_model_prefix, model)
    parts = {name for name, _ in body.named_children()} - {"pooler"}
    heads = {name for name, _ in model.named_children()} - {model.base_model_prefix} if headed else set()
    left = []
    for key in sorted(unexpected):
        part = key.removeprefix(prefix).partition(".")[0]
        if (part in parts or (part in heads and not key.startswith(prefix))) and not key.endswith(_SPARE):
            left.append(key)
    return left


def _check_fit(source: ModelFolder, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    if getattr(tokenizer, "chat_template", None) and len(tokenizer("a", "b")["input_ids"]) <= len(_ids(tokenizer, "a", "b")):
        raise source.refused(
            "reads a prompt that is in none of its files: its tokenizer is a chat model's, and puts nothing around query and "
            f'document. Say which prompt it reads in {SETTINGS_FILE}, as in {{"family": "{GENERATIVE}", "{GENERATIVE}": '
            '{"prompt": "qwen3-reranker"}}, write it into tokenizer.json, as its post_processor, or take a cross-encoder.'
        )
    _check_vocabulary(source, model, tokenizer)


def _check_vocabulary(source: ModelFolder, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise source.refused(
            f"has a tokenizer with ids up to {largest:,} and embeddings for {rows:,} tokens: it is another model's tokenizer. "
            "Copy the tokenizer's files of the model that it was trained from."
        )


def _check_numbers(source: ModelFolder, model: Any) -> None:
    for key, parameter in model.named_parameters():
        if not torch.isfinite(torch.linalg.vector_norm(parameter.detach(), float("inf"), dtype=torch.float32)):
            raise source.refused(
                f"has weights that are not numbers ({key} holds NaN or infinity): the training that wrote them blew up, or "
                f"they do not fit into {str(model.dtype).removeprefix('torch.')}. Take an earlier checkpoint, or dtype fp32."
            )


def _takes_types(model: Any, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether to tell query and document apart by token types: both sides have to know two of them.

    KLUE's RoBERTa has the tokenizer of a BERT, which makes types 0 and 1, and one type to look them up in.
    """
    return (
        "token_type_ids" in tokenizer.model_input_names
        and "token_type_ids" in inspect.signature(model.forward).parameters
        and getattr(model.config, "type_vocab_size", 2) >= 2
    )


def _padding_id(model: Any, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the model's own padding, else the tokenizer's; None where padding would change what is read.

    A classifier of the last token finds it by what is no padding, so the two have to be one and the same; and where no padding
    is known, or every text ends with it, only sequences of one length go together.
    """
    text, rows = model.config.get_text_config(), model.get_input_embeddings().weight.shape[0]
    padding: int | None = text.pad_token_id
    if padding is not None and 0 <= padding < rows and padding != _last_token(tokenizer):
        return padding
    if padding is None:
        text.pad_token_id = -1  # no token's id: the last token is the last one
    return None


def _ids(tokenizer: PreTrainedTokenizerBase, *texts: str) -> list[int]:
    return [index for text in texts for index in tokenizer(text, add_special_tokens=False)["input_ids"]]


def _last_token(tokenizer: PreTrainedTokenizerBase) -> int:
    last: int = tokenizer("a", "b")["input_ids"][-1]
    return last


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
