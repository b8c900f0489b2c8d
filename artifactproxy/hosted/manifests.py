"""Manifests and tags of a registry: what is pushed is served byte for byte, with the type it came with.

A manifest, its tag and its place among the referrers of another are one transaction, which also sees
that everything it names is here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from packageurl import PackageURL

from artifactproxy.engine.answer import Answer
from artifactproxy.errors import BodyTooLarge, BrokenPromise
from artifactproxy.hosted.blobs import DIGEST_HEADER, row_of, served
from artifactproxy.hosted.documents import MANIFEST_MAX, Manifest, read_manifest
from artifactproxy.hosted.kit import Call, Kit, empty
from artifactproxy.hosted.names import (
    TAGGED,
    blob_key,
    digest_by,
    digest_of,
    is_digest,
    manifest_key,
    referrer_key,
)
from artifactproxy.hosted.refusals import Refused, bad_digest, no_manifest, other_bytes
from artifactproxy.model import BlobRef, CacheEntry, Header, Kind, Span


class Manifests:
    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    async def get(self, call: Call) -> Answer:
        """By tag what it names at this moment; ranges are not for manifests."""
        entry = await self._entry(call)
        if entry is None or entry.ref is None:
            raise no_manifest(call.target.reference)
        digest = entry.etag.strip('"')
        answer = await served(self._kit, _whole(call), entry, "pushed here")
        answer.headers.append((DIGEST_HEADER, digest))
        if not is_digest(call.target.reference):
            answer.headers = [h for h in answer.headers if h[0] != "Cache-Control"]
            answer.headers.append(("Cache-Control", "no-cache"))
        return answer

    async def put(self, call: Call) -> Answer:
        body = await self._read(call)
        manifest = read_manifest(body, call.ask.headers.get("content-type", ""))
        reference = call.target.reference
        algorithm = digest_of(reference).algorithm if is_digest(reference) else "sha256"
        digest = str(digest_by(algorithm, body))
        if is_digest(reference) and digest != reference:
            raise bad_digest("the manifest does not have the digest in its address")
        await self._publish(call, body, manifest, digest)
        headers: list[Header] = [
            ("Location", call.address(f"manifests/{reference}")),
            (DIGEST_HEADER, digest),
        ]
        if manifest.subject:
            headers.append(("OCI-Subject", manifest.subject))
        return empty(call, 201, "pushed", *headers)

    async def delete(self, call: Call) -> Answer:
        """A tag alone, or a manifest with all tags that name it and its place among referrers."""
        reference, hosting = call.target.reference, self._kit.hosting
        key = manifest_key(call.repo, call.name, reference)
        entry = await hosting.committed(key)
        if entry is None or entry.ref is None:
            raise no_manifest(reference)
        keys = [key]
        if is_digest(reference):
            manifest = await self.read(entry)
            if manifest.subject:
                keys.append(referrer_key(call.repo, call.name, manifest.subject, reference))
        await hosting.withdraw(keys, alike=TAGGED if is_digest(reference) else "")
        return empty(call, 202, "deleted")

    async def read(self, entry: CacheEntry) -> Manifest:
        """What a stored manifest says. Raises `BlobMissing`, `StoreUnavailable`."""
        if entry.ref is None:
            raise no_manifest(entry.key.variant)
        return read_manifest(await self.bytes_of(entry.ref), entry.media_type)

    async def bytes_of(self, ref: BlobRef) -> bytes:
        chunks = await self._kit.tools.store.open(ref, Span(0, ref.size))
        return b"".join([chunk async for chunk in chunks])

    async def _entry(self, call: Call) -> CacheEntry | None:
        key = manifest_key(call.repo, call.name, call.target.reference)
        if is_digest(call.target.reference):
            return await self._kit.held(key)
        return await self._kit.hosting.committed(key)

    async def _read(self, call: Call) -> bytes:
        if (call.body.length or 0) > MANIFEST_MAX:
            raise _too_large()
        body = bytearray()
        async for chunk in call.body.chunks():
            body += chunk
            if len(body) > MANIFEST_MAX:
                raise _too_large()
        return bytes(body)

    async def _publish(self, call: Call, body: bytes, manifest: Manifest, digest: str) -> None:
        kit, repo, name = self._kit, call.repo, call.name
        try:
            received = await kit.receiving.receive(
                _once(body),
                repo=repo,
                name=name,
                digests=(digest_of(digest),),
                length=len(body),
                most=MANIFEST_MAX,
            )
        except BrokenPromise as fault:
            raise other_bytes(fault) from fault
        entries = await self._rows(call, manifest, digest, received.ref)
        tag = [entry.key for entry in entries if entry.kind is Kind.INDEX]
        needs = [blob_key(repo, name, each) for each in manifest.blobs]
        needs += [manifest_key(repo, name, each) for each in manifest.manifests]
        refusal = await kit.hosting.publish(
            entries,
            needs=needs,
            fixed=tag if call.local.immutable_tags else (),
            instead=[received.hold],
        )
        if refusal is None:
            return
        await kit.receiving.release(received.hold)
        if refusal.taken:
            raise Refused(
                "DENIED", 409, f"the tag {call.target.reference} is taken, and tags do not move here"
            )
        missing = refusal.missing[0].variant.partition(":")[2]
        raise Refused("MANIFEST_BLOB_UNKNOWN", 404, f"the manifest names {missing}, which is not here")

    async def _rows(self, call: Call, manifest: Manifest, digest: str, ref: BlobRef) -> list[CacheEntry]:
        """The manifest; its tag, numbered so that of two at once the later stays; its referral."""
        kit, repo, name = self._kit, call.repo, call.name
        purl = str(PackageURL("oci", name=name.rpartition("/")[2], version=digest).to_string())
        entries = [
            row_of(
                kit,
                manifest_key(repo, name, digest),
                ref,
                digest,
                media_type=manifest.media_type,
                purl=purl,
            )
        ]
        if not is_digest(call.target.reference):
            key = manifest_key(repo, name, call.target.reference)
            generation = await kit.tools.index.generation()
            entries.append(
                row_of(
                    kit,
                    key,
                    ref,
                    digest,
                    media_type=manifest.media_type,
                    kind=Kind.INDEX,
                    generation=generation,
                    purl=purl,
                )
            )
        if manifest.subject:
            key = referrer_key(repo, name, manifest.subject, digest)
            entries.append(row_of(kit, key, ref, digest, media_type=manifest.media_type))
        return entries


def _whole(call: Call) -> Call:
    """The same without a range."""
    headers = {name: value for name, value in call.ask.headers.items() if name not in ("range", "if-range")}
    return replace(call, ask=replace(call.ask, headers=headers))


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"a manifest has at most {MANIFEST_MAX} bytes")
