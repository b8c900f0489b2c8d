"""What a registry lists: names, tags, and who refers to a manifest. In pages, in the order of bytes.

OCI distribution specification 1.1, "Content discovery".
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from typing import Any, Final
from urllib.parse import quote, urlencode

from artifactproxy.engine.answer import Answer
from artifactproxy.errors import BlobMissing
from artifactproxy.hosted.keys import MANIFEST, REFERRER, TAGGED, tag_key
from artifactproxy.hosted.kit import Call, Kit, document
from artifactproxy.hosted.manifests import Manifests
from artifactproxy.hosted.refusals import Refused, no_name
from artifactproxy.model import CacheEntry, Digest, Header
from artifactproxy.rules.oci.manifests import Facts, referrer_type
from artifactproxy.rules.oci.media import INDEXES, OCI_INDEX
from artifactproxy.rules.oci.names import fallback_tag
from artifactproxy.rules.oci.operations import PAGE_MAX, Page, Referrers

REFERRERS_MAX: Final = 200
JSON: Final = "application/json"
_AT_ONCE: Final = 16
_REMEMBERED: Final = 10_000


class Listings:
    def __init__(self, kit: Kit, manifests: Manifests) -> None:
        self._kit = kit
        self._manifests = manifests
        self._descriptors: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()

    async def catalog(self, call: Call, page: Page) -> Answer:
        most = _most(page, PAGE_MAX)
        names = await self._kit.hosting.paths(call.repo, MANIFEST, after=page.last, limit=most + 1)
        body = json.dumps({"repositories": names[:most]}).encode()
        return document(call, body, JSON, "names", *_next(call, "_catalog", names, most))

    async def everything(self, call: Call, repos: list[str], page: Page) -> Answer:
        """The same for several repositories, whose names come first."""
        most, (last, _, name) = _most(page, PAGE_MAX), page.last.partition("/")
        names: list[str] = []
        for repo in repos:
            if repo >= last and len(names) <= most:
                after = name if repo == last else ""
                found = await self._kit.hosting.paths(repo, MANIFEST, after=after, limit=most + 1)
                names += [f"{repo}/{each}" for each in found]
        body = json.dumps({"repositories": names[:most]}).encode()
        return document(call, body, JSON, "names", *_next(call, "_catalog", names, most))

    async def tags(self, call: Call, page: Page) -> Answer:
        most = _most(page, PAGE_MAX)
        entries = await self._kit.hosting.variants(
            call.repo, call.name, TAGGED, after=page.last, limit=most + 1
        )
        if not entries and not await self._is_known(call):
            raise no_name(call.name)
        tags = [entry.key.variant.removeprefix(TAGGED) for entry in entries]
        body = json.dumps({"name": call.name, "tags": tags[:most]}).encode()
        return document(call, body, JSON, "tags", *_next(call, f"{call.name}/tags/list", tags, most))

    async def referrers(self, call: Call, wanted: Referrers) -> Answer:
        """Also what clients of older registries have listed under the fallback tag of the digest."""
        most, of = _most(wanted.page, REFERRERS_MAX), f"{REFERRER}{wanted.digest}:"
        entries = await self._kit.hosting.variants(
            call.repo, call.name, of, after=wanted.page.last, limit=most + 1
        )
        turns = asyncio.Semaphore(_AT_ONCE)

        async def described(entry: CacheEntry) -> dict[str, Any] | None:
            async with turns:
                return await self._described(entry)

        found = [each for each in await asyncio.gather(*map(described, entries[:most])) if each]
        if not wanted.page.last:
            known = {each["digest"] for each in found}
            found += [
                each for each in await self._fallback(call, wanted.digest) if each["digest"] not in known
            ]
        headers: list[Header] = []
        if wanted.artifact_type:
            found = [each for each in found if each.get("artifactType") == wanted.artifact_type]
            headers.append(("OCI-Filters-Applied", "artifactType"))
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}).encode()
        digests = [entry.key.variant.removeprefix(of) for entry in entries]
        path, kept = f"{call.name}/referrers/{wanted.digest}", wanted.artifact_type
        headers += _next(call, path, digests, most, **({"artifactType": kept} if kept else {}))
        return document(call, body, OCI_INDEX, "referrers", *headers)

    async def _is_known(self, call: Call) -> bool:
        return bool(await self._kit.hosting.variants(call.repo, call.name, MANIFEST, limit=1))

    async def _described(self, entry: CacheEntry) -> dict[str, Any] | None:
        """A manifest among the referrers; one that the store has lost is left out."""
        slot = entry.etag, entry.media_type
        made = self._descriptors.get(slot)
        if made is None and entry.ref is not None:
            try:
                facts = await self._manifests.read(entry)
            except (BlobMissing, Refused):
                return None
            made = self._descriptors[slot] = _descriptor(facts, entry.etag.strip('"'), entry.ref.size)
            if len(self._descriptors) > _REMEMBERED:
                self._descriptors.popitem(last=False)
        return made

    async def _fallback(self, call: Call, subject: Digest) -> list[dict[str, Any]]:
        """The specification's "Referrers Tag Schema": an index under the digest with a hyphen."""
        key = tag_key(call.repo, call.name, fallback_tag(subject)[:128])
        entry = await self._kit.hosting.committed(key)
        if entry is None or entry.ref is None or entry.media_type not in INDEXES:
            return []
        try:
            listed = json.loads(await self._manifests.bytes_of(entry.ref)).get("manifests", [])
        except (BlobMissing, ValueError, RecursionError):
            return []
        return [each for each in listed if isinstance(each, dict) and "digest" in each]


def _descriptor(facts: Facts, digest: str, size: int) -> dict[str, Any]:
    """As the list of referrers holds it."""
    made: dict[str, Any] = {"mediaType": facts.media_type, "digest": digest, "size": size}
    if kind := referrer_type(facts):
        made["artifactType"] = kind
    if facts.annotations:
        made["annotations"] = dict(facts.annotations)
    return made


def _most(page: Page, most: int) -> int:
    return most if page.n is None else min(page.n, most)


def _next(call: Call, path: str, found: list[str], most: int, **kept: str) -> tuple[Header, ...]:
    """The address of what follows the first `most` of what was found (RFC 8288)."""
    if len(found) <= most or not most:
        return ()
    query = urlencode({"n": str(most), "last": found[most - 1], **kept})
    return (("Link", f'<{call.ask.base}/{quote(path, safe="/:")}?{query}>; rel="next"'),)
