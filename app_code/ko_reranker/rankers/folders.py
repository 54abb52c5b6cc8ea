"""What lies in a model's folder, by its files alone: which kind of model it is, or why it is none that can score.

A library that loads whatever it finds makes up what is missing: a tokenizer that knows no letter, a head of random weights.
So a folder is looked at first, here, for everybody who loads one; `classifiers` then looks at what was loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ko_reranker.models import module_folders
from ko_reranker.rankers.interface import HeadlessError, RankerError

SETTINGS_FILE = "reranker.json"
FAMILY, LATE_INTERACTION, GENERATIVE = "cross_encoder", "late_interaction", "generative"
# Where a late-interaction model has its projection: in our own layout, in bge-m3's, among the weights of Stanford's class.
PROJECTION_FILE, COLBERT_LINEAR_FILE, STANFORD_ARCHITECTURE = "projection.safetensors", "colbert_linear.pt", "HF_ColBERT"
LEAST_LENGTH = 16  # tokens of a pair
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LARGEST_POINTER = 1024  # bytes, by the specification of Git LFS
_SAFETENSORS, _PICKLED = "model.safetensors", "pytorch_model.bin"
# Any one of these sets is a tokenizer; what comes first is what `transformers` takes.
_TOKENIZERS = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"))
_OTHER_WEIGHTS = ("*.gguf", "*.onnx", "onnx/*.onnx", "tf_model.h5", "*.msgpack", "rust_model.ot")
# Modules of sentence-transformers that follow the transformer in a CrossEncoder, and can be computed here.
HEAD_MODULES = ("Pooling", "Dense", "Dropout", "LayerNorm")
# Names of labels, lower case and without punctuation, that say which of two is the relevant one.
_RELEVANT = {"relevant", "relevance", "yes", "true", "1", "관련", "관련있음"}
_IRRELEVANT = {"irrelevant", "notrelevant", "nonrelevant", "no", "false", "0", "무관", "관련없음"}


@dataclass(frozen=True, slots=True)
class Module:
    """A module of sentence-transformers: its kind, such as ``Dense``, and the folder of its settings and weights."""

    kind: str
    folder: Path


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder whose files make up a model.

    Attributes:
        name: what the model is called in sentences: its address.
        path: where it lies.
        config: the content of config.json.
        head: modules of sentence-transformers behind the transformer, in order; empty for a classifier of `transformers`.
        runs_code: whether config.json or tokenizer_config.json names Python code to load the model with.
    """

    name: str
    path: Path
    config: Mapping[str, Any]
    head: tuple[Module, ...]
    runs_code: bool

    @property
    def architecture(self) -> str:
        """The class that config.json names, or ''."""
        named = self.config.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else ""

    @property
    def labels(self) -> list[str]:
        """The names of the labels, in order, as far as config.json has any."""
        named = self.config.get("id2label")
        if not isinstance(named, dict) or not all(str(key).isdecimal() for key in named):
            return []
        return [str(named[key]) for key in sorted(named, key=int)]

    def refused(self, sentence: str, error: type[RankerError] = RankerError) -> RankerError:
        """Return the error that says why the model cannot be used."""
        return error(f"{self.name} {sentence}")


