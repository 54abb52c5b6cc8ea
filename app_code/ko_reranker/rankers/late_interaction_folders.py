"""What a late-interaction model's folder says: the layouts of others are read, and one of our own is written.

A late-interaction model (ColBERT) is a transformer, a projection of every token's state, and rules: which tokens come before a
query and a document, how many are read, which count, and whether the best matches of a query's tokens are added up or
averaged. Each layout keeps projection and rules elsewhere; a projection that is missing is never made up.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ko_reranker.rankers.folders import (
    COLBERT_LINEAR_FILE,
    LATE_INTERACTION,
    LEAST_LENGTH,
    PROJECTION_FILE,
    SETTINGS_FILE,
    STANFORD_ARCHITECTURE,
    ModelFolder,
    check_safetensors,
    gives_token_vectors,
    inspect_folder,
)
from ko_reranker.rankers.interface import HeadlessError, RankerError
from ko_reranker.rankers.recorded import own_settings, parsed

# What is read of a layout that names no lengths: what its own library takes, or a length that rerankers read.
_STANFORD_QUERY_LENGTH, _LENGTH = 32, 512
_STANFORD_FILE = "artifact.metadata"
_TOKENIZER_FILE = "tokenizer_config.json"
_SENTENCE_TRANSFORMERS, _TRANSFORMER = "config_sentence_transformers.json", "sentence_bert_config.json"
_PUNCTUATION = tuple(string.punctuation)
_STRICT = ConfigDict(extra="forbid", strict=True)
_OTHERS = ConfigDict(extra="ignore", strict=True)  # of other libraries' files, which say more than is read
Count = Annotated[int, Field(ge=1)]
# A weight beyond this is none that was trained, and makes infinities of states.
_LARGEST_WEIGHT = 1e15


@validated(frozen=True, slots=True, config=_OTHERS)
class _StanfordRules:
    """What is read of artifact.metadata, so that a value of another type is told and not taken for something else."""

    query_maxlen: Count | None = None
    doc_maxlen: Count | None = None
    query_token_id: str | None = None
    doc_token_id: str | None = None
    mask_punctuation: bool | None = None
    attend_to_mask_tokens: bool | None = None


@validated(frozen=True, slots=True, config=_OTHERS)
class _ModuleRules:
    """What is read of the settings of sentence-transformers and PyLate, likewise."""

    model_type: str | None = None
    query_length: Count | None = None
    document_length: Count | None = None
    max_seq_length: Count | None = None
    query_prefix: str | None = None
    document_prefix: str | None = None
    prompts: dict[str, str | None] | None = None
    skiplist_words: list[str] | None = None
    similarity_fn_name: str | None = None
    do_lower_case: bool | None = None
    do_query_expansion: bool | None = None
    attend_to_expansion_tokens: bool | None = None
    attend_to_mask_tokens: bool | None = None
    query_expansion: dict[str, Any] | None = None
    processing_kwargs: dict[str, Any] | None = None


@validated(frozen=True, slots=True, config=_STRICT)
class Expansion:
    """How a short query is made longer: the tokens that are added are scored like its own.

    Attributes:
        length: tokens that every query has at least, special ones included.
        attend: whether the query's tokens see the added ones. The added ones see the query's tokens alone if not.
        strategy: ``fixed`` cuts longer queries to the length, ``min`` reads them.
        token: what is added; None for the tokenizer's mask, or its end of sequence where it has none.
    """

    length: Count
    attend: bool = False
    strategy: Literal["fixed", "min"] = "fixed"
    token: str | None = None


@validated(frozen=True, slots=True, config=_STRICT)
class LateInteractionSettings:
    """The rules of a late-interaction model.

    Attributes:
        dim: channels of a token's vector.
        query_length: the most tokens of a query, prefix and special ones included.
        document_length: the most tokens of a document, or of a piece of it.
        query_prefix, document_prefix: what comes between the first special token and the text, tokenised as text behind a
            marker that it may begin with.
        markers: prefixes, or first words of prefixes, that are put in by their id if the vocabulary has them whole. None for
            whatever a prefix begins with, which is how folders were written that do not say.
        expansion: how short queries are made longer; None for not at all.
        skip: tokens that do not count in a document, such as punctuation; those that the vocabulary lacks are passed over.
        drop_first: whether the first token of query and document does not count.
        reduce: whether the best matches of a query's tokens are added up or averaged.
    """

    dim: Count
    query_length: Count = _LENGTH
    document_length: Count = _LENGTH
    query_prefix: str = ""
    document_prefix: str = ""
    markers: tuple[str, ...] | None = None
    expansion: Expansion | None = None
    skip: tuple[str, ...] = ()
    drop_first: bool = False
    reduce: Literal["sum", "mean"] = "sum"


@validated(frozen=True, slots=True, config=_STRICT)
class Calibration:
    """From the mean of a query's best matches, -1 to 1, to a logit: ``scale * mean + offset``.

    Attributes:
        scale, offset: fitted, or such that a mean of 0.5 is a score of 0.5.
        queries: that they were fitted on; 0 for the default, which is fitted on none.
    """

    scale: Annotated[float, Field(gt=0, le=1e6)] = 20.0  # logits are float32
    offset: Annotated[float, Field(ge=-1e6, le=1e6)] = -10.0
    queries: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, slots=True)
class Projection:
    """From a token's state to its vector, before that is brought to length 1.

    Attributes:
        weight: float32, (dim, hidden).
        bias: float32, (dim,), or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """A folder that holds a late-interaction model.

    Attributes:
        source: the folder; `ko_reranker.rankers.classifiers.load_encoder` loads its transformer and tokenizer.
        settings: the rules.
        projection: of the width of the transformer's states.
        calibration: from MaxSim to logits.
        names_query_length: whether the folder says how long queries are, or its layout does.
    """

    source: ModelFolder
    settings: LateInteractionSettings
    projection: Projection
    calibration: Calibration
    names_query_length: bool


