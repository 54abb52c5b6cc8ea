"""From a model's address to its ranker: whichever family it is of is told by its folder."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ko_reranker.models import is_pinned, resolve_model
from ko_reranker.rankers.folders import (
    FAMILY,
    GENERATIVE,
    LATE_INTERACTION,
    SETTINGS_FILE,
    STANFORD_ARCHITECTURE,
    gives_token_vectors,
)
from ko_reranker.rankers.generative_folders import is_generative
from ko_reranker.rankers.interface import Ranker, RankerError
from ko_reranker.rankers.options import EngineOptions

if TYPE_CHECKING:
    from ko_reranker.engine import EngineObserver


class Family(NamedTuple):
    """A family of rankers.

    Attributes:
        load: what loads a model, as in ``package.module:Class.load``, imported once one of the family is loaded; it takes the
            folder, the options, and by name ``model_id``, ``observer`` and ``trust_remote_code``, as :func:`load_ranker`
            explains them.
        is_laid_out_in: whether a folder's files are laid out as only models of this family are.
        architectures: how the class ends that config.json of such a model names.
    """

    load: str
    is_laid_out_in: Callable[[Path], bool]
    architectures: tuple[str, ...]


def _is_cross_encoder(folder: Path) -> bool:
    kind = _read(folder / "config_sentence_transformers.json").get("model_type")
    return kind == "CrossEncoder" and not is_generative(folder)


# By the name in `reranker.json`.
FAMILIES = {
    FAMILY: Family("ko_reranker.rankers.cross_encoder:CrossEncoder.load", _is_cross_encoder, ("ForSequenceClassification",)),
    LATE_INTERACTION: Family(
        "ko_reranker.rankers.late_interaction:LateInteraction.load", gives_token_vectors, (STANFORD_ARCHITECTURE,)
    ),
    GENERATIVE: Family("ko_reranker.rankers.generative:load_generative", is_generative, ("ForCausalLM",)),
}


def family_of(folder: Path, name: str) -> str:
    """Return the family of a model, by what its folder says, else by its layout, else by its architecture.

    What nothing tells of is taken for a cross-encoder, whose loading says what is missing.

    Args:
        folder: where the model lies.
        name: what to call it in sentences.

    Raises:
        RankerError: the folder says a family that is not known.
    """
    settings = _read(folder / SETTINGS_FILE)
    if "family" in settings:
        family = settings["family"]
        if family not in list(FAMILIES):  # as a list: it may be of any JSON type
            raise RankerError(
                f"{name} is of the family {family} by its {SETTINGS_FILE}, and this version knows {', '.join(FAMILIES)}: write "
                f'one of these there, as in {{"family": "{FAMILY}"}}, or update.'
            )
        return str(family)
    named = _read(folder / "config.json").get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    laid_out = (family for family, about in FAMILIES.items() if about.is_laid_out_in(folder))
    built = (family for family, about in FAMILIES.items() if architecture.endswith(about.architectures))
    return next(laid_out, None) or next(built, FAMILY)


def load_ranker(
    model: str | Path,
    options: EngineOptions | None = None,
    *,
    name: str | None = None,
    observer: EngineObserver | None = None,
    trust_remote_code: bool = False,
) -> Ranker:
    """Load a ranker of whichever family.

    Args:
        model: a folder, ``s3://bucket/prefix/``, a hub id, or ``sample:tiny``.
        options: how it computes, and how it reads what is long; None for all defaults.
        name: what to call it; None takes the address.
        observer: is told of every micro-batch and request.
        trust_remote_code: run the Python code that the model's folder names to load it with; of a hub id only when it is
            pinned to a commit, ``ORG/NAME@`` and its 40 digits. Without, such a model is refused, and nobody is asked.

    Raises:
        ModelNotFoundError: the model cannot be had.
        RankerError: it can, but it is no ranker.
    """
    if trust_remote_code and not is_pinned(model):
        raise RankerError(
            f"{model} is not pinned: code is run only of a folder, or of a hub id with the commit that was read, ORG/NAME@ and "
            "its 40 hexadecimal digits."
        )
    folder, model_id = resolve_model(model, code=trust_remote_code), name or str(model)
    options = options or EngineOptions()
    family = family_of(folder, model_id)
    if options.prompt is not None and family != GENERATIVE:
        raise RankerError(f"{model_id} is no generative reranker and reads no prompt: leave {options.prompt} out.")
    module, _, name_there = FAMILIES[family].load.partition(":")
    load: Callable[..., Ranker] = attrgetter(name_there)(importlib.import_module(module))
    return load(folder, options, model_id=model_id, observer=observer, trust_remote_code=trust_remote_code)


def _read(file: Path) -> dict[str, Any]:
    """Return a file's JSON object; of one that cannot be read nothing, since loading then refuses it by name."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
