"""From a model's address to a folder on disk: a path, an S3 prefix, a Hugging Face hub id, or a model of the package's own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ko_reranker import disk

if TYPE_CHECKING:
    from huggingface_hub import DryRunFileInfo

TINY_MODEL, TINY_DECODER = "sample:tiny", "sample:tiny-decoder"
MINI_MODEL = "sample:mini"
# A hub id may name a commit, a tag or a branch behind an @; a branch's name may have slashes.
_HUB_ID = re.compile(r"(?!.*\.\.)[\w.-]+(/[\w.-]+)?(@[\w.-][\w./-]*)?")
_PINNED = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Of late-interaction models: bge-m3's projection, which is read as numbers only, and Stanford's rules. Of generative ones:
# their prompt, and the template that a chat model's tokenizer puts around it.
_OF_FAMILIES = ("colbert_linear.pt", "artifact.metadata", "prompt.yaml", "chat_template.jinja")
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", *_OF_FAMILIES)
_LOADED = (*_HUB_FILES, "pytorch_model*.bin", "*.py")
# Weights as pickles, which are programs: they are read only when somebody says so.
ALLOW_BIN_VARIABLE = "KO_RERANKER_ALLOW_BIN"
_PICKLES = ("pytorch_model*.bin", "*/pytorch_model*.bin")
# The index of such files may call them anything.
_PICKLE_INDEX = "pytorch_model.bin.index.json"
# What is read in their place, where it is there; other files of that kind are not.
_SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


class ModelNotFoundError(Exception):
    """No model can be had from an address; the message says why and what to do."""


class DiskFullError(ModelNotFoundError):
    """There is a model, and no room for it; the message names the disk and the bytes."""


def cache_dir() -> Path:
    """Return where downloads are kept: KO_RERANKER_CACHE, or the user's cache folder."""
    root = os.environ.get("KO_RERANKER_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "ko-reranker"


def is_pinned(uri: str | Path) -> bool:
    """Return whether an address gives the same files whenever it is asked: all do but a hub id without a commit.

    What lies in a folder or under an S3 prefix is in the hands of whoever names it.
    """
    address = str(uri)
    local = address.startswith(("sample:", "s3://", ".", "/", "~")) or Path(address).is_dir()
    return local or _PINNED.fullmatch(address) is not None


def resolve_model(uri: str | Path, *, code: bool = False) -> Path:
    """Return a folder that holds the model, downloading it if need be.

    Args:
        uri: a folder, ``s3://bucket/prefix/``, a hub id such as ``BAAI/bge-reranker-v2-m3``, with ``@`` and a commit, branch
            or tag behind it or without, ``sample:mini``, the small Korean reranker that ships with the package, or
            ``sample:tiny``, the untrained demonstration model, and ``sample:tiny-decoder``, that of the generative family.
        code: whether a hub id's Python files are wanted, too.

    Raises:
        ModelNotFoundError: saying what was looked for and what to do; also when the weights are pickles (``*.bin``) and
            KO_RERANKER_ALLOW_BIN, which the option ``--allow-bin`` sets, is not 1.
        DiskFullError: there is no room for the download.
    """
    address = str(uri)
    if address == TINY_MODEL:
        return _tiny_model()
    if address == TINY_DECODER:
        return _tiny_decoder()
    if address == MINI_MODEL:
        return _mini_model()
    if address.startswith("sample:"):
        raise ModelNotFoundError(
            f"There is no sample model {address}: there are {MINI_MODEL}, {TINY_MODEL} and {TINY_DECODER}."
        )
    if address.startswith("s3://"):
        return _checked(_download_s3(address), address)
    folder = Path(address).expanduser()
    if folder.is_dir():
        return _checked(folder, address)
    if address.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(address):
        raise ModelNotFoundError(
            f"There is no model folder {address}: give a folder with config.json, s3://bucket/prefix/, or a hub id."
        )
    return _checked(_download_hub(address, code=code), address)


def hub_commit(folder: Path) -> str | None:
    """Return the commit that a folder of `resolve_model` is of; None of what doesn't come from the hub."""
    return folder.name if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name) else None