def read_layout(folder: Path, name: str | None = None, *, trust_remote_code: bool = False) -> Layout:
    """Read a folder in our layout, Stanford's, PyLate's, sentence-transformers' or bge-m3's.

    Args:
        folder: where the model lies.
        name: what to call it in sentences; None for the folder's path.
        trust_remote_code: whether code that lies in the folder may be run to load the transformer.

    Raises:
        HeadlessError: it holds a transformer, and no projection.
        RankerError: it holds no model, or one whose rules are not known here; the message says why and what to do.
    """
    source = inspect_folder(
        folder, name or str(folder), family=LATE_INTERACTION, body=True, trust_remote_code=trust_remote_code
    )
    recorded = _json(folder / SETTINGS_FILE)
    names_query_length = True
    if (folder / PROJECTION_FILE).is_file() or "late_interaction" in recorded:
        settings, projection = _read_ours(source, recorded)
    elif _read_json(source, folder / _TOKENIZER_FILE).get("truncation_side", "right") != "right":
        raise source.refused(
            f"cuts off the beginning of long texts (truncation_side in its {_TOKENIZER_FILE}), which is not supported: the end "
            "is what is cut off here. Take the key out if the model was trained so."
        )
    elif source.architecture == STANFORD_ARCHITECTURE:
        settings, projection = _read_stanford(source)
    elif (folder / COLBERT_LINEAR_FILE).is_file():
        settings, projection = _read_bge(source)
        names_query_length = False
    elif (folder / "modules.json").is_file() and gives_token_vectors(folder):
        settings, projection = _read_modules(source)
        named = [_read_json(source, folder / file).get("query_length") for file in (_SENTENCE_TRANSFORMERS, _TRANSFORMER)]
        names_query_length = any(named) or (settings.expansion is not None and settings.expansion.strategy == "fixed")
    else:
        raise source.refused(
            f"has no projection: neither {PROJECTION_FILE}, nor {COLBERT_LINEAR_FILE}, nor linear.weight of an "
            f"{STANFORD_ARCHITECTURE}, nor the Dense of a modules.json. It is what turns a transformer's states into the "
            "vectors that late interaction compares. Take a model that has one, or train one from it (base_model).",
            HeadlessError,
        )
    _check(source, settings, projection)
    calibration = own_settings(source, Calibration, recorded, "calibration")
    return Layout(source, settings, projection, calibration, names_query_length)


