"""From a model's address to a folder on disk: a path, an S3 prefix, a Hugging Face hub id, or a model of the package's own."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

TINY_MODEL = "sample:tiny"
MINI_MODEL = "sample:mini"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


class ModelNotFoundError(Exception):
    """No model can be had from an address; the message says why and what to do."""


def cache_dir() -> Path:
    """Return where downloads are kept: KO_RERANKER_CACHE, or the user's cache folder."""
    root = os.environ.get("KO_RERANKER_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "ko-reranker"


def resolve_model(uri: str | Path) -> Path:
    """Return a folder that holds the model, downloading it if need be.

    Args:
        uri: a folder, ``s3://bucket/prefix/``, a hub id such as ``BAAI/bge-reranker-v2-m3``, ``sample:mini``, the
            small Korean reranker that ships with the package, or ``sample:tiny``, the untrained demonstration model.

    Raises:
        ModelNotFoundError: saying what was looked for and what to do.
    """
    address = str(uri)
    if address == TINY_MODEL:
        return _tiny_model()
    if address == MINI_MODEL:
        return _mini_model()
    if address.startswith("sample:"):
        raise ModelNotFoundError(f"There is no sample model {address}: there are {MINI_MODEL} and {TINY_MODEL}.")
    if address.startswith("s3://"):
        return _checked(_download_s3(address), address)
    folder = Path(address).expanduser()
    if folder.is_dir():
        return _checked(folder, address)
    if address.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(address):
        raise ModelNotFoundError(
            f"There is no model folder {address}: give a folder with config.json, s3://bucket/prefix/, or a hub id."
        )
    return _checked(_download_hub(address), address)


def _checked(folder: Path, address: str) -> Path:
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            f"{address} holds no config.json: a model is an uncompressed folder with config.json, weights and tokenizer."
        )
    return folder


def content_digest(folder: Path, files: Iterable[Path]) -> str:
    """Return what tells the content of some files of a folder from any other: 64 hexadecimal digits over names and bytes."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(folder)}\n{path.stat().st_size}\n".encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _tiny_model() -> Path:
    from ko_reranker.samples import tiny_model

    folder = cache_dir() / f"tiny-{tiny_model.version()}"
    return folder if folder.is_dir() else _publish(folder, tiny_model.build)


def _mini_model() -> Path:
    from ko_reranker.samples import packed

    folder = cache_dir() / f"mini-{packed.version(packed.MINI)}"
    return folder if folder.is_dir() else _publish(folder, lambda draft: packed.unpack(packed.MINI, draft))


def _download_s3(address: str) -> Path:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    prefix = prefix.rstrip("/") + "/" if prefix else ""
    s3 = boto3.client("s3")
    try:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        objects = [item for page in pages for item in page.get("Contents", []) if not item["Key"].endswith("/")]
        if not objects:
            raise ModelNotFoundError(f"There is nothing under {address}: check the bucket and the prefix.")
        # What lies there is part of the name: a prefix written anew is downloaded anew.
        contents = "\n".join(sorted(f"{item['Key']} {item['ETag']}" for item in objects))
        folder = cache_dir() / "s3" / hashlib.sha256(f"{bucket}\n{contents}".encode()).hexdigest()[:32]
        if folder.is_dir():
            return folder

        def download(target: Path) -> None:
            for item in objects:
                file = target / item["Key"].removeprefix(prefix)
                file.parent.mkdir(parents=True, exist_ok=True)
                s3.download_file(bucket, item["Key"], str(file))

        return _publish(folder, download)
    except (BotoCoreError, ClientError) as error:
        raise ModelNotFoundError(f"{address} cannot be read: {error}. Check the address and the role's s3 rights.") from error


def _download_hub(address: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(address, allow_patterns=_HUB_FILES))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(address, allow_patterns=(*_HUB_FILES, "*.bin")))
    except Exception as error:  # its errors share no ancestor with those of the HTTP client beneath
        reason = " ".join(str(error).split())[:300]
        raise ModelNotFoundError(
            f"{address} is no folder here and cannot be had from the Hugging Face hub ({type(error).__name__}: {reason}). "
            "Check the name; a private model needs HF_TOKEN, a job without internet an s3:// prefix."
        ) from error
    return folder


def _publish(folder: Path, fill: Callable[[Path], object]) -> Path:
    """Fill a folder under a temporary name and rename it, so that nobody ever sees half of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        fill(draft)
        draft.rename(folder)
    except OSError:
        # Another process was faster: its copy is as good.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder
