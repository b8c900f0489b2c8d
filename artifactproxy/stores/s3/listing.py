"""What the bucket says it holds, page by page. A page that makes no sense is an error, never an end."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from artifactproxy.errors import StoreAway
from artifactproxy.model import BlobRef
from artifactproxy.stores.s3.replies import date_of
from artifactproxy.stores.s3.wire import Wire

BLOBS = "blobs/sha256/"
_KEY = re.compile(r"blobs/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})")


@dataclass(frozen=True, slots=True)
class Listed:
    """A key below the prefix; `age` in seconds by the server's clock."""

    key: str
    size: int
    age: float


@dataclass(frozen=True, slots=True)
class Open:
    """A multipart upload that is neither complete nor aborted; `key` below the prefix."""

    key: str
    upload: str
    age: float


def blob_of(key: str) -> str | None:
    """The sha256 that a key is the name of; None if it is none of ours."""
    match = _KEY.fullmatch(key)
    return match[2] if match else None


async def keys(wire: Wire, below: str) -> AsyncIterator[Listed]:
    """Everything below `below`. Raises `Answered`, `StoreAway`."""
    prefix, token = wire.options.prefix, ""
    seen: set[str] = set()
    while True:
        more: dict[str, Any] = {"ContinuationToken": token} if token else {}
        page = await wire.call("list_objects_v2", Prefix=prefix + below, **more)
        now = _now(page)
        if "IsTruncated" not in page:
            raise StoreAway("the bucket answers something else than a list")
        for each in page.get("Contents", []):
            yield _listed(each, prefix, below, now)
        token = page.get("NextContinuationToken", "")
        if not page.get("IsTruncated"):
            return
        if not token or token in seen:
            raise StoreAway("the bucket lists its objects without an end")
        seen.add(token)


def _listed(each: dict[str, Any], prefix: str, below: str, now: float) -> Listed:
    key, size, modified = each.get("Key"), each.get("Size"), each.get("LastModified")
    if (
        not isinstance(key, str)
        or not key.startswith(prefix + below)
        or not isinstance(size, int)
        or size < 0
    ):
        raise StoreAway("the bucket lists what is no object of ours")
    if not isinstance(modified, datetime):
        raise StoreAway("the bucket lists objects without a date")
    return Listed(key.removeprefix(prefix), size, max(0.0, now - modified.timestamp()))


async def blobs(wire: Wire) -> AsyncIterator[tuple[BlobRef, float]]:
    async for listed in keys(wire, BLOBS):
        sha256 = blob_of(listed.key)
        if sha256 is not None:
            yield BlobRef(sha256, listed.size), listed.age


async def uploads(wire: Wire, below: str) -> list[Open]:
    """Open uploads of keys that begin so, where the bucket can list them (some know only whole keys).

    Raises `Answered`, `StoreAway`.
    """
    prefix, found = wire.options.prefix, []
    markers: dict[str, Any] = {}
    for _ in range(100):
        page = await wire.call("list_multipart_uploads", Prefix=prefix + below, **markers)
        now = _now(page)
        if "IsTruncated" not in page:
            raise StoreAway("the bucket answers something else than a list")
        found += [_open(each, prefix, now) for each in page.get("Uploads", [])]
        last = {
            "KeyMarker": page.get("NextKeyMarker", ""),
            "UploadIdMarker": page.get("NextUploadIdMarker", ""),
        }
        if not page.get("IsTruncated") or last == markers or not last["KeyMarker"]:
            break
        markers = last
    return found


def _open(each: dict[str, Any], prefix: str, now: float) -> Open:
    key, upload, began = each.get("Key"), each.get("UploadId"), each.get("Initiated")
    if not isinstance(key, str) or not isinstance(upload, str):
        raise StoreAway("the bucket lists what is no upload")
    age = now - began.timestamp() if isinstance(began, datetime) else 0.0
    return Open(key.removeprefix(prefix), upload, max(0.0, age))


def _now(page: dict[str, Any]) -> float:
    return date_of(page["ResponseMetadata"]["HTTPHeaders"], "date", time.time())
