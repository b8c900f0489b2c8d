"""Objects copied within the bucket: made young, or put out of reach."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from artifactproxy.errors import StoreUnavailable
from artifactproxy.stores.s3.replies import Thing, told_in
from artifactproxy.stores.s3.trouble import Answered, is_absent
from artifactproxy.stores.s3.wire import Wire

AT_ONCE = 2**30  # bytes; a copy of more would let one answer wait too long (S3 itself: 5 GiB)
QUARANTINE = "quarantine/"
PIECE = 512 * 2**20


async def renew(wire: Wire, key: str, thing: Thing) -> None:
    """Let an object begin its life anew. Raises `Answered`, `StoreAway`."""
    await copy(wire, key, key, thing)


async def copy(wire: Wire, key: str, target: str, thing: Thing) -> None:
    """Copy what `thing` says lies at `key`; keys stand below the prefix.

    Raises `Answered` (412 where something else lies there), `StoreAway`.
    """
    prefix = wire.options.prefix
    source: dict[str, Any] = {
        "CopySource": {"Bucket": wire.options.bucket, "Key": prefix + key},
        "CopySourceIfMatch": thing.etag,
    }
    if thing.size <= AT_ONCE:
        made = await wire.call("copy_object", Key=prefix + target, MetadataDirective="REPLACE", **source)
        told_in(made, "CopyObjectResult")
        return
    upload = told_in(await wire.call("create_multipart_upload", Key=prefix + target), "UploadId")
    named = {"Key": prefix + target, "UploadId": upload}
    done = False
    try:
        parts = []
        for number, start in enumerate(range(0, thing.size, PIECE), 1):
            span = f"bytes={start}-{min(start + PIECE, thing.size) - 1}"
            answer = await wire.call(
                "upload_part_copy", PartNumber=number, CopySourceRange=span, **named, **source
            )
            parts.append({"PartNumber": number, "ETag": told_in(answer, "CopyPartResult")["ETag"]})
        done = True
        made = await wire.call("complete_multipart_upload", MultipartUpload={"Parts": parts}, **named)
        told_in(made, "ETag")
    finally:
        if not done:
            with suppress(Answered, StoreUnavailable):
                await wire.call("abort_multipart_upload", **named)


async def move(wire: Wire, key: str, target: str) -> Thing | None:
    """Copy an object, then delete it; returns what it was, None if there was none or it changed.

    Raises `Answered`, `StoreAway`.
    """
    thing = await wire.head(key)
    if thing is None:
        return None
    try:
        await copy(wire, key, target, thing)
    except Answered as trouble:
        if trouble.status == 412 or is_absent(trouble):
            return None
        raise
    now = await wire.head(key)
    if now is not None and (now.etag, now.modified) == (thing.etag, thing.modified):
        await wire.call("delete_object", Key=wire.options.prefix + key)
    return thing


async def set_aside(wire: Wire, key: str) -> Thing | None:
    """Out of reach: `quarantine/<last part of the key>.<time>`. As `move`."""
    return await move(wire, key, f"{QUARANTINE}{key.rpartition('/')[2][:150]}.{time.time_ns()}")
