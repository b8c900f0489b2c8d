"""What a running fill gives to the other processes of the cluster: upstream's head, and its body.

A follower is one more reader: it keeps the fill alive, gets the tail only once the whole is
verified, and a reset where the fill fails. What upstream refused is remembered for a moment, so that
those who followed need not ask upstream as well.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, replace

from artifactproxy.engine.answer import Body, Nothing, Tail
from artifactproxy.engine.conversation import decodes
from artifactproxy.engine.fill import Fill
from artifactproxy.engine.fills import FillTable
from artifactproxy.engine.spool import Spool
from artifactproxy.engine.terms import Settled, sha256_of
from artifactproxy.errors import Fault, PeerGone
from artifactproxy.model import Span, Told, UpstreamHead
from artifactproxy.rules.http import strong
from artifactproxy.rules.peers import HOLD, WAIT, passes_on, write_fault, write_head

REMEMBERED = 1000
REMEMBERED_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a follower asks for: the fill by its name (`fill_name`). `start` is how much it has of the
    download `fill` ("": none yet), or of any with the strong entity tag `tag`."""

    name: str
    start: int = 0
    fill: str = ""
    tag: str = ""


@dataclass(slots=True)
class Offered:
    """A word (`rules.peers`) and the body behind it; whoever takes it closes the body."""

    word: str
    body: Body


class Offer:
    """Of one process. `hold` is how long one answer may be waited for, in seconds."""

    def __init__(self, fills: FillTable, *, hold: float = HOLD) -> None:
        self._fills = fills
        self._hold = hold
        self._failed: OrderedDict[str, tuple[float, Fault]] = OrderedDict()
        fills.on_failed = self._note

    async def open(self, wanted: Wanted) -> Offered:
        """Raises `PeerGone` if nobody asks upstream for that here."""
        failed = self._failed.get(wanted.fill)
        if failed is not None and time.monotonic() - failed[0] < REMEMBERED_SECONDS:
            return Offered(write_fault(failed[1]), Nothing())
        fill = self._fills.leading(wanted.name)
        if fill is None:
            raise PeerGone("nobody fills that here")
        self._fills.attend(fill)
        offered = None
        try:
            # Whether upstream's body had ended counts for when this follower came.
            offered = await self._offered(fill, wanted, ended=fill.body_ended)
        finally:
            if offered is None or isinstance(offered.body, Nothing):
                fill.leave()
        return offered

    async def _offered(self, fill: Fill, wanted: Wanted, *, ended: bool) -> Offered:
        try:
            async with asyncio.timeout(self._hold):
                opened = await asyncio.shield(fill.opened)
                if isinstance(opened, Settled):
                    return self._settled(fill, opened)
                await opened.spool.presentable()
        except TimeoutError:
            return Offered(WAIT, Nothing())
        except Fault as fault:
            return _refused(fault)
        if fill.head is None:
            raise PeerGone("this was not fetched")
        told = self._told(fill, ended=ended)
        return _body(_head(fill.head, told, opened.spool), told, opened.spool, wanted, fill)

    def _settled(self, fill: Fill, settled: Settled) -> Offered:
        if settled.fault is not None:
            return _refused(settled.fault)
        if settled.how == "landed" or fill.head is None:
            raise PeerGone("its row has been written meanwhile")
        return Offered(write_head(fill.head, self._told(fill)), Nothing())

    def _told(self, fill: Fill, *, ended: bool = True) -> Told:
        head, known = fill.head, fill.done.result().ref if fill.verified else None
        before = head is not None and head.told is not None and head.told.decoded
        return Told(
            fill=fill.id,
            sha256=known.sha256 if known is not None else sha256_of(fill.promise),
            generation=fill.generation,
            ended=ended,
            decoded=before or (head is not None and decodes(fill.route, head)),
        )

    def _note(self, fill: Fill, fault: Fault) -> None:
        if not passes_on(fault):
            return
        self._failed[fill.id] = (time.monotonic(), fault)
        while len(self._failed) > REMEMBERED:
            self._failed.popitem(last=False)


def _head(head: UpstreamHead, told: Told, spool: Spool) -> UpstreamHead:
    """As the body lies here: without its coding where that has been undone."""
    gone = {"content-range"} | ({"content-encoding"} if told.decoded else set())
    headers = {name: value for name, value in head.headers.items() if name not in gone}
    length = spool.written if spool.sealed else spool.length
    return replace(head, status=200, headers=headers, length=length)


def _body(head: UpstreamHead, told: Told, spool: Spool, wanted: Wanted, fill: Fill) -> Offered:
    length, span = head.length, None
    same = wanted.fill == told.fill or (strong(wanted.tag) and wanted.tag == head.headers.get("etag"))
    if length is not None and same and 0 < wanted.start < length:
        span = Span(wanted.start, length)
        part = f"bytes {span.start}-{span.stop - 1}/{length}"
        head = replace(head, status=206, headers={**head.headers, "content-range": part}, length=span.size)
    reader = spool.reader(span)
    reader.on_close = fill.leave
    return Offered(write_head(head, told), Tail(reader, head.length))


def _refused(fault: Fault) -> Offered:
    """Raises `PeerGone` for what is only our own trouble."""
    if not passes_on(fault):
        raise PeerGone("what went wrong here need not go wrong elsewhere") from fault
    return Offered(write_fault(fault), Nothing())