def inspect_folder(
    folder: Path,
    name: str,
    *,
    family: str = FAMILY,
    body: bool = False,
    tokenizer: bool = True,
    trust_remote_code: bool = False,
) -> ModelFolder:
    """Look at a model's folder.

    Args:
        folder: where config.json, weights and tokenizer lie.
        name: what to call the model in sentences.
        family: what it has to be of, if its reranker.json says.
        body: whether a transformer without a head will do, as it does to train from.
        tokenizer: whether there has to be one.
        trust_remote_code: whether code that lies in the folder may be run to load the model.

    Raises:
        RankerError: it holds no model that can be scored with; the message says why and what to do.
    """
    draft = ModelFolder(name, folder, {}, (), False)
    _refuse_placeholders(draft)
    if (folder / "adapter_config.json").is_file():
        raise draft.refused(
            "holds an adapter (adapter_config.json), which would be left out: merge it into the model that it adapts "
            "(`merge_and_unload` of peft), save both as one, and give the result."
        )
    config = _read_json(draft, folder / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise draft.refused("has a config.json without model_type: it is not a model that `transformers` saved. Save it anew.")
    model = ModelFolder(name, folder, config, _head(draft, config, body=body), bool(_code(draft, config)))
    if model.runs_code:
        _check_code(model, trust_remote_code)
    if method := _quantisation(config):
        raise model.refused(
            f"is quantised by {method} (quantization_config in config.json), which is not supported: take the model it was "
            "made from; on a CPU, dtype int8 quantises that while it loads."
        )
    _check_settings(model, family)
    _check_weights(model)
    if tokenizer:
        _check_tokenizer(model)
    return model


def gives_token_vectors(folder: Path) -> bool:
    """Return whether a folder's files are laid out as only late-interaction models are; what is unreadable tells nothing."""

    def read(name: str) -> Any:
        try:
            return json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    if (folder / PROJECTION_FILE).is_file() or (folder / COLBERT_LINEAR_FILE).is_file():
        return True
    config, told, modules = read("config.json"), read("config_sentence_transformers.json"), read("modules.json")
    if isinstance(config, dict) and config.get("architectures") == [STANFORD_ARCHITECTURE]:
        return True
    if isinstance(told, dict) and (told.get("model_type") in ("ColBERT", "MultiVectorEncoder") or "query_prefix" in told):
        return True
    kinds = [str(module.get("type")) for module in modules if isinstance(module, dict)] if isinstance(modules, list) else []
    return any(kind.startswith("pylate.") for kind in kinds)


def relevant_label(labels: Sequence[str]) -> int | None:
    """Return which of two labels is the relevant one by their names, None where they do not say."""
    if len(labels) != 2:
        return None
    bare = ["".join(filter(str.isalnum, label.lower())) for label in labels]
    for index, other in ((0, 1), (1, 0)):
        if bare[index] in _RELEVANT and bare[other] in _IRRELEVANT:
            return index
    return None


def _refuse_placeholders(model: ModelFolder) -> None:
    """Refuse files that stand for others, or are empty: what a clone without Git LFS or a full disk leaves."""
    pointers, empty = [], []
    for path in _loaded_files(model.path):
        size = path.stat().st_size
        if not size:
            empty.append(path)
        elif size <= _LARGEST_POINTER and path.read_bytes().startswith(_LFS_POINTER):
            pointers.append(path)
    if pointers:
        raise model.refused(
            f"holds Git LFS pointers instead of {_names(model, pointers)}: run `git lfs pull` where it was cloned, or give its "
            "hub id, which downloads the files themselves."
        )
    if empty:
        raise model.refused(f"has empty files, {_names(model, empty)}: the copy was cut off. Copy or download it again.")


def _loaded_files(folder: Path) -> Iterator[Path]:
    """Yield the files that loading may read: of the folder and of those of its modules."""
    modules = module_folders(folder)
    weights = "*.safetensors" if any(folder.glob("*.safetensors")) else "pytorch_model*.bin"
    for pattern in ("*.json", "vocab.txt", "merges.txt", "*.model", weights):
        for place in (folder, *modules):
            yield from (path for path in sorted(place.glob(pattern)) if path.is_file())
    if weights == "*.safetensors":
        yield from (path for place in modules for path in sorted(place.glob("pytorch_model.bin")))


def _names(model: ModelFolder, paths: Sequence[Path]) -> str:
    shown = [path.relative_to(model.path).as_posix() for path in paths[:5]]
    return ", ".join(shown) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")


def _read_json(model: ModelFolder, path: Path, kind: type = dict) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise model.refused(f"has no {path.relative_to(model.path).as_posix()}.") from None
    except (OSError, ValueError) as error:
        raise model.refused(f"has an unreadable {path.relative_to(model.path).as_posix()} ({error}): copy it again.") from None
    if not isinstance(value, kind):
        raise model.refused(f"has a {path.relative_to(model.path).as_posix()} that is no JSON {kind.__name__}: copy it again.")
    return value


def _check_settings(model: ModelFolder, family: str) -> None:
    """See that what a training here left about the model is of a kind that is known."""
    path = model.path / SETTINGS_FILE
    if not path.is_file():
        return
    settings = _read_json(model, path)
    named, length = settings.get("family", family), settings.get("max_length")
    if named != family:
        raise model.refused(f"is of the family {named} by its {SETTINGS_FILE}, and what is asked for is one of {family}.")
    if length is not None and (not isinstance(length, int) or length < LEAST_LENGTH):
        raise model.refused(f"has a {SETTINGS_FILE} with max_length {length!r}: a pair needs at least {LEAST_LENGTH} tokens.")


def _quantisation(config: Mapping[str, Any]) -> str | None:
    settings = config.get("quantization_config")
    if not settings:
        return None
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    return str(method or "an unnamed method")


def _code(model: ModelFolder, config: Mapping[str, Any]) -> list[str]:
    """Return the classes that the folder names for loading it: ``module.Class``, or ``ORG/NAME--module.Class``."""
    tokenizer = model.path / "tokenizer_config.json"
    found: list[str] = []
    for settings in (config, _read_json(model, tokenizer) if tokenizer.is_file() else {}):
        named = settings.get("auto_map") or {}
        values = named.values() if isinstance(named, dict) else [named]
        for value in values:
            found += [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]
    return found


def _check_code(model: ModelFolder, trusted: bool) -> None:
    named = _code(model, model.config)
    if not trusted:
        raise model.refused(
            f"wants Python code of its own to be run (auto_map: {named[0]}), and is refused: read the code, and give "
            "--trust-remote-code with a hub id pinned to a commit, ORG/NAME@ and its 40 digits, or with a folder of yours. If "
            f"transformers' own {model.config['model_type']} is what it needs, take auto_map out of its JSON files."
        )
    for item in named:
        if "--" in item:
            raise model.refused(
                f"takes its code from another repository, whose revision nothing pins ({item}): copy that repository's .py "
                "files into a folder with the model, and take the part up to -- out of auto_map."
            )
        if not (model.path / f"{item.partition('.')[0]}.py").is_file():
            raise model.refused(f"names code that is not there: {item.partition('.')[0]}.py is missing.")


def _check_weights(model: ModelFolder) -> None:
    folder = model.path
    for whole in (_SAFETENSORS, _PICKLED):
        if (folder / whole).is_file():
            files = [folder / whole]
            break
        index = folder / f"{whole}.index.json"
        if index.is_file():
            files = _shards(model, index)
            break
    else:
        other = [path.name for pattern in _OTHER_WEIGHTS for path in sorted(folder.glob(pattern))]
        found = f" ({other[0]} is none that is read here)" if other else ""
        raise model.refused(f"has no weights{found}: {_SAFETENSORS} is missing. Download or save it whole.")
    for path in files:
        if path.suffix == ".safetensors":
            check_safetensors(model, path)


def _shards(model: ModelFolder, index: Path) -> list[Path]:
    named = _read_json(model, index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise model.refused(f"has an unreadable {index.name}: it has no weight_map. Copy it again.")
    suffix = index.name.removesuffix(".index.json").rpartition(".")[2]
    for name in sorted(set(named.values())):
        if _leads_out(name) or (suffix == "safetensors" and not name.endswith(".safetensors")):
            raise model.refused(
                f"names the file {name!r} in {index.name}, which is outside of its folder or no safetensors file: its files "
                "are not those that a library saved. Copy or download it from where it was made."
            )
    files = [model.path / name for name in sorted(set(named.values()))]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise model.refused(
            f"lacks {len(missing)} of its {len(files)} files of weights ({_names(model, missing)}): download or copy it whole."
        )
    return files


def _leads_out(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def check_safetensors(model: ModelFolder, path: Path) -> None:
    """See by its header that a file of weights is whole.

    Raises:
        RankerError: it is not.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= size - 8:
                raise ValueError("no header")
            header = json.loads(stream.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        wanted = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise model.refused(f"has a {_names(model, [path])} that is no safetensors file: download or copy it again.") from None
    if size != wanted:
        raise model.refused(
            f"has a {_names(model, [path])} of {size:,} bytes where its header tells of {wanted:,}: the copy was cut off. "
            "Download or copy it again."
        )


def _check_tokenizer(model: ModelFolder) -> None:
    """See that there is a tokenizer: without its files `transformers` makes up one that knows no letter."""
    if any(all((model.path / name).is_file() for name in names) for names in _TOKENIZERS):
        return
    pieces = [path.name for pattern in ("*.model", "*.spm") for path in sorted(model.path.glob(pattern))]
    if pieces:
        raise model.refused(
            f"has its tokenizer as a SentencePiece model only ({pieces[0]}), which is not read here: where sentencepiece is "
            "installed, `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)` writes the tokenizer.json that is."
        )
    raise model.refused(
        "has no tokenizer: tokenizer.json is missing. Copy the tokenizer's files of the model that it was trained from."
    )


def _head(model: ModelFolder, config: Mapping[str, Any], *, body: bool) -> tuple[Module, ...]:
    """Return the modules behind the transformer, if sentence-transformers saved the model in modules."""
    path = model.path / "modules.json"
    if not path.is_file():
        return ()
    entries = _read_json(model, path, list)
    if not all(isinstance(item, dict) and isinstance(item.get("type"), str) for item in entries):
        raise model.refused("has a modules.json whose entries have no type: copy it again.")
    if outside := [str(item["path"]) for item in entries if _leads_out(str(item.get("path", "")))]:
        raise model.refused(
            f"has a modules.json that leads out of its folder ({outside[0]!r}): copy it from where it was made."
        )
    modules = [Module(item["type"].rpartition(".")[2], model.path / str(item.get("path", ""))) for item in entries]
    told = model.path / "config_sentence_transformers.json"
    settings = _read_json(model, told) if told.is_file() else {}
    kinds = ", ".join(module.kind for module in modules)
    if "LogitScore" in kinds:
        if body:  # it is the language model's own, and what it is asked stands elsewhere
            return ()
        raise model.refused(
            f"is a generative reranker of sentence-transformers ({kinds}), and what is asked for is a {FAMILY}: let family be "
            f"{GENERATIVE} in its {SETTINGS_FILE}, or leave it out."
        )
    if settings.get("model_type", "SentenceTransformer") != "CrossEncoder":
        classifies = any("ForSequenceClassification" in str(name) for name in config.get("architectures") or ())
        if classifies or body:  # the head is in the classifier's own weights, and loading sees whether it is there
            return ()
        raise model.refused(
            f"is an embedding model of sentence-transformers ({kinds}): it reads query and document apart and has no head that "
            "scores a pair. Take a cross-encoder, or train one from it (base_model).",
            HeadlessError,
        )
    prompt = (settings.get("prompts") or {}).get(settings.get("default_prompt_name"))
    if prompt:
        raise model.refused(f"puts a prompt before every text ({prompt[:60]!r}), which is not supported.")
    return _checked_head(model, modules, kinds)


def _checked_head(model: ModelFolder, modules: list[Module], kinds: str) -> tuple[Module, ...]:
    if not modules or modules[0].kind != "Transformer" or modules[0].folder.resolve() != model.path.resolve():
        raise model.refused(f"is made of modules that do not start with a Transformer in its folder ({kinds}): not supported.")
    head = tuple(modules[1:])
    if not head:
        return ()
    unknown = [module.kind for module in head if module.kind not in HEAD_MODULES]
    if unknown or head[0].kind != "Pooling" or head[-1].kind != "Dense":
        raise model.refused(
            f"is a CrossEncoder of modules that is not supported ({kinds}): what is are Transformer, Pooling, then "
            f"{', '.join(HEAD_MODULES[1:])} in any order, the last one a Dense with one output."
        )
    return head