def write_layout(
    folder: Path,
    settings: LateInteractionSettings,
    projection: Projection,
    calibration: Calibration | None = None,
    **recorded: Any,
) -> None:
    """Write projection and rules beside a transformer that `save_pretrained` wrote without a head.

    Args:
        folder: where model.safetensors, config.json and the tokenizer lie.
        settings: the rules.
        projection: of the width of the transformer's states.
        calibration: None for the default.
        recorded: more for reranker.json, such as ``base_model``; what is already in it stays.

    Raises:
        ValueError: document_length is less than a folder may say.
    """
    if settings.document_length < LEAST_LENGTH:
        raise ValueError(f"document_length is {settings.document_length}: a folder names at least {LEAST_LENGTH} tokens")
    tensors = {"weight": projection.weight}
    if projection.bias is not None:
        tensors["bias"] = projection.bias
    save_file({key: tensor.detach().cpu().float().contiguous() for key, tensor in tensors.items()}, folder / PROJECTION_FILE)
    values = _json(folder / SETTINGS_FILE) | {"family": LATE_INTERACTION, "max_length": settings.document_length} | recorded
    values["late_interaction"] = asdict(settings)
    values["calibration"] = asdict(calibration or Calibration())
    (folder / SETTINGS_FILE).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _json(path: Path) -> dict[str, Any]:
    """Return a file's JSON object, {} where there is no file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return value if isinstance(value, dict) else {}


def _read_json(source: ModelFolder, path: Path) -> dict[str, Any]:
    name = path.relative_to(source.path).as_posix()
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise source.refused(f"has an unreadable {name} ({error}): copy it again.") from None
    if not isinstance(value, dict):
        raise source.refused(f"has an unreadable {name} (it holds {value!r:.40}, no object): copy it again.")
    return value


def _without_projection(source: ModelFolder, what: str) -> RankerError:
    return source.refused(
        f"has no projection: {what} is missing. Late interaction compares what that makes of the tokens' states, and a random "
        "one would rank at random. Download or copy the model whole.",
        HeadlessError,
    )


def _read_ours(source: ModelFolder, recorded: Mapping[str, Any]) -> tuple[LateInteractionSettings, Projection]:
    path = source.path / PROJECTION_FILE
    if not path.is_file():
        raise _without_projection(source, PROJECTION_FILE)
    if "late_interaction" not in recorded:
        raise source.refused(f"has a {PROJECTION_FILE}, and no late_interaction in its {SETTINGS_FILE}: copy both.")
    check_safetensors(source, path)
    tensors = load_file(path)
    if "weight" not in tensors:
        raise _without_projection(source, f"weight in {PROJECTION_FILE}")
    settings = parsed(source, LateInteractionSettings, recorded["late_interaction"], f"late_interaction in its {SETTINGS_FILE}")
    return settings, _projection(tensors["weight"], tensors.get("bias"))


def _read_stanford(source: ModelFolder) -> tuple[LateInteractionSettings, Projection]:
    """Read Stanford's layout: the projection among the transformer's weights, the rules in artifact.metadata."""
    weight = _root_tensor(source, "linear.weight")
    if weight is None:
        raise _without_projection(source, "linear.weight among its weights")
    told = _read_json(source, source.path / _STANFORD_FILE)
    parsed(source, _StanfordRules, told, f"an {_STANFORD_FILE}")
    settings = {
        "dim": weight.shape[0],
        "query_length": told.get("query_maxlen") or _STANFORD_QUERY_LENGTH,
        "document_length": told.get("doc_maxlen") or _longest(source),
        "query_prefix": f"{told.get('query_token_id') or '[unused0]'} ",
        "document_prefix": f"{told.get('doc_token_id') or '[unused1]'} ",
        "skip": _PUNCTUATION if told.get("mask_punctuation", True) else (),
    }
    settings["markers"] = _markers(settings["query_prefix"], settings["document_prefix"])
    settings["expansion"] = {"length": settings["query_length"], "attend": bool(told.get("attend_to_mask_tokens"))}
    return parsed(source, LateInteractionSettings, settings, f"an {_STANFORD_FILE}"), _projection(weight, None)


def _read_bge(source: ModelFolder) -> tuple[LateInteractionSettings, Projection]:
    """Read bge-m3's layout, which open-retrievals took over: a linear layer of PyTorch's, and rules that are in no file."""
    path = source.path / COLBERT_LINEAR_FILE
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)  # numbers only: no program is run
    except Exception as error:  # as many kinds as there are ways to be broken
        reason = " ".join(str(error).split())[:200]
        raise source.refused(
            f"has a {COLBERT_LINEAR_FILE} that is not the weights of one layer ({reason}): copy it again."
        ) from None
    for part in ("weight", "bias"):
        if not isinstance(tensors, dict) or not isinstance(tensors.get(part), torch.Tensor):
            raise _without_projection(source, f"{part} in {COLBERT_LINEAR_FILE}")
    projection = _projection(tensors["weight"], tensors["bias"])
    length = min(_LENGTH, _longest(source))
    settings = LateInteractionSettings(
        dim=len(projection.weight), query_length=length, document_length=length, drop_first=True, reduce="mean"
    )
    return settings, projection


def _read_modules(source: ModelFolder) -> tuple[LateInteractionSettings, Projection]:
    """Read the modules of sentence-transformers' MultiVectorEncoder, or of PyLate, which leaves some of them out."""
    modules = _modules(source)
    told = _read_json(source, source.path / _SENTENCE_TRANSFORMERS)
    own = _read_json(source, source.path / _TRANSFORMER)
    for values, file in ((told, _SENTENCE_TRANSFORMERS), (own, _TRANSFORMER)):
        parsed(source, _ModuleRules, values, f"a {file}")
    if own.get("do_lower_case"):
        raise source.refused(
            "puts every text into lower case (do_lower_case in sentence_bert_config.json), which is not supported."
        )
    if any((own.get("processing_kwargs") or {}).values()):
        raise source.refused(
            f"tokenises by rules of its own (processing_kwargs in sentence_bert_config.json: {own['processing_kwargs']}), "
            "which are not supported: say a max_length as query_length and document_length; other rules need a model without."
        )
    # PyLate's own: it masks, skips punctuation and normalises whatever its modules say.
    pylate = told.get("model_type") == "ColBERT" or "query_prefix" in told or "document_prefix" in told
    masks = [folder for kind, folder in modules if kind == "MultiVectorMask"]
    _check_order(source, [kind for kind, _ in modules], pylate=pylate)
    projection = _folded(source, [folder for kind, folder in modules if kind == "Dense"])
    settings = _module_lengths(source, told, own, pylate=pylate) | {
        "dim": len(projection.weight),
        "query_prefix": _module_prefix(told, "query"),
        "document_prefix": _module_prefix(told, "document"),
        "markers": _markers(told.get("query_prefix"), told.get("document_prefix")),
        "skip": _module_skip(source, told, masks, pylate=pylate),
        "reduce": "mean" if told.get("similarity_fn_name") == "meanmaxsim" else "sum",
    }
    if settings["expansion"] and not pylate and not masks:
        raise source.refused("expands queries by tokens that no MultiVectorMask of its modules.json lets count: not supported.")
    return parsed(source, LateInteractionSettings, settings, f"a {_SENTENCE_TRANSFORMERS}"), projection


