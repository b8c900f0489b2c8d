"""Does this bucket do what the store needs? Each ability is tried out for real, in a folder of its own
below the prefix (`s3-check-<random>/`), which is removed again.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

import aiohttp
from yarl import URL

from artifactproxy.errors import StoreUnavailable
from artifactproxy.rules.multipart import LEAST
from artifactproxy.stores.s3.copying import copy
from artifactproxy.stores.s3.listing import keys, uploads
from artifactproxy.stores.s3.options import S3Options
from artifactproxy.stores.s3.replies import date_of, document
from artifactproxy.stores.s3.sources import BytesSource, Marks, measure
from artifactproxy.stores.s3.trouble import Answered, Keyless, Unreached, is_absent, sentence
from artifactproxy.stores.s3.wire import Wire

SKEW = 300.0  # seconds; S3 itself refuses from 900 on
SMALL = 4096
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Check:
    """One ability. `needed`: the store does not work without it; `mend` says what to do about it."""

    name: str
    good: bool
    needed: bool
    detail: str
    mend: str = ""


class Lacking(Exception):
    """What the bucket did instead."""


@dataclass(frozen=True, slots=True)
class _Trial:
    name: str
    run: Callable[[], Awaitable[str]]
    mend: str = ""
    needed: bool = True


class Probe:
    """`checks` yields one after the other; nothing is left in the bucket."""

    def __init__(self, options: S3Options, *, rng: Callable[[], float] = random.random) -> None:
        self._options = options
        self._wire = Wire(options, observer=None, rng=rng)
        self.folder = f"s3-check-{secrets.token_hex(6)}/"
        self._small = os.urandom(SMALL)
        self._offset: float | None = None

    async def checks(self) -> AsyncGenerator[Check, None]:
        first = await self._reached()
        yield first
        try:
            if not first.good:
                return
            for trial in self._trials():
                yield await self._tried(trial)
            left = await self._removed()
            yield Check("clean up", not left, False, left or f"{self.folder} is gone", "delete it by hand")
        finally:
            await self._wire.close()

    async def _reached(self) -> Check:
        began = time.monotonic()
        try:
            await self._wire.start()
            await self._wire.probe()
        except (Answered, Unreached, Keyless) as trouble:
            text, _, mend = sentence(trouble, self._options).partition(": ")
            return Check("reach the bucket", False, True, text, mend)
        except StoreUnavailable as fault:
            return Check("reach the bucket", False, True, fault.detail)
        return Check("reach the bucket", True, True, _milliseconds(time.monotonic() - began))

    def _trials(self) -> list[_Trial]:
        policy = "allow s3:{} below store.prefix in the bucket's policy"
        return [
            _Trial("put", self._put, policy.format("PutObject")),
            _Trial("get", self._get, policy.format("GetObject")),
            _Trial("range", self._range, "use a store (or a gateway) that answers Range with 206"),
            _Trial("tell absence", self._absence, policy.format("ListBucket")),
            _Trial("multipart", self._multipart, policy.format("PutObject and s3:AbortMultipartUpload")),
            _Trial("abort", self._abort, policy.format("AbortMultipartUpload")),
            _Trial("list uploads", self._uploads, "open uploads are remembered in the index", needed=False),
            _Trial("list", self._list, policy.format("ListBucket")),
            _Trial("copy", self._copy, "damaged blobs cannot be set aside without it"),
            _Trial("presigned GET", self._presigned, "leave store.redirect at never", needed=False),
            _Trial("conditional GET", self._if_match, "reads that break off start anew", needed=False),
            _Trial("conditional PUT", self._if_none, "it is not needed: same name, same bytes", needed=False),
            _Trial("clock", self._clock, "set the clock of this machine (or of the store)"),
            _Trial("delete", self._delete, policy.format("DeleteObject")),
        ]

    async def _tried(self, trial: _Trial) -> Check:
        try:
            detail = await trial.run()
        except Lacking as lacking:
            return Check(trial.name, False, trial.needed, str(lacking), trial.mend)
        except Answered as trouble:
            detail = f"answered {trouble.status} {trouble.code}".strip()
            return Check(trial.name, False, trial.needed, detail, _demand(trouble) or trial.mend)
        except (StoreUnavailable, aiohttp.ClientError, TimeoutError, KeyError) as error:
            detail = getattr(error, "detail", "") or type(error).__name__
            return Check(trial.name, False, trial.needed, detail, trial.mend)
        return Check(trial.name, True, trial.needed, detail)

    # --- the trials -------------------------------------------------------------------------

    def _marks(self, body: bytes) -> tuple[Marks, dict[str, str]]:
        options = self._options
        checked = options.checksums == "when_supported"
        source = BytesSource(body)
        marks = measure(source, 0, len(body), sha256=options.sign_payload, crc32=checked)
        return marks, {"x-amz-checksum-crc32": marks.crc32} if checked else {}

    async def _send(self, name: str, body: bytes, **headers: str) -> None:
        marks, sums = self._marks(body)
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        answer = await self._wire.put(
            self.folder + name, BytesSource(body), (0, len(body)), headers={**sums, **named}, marks=marks
        )
        now = time.time()
        self._offset = date_of(answer, "date", now - 0.5) + 0.5 - now  # a Date has whole seconds

    async def _read(self, name: str, **headers: str) -> tuple[int, bytes]:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        reply = await self._wire.get(self.folder + name, named)
        try:
            return reply.status, await document(reply)
        finally:
            reply.release()

    async def _put(self) -> str:
        taken = []
        for _ in range(ROUNDS):
            began = time.monotonic()
            await self._send("small", self._small)
            taken.append(time.monotonic() - began)
        return f"{_milliseconds(statistics.median(taken))} for {SMALL} bytes"

    async def _get(self) -> str:
        taken = []
        for _ in range(ROUNDS):
            began = time.monotonic()
            _, body = await self._read("small")
            taken.append(time.monotonic() - began)
            if body != self._small:
                raise Lacking("other bytes came back than were sent")
        return f"{_milliseconds(statistics.median(taken))} for {SMALL} bytes"

    async def _range(self) -> str:
        status, body = await self._read("small", Range="bytes=10-19")
        if status != 206 or body != self._small[10:20]:
            raise Lacking(f"a range was answered {status} with {len(body)} bytes")
        return "206 with the bytes that were asked for"

    async def _absence(self) -> str:
        try:
            await self._read("missing")
        except Answered as trouble:
            if is_absent(trouble):
                return "404 NoSuchKey"
            raise
        raise Lacking("an object that does not exist was answered")

    async def _multipart(self) -> str:
        key, body, began = self.folder + "parts", os.urandom(LEAST) + b"last", time.monotonic()
        more = {"ChecksumAlgorithm": "CRC32"} if self._options.checksums == "when_supported" else {}
        upload = (await self._named("create_multipart_upload", key, **more))["UploadId"]
        parts = []
        for number, piece in ((1, body[:LEAST]), (2, body[LEAST:])):
            marks, headers = self._marks(piece)
            query = {"partNumber": str(number), "uploadId": upload}
            answer = await self._wire.put(
                key, BytesSource(piece), (0, len(piece)), query=query, headers=headers, marks=marks
            )
            part = {"PartNumber": number, "ETag": answer["etag"]}
            parts.append(part | ({"ChecksumCRC32": marks.crc32} if marks.crc32 else {}))
        if await self._wire.head(key) is not None:
            raise Lacking("an upload was visible before it was complete")
        await self._named("complete_multipart_upload", key, UploadId=upload, MultipartUpload={"Parts": parts})
        thing = await self._wire.head(key)
        if thing is None or thing.size != len(body):
            raise Lacking("the complete upload is not the object that was sent")
        rate = len(body) / 2**20 / (time.monotonic() - began)
        return f"{len(body)} bytes in 2 parts, {rate:.0f} MiB/s"

    async def _abort(self) -> str:
        key = self.folder + "aborted"
        upload = (await self._named("create_multipart_upload", key))["UploadId"]
        await self._named("abort_multipart_upload", key, UploadId=upload)
        marks, headers = self._marks(b"late")
        query = {"partNumber": "1", "uploadId": upload}
        try:
            await self._wire.put(key, BytesSource(b"late"), (0, 4), query=query, headers=headers, marks=marks)
        except Answered as trouble:
            if trouble.status == 404:
                return "an aborted upload takes no more parts"
            raise
        raise Lacking("an aborted upload took another part")

    async def _uploads(self) -> str:
        key = self.folder + "listed"
        upload = (await self._named("create_multipart_upload", key))["UploadId"]
        try:
            below = [each.upload for each in await uploads(self._wire, self.folder)]
            exact = [each.upload for each in await uploads(self._wire, key)]
        finally:
            await self._named("abort_multipart_upload", key, UploadId=upload)
        if upload not in exact:
            raise Lacking("open uploads are not listed, not even for one key")
        return "for the whole prefix" if upload in below else "for one key at a time"

    async def _list(self) -> str:
        found = {each.key async for each in keys(self._wire, self.folder)}
        if self.folder + "small" not in found:
            raise Lacking("what was put is not listed")
        return f"{len(found)} objects"

    async def _copy(self) -> str:
        thing = await self._wire.head(self.folder + "small")
        if thing is None:
            raise Lacking("what was put is not there")
        await copy(self._wire, self.folder + "small", self.folder + "copy", thing)
        _, body = await self._read("copy")
        if body != self._small:
            raise Lacking("the copy has other bytes")
        return "within the bucket, if unchanged"

    async def _presigned(self) -> str:
        url = await self._wire.presigned(self.folder + "small", 60, ResponseContentType="text/x-check")
        # Not through our own connections: what anybody would do.
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._options.read)) as anybody,
            anybody.get(URL(url, encoded=True)) as reply,
        ):
            body = await reply.read()
            if reply.status != 200 or body != self._small:
                raise Lacking(f"answered {reply.status}")
            typed = reply.headers.get("Content-Type", "") == "text/x-check"
        return "with our content type" if typed else "but with another content type than we ask for"

    async def _if_match(self) -> str:
        try:
            await self._read("small", If_Match='"another"')
        except Answered as trouble:
            if trouble.status == 412:
                return "412 for another object"
            raise
        raise Lacking("If-Match is ignored")

    async def _if_none(self) -> str:
        try:
            await self._send("small", self._small, If_None_Match="*")
        except Answered as trouble:
            if trouble.status == 412:
                return "412 for a name that is taken"
            raise
        raise Lacking("If-None-Match is ignored")

    async def _clock(self) -> str:
        offset = self._offset
        if offset is None:
            raise Lacking("it does not tell its time")
        if abs(offset) > SKEW:
            raise Lacking(f"the store's clock is {offset:+.0f} s from ours")
        return f"{offset:+.0f} s from ours"

    async def _delete(self) -> str:
        await self._named("delete_object", self.folder + "small")
        await self._named("delete_object", self.folder + "small")
        if await self._wire.head(self.folder + "small") is not None:
            raise Lacking("what was deleted is still there")
        return "gone at once"

    # --- afterwards -------------------------------------------------------------------------

    async def _named(self, operation: str, key: str, **parameters: object) -> dict[str, str]:
        return await self._wire.call(operation, Key=self._options.prefix + key, **parameters)  # type: ignore[arg-type]

    async def _removed(self) -> str:
        """Delete what was written; what stays, as a sentence."""
        try:
            async with asyncio.timeout(60):
                for open_ in await self._open():
                    await self._named("abort_multipart_upload", open_[0], UploadId=open_[1])
                for key in [each.key async for each in keys(self._wire, self.folder)]:
                    await self._named("delete_object", key)
        except (Answered, StoreUnavailable, TimeoutError):
            return f"{self._options.prefix}{self.folder} could not be removed"
        return ""

    async def _open(self) -> list[tuple[str, str]]:
        try:
            return [(each.key, each.upload) for each in await uploads(self._wire, self.folder)]
        except (Answered, StoreUnavailable):
            return []


def _demand(trouble: Answered) -> str:
    """What a refusal says that this store wants of us."""
    if trouble.code in ("MissingContentMD5", "InvalidRequest", "MissingDigest", "InvalidDigest"):
        return "set store.checksums: when_supported"
    if trouble.code in ("XAmzContentSHA256Mismatch", "MissingSecurityHeader", "SignatureDoesNotMatch"):
        return "set store.sign_payload: true"
    return ""


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