def bin_allowed() -> bool:
    """Return whether weights may be read that are pickles."""
    return os.environ.get(ALLOW_BIN_VARIABLE, "").lower() in ("1", "true", "yes")


def pickled_weights(folder: Path) -> list[str]:
    """Return the pickles that would be read as a model's weights, and their index, by their names below its folder."""
    found = [path for pattern in (*_PICKLES, _PICKLE_INDEX) for path in sorted(folder.glob(pattern))]
    found += [path for place in module_folders(folder) for path in sorted(place.glob(_PICKLES[0])) if path not in found]
    return [path.relative_to(folder).as_posix() for path in found if not _is_safe(path.parent)]


def _is_safe(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _SAFE_WEIGHTS)


def _pickled(address: str, file: str) -> str:
    return (
        f"{address} has its weights in {file} and not in safetensors: such a file is a pickle, which can run programs when it "
        f"is read. Take a model with *.safetensors, save this one so, or, if you trust it, say --allow-bin "
        f"({ALLOW_BIN_VARIABLE}=1)."
    )


def _checked(folder: Path, address: str) -> Path:
    # An adapter has no config.json either, and what to do about it is another thing: whoever loads it says so.
    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        raise ModelNotFoundError(
            f"{address} holds no config.json: a model is an uncompressed folder with config.json, weights and tokenizer."
        )
    if not bin_allowed() and (pickles := pickled_weights(folder)):
        raise ModelNotFoundError(_pickled(address, pickles[0]))
    return folder


def content_digest(folder: Path, files: Iterable[Path]) -> str:
    """Return what tells the content of some files of a folder from any other: 64 hexadecimal digits over names and bytes."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(folder)}\n{path.stat().st_size}\n".encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def model_digest(folder: Path) -> str:
    """Return what tells a model from any other: a digest of those of its folder's files that its scores depend on."""
    places = [folder, *module_folders(folder)]
    return content_digest(folder, {file for place in places for pattern in _LOADED for file in place.glob(pattern)})


def module_folders(folder: Path) -> list[Path]:
    """Return the folders of modules of sentence-transformers, such as its head: as they are called by default, or named.

    Names that lead out of the model's folder are passed over: whoever loads the model refuses them.
    """
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        modules = []
    entries = modules if isinstance(modules, list) else []
    paths = [entry["path"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("path"), str)]
    inside = [path for path in map(PurePosixPath, paths) if path.parts and not path.is_absolute() and ".." not in path.parts]
    return sorted({*folder.glob("[0-9]*_*/"), *(folder / path for path in inside)})


def _tiny_model() -> Path:
    from ko_reranker.samples import tiny_model

    folder = cache_dir() / f"tiny-{tiny_model.version()}"
    return folder if folder.is_dir() else _publish(folder, tiny_model.build, TINY_MODEL)


def _tiny_decoder() -> Path:
    from ko_reranker.samples import tiny_decoder

    folder = cache_dir() / f"tiny-decoder-{tiny_decoder.version()}"
    return folder if folder.is_dir() else _publish(folder, tiny_decoder.build, TINY_DECODER)


def _mini_model() -> Path:
    from ko_reranker.samples import packed

    folder = cache_dir() / f"mini-{packed.version(packed.MINI)}"
    return folder if folder.is_dir() else _publish(folder, lambda draft: packed.unpack(packed.MINI, draft), MINI_MODEL)


