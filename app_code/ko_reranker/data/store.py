"""The data bucket as the pipeline uses it: list, stream, read and write by key."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ko_reranker.data.errors import PipelineError
from ko_reranker.data.jsonl import SUFFIXES, read_lines, read_records
from ko_reranker.data.records import RecordError, TrainingRecord


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of the bucket.

    Attributes:
        key: its key.
        size: bytes as stored.
        etag: its entity tag, which changes with its content.
    """

    key: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Store:
    """One bucket.

    Args:
        client: a boto3 ``s3`` client.
        bucket: the bucket's name.
    """

    client: Any
    bucket: str

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects under a prefix in key order."""
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            for item in page.get("Contents", ()):
                yield StoredObject(item["Key"], item["Size"], item["ETag"].strip('"'))

    def datasets(self, prefix: str) -> tuple[list[StoredObject], list[str]]:
        """Return the JSON Lines objects under a prefix, and the keys of what else lies there and is not read.

        Raises:
            PipelineError: when there is no JSON Lines object.
        """
        found, ignored = [], []
        for item in self.objects(prefix):
            if item.key.endswith(SUFFIXES):
                found.append(item)
            elif not item.key.endswith("/"):  # the console's folders
                ignored.append(item.key)
        if not found:
            what = f" ({named(ignored)} {'is' if len(ignored) == 1 else 'are'} not read)" if ignored else ""
            raise PipelineError(
                f"no .jsonl or .jsonl.gz object under {self.uri(prefix)}{what}: upload training records there "
                "(`ko-reranker data convert` makes them from other formats), or name another dataset in the input"
            )
        return found, ignored

    def records(self, key: str) -> Generator[tuple[int, TrainingRecord | RecordError], None, None]:
        """Yield the records of an object; see `ko_reranker.data.jsonl.read_records`.

        The object goes to disk first: a stream that lasts minutes breaks now and then, a download is tried again.
        """
        with TemporaryDirectory() as folder:
            path = Path(folder) / "records"
            self.download(key, path)
            with path.open("rb") as stream:
                yield from read_records(stream, key)

    def rows(self, key: str) -> Iterator[Any]:
        """Stream the objects of a JSON Lines object that the pipeline itself wrote."""
        for _, line in read_lines(self._body(key), key):
            yield json.loads(line)

    def download(self, key: str, path: Path) -> None:
        self.client.download_file(self.bucket, key, str(path))

    def version(self, key: str) -> str | None:
        """Return the version of an object, None in a bucket that keeps none."""
        version: str | None = self.client.head_object(Bucket=self.bucket, Key=key).get("VersionId")
        return version

    def read_json(self, key: str) -> Any:
        return json.loads(self._body(key).read())

    def write_json(self, key: str, value: Any) -> None:
        body = json.dumps(value, ensure_ascii=False, indent=2).encode()
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType="application/json")

    def write_lines(self, key: str, lines: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=lines, ContentType="application/x-ndjson")

    def upload(self, path: Path, key: str) -> None:
        self.client.upload_file(str(path), self.bucket, key)

    def delete(self, prefix: str) -> None:
        """Delete what lies under a prefix of a run (the bucket keeps versions)."""
        for item in self.objects(prefix):
            self.client.delete_object(Bucket=self.bucket, Key=item.key)

    def _body(self, key: str) -> Any:
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"]


def named(keys: Sequence[str], most: int = 3) -> str:
    """Return the first keys in words, and how many more there are."""
    more = f" and {len(keys) - most:,} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