def _modules(source: ModelFolder) -> list[tuple[str, Path]]:
    """Return the kind and folder of each module behind the transformer; `inspect_folder` saw that they lie in the folder."""
    entries = json.loads((source.path / "modules.json").read_text(encoding="utf-8"))
    named = [(str(entry["type"]).rpartition(".")[2], source.path / str(entry.get("path", ""))) for entry in entries]
    kinds = ", ".join(kind for kind, _ in named)
    if not named or named[0][0] != "Transformer" or named[0][1].resolve() != source.path.resolve():
        raise source.refused(f"is made of modules that do not start with a Transformer in its folder ({kinds}): not supported.")
    known = ("Dense", "Dropout", "MultiVectorMask", "Normalize")
    for kind, folder in named[1:]:
        config = _read_json(source, folder / "config.json")
        # A Normalize that names nothing is a sentence's; PyLate's Dense names nothing and is the tokens'.
        reads = config.get("module_input_name", "sentence_embedding" if kind == "Normalize" else "token_embeddings")
        writes = config.get("module_output_name") or reads
        if kind not in known or reads != "token_embeddings" or writes != reads:
            raise source.refused(
                f"has a module that late interaction is not computed with here ({kind} of {reads} to {writes}, in {kinds}): "
                f"what is are {', '.join(known)} from token_embeddings to token_embeddings."
            )
    return named[1:]


