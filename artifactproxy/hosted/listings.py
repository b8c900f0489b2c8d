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
from artifactproxy.hosted.documents import OCI_INDEX, OF_INDEX
from artifactproxy.hosted.kit import Call, Kit, document
from artifactproxy.hosted.manifests import Manifests
from artifactproxy.hosted.names import MANIFEST, REFERRER, TAGGED, is_digest, manifest_key
from artifactproxy.hosted.refusals import JSON_TYPE, Refused, no_name
from artifactproxy.model import CacheEntry, Header

PAGE_MAX: Final = 10_000
REFERRERS_MAX: Final = 200
_AT_ONCE: Final = 16
_REMEMBERED: Final = 10_000


class Listings:
    def __init__(self, kit: Kit, manifests: Manifests) -> None:
        self._kit = kit
        self._manifests = manifests
        self._descriptors: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()

    async def catalog(self, call: Call) -> Answer:
        most = page_size(call.query, PAGE_MAX)
        names = await self._kit.hosting.paths(
            call.repo, MANIFEST, after=call.query.get("last", ""), limit=most + 1
        )
        shown, more = names[:most], len(names) > most
        body = json.dumps({"repositories": shown}).encode()
        return document(call, body, JSON_TYPE, "names", *_next(call, "_catalog", shown, most, more=more))

    async def tags(self, call: Call) -> Answer:
        most = page_size(call.query, PAGE_MAX)
        entries = await self._kit.hosting.variants(
            call.repo, call.name, TAGGED, after=call.query.get("last", ""), limit=most + 1
        )
        if not entries and not await self._is_known(call):
            raise no_name(call.name)
        tags = [entry.key.variant.removeprefix(TAGGED) for entry in entries]
        shown, more = tags[:most], len(tags) > most
        body = json.dumps({"name": call.name, "tags": shown}).encode()
        link = _next(call, f"{call.name}/tags/list", shown, most, more=more)
        return document(call, body, JSON_TYPE, "tags", *link)

    async def referrers(self, call: Call) -> Answer:
        """Also what clients of older registries have listed under the fallback tag of the digest."""
        subject, wanted = call.target.reference, call.query.get("artifactType", "")
        most = min(page_size(call.query, REFERRERS_MAX), REFERRERS_MAX)
        of = f"{REFERRER}{subject}:"
        last = call.query.get("last", "")
        entries = await self._kit.hosting.variants(call.repo, call.name, of, after=last, limit=most + 1)
        page, more = entries[:most], len(entries) > most
        turns = asyncio.Semaphore(_AT_ONCE)

        async def described(entry: CacheEntry) -> dict[str, Any] | None:
            async with turns:
                return await self._described(entry)

        found = [each for each in await asyncio.gather(*map(described, page)) if each is not None]
        if not last:
            known = {each["digest"] for each in found}
            found += [each for each in await self._fallback(call) if each.get("digest") not in known]
        filtered: tuple[Header, ...] = ()
        if wanted:
            found = [each for each in found if each.get("artifactType") == wanted]
            filtered = (("OCI-Filters-Applied", "artifactType"),)
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}).encode()
        shown = [entry.key.variant.removeprefix(of) for entry in page]
        link = _next(call, f"{call.name}/referrers/{subject}", shown, most, more=more)
        return document(call, body, OCI_INDEX, "referrers", *filtered, *link)

    async def _is_known(self, call: Call) -> bool:
        return bool(await self._kit.hosting.variants(call.repo, call.name, MANIFEST, limit=1))

    async def _described(self, entry: CacheEntry) -> dict[str, Any] | None:
        """A manifest among the referrers; one that the store has lost is left out."""
        slot = entry.etag, entry.media_type
        made = self._descriptors.get(slot)
        if made is None and entry.ref is not None:
            try:
                manifest = await self._manifests.read(entry)
            except (BlobMissing, Refused):
                return None
            made = self._descriptors[slot] = manifest.descriptor(entry.etag.strip('"'), entry.ref.size)
            if len(self._descriptors) > _REMEMBERED:
                self._descriptors.popitem(last=False)
        return made

    async def _fallback(self, call: Call) -> list[dict[str, Any]]:
        """The specification's "Referrers Tag Schema": an index under the digest with a hyphen."""
        tag = call.target.reference.replace(":", "-", 1)[:128]
        entry = await self._kit.hosting.committed(manifest_key(call.repo, call.name, tag))
        if entry is None or entry.ref is None or entry.media_type not in OF_INDEX:
            return []
        try:
            listed = json.loads(await self._manifests.bytes_of(entry.ref)).get("manifests", [])
        except (BlobMissing, ValueError, RecursionError):
            return []
        return [each for each in listed if isinstance(each, dict) and is_digest(str(each.get("digest", "")))]


def page_size(query: dict[str, str], most: int) -> int:
    """`n`, at most `most`. Raises `Refused` for what is no number."""
    text = query.get("n", "")
    if not text:
        return most
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Refused("PAGINATION_NUMBER_INVALID", 400, "n is a number of entries, from 0 on")
    return min(int(text), most)


def _next(call: Call, path: str, shown: list[str], most: int, *, more: bool) -> tuple[Header, ...]:
    """The address of what follows (RFC 8288)."""
    if not more or not shown:
        return ()
    query = {"n": str(most), "last": shown[-1]}
    if "artifactType" in call.query:
        query["artifactType"] = call.query["artifactType"]
    return (("Link", f'<{call.ask.base}/{quote(path, safe="/:")}?{urlencode(query)}>; rel="next"'),)
