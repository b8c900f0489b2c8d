"""The body of a request: read, unpacked, and every digest that came with it compared."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import AsyncIterator, Mapping

from .contents import Body
from .replies import Refusal

_DIGESTS = ("sha256", "sha1", "crc32")


async def arrived(blocks: AsyncIterator[bytes], headers: Mapping[str, str], *, keep: bool) -> Body:
    """Raises a `Refusal` where the body is not what its headers say."""
    packed = headers.get("x-amz-content-sha256", "").startswith("STREAMING-")
    if packed and headers["x-amz-content-sha256"] != "STREAMING-UNSIGNED-PAYLOAD-TRAILER":
        raise Refusal(501, "NotImplemented", "signed chunks")
    trailer: dict[str, str] = {}
    source = _unpacked(blocks, trailer) if packed else blocks
    sha256, sha1, md5 = hashlib.sha256(), hashlib.sha1(), hashlib.md5()
    crc, size, kept = 0, 0, bytearray()
    async for block in source:
        for digest in (sha256, sha1, md5):
            digest.update(block)
        crc = zlib.crc32(block, crc)
        size += len(block)
        if keep:
            kept += block
    found = {"sha256": sha256.digest(), "sha1": sha1.digest(), "crc32": crc.to_bytes(4, "big")}
    _compare({**headers, **trailer}, found, md5.digest(), packed=packed)
    return Body(size, sha256.hexdigest(), md5.hexdigest(), bytes(kept) if keep else None)


def _compare(headers: Mapping[str, str], found: Mapping[str, bytes], md5: bytes, *, packed: bool) -> None:
    if "content-md5" in headers and base64.b64decode(headers["content-md5"]) != md5:
        raise Refusal(400, "BadDigest", "Content-MD5")
    said = headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
    if not packed and said != "UNSIGNED-PAYLOAD" and said != found["sha256"].hex():
        raise Refusal(400, "XAmzContentSHA256Mismatch")
    for name in _DIGESTS:
        value = headers.get(f"x-amz-checksum-{name}")
        if value is not None and base64.b64decode(value) != found[name]:
            raise Refusal(400, "BadDigest", f"x-amz-checksum-{name}")


def checksums(headers: Mapping[str, str]) -> dict[str, str]:
    """Those that are given back with what was stored."""
    return {n: v for n, v in headers.items() if n.startswith("x-amz-checksum-") and n[15:] in _DIGESTS}


async def _unpacked(blocks: AsyncIterator[bytes], trailer: dict[str, str]) -> AsyncIterator[bytes]:
    """`aws-chunked`: sizes in hex, and trailing headers."""
    buffer = bytearray()
    ended = False

    async def line() -> bytes:
        while b"\r\n" not in buffer:
            buffer.extend(await anext(blocks))
        found, _, rest = bytes(buffer).partition(b"\r\n")
        buffer[:] = rest
        return found

    try:
        while not ended:
            size = int((await line()).partition(b";")[0], 16)
            ended = size == 0
            while not ended and len(buffer) < size + 2:
                buffer.extend(await anext(blocks))
            if not ended:
                yield bytes(buffer[:size])
                del buffer[: size + 2]
        while pair := await line():
            name, _, value = pair.decode().partition(":")
            trailer[name.strip().lower()] = value.strip()
    except (StopAsyncIteration, ValueError):
        raise Refusal(400, "IncompleteBody") from None