def _check_order(source: ModelFolder, kinds: list[str], *, pylate: bool) -> None:
    """Refuse modules that mean something else than linear layers, then one Normalize; a mask means the same at every place."""
    computed = [kind for kind in kinds if kind in ("Dense", "Normalize")]
    if not pylate and "Normalize" not in computed:
        raise source.refused("does not bring its vectors to length 1 (no Normalize in modules.json), which is not supported.")
    if "Normalize" in computed[:-1] or kinds.count("MultiVectorMask") > 1:
        raise source.refused(
            f"has modules in an order or a number that late interaction is not computed with here ({', '.join(kinds)}): what "
            "is are Dense layers, then one Normalize, and one MultiVectorMask at most."
        )


def _module_lengths(source: ModelFolder, told: Mapping[str, Any], own: Mapping[str, Any], *, pylate: bool) -> dict[str, Any]:
    """Return lengths and expansion: of the transformer's own settings, else of PyLate's."""
    longest = _longest(source, own.get("max_seq_length"))
    lengths = {name: own.get(name) or told.get(name) for name in ("query_length", "document_length")}
    marks = ("query_length", "document_length", "do_query_expansion", "attend_to_expansion_tokens", "skiplist_words")
    if "query_expansion" in own or "query_expansion" in told:
        expansion = own.get("query_expansion", told.get("query_expansion"))
    elif (pylate or any(mark in told for mark in marks)) and told.get("do_query_expansion") is not False:
        attend = told.get("attend_to_expansion_tokens", told.get("attend_to_mask_tokens"))
        expansion = {"length": lengths["query_length"] or _STANFORD_QUERY_LENGTH, "attend": bool(attend)}
    else:
        expansion = None
    query = lengths["query_length"] or longest
    if expansion and expansion.get("strategy", "fixed") == "fixed":
        query = expansion.get("length")
    return {"query_length": query, "document_length": lengths["document_length"] or longest, "expansion": expansion}


def _markers(*prefixes: Any) -> tuple[str, ...]:
    """Return what of the prefixes of Stanford's and PyLate's layouts is put in by its id; a prompt is text and has none."""
    told = [prefix for prefix in prefixes if isinstance(prefix, str) and prefix.strip()]
    return tuple(marker for prefix in told for marker in (prefix, prefix.split(None, 1)[0]))


def _module_prefix(told: Mapping[str, Any], side: str) -> str:
    """Return what comes before a text: PyLate's prefix, then the prompt of sentence-transformers."""
    prefix = told.get(f"{side}_prefix") or ""
    return prefix + ((told.get("prompts") or {}).get(side) or "").removeprefix(prefix)


def _module_skip(source: ModelFolder, told: Mapping[str, Any], masks: list[Path], *, pylate: bool) -> tuple[str, ...]:
    if not masks:
        words = told.get("skiplist_words")
        return tuple(words if words is not None else _PUNCTUATION if pylate else ())
    mask = _read_json(source, masks[0] / "config.json")
    if mask.get("keep_only_token_ids") or mask.get("skiplist_tasks", ["document"]) not in (["document"], "document"):
        raise source.refused(
            "leaves out other tokens than those that a document skips (keep_only_token_ids or skiplist_tasks of its "
            "MultiVectorMask), which is not supported."
        )
    return tuple(mask.get("skiplist_words") or ())


