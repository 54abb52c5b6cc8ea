"""Between S3 and a job's folder, with the job's own role."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from botocore.exceptions import UnseekableStreamError

from local_cloud.sagemaker.errors import JobError

_ATTEMPTS = 3
_S3_URI = re.compile(r"s3://([^/]+)/?(.*)")
# The form CDK's `tasks.S3Location` renders.
_S3_URL = re.compile(r"https://s3[.-][a-z0-9-]+\.amazonaws\.com(?:\.cn)?/([^/]+)/?(.*)")


def split_uri(uri: str) -> tuple[str, str]:
    """Return (bucket, key or prefix)."""
    match = _S3_URI.fullmatch(uri) or _S3_URL.fullmatch(uri)
    if match is None:
        raise JobError(f"ClientError: '{uri}' is not an S3 URI.")
    return match[1], match[2]


def list_keys(s3: Any, uri: str) -> list[str]:
    """Return the keys under an S3 prefix, folder markers left out."""
    bucket, prefix = split_uri(uri)
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [o["Key"] for page in pages for o in page.get("Contents", []) if not o["Key"].endswith("/")]


def relative_name(key: str, prefix: str) -> str:
    """The file name of ``key`` below a folder that holds ``prefix``: SageMaker keeps what follows the prefix's folder."""
    if prefix and key.startswith(prefix.rstrip("/") + "/"):
        return key[len(prefix.rstrip("/")) + 1 :]
    return key[prefix.rfind("/") + 1 :]


def download(s3: Any, uri: str, directory: Path, keys: Iterable[str]) -> None:
    """Download ``keys`` of the prefix ``uri`` into ``directory``."""
    bucket, prefix = split_uri(uri)
    root = directory.resolve()
    root.mkdir(parents=True, exist_ok=True)
    for key in keys:
        target = (root / relative_name(key, prefix)).resolve()
        if not target.is_relative_to(root):
            raise JobError(f"ClientError: the object s3://{bucket}/{key} would be written outside of its folder.")
        target.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(bucket, key, str(target))


def download_to_hosts(s3: Any, uri: str, directories: Sequence[Path], keys: Sequence[str], distribution: str | None) -> None:
    """Download ``keys`` of the prefix ``uri`` to every host's folder; ``ShardedByS3Key`` gives each its share."""
    for index, directory in enumerate(directories):
        mine = keys[index :: len(directories)] if distribution == "ShardedByS3Key" else keys
        download(s3, uri, directory, mine)


def files_below(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name relative to ``directory``, path) of every regular file, in a fixed order."""
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            yield path.relative_to(directory).as_posix(), path


def merged(directories: Iterable[Path]) -> dict[str, Path]:
    """The files of several hosts' folders by name; the first host that has a name wins."""
    files: dict[str, Path] = {}
    for directory in directories:
        for name, path in files_below(directory):
            files.setdefault(name, path)
    return files


def upload_files(s3: Any, files: dict[str, Path], uri: str, kms_key: str | None = None) -> None:
    """Upload ``files`` below the prefix ``uri``."""
    bucket, prefix = split_uri(uri)
    prefix = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
    for name, path in files.items():
        _upload(s3, path, bucket, prefix + name, kms_key)


def upload_archive(s3: Any, files: dict[str, Path], uri: str, scratch: Path, kms_key: str | None = None) -> None:
    """Upload ``files`` as one .tar.gz object ``uri``."""
    bucket, key = split_uri(uri)
    with tarfile.open(scratch, "w:gz") as archive:
        for name, path in files.items():
            archive.add(path, name)
    _upload(s3, scratch, bucket, key, kms_key)
    scratch.unlink()


def _upload(s3: Any, path: Path, bucket: str, key: str, kms_key: str | None) -> None:
    """Upload a file; from its beginning again when a connection broke and botocore could not rewind what it was sending."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            s3.upload_file(str(path), bucket, key, ExtraArgs=encryption(kms_key))
            return
        except UnseekableStreamError:
            if attempt == _ATTEMPTS:
                raise


def encryption(kms_key: str | None) -> dict[str, str]:
    """The arguments of an upload that encrypt with ``kms_key``."""
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}


class FolderSync:
    """Copies a folder's new and changed files to S3, again and again: SageMaker's checkpoints."""

    def __init__(self, s3: Any, directory: Path, uri: str) -> None:
        self._s3 = s3
        self._directory = directory
        self._uri = uri
        self._seen: dict[str, tuple[int, int]] = {}

    def restore(self) -> None:
        """Bring back what an earlier job left, and do not upload it again."""
        download(self._s3, self._uri, self._directory, list_keys(self._s3, self._uri))
        self._seen = {name: _version(path) for name, path in files_below(self._directory)}

    def upload(self) -> None:
        """Upload what changed since the last time; a file that vanishes meanwhile is skipped."""
        for name, path in files_below(self._directory):
            try:
                version = _version(path)
                if self._seen.get(name) != version:
                    upload_files(self._s3, {name: path}, self._uri)
                    self._seen[name] = version
            except FileNotFoundError:
                continue


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
