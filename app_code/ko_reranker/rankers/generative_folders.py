"""What a generative reranker's folder says: which prompt it reads, which answers count, and how its logit becomes a score.

No library's file says what a decoder was asked in training. So it stands in our own, ``reranker.json`` with the prompt in
``prompt.yaml`` beside it; or the model is one of those whose prompts come with the library, by its name and its type at once.
A prompt is never guessed: a wrong one scores, at random.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as validated

from ko_reranker.problems import problems_of
from ko_reranker.rankers.folders import GENERATIVE, SETTINGS_FILE, ModelFolder, inspect_folder
from ko_reranker.rankers.interface import RankerError
from ko_reranker.rankers.prompts import (
    PROMPT_FILE,
    AnyPrompt,
    ComparingPrompt,
    Prompt,
    PromptError,
    digest,
    parse_prompt,
    shipped_prompt,
    shipped_prompts,
)
from ko_reranker.rankers.recorded import own_settings

Method = Literal["pointwise", "likelihood", "pairwise", "setwise", "listwise"]
_STRICT = ConfigDict(extra="forbid", strict=True)


@validated(frozen=True, slots=True, config=_STRICT)
class GenerativeSettings:
    """What ``generative`` in reranker.json says.

    Attributes:
        method: how documents are ranked: each by itself, ``pointwise`` by an answer, ``likelihood`` by how likely they make the
            query; or compared, ``pairwise``, ``setwise`` or ``listwise``. None for what the prompt is for.
        prompt: the name of a prompt that comes with the library, read where no prompt.yaml lies beside; None for prompt.yaml.
        prompt_sha256: of the prompt that the model was trained with, in hexadecimal; another one is refused.
        instruction: what is asked for if a request says nothing; None for the prompt's own.
        positive, negative: the answers, in place of the prompt's.
        head: ``rows`` of the language model's vocabulary, or the one row of a ``classifier``; None for what the model has.
    """

    method: Method | None = None
    prompt: str | None = None
    prompt_sha256: str | None = None
    instruction: str | None = None
    positive: str | None = None
    negative: str | None = None
    head: Literal["rows", "classifier"] | None = None


@validated(frozen=True, slots=True, config=_STRICT)
class LogitCalibration:
    """From what a model's head gives to a logit: ``scale * value + offset``.

    Attributes:
        scale, offset: fitted, or the model's own.
        queries: that they were fitted on.
    """

    scale: Annotated[float, Field(gt=0, le=1e6)] = 1.0  # logits are float32
    offset: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0
    queries: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, slots=True)
class Generative:
    """A folder that holds a generative reranker.

    Attributes:
        source: the folder; `ko_reranker.rankers.classifiers.load_decoder` loads its model and tokenizer.
        prompt: what it reads.
        calibration: from what its head gives to logits.
        max_length: the most tokens of a sequence, if the folder says.
        classifies: whether its head is the one row of a classifier.
    """

    source: ModelFolder
    prompt: AnyPrompt
    calibration: LogitCalibration
    max_length: int | None
    classifies: bool


@dataclass(frozen=True, slots=True)
class _Known:
    """A published model: what its name has in it, of which type it is, and what it is asked."""

    name: str
    model_type: str
    prompt: str
    offset: float = 0.0

    def offset_with(self, prompt: AnyPrompt) -> float:
        """Return what is added to its logits: its offset belongs to its own prompt and answers, whatever the instruction."""
        own = shipped_prompt(self.prompt)
        same = isinstance(prompt, Prompt) and asdict(prompt) | {"instruction": None} == asdict(own) | {"instruction": None}
        return self.offset if same else 0.0


# The offsets of mxbai-rerank are half of what its code takes for its largest logit.
_KNOWN = (
    _Known("qwen3-reranker", "qwen3", "qwen3-reranker"),
    _Known("bge-reranker-v2-gemma", "gemma", "bge-reranker-v2-gemma"),
    _Known("mxbai-rerank-base-v2", "qwen2", "mxbai-rerank-v2", -4.5),
    _Known("mxbai-rerank-large-v2", "qwen2", "mxbai-rerank-v2", -6.0),
)


def answer_tokens(folder: Path) -> tuple[int, int] | None:
    """Return the ids of the positive and the negative answer that sentence-transformers' LogitScore names, if there is one."""
    found = sorted(folder.glob("*_LogitScore/config.json"))
    try:
        said = json.loads(found[0].read_text(encoding="utf-8")) if found else {}
    except (OSError, ValueError):
        return None
    ids = (said.get("true_token_id"), said.get("false_token_id")) if isinstance(said, dict) else (None, None)
    return (ids[0], ids[1]) if isinstance(ids[0], int) and isinstance(ids[1], int) else None


def is_generative(folder: Path) -> bool:
    """Return whether a folder holds what only generative rerankers are; what is unreadable tells nothing.

    That is sentence-transformers' modules of one, and a conversion to sequence classification of a model that is known.
    """

    def read(name: str) -> Any:
        try:
            return json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    modules, config = read("modules.json"), read("config.json")
    kinds = [str(module.get("type")) for module in modules if isinstance(module, dict)] if isinstance(modules, list) else []
    if any(kind.endswith(".LogitScore") for kind in kinds):
        return True
    return isinstance(config, dict) and _known(folder, "", config) is not None


def read_generative(
    folder: Path, name: str | None = None, *, prompt: str | None = None, trust_remote_code: bool = False
) -> Generative:
    """Read what a folder says of its prompt and its answers.

    Args:
        folder: where the model lies.
        name: what to call it in sentences, and to know it by; None for the folder's path.
        prompt: a prompt that comes with the library, by its name, or a YAML file of one, which is read in place of what the
            folder says, a fitted calibration included; None for the folder's.
        trust_remote_code: whether code that lies in the folder may be run to load the model.

    Raises:
        RankerError: it holds no model, or nothing says what it is asked; the message says what to write.
    """
    source = inspect_folder(folder, name or str(folder), family=GENERATIVE, body=True, trust_remote_code=trust_remote_code)
    recorded = _recorded(folder)
    settings = own_settings(source, GenerativeSettings, recorded, GENERATIVE)
    calibration = own_settings(source, LogitCalibration, recorded, "calibration")
    known = _known(folder, source.name, source.config)
    if prompt is not None:
        calibration, read = LogitCalibration(), named_prompt(prompt)
    else:
        read = _adapted(source, settings, _prompt(source, settings, known))
    if known is not None and (prompt is not None or "calibration" not in recorded):
        calibration = replace(calibration, offset=known.offset_with(read))
    classifies = source.architecture.endswith("ForSequenceClassification")
    if settings.head is not None and classifies != (settings.head == "classifier"):
        raise source.refused(
            f"has a {SETTINGS_FILE} with generative.head {settings.head}, and is a {source.architecture}: say "
            f"{'classifier' if classifies else 'rows'}, or leave it out."
        )
    if classifies and read.method != "pointwise":
        raise source.refused(f"is a {source.architecture}, whose one row does no {read.method} ranking: take another prompt.")
    return Generative(source, read, calibration, recorded.get("max_length"), classifies)


def named_prompt(name: str) -> AnyPrompt:
    """Return a prompt that comes with the library, by its name, or that of a YAML file, by its path.

    Raises:
        RankerError: there is none, or it is not valid.
    """
    path = Path(name).expanduser()
    try:
        if path.suffix in (".yaml", ".yml"):
            return parse_prompt(path.read_text(encoding="utf-8"), name)
        return shipped_prompt(name)
    except PromptError as error:
        raise RankerError(f"The prompt {name} cannot be used: {error}. A file of yours ends in .yaml.") from None
    except (OSError, ValueError) as error:  # no text in UTF-8, or no name of a file
        raise RankerError(f"The prompt {name!r} cannot be read: {error}.") from None


def written_out(folder: Path, name: str) -> dict[str, str]:
    """Return the files, by name, with which a folder says by itself what is known of its model by its name; often none.

    Under another name, such as the one folder that an endpoint finds its model in, nobody would know the prompt.

    Args:
        folder: where a generative reranker lies.
        name: what it is known by.

    Raises:
        RankerError: as `read_generative` does.
    """
    said = read_generative(folder, name)
    recorded = _recorded(folder)
    own = recorded.get(GENERATIVE) or {}
    known = _known(folder, said.source.name, said.source.config)
    named = own.get("prompt") or (known.prompt if known else None)
    files = {}
    if not (folder / PROMPT_FILE).is_file() and named is not None:
        files[PROMPT_FILE] = shipped_prompts()[named]
        own = own | {"prompt": named, "prompt_sha256": digest(files[PROMPT_FILE])}
    written = recorded | {"family": GENERATIVE, GENERATIVE: own, "calibration": asdict(said.calibration)}
    if written != recorded:
        files[SETTINGS_FILE] = json.dumps(written, indent=2, ensure_ascii=False) + "\n"
    return files