def _folded(source: ModelFolder, folders: list[Path]) -> Projection:
    """Return linear layers, one behind the other, as one: in float64, so that it rounds once."""
    if not folders:
        raise _without_projection(source, "the Dense in modules.json")
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    for folder in folders:
        layer = _read_json(source, folder / "config.json")
        tensors = _dense_tensors(source, folder)
        here = tensors["linear.weight"].double()
        if layer.get("bias", True) and "linear.bias" not in tensors:
            raise _without_projection(source, f"linear.bias in {folder.name}, which its config.json tells of,")
        shift = tensors["linear.bias"].double() if layer.get("bias", True) else None
        activation = str(layer.get("activation_function", "Tanh")).rpartition(".")[2]
        if activation != "Identity":
            raise source.refused(
                f"has a projection with the activation {activation} ({folder.name}): only Identity, none, is supported."
            )
        if layer.get("use_residual"):
            added = tensors.get("residual.weight")
            if added is None and here.shape[0] != here.shape[1]:
                raise _without_projection(source, f"residual.weight in {folder.name}")
            here = here + (torch.eye(len(here), dtype=here.dtype) if added is None else added.double())
        if weight is not None and here.shape[1] != weight.shape[0]:
            raise source.refused(f"has a Dense of {here.shape[1]} inputs where {weight.shape[0]} come in ({folder.name}).")
        if bias is not None:
            bias = here @ bias
        if shift is not None:
            bias = shift if bias is None else bias + shift
        weight = here if weight is None else here @ weight
    assert weight is not None  # noqa: S101 - there is a folder
    return _projection(weight, bias)


def _dense_tensors(source: ModelFolder, folder: Path) -> dict[str, torch.Tensor]:
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    if safe.is_file():
        check_safetensors(source, safe)
        tensors = load_file(safe)
    elif pickled.is_file():
        tensors = torch.load(pickled, map_location="cpu", weights_only=True)
    else:
        raise _without_projection(source, f"{folder.name}/model.safetensors")
    if "linear.weight" not in tensors:
        raise _without_projection(source, f"linear.weight in {folder.name}")
    return tensors


def _root_tensor(source: ModelFolder, key: str) -> torch.Tensor | None:
    """Return a tensor among the transformer's weights, None where there is none of that name."""
    root = source.path
    for index in (root / "model.safetensors.index.json", root / "pytorch_model.bin.index.json"):
        if index.is_file():
            file = (_read_json(source, index).get("weight_map") or {}).get(key)
            break
    else:
        file = "model.safetensors" if (root / "model.safetensors").is_file() else "pytorch_model.bin"
    if file is None or not (root / file).is_file():
        return None
    if file.endswith(".safetensors"):
        with safe_open(root / file, framework="pt") as weights:
            return weights.get_tensor(key) if key in weights.keys() else None  # noqa: SIM118 - not a dict
    found: torch.Tensor | None = torch.load(root / file, map_location="cpu", weights_only=True).get(key)
    return found


def _projection(weight: torch.Tensor, bias: torch.Tensor | None) -> Projection:
    return Projection(weight.detach().float().contiguous(), None if bias is None else bias.detach().float().contiguous())


def _longest(source: ModelFolder, named: Any = None) -> int:
    """Return the length that is named, else the one that the tokenizer names, within what the model has positions for."""
    told = named or _read_json(source, source.path / _TOKENIZER_FILE).get("model_max_length")
    positions = source.config.get("max_position_embeddings")
    lengths = [int(value) for value in (told, positions) if isinstance(value, int | float) and value > 0]
    return min(lengths, default=_LENGTH)


def _check(source: ModelFolder, settings: LateInteractionSettings, projection: Projection) -> None:
    weight, hidden = projection.weight, source.config.get("hidden_size")
    if weight.ndim != 2 or len(weight) != settings.dim or (isinstance(hidden, int) and weight.shape[1] != hidden):
        raise source.refused(
            f"has a projection of shape {tuple(weight.shape)} where its files tell of ({settings.dim}, {hidden}): copy it from "
            "where its transformer is from."
        )
    if projection.bias is not None and projection.bias.shape != (settings.dim,):
        raise source.refused(f"has a projection's bias of shape {tuple(projection.bias.shape)}, not ({settings.dim},).")
    for numbers in (weight, projection.bias):
        if numbers is not None and not (numbers.abs() <= _LARGEST_WEIGHT).all():  # NaN is not, either
            raise source.refused("has a projection that is not numbers (NaN, infinity or near it): take an earlier checkpoint.")
