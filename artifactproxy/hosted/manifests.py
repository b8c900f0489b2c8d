"""Manifests and tags of a registry: what is pushed is served byte for byte, with the type it came with.

A manifest, its tag and its place among the referrers of another are one transaction, which also sees
that everything it names is here.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace

from packageurl import PackageURL

from artifactproxy.engine.answer import Answer
from artifactproxy.engine.receiving import too_large
from artifactproxy.errors import BrokenPromise
from artifactproxy.hosted.blobs import DIGEST_HEADER, row_of, served
from artifactproxy.hosted.keys import TAGGED, blob_key, manifest_key, referrer_key, tag_key
from artifactproxy.hosted.kit import Call, Kit, empty
from artifactproxy.hosted.refusals import Refused, bad_digest, bad_manifest, no_manifest, other_bytes
from artifactproxy.model import ArtifactKey, BlobRef, CacheEntry, Digest, Header, Kind, Span
from artifactproxy.rules.oci.manifests import MANIFEST_BYTES, Descriptor, Facts, NotAManifestError, read
from artifactproxy.rules.oci.operations import Manifest


class Manifests:
    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    async def get(self, call: Call, wanted: Manifest) -> Answer:
        """By tag what it names at this moment; ranges are not for manifests."""
        key = _key(call, wanted)
        # Whoever has just moved a tag sees it moved, whichever process answers.
        entry = await (self._kit.hosting.committed(key) if wanted.tag else self._kit.held(key))
        if entry is None or entry.ref is None:
            raise no_manifest(wanted.reference)
        answer = await served(self._kit, _without_range(call), entry, "pushed here")
        answer.headers.append((DIGEST_HEADER, entry.etag.strip('"')))
        if wanted.tag:
            answer.headers = [header for header in answer.headers if header[0] != "Cache-Control"]
            answer.headers.append(("Cache-Control", "no-cache"))
        return answer

    async def put(self, call: Call, wanted: Manifest) -> Answer:
        body = await self._read(call)
        facts = _facts(body, call.ask.headers.get("content-type", ""))
        algorithm = wanted.digest.algorithm if wanted.digest else "sha256"
        digest = Digest(algorithm, hashlib.new(algorithm, body).hexdigest())
        if wanted.digest not in (None, digest):
            raise bad_digest("the manifest does not have the digest in its address")
        await self._publish(call, wanted, body, facts, digest)
        headers: list[Header] = [
            ("Location", call.address(f"manifests/{wanted.reference}")),
            (DIGEST_HEADER, str(digest)),
        ]
        if facts.subject is not None:
            headers.append(("OCI-Subject", str(facts.subject.digest)))
        return empty(call, 201, "pushed", *headers)

    async def delete(self, call: Call, wanted: Manifest) -> Answer:
        """A tag alone, or a manifest with all tags that name it and its place among referrers."""
        key = _key(call, wanted)
        entry = await self._kit.hosting.committed(key)
        if entry is None or entry.ref is None:
            raise no_manifest(wanted.reference)
        keys = [key]
        if wanted.digest is not None:
            subject = _facts(await self.bytes_of(entry.ref), entry.media_type).subject
            if subject is not None:
                keys.append(referrer_key(call.repo, call.name, subject.digest, wanted.digest))
        await self._kit.hosting.withdraw(keys, alike="" if wanted.tag else TAGGED)
        return empty(call, 202, "deleted")

    async def read(self, entry: CacheEntry) -> Facts:
        """What a stored manifest says. Raises `BlobMissing`, `StoreUnavailable`, `Refused`."""
        if entry.ref is None:
            raise no_manifest(entry.key.variant)
        return _facts(await self.bytes_of(entry.ref), entry.media_type)

    async def bytes_of(self, ref: BlobRef) -> bytes:
        chunks = await self._kit.tools.store.open(ref, Span(0, ref.size))
        return b"".join([chunk async for chunk in chunks])

    async def _read(self, call: Call) -> bytes:
        if (call.body.length or 0) > MANIFEST_BYTES:
            raise too_large(MANIFEST_BYTES)
        body = bytearray()
        async for chunk in call.body.chunks():
            body += chunk
            if len(body) > MANIFEST_BYTES:
                raise too_large(MANIFEST_BYTES)
        return bytes(body)

    async def _publish(self, call: Call, wanted: Manifest, body: bytes, facts: Facts, digest: Digest) -> None:
        kit, repo, name = self._kit, call.repo, call.name
        try:
            received = await kit.receiving.receive(
                _once(body), repo=repo, name=name, digests=(digest,), length=len(body), most=MANIFEST_BYTES
            )
        except BrokenPromise as fault:
            raise other_bytes(fault) from fault
        entries = await self._rows(call, wanted, facts, digest, received.ref)
        needs = [blob_key(repo, name, each.digest) for each in facts.content() if not _lies_elsewhere(each)]
        needs += [manifest_key(repo, name, each.digest) for each in facts.manifests]
        fixed = (_key(call, wanted),) if call.local.immutable_tags and wanted.tag else ()
        refusal = await kit.hosting.publish(entries, needs=needs, fixed=fixed, instead=[received.hold])
        if refusal is None:
            return
        await kit.receiving.release(received.hold)
        if refusal.taken:
            raise Refused("denied", 409, f"the tag {wanted.tag} is taken, and tags do not move here")
        missing = refusal.missing[0].variant.partition(":")[2]
        raise Refused("manifest_blob_unknown", 404, f"the manifest names {missing}, which is not here")

    async def _rows(
        self, call: Call, wanted: Manifest, facts: Facts, digest: Digest, ref: BlobRef
    ) -> list[CacheEntry]:
        """The manifest; its tag, numbered so that of two at once the later stays; its referral."""
        kit, repo, name = self._kit, call.repo, call.name
        purl = str(PackageURL("oci", name=name.rpartition("/")[2], version=str(digest)).to_string())
        row = row_of(kit, manifest_key(repo, name, digest), ref, digest, media_type=facts.media_type)
        rows = [replace(row, purl=purl)]
        if wanted.tag:
            number = await kit.tools.index.generation()
            key = tag_key(repo, name, wanted.tag)
            rows.append(replace(rows[0], key=key, kind=Kind.INDEX, generation=number))
        if facts.subject is not None:
            rows.append(replace(rows[0], key=referrer_key(repo, name, facts.subject.digest, digest)))
        return rows


def _key(call: Call, wanted: Manifest) -> ArtifactKey:
    if wanted.digest is not None:
        return manifest_key(call.repo, call.name, wanted.digest)
    return tag_key(call.repo, call.name, wanted.tag)


def _facts(body: bytes, content_type: str) -> Facts:
    try:
        return read(body, content_type)
    except NotAManifestError as error:
        raise bad_manifest(str(error)) from error


def _lies_elsewhere(layer: Descriptor) -> bool:
    """A layer that may not be distributed need not be here (image specification, "Non-Distributable
    Layers")."""
    return bool(layer.urls) or ".nondistributable." in layer.media_type or ".foreign." in layer.media_type


def _without_range(call: Call) -> Call:
    headers = {name: value for name, value in call.ask.headers.items() if name not in ("range", "if-range")}
    return replace(call, ask=replace(call.ask, headers=headers))


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
