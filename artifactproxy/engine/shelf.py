"""Answers from what is held: files as they lie, indexes rendered for the client that asks."""

from __future__ import annotations

from dataclasses import replace

from artifactproxy.engine.answer import Answer, Body, Chunks, File, Nothing
from artifactproxy.engine.describe import (
    Entity,
    Head,
    Provenance,
    answers_of,
    elsewhere,
    entity_of,
    head_for,
    hit,
    page_link,
    revalidated,
)
from artifactproxy.engine.documents import Documents
from artifactproxy.engine.heads import Heads, plain
from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.terms import Source, Tools
from artifactproxy.engine.unstored import lacks, outcome_of
from artifactproxy.engine.usage import Usage
from artifactproxy.errors import StoreUnavailable, UpstreamAbsent
from artifactproxy.model import Ask, BlobRef, CacheEntry, Kind, Route, Span, View
from artifactproxy.ports import LocalFile, Outcome

JUDGED_THERE = frozenset(("if-match", "if-range", "if-unmodified-since"))
"""Conditions that a client repeats where it is sent to, and that name our tag and date, not the store's."""


class Shelf:
    """Every method raises `BlobMissing` when the row is hollow, before a byte is sent."""

    def __init__(self, tools: Tools, documents: Documents, usage: Usage) -> None:
        self._tools = tools
        self._documents = documents
        self._usage = usage
        self._heads = Heads()

    async def held(
        self,
        mount: Mount,
        route: Route,
        ask: Ask,
        entry: CacheEntry,
        reason: str,
        result: str,
        detail: str = "",
    ) -> Answer:
        """The row as it stands; `result` and `detail` say how it came to answer."""
        if entry.ref is None:
            raise absence(route, entry)
        outcome = outcome_of(mount, route, ask, result, reason, entry)
        if result == "hit" and not detail and not route.rendered and plain(ask, entry):
            return await self._plain(mount, route, ask, entry, outcome)
        how = hit(entry, mount.policy, self._tools.clock(), detail)
        if result == "revalidated":
            how = revalidated(entry, mount.policy, self._tools.clock())
        if route.rendered:
            return await self.rendered(
                mount, route, ask, Source(entry.ref, entry.source), entry, how, outcome
            )
        head = head_for(ask, entity_of(entry, route, entry.ref.size), how, page_link(ask, route, entry))
        if head.empty:
            self._usage.note(entry, ask, 0)
            return Answer(head.status, head.headers, Nothing(), outcome)
        body = await self._opened(route, ask, entry.ref, head.span or Span(0, entry.ref.size))
        if isinstance(body, str):
            return self._elsewhere(entry, ask, how, body, outcome)
        self._usage.note(entry, ask, sent(head, entry.ref.size))
        return Answer(head.status, head.headers, body, outcome)

    async def _plain(
        self, mount: Mount, route: Route, ask: Ask, entry: CacheEntry, outcome: Outcome
    ) -> Answer:
        """Most hits: a whole file that cannot have changed."""
        if entry.ref is None:
            raise absence(route, entry)
        body = await self._opened(route, ask, entry.ref, Span(0, entry.ref.size))
        if isinstance(body, str):
            how = hit(entry, mount.policy, self._tools.clock())
            return self._elsewhere(entry, ask, how, body, outcome)
        self._usage.note(entry, ask, entry.ref.size)
        return Answer(200, self._heads.of(entry, route, mount.policy, self._tools.clock()), body, outcome)

    async def _opened(self, route: Route, ask: Ask, ref: BlobRef, span: Span) -> File | Chunks | str:
        """The body: a file of this machine, which is the fastest; an address of it; or what the store
        sends."""
        located = await self._tools.locate(ref)
        if isinstance(located, LocalFile):
            return File(located, span)
        address = await self._address(route, ask, ref)
        return address or Chunks(await self._tools.store.open(ref, span), span.size)

    async def _address(self, route: Route, ask: Ask, ref: BlobRef) -> str | None:
        redirect = self._tools.redirect
        if redirect is None or ref.size < redirect.from_bytes or not JUDGED_THERE.isdisjoint(ask.headers):
            return None
        if route.kind is not Kind.ARTIFACT and redirect.which != "all":
            return None
        try:
            return await self._tools.store.address(
                ref, seconds=redirect.seconds, media_type=route.media_type, filename=route.filename
            )
        except StoreUnavailable:
            return None  # the body itself may still be had

    def _elsewhere(self, entry: CacheEntry, ask: Ask, how: Provenance, url: str, outcome: Outcome) -> Answer:
        self._tools.observer.increment("redirects")
        self._usage.note(entry, ask, 0)
        return Answer(307, elsewhere(how, url), Nothing(), outcome)

    async def rendered(
        self,
        mount: Mount,
        route: Route,
        ask: Ask,
        source: Source,
        entry: CacheEntry,
        how: Provenance,
        outcome: Outcome,
    ) -> Answer:
        view, documents = View(), self._documents
        coding = documents.coding(route, source, ask.headers.get("accept-encoding"))
        tag = documents.tag(mount, route, source, ask.base, view, coding)
        shown = Entity(
            route.media_type,
            tag,
            entry.last_modified,
            negotiated=True,
            filename=route.filename,
            coding=coding,
            answers=(*answers_of(route, entry), *page_link(ask, route, entry)),
        )
        made = documents.made(tag)
        if made is None:
            early = head_for(ask, shown, how)
            if early.status == 304:
                self._usage.note(entry, ask, 0)
                return Answer(304, early.headers, Nothing(), outcome)
            made = await documents.render(mount, route, source, ask.base, view, coding)
        head = head_for(ask, replace(shown, size=made.size, sha256=made.sha256), how)
        self._usage.note(entry, ask, sent(head, made.size))
        body: Body = Nothing()
        if not head.empty:
            body = made.part(head.span or Span(0, made.size))
        return Answer(head.status, head.headers, body, outcome)


def absence(route: Route, entry: CacheEntry) -> UpstreamAbsent:
    return UpstreamAbsent(lacks(route), status=entry.status if entry.status in (404, 410) else 404)


def sent(head: Head, size: int) -> int:
    if head.empty:
        return 0
    return head.span.size if head.span else size
