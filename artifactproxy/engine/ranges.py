"""One body over several connections: who asks for which bytes, and what is done when that goes wrong.

The first answer, which was asked for the whole as a range, is the first connection; it goes on past its
segment for as long as nobody else has begun what follows. The others ask for segments in order, so that
what readers wait for comes first. When nothing is left to ask for, the slowest gives up half of the
rest. Whatever is not exactly the part that was asked for ends the others: then the first connection
goes on alone, and if it has gone already the fault is raised, and the rest is asked for in order.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass

from artifactproxy.engine.landing import Landing
from artifactproxy.engine.mirrors import Ask, Mirror
from artifactproxy.engine.pace import RTTS, Connection, Pace
from artifactproxy.engine.progress import Part
from artifactproxy.engine.scattered import Scattered
from artifactproxy.errors import (
    BrokenPromise,
    Busy,
    Fault,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamSlow,
    UpstreamUnreachable,
)
from artifactproxy.limits import Download, RemoteLimits
from artifactproxy.model import Span, UpstreamHead
from artifactproxy.rules.crew import Crew, share, straggles, usual
from artifactproxy.rules.http import parse_retry_after
from artifactproxy.rules.ranges import UNFIT, judge_segment
from artifactproxy.rules.retry import backoff
from artifactproxy.rules.segments import Segment

TICK = 0.02  # seconds
NO_SPARE = 0.2  # seconds before it is looked again for a connection to spare
LONGEST_REST = 30.0  # seconds for which readers wait for an upstream that asks to be left alone
YOUNG = 0.1  # seconds before which that rate says nothing
_MAY_PASS = (UpstreamBroken, UpstreamSlow, UpstreamUnreachable, UpstreamBusy, Busy)


@dataclass(frozen=True, slots=True)
class Terms:
    """What one body is read by: `promised` says whether its digest is known by now, and `sha256` gives that, `clock` tells the
    time of day, `on_trouble` hears of each failed part, and `judge_size` raises `TooLarge`."""

    ask: Ask
    download: Download
    limits: RemoteLimits
    promised: Callable[[], bool]
    sha256: Callable[[], str]
    judge_size: Callable[[int], None]
    on_trouble: Callable[[Fault], None]
    clock: Callable[[], float]


class Ranges:
    """One body of known length. `mirrors` are tried in turn for bytes that failed; the first is where
    the body began."""

    def __init__(self, terms: Terms, body: Scattered, mirrors: list[Mirror]) -> None:
        self._terms = terms
        self._body = body
        self._board = body.board
        self._mirrors = mirrors
        self._crew = Crew(terms.download.connections)
        self._tasks: dict[asyncio.Task[None], Connection] = {}
        self._news = asyncio.Event()
        self._clear = asyncio.Event()
        self._clear.set()
        self._cut: set[int] = set()
        self._rest_until = 0.0
        self._pace = Pace()
        self._rtt = 0.0
        self.alone = False
        self.failures = 0

    async def run(self, first: AsyncExitStack, chunks: AsyncIterator[bytes]) -> None:
        """Until the whole is in the spool. `chunks` is the rest of the first answer, and `first` what it
        keeps open. Raises what could not be mended; what has landed without a gap stays in the spool."""
        follow = asyncio.create_task(self._body.follow())
        try:
            segment = self._board.claim(self._terms.download.segment, self._crew.size)
            if segment is not None:
                connection = self._connection(segment, self._mirrors[0])
                connection.first, connection.stop = True, self._board.length
                connection.count(_now(), 0)  # it is under way
                self._hire(connection, self._go_on(connection, first, chunks))
            while not self._board.whole:
                self._terms.judge_size(self._board.length)
                self._man()
                self._judge()
                await self._turn_of_events(follow)
                await self._body.save(self._terms.sha256(), _now())
            await follow
        finally:
            follow.cancel()
            await self._dismiss(list(self._tasks))
            await asyncio.wait((follow,))
            await first.aclose()

    @property
    def landed(self) -> int:
        """Bytes on the disk, with and without a gap before them."""
        return self._board.size

    def parts(self) -> tuple[Part, ...]:
        now = _now()
        return tuple(
            Part(c.segment.start, c.segment.stop, c.segment.taken, c.rate(now)) for c in self._tasks.values()
        )

    # --- the crew ---

    def _man(self) -> None:
        """Connections for what is to be done, as many as are wanted."""
        now = _now()
        while len(self._tasks) < self._crew.size and not self.alone and now >= self._rest_until:
            segment = self._board.claim(self._terms.download.segment, self._crew.size) or self._steal(now)
            if segment is None:
                break
            connection = self._connection(segment, self._mirrors[segment.tries % len(self._mirrors)])
            connection.spare = bool(self._tasks)  # one of them has a right to its place
            self._hire(connection, self._bring(connection))
        if not self._tasks and self.alone:
            raise UpstreamBroken("upstream broke off where it had to be read alone", code="short_body")
        if not self._tasks and self._rest_until - now > LONGEST_REST:
            raise UpstreamBusy("upstream asks to be left alone", retry_after=self._rest_until - now)

    def _hire(self, connection: Connection, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks[task] = connection
        task.add_done_callback(lambda _done: self._news.set())

    def _connection(self, segment: Segment, mirror: Mirror) -> Connection:
        return Connection(segment, segment.stop, mirror, Landing(self._body, segment), asked=_now())

    def _steal(self, now: float) -> Segment | None:
        """The later part of what the slowest connection has still to bring, by the rates of both."""
        others = self._usual(now)
        if not others:
            return None

        def needs(connection: Connection) -> float:
            return connection.segment.left / self._expected(connection, now, others)

        slowest = max(self._tasks.values(), key=needs)
        if needs(slowest) < RTTS * self._rtt + YOUNG:
            return None
        rate = self._expected(slowest, now, others)
        return self._board.split(slowest.segment, share(rate=rate, others=others))

    def _expected(self, connection: Connection, now: float, others: float) -> float:
        """Of one that has just begun, what the others bring."""
        known = connection.worked(now, self._rtt) > YOUNG
        return max(connection.rate(now) if known else others, 1.0)

    def _usual(self, now: float) -> float:
        return usual(c.rate(now) for c in self._tasks.values() if c.came)

    def _exchange(self, now: float) -> None:
        """A connection far slower than the others ends, and a new one takes over: what is slow is often
        one connection, and readers wait for the earliest bytes."""
        others = 0.0 if self.alone else self._usual(now)
        for task, connection in self._tasks.items():
            segment, rate = connection.segment, connection.rate(now)
            worked = connection.worked(now, self._rtt)
            slow = straggles(rate=rate, others=others, worked=worked, left=segment.left)
            if slow and segment.start not in self._cut and not task.cancelling():
                task.cancel()

    def _judge(self) -> None:
        """Whether this number of connections is worth it."""
        if not self.alone:
            self._crew = self._pace.judged(self._crew, self._tasks.values(), _now(), self._rtt)

    # --- events ---

    async def _turn_of_events(self, follow: asyncio.Task[None]) -> None:
        with_news = asyncio.create_task(self._news.wait())
        try:
            timeout = min(TICK, self._pace.left(self._crew, _now(), self._rtt))
            await asyncio.wait((with_news, follow), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            with_news.cancel()
        self._news.clear()
        if follow.done():
            follow.result()
        for task in [task for task in self._tasks if task.done()]:
            if task in self._tasks:  # else it was dismissed with others
                await self._left(task)
        self._exchange(_now())

    async def _left(self, task: asyncio.Task[None]) -> None:
        connection = self._tasks[task]
        # Also after a break: what came is good, and need not come again.
        await connection.landing.flush()
        del self._tasks[task]
        if task.cancelled():  # exchanged: whoever goes on there is not exchanged again
            self._cut.add(connection.segment.landed)
        fault = None if task.cancelled() else task.exception()
        if isinstance(fault, _MAY_PASS) and fault.code != "no_spare":
            connection.segment.tries += 1
        self._board.done(connection.segment)
        if fault is None:
            return
        if not isinstance(fault, Fault):
            raise fault
        if self._judged(connection, fault):
            await self._alone(fault)

    def _judged(self, connection: Connection, fault: Fault) -> bool:
        """Whether no parts are to be had any more. Raises what ends it all."""
        now, segment, mirror = _now(), connection.segment, connection.mirror
        if fault.code == "no_spare":
            self._rest_until = now + NO_SPARE
            return False
        unfit = fault.code in UNFIT or isinstance(fault, BrokenPromise)
        if not (unfit or isinstance(fault, _MAY_PASS)):
            raise fault
        self.failures += 1
        self._terms.on_trouble(fault)
        if unfit and mirror is not self._mirrors[0]:
            self._mirrors = [other for other in self._mirrors if other is not mirror]
            return False
        if unfit:
            return True
        if self.alone or segment.tries > self._terms.limits.resumes:
            raise fault
        if isinstance(fault, UpstreamUnreachable):
            mirror.at = ""  # where its redirects led may be what is gone
        pause = backoff(segment.tries - 1, self._terms.limits.retry_base, random.random())  # noqa: S311 - jitter
        if isinstance(fault, UpstreamBusy):
            self._crew = self._crew.capped(len(self._tasks))
            pause = max(pause, fault.retry_after or 0.0)
        self._rest_until = max(self._rest_until, now + pause)
        return False

    async def _alone(self, fault: Fault) -> None:
        """The first connection goes on without the others, from where nothing is missing before it.
        Raises the fault where it has ended already."""
        self.alone = True
        self._clear.clear()
        first = next((task for task, c in self._tasks.items() if c.first), None)
        await self._dismiss([task for task in self._tasks if task is not first])
        self._board.forget_ahead()
        self._clear.set()
        if first is None:
            raise fault

    async def _dismiss(self, tasks: list[asyncio.Task[None]]) -> None:
        """Nothing of them is on its way any more when this returns, and they are forgotten."""
        for task in tasks:
            task.cancel()
        for task in tasks:
            await asyncio.wait((task,))
            connection = self._tasks.pop(task)
            await connection.landing.drop()
            self._board.done(connection.segment)

    # --- one connection ---

    async def _go_on(
        self, connection: Connection, first: AsyncExitStack, chunks: AsyncIterator[bytes]
    ) -> None:
        async with first:
            await self._read(connection, chunks)

    async def _bring(self, connection: Connection) -> None:
        segment, mirror = connection.segment, connection.mirror
        if not segment.left:
            return  # somebody else has taken it over already
        # Who is alone need not ask again for each segment.
        connection.stop = self._board.reach(segment) if self._crew.size == 1 else segment.stop
        span = Span(segment.taken, connection.stop)
        async with AsyncExitStack() as stack:
            asked = _now()
            reply = await mirror.part(stack, self._terms.ask, span, spare=connection.spare)
            rtt = _now() - asked
            self._rtt = min(self._rtt or rtt, rtt)
            _refuse(reply.head, self._terms.clock())
            judge_segment(
                reply.head,
                span,
                length=self._board.length,
                mark=mirror.mark,
                promised=self._terms.promised(),
                same=mirror is self._mirrors[0],
            )
            await self._read(connection, reply.chunks())

    async def _read(self, connection: Connection, chunks: AsyncIterator[bytes]) -> None:
        connection.waits = _now()
        async for chunk in chunks:
            self._pace.took(connection, _now(), len(chunk))
            if not await self._take(connection, chunk):
                break
            connection.waits = _now()
        else:
            if connection.segment.left > 0:
                raise UpstreamBroken("upstream sent less than the part it announced", code="short_body")
        await connection.landing.flush()

    async def _take(self, connection: Connection, chunk: bytes) -> bool:
        """A chunk, for which the segment goes on into what follows unless somebody has begun with that. False
        where the connection is left: the rest of the answer belongs to others."""
        segment, stop = connection.segment, connection.stop
        while len(chunk) > segment.left:
            await self._clear.wait()
            ahead = min(self._terms.download.segment, stop - segment.stop)
            if ahead > 0 and self._board.extend(segment, ahead):
                continue
            if segment.left > 0:
                await connection.landing.write(chunk[: segment.left])
            if ahead > 0:
                return False
            raise UpstreamBroken("upstream sent more than the part asked for", code="bad_206")
        await connection.landing.write(chunk)
        return True


def _refuse(head: UpstreamHead, now: float) -> None:
    """Raises `UpstreamBusy` for whoever asks to be left alone."""
    wait = parse_retry_after(head.headers.get("retry-after", ""), now)
    if head.status == 429 or (head.status == 503 and wait is not None):
        raise UpstreamBusy("upstream asks to be left alone", retry_after=wait, upstream_status=head.status)


def _now() -> float:
    return asyncio.get_running_loop().time()