def _download_s3(address: str) -> Path:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    prefix = prefix.removesuffix("/") + "/" if prefix else ""
    s3 = boto3.client("s3")
    try:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        objects = [item for page in pages for item in page.get("Contents", []) if not item["Key"].endswith("/")]
        if not objects:
            raise ModelNotFoundError(f"There is nothing under {address}: check the bucket and the prefix.")
        names = {item["Key"]: _file_name(item["Key"], prefix, address) for item in objects}
        # What lies there is part of the name: a prefix written anew is downloaded anew.
        contents = "\n".join(sorted(f"{item['Key']} {item['ETag']}" for item in objects))
        folder = cache_dir() / "s3" / hashlib.sha256(f"{bucket}\n{contents}".encode()).hexdigest()[:32]
        if folder.is_dir():
            return folder
        size = sum(item["Size"] for item in objects)
        if size > disk.free_bytes(folder):
            raise DiskFullError(_no_room(address, folder.parent, size))

        def download(target: Path) -> None:
            for key, name in names.items():
                file = target / name
                file.parent.mkdir(parents=True, exist_ok=True)
                s3.download_file(bucket, key, str(file))

        return _publish(folder, download, address, size)
    except (BotoCoreError, ClientError) as error:
        raise ModelNotFoundError(f"{address} cannot be read: {error}. Check the address and the role's s3 rights.") from error


def _file_name(key: str, prefix: str, address: str) -> str:
    """Return where an object lies below its model's folder; a key can hold anything, and a folder must not be left by it."""
    name = key.removeprefix(prefix)
    if any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name or "\0" in name:
        raise ModelNotFoundError(
            f"{address} holds the object {key!r}, whose name leads out of the model's folder: a model's files have plain "
            "names. Remove or rename it."
        )
    return name


def _no_room(address: str, path: Path, needed: int | None, variable: str = "KO_RERANKER_CACHE") -> str:
    return (
        f"There is no room for {address}: {disk.no_room(path, needed)}. Free some, name a folder on a larger disk in "
        f"{variable}, or give the job a larger volume (volume_gb)."
    )


def _download_hub(address: str, *, code: bool) -> Path:
    from huggingface_hub import constants, snapshot_download

    repository, _, revision = address.partition("@")

    files = (*_HUB_FILES, *(("*.py",) if code else ()))

    def snapshot(*more: str) -> Path:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=[*files, *more]))

    def listed() -> list[DryRunFileInfo]:
        return snapshot_download(repository, revision=revision or None, allow_patterns=[*files], dry_run=True)

    pickles = ("*/pytorch_model*.bin",) if bin_allowed() else ()
    try:
        folder = snapshot(*pickles)
        if not _is_safe(folder):
            if not bin_allowed():
                raise ModelNotFoundError(_pickled(address, "*.bin, if anywhere,"))
            folder = snapshot(*_PICKLES)
    except ModelNotFoundError:
        raise
    except Exception as error:  # its errors share no ancestor with those of the HTTP client beneath
        cache = Path(constants.HF_HUB_CACHE)
        if disk.is_full(error):
            raise DiskFullError(_no_room(address, cache, _missing_bytes(listed), "HF_HOME")) from error
        reason = " ".join(str(error).split())[:300]
        raise ModelNotFoundError(
            f"{address} is no folder here and cannot be had from the Hugging Face hub ({type(error).__name__}: {reason}). "
            "Check the name; a private model needs HF_TOKEN, a job without internet an s3:// prefix."
        ) from error
    return folder


def _missing_bytes(listed: Callable[[], Sequence[DryRunFileInfo]]) -> int | None:
    """Return how much of a snapshot's files is still to be downloaded; None when nobody says."""
    try:
        return sum(file.file_size or 0 for file in listed() if file.will_download) or None
    except Exception:
        return None


def _publish(folder: Path, fill: Callable[[Path], object], address: str, needed: int | None = None) -> Path:
    """Fill a folder under a temporary name and rename it, so that nobody ever sees half of it."""
    draft = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        fill(draft)
        draft.rename(folder)
    except OSError as error:
        if disk.is_full(error):
            raise DiskFullError(_no_room(address, folder.parent, needed)) from error
        # Another process was faster: its copy is as good.
        if not folder.is_dir():
            raise ModelNotFoundError(
                f"{address} cannot be stored below {folder.parent} ({error}): name another folder in KO_RERANKER_CACHE."
            ) from error
    finally:
        if draft:
            shutil.rmtree(draft, ignore_errors=True)
    return folder