def _recorded(folder: Path) -> dict[str, Any]:
    """Return what reranker.json says; `inspect_folder` saw that it can be read."""
    path = folder / SETTINGS_FILE
    recorded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return recorded


def _adapted(source: ModelFolder, settings: GenerativeSettings, prompt: AnyPrompt) -> AnyPrompt:
    """Return a folder's prompt with what else the folder says of it."""
    changes = {name: getattr(settings, name) for name in ("positive", "negative", "instruction")}
    changes = {name: value for name, value in changes.items() if value is not None}
    if isinstance(prompt, ComparingPrompt) and (found := changes.keys() - {"instruction"}):
        raise source.refused(
            f"has a {SETTINGS_FILE} with generative.{min(found)}, and a prompt that compares documents: leave that out, or "
            "take another prompt."
        )
    try:
        adapted: AnyPrompt = replace(prompt, **changes)
    except ValidationError as error:
        raise source.refused(
            f"has a {SETTINGS_FILE} whose generative does not fit its prompt: {problems_of(error)[0]}."
        ) from None
    if settings.method not in (None, adapted.method):
        raise source.refused(
            f"has a {SETTINGS_FILE} with generative.method {settings.method}, and a prompt for {adapted.method}: say that, or "
            "take another prompt."
        )
    return adapted


def _prompt(source: ModelFolder, settings: GenerativeSettings, known: _Known | None) -> AnyPrompt:
    path = source.path / PROMPT_FILE
    try:
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            _check_digest(source, settings, text, PROMPT_FILE)
            return parse_prompt(text, PROMPT_FILE)
        named = settings.prompt or (known.prompt if known else None)
        if named is None:
            raise _without_prompt(source)
        prompt = shipped_prompt(named)
        _check_digest(source, settings, shipped_prompts()[named], f"the prompt {named}")
        return prompt
    except (OSError, UnicodeDecodeError) as error:
        raise source.refused(f"has a {PROMPT_FILE} that cannot be read: {error}.") from None
    except PromptError as error:
        raise source.refused(f"has no prompt that can be used: {error}.") from None


def _without_prompt(source: ModelFolder) -> RankerError:
    kind = source.architecture or source.config["model_type"]
    written = json.dumps({"family": GENERATIVE, GENERATIVE: {"prompt": "general-en"}})
    return source.refused(
        f"is a generative model ({kind}), and nothing says which prompt it reads: with another one than it was "
        f"trained on it scores at random. Write {SETTINGS_FILE} into its folder, as in {written}; there are "
        f"{', '.join(shipped_prompts())}, or write a prompt of your own into {PROMPT_FILE} beside it."
    )


def _check_digest(source: ModelFolder, settings: GenerativeSettings, text: str, where: str) -> None:
    if settings.prompt_sha256 is not None and settings.prompt_sha256 != digest(text):
        raise source.refused(
            f"was trained with another prompt than {where}: its {SETTINGS_FILE} has prompt_sha256 {settings.prompt_sha256}, "
            f"and this one's is {digest(text)}. Copy {PROMPT_FILE} from where the model was made."
        )


def _known(folder: Path, name: str, config: Mapping[str, Any]) -> _Known | None:
    """Return the published model that a folder holds, by its name or one of the folder's and by its type."""
    folder = folder.resolve()
    if folder.parent.name == "snapshots":  # of the hub's own cache: models--ORG--NAME/snapshots/COMMIT
        folder = folder.parents[1]
    # Folders above may be called anything: of an address as of a path only the last part is the model's name.
    last = name.partition("@")[0].rstrip("/").rpartition("/")[2]
    names = re.sub(r"[\s_]+", "-", f"{last} {folder.name}".lower())
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    if not architecture.endswith(("ForCausalLM", "ForSequenceClassification")):
        return None
    return next((known for known in _KNOWN if known.name in names and known.model_type == config.get("model_type")), None)
