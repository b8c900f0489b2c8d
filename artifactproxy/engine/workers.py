"""The server's end of the helper processes: who works on what, and when they start and end.

Light jobs are not kept waiting by heavy ones: with two cores there is a second process that takes
light ones only, and in each queue a large job yields to a few small ones that came after it, but
not to many. A process that died costs its job; the next one gets a new process.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
import pickle
import sys
from dataclasses import dataclass, field
from itertools import count
from typing import Any, overload

from artifactproxy.engine.reader import (
    LENGTH,
    Done,
    Failed,
    Job,
    Learn,
    Lesson,
    Recode,
    Render,
    Sheet,
    frame,
    resident,
)
from artifactproxy.errors import Fault, StoreUnavailable

IDLE_SECONDS = 60.0
GROWN_IDLE_SECONDS = 2.0
GROWN_BYTES = 64 * 2**20  # a process larger than this does not wait long for more work
BLOATED_BYTES = 512 * 2**20  # and one larger than this does not take another job
HEAVY_BYTES = 2**20
PIPE_BYTES = 2**20
STEP_BYTES = 64 * 1024  # a job yields to one later job for each of these
START = (
    "import sys; sys.path[:] = sys.argv[2:]; from artifactproxy.engine.reader import serve;"
    " serve(int(sys.argv[1]))"
)


class HelperBug(Exception):
    """What a provider raised in the helper process, as text."""


@dataclass(order=True, slots=True)
class _Order:
    """A job that waits; the smaller `rank` goes first."""

    rank: int
    job: Job = field(compare=False)
    future: asyncio.Future[Any] = field(compare=False)


@dataclass(slots=True, eq=False)
class _Lane:
    """One process at a time; `resting` while its task waits for the bell."""

    heavy: bool
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    resting: bool = False
    work: asyncio.Task[None] | None = None
    process: asyncio.subprocess.Process | None = None


class Workers:
    """Belongs to one event loop. So many `processes` at most, each started when first needed; one
    that works on a job for longer than `job_seconds` is ended, and none has more address space than
    `memory` bytes (0: no bound)."""

    def __init__(self, job_seconds: float, processes: int | None = None, *, memory: int = 0) -> None:
        self._job_seconds = job_seconds
        self._memory = memory
        most = min(2, _cores()) if processes is None else processes
        self._lanes = [_Lane(heavy=n == 0) for n in range(most)]
        self._heavy: list[_Order] = []
        self._light: list[_Order] = []
        self._numbers = count()
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        return [lane.process.pid for lane in self._lanes if lane.process is not None]

    @overload
    async def run(self, job: Learn, size: int) -> Lesson: ...
    @overload
    async def run(self, job: Render | Recode, size: int) -> Sheet: ...
    async def run(self, job: Job, size: int) -> Lesson | Sheet:
        """The result of a job over `size` bytes. A caller that leaves takes nobody else's along.

        Raises the fault or OSError that it raised, `HelperBug` for anything else, and
        `StoreUnavailable` if its process died or cannot be started.
        """
        if self._closed:
            raise _died()
        future: asyncio.Future[Lesson | Sheet] = asyncio.get_running_loop().create_future()
        queue = self._heavy if size > HEAVY_BYTES else self._light
        heapq.heappush(queue, _Order(next(self._numbers) + size // STEP_BYTES, job, future))
        self._call(heavy=size > HEAVY_BYTES)
        return await future

    async def close(self) -> None:
        """End the processes at once; those who wait get a fault."""
        self._closed = True
        for order in (*self._heavy, *self._light):
            if not order.future.done():
                order.future.set_exception(_died())
        for lane in self._lanes:
            lane.bell.set()
            if lane.process is not None:
                _kill(lane.process)
        works = [lane.work for lane in self._lanes if lane.work is not None]
        await asyncio.gather(*works, return_exceptions=True)

    # --- lanes ---

    def _call(self, *, heavy: bool) -> None:
        """Wake one lane for the job that just came; one that has a process already, if any."""
        free = [
            lane for lane in self._lanes if (lane.work is None or lane.resting) and (lane.heavy or not heavy)
        ]
        if not free:
            return
        lane = min(free, key=lambda lane: (lane.process is None, lane.heavy))
        if lane.resting:
            lane.resting = False
            lane.bell.set()
        else:
            lane.work = asyncio.create_task(self._work(lane))

    def _next(self, lane: _Lane) -> _Order | None:
        queues = [self._heavy, self._light] if lane.heavy else [self._light]
        while waiting := [queue for queue in queues if queue]:
            order = heapq.heappop(min(waiting, key=lambda queue: queue[0]))
            if not order.future.done():
                return order
        return None

    async def _work(self, lane: _Lane) -> None:
        """From the first job to the end of an idle process."""
        try:
            while not self._closed:
                order = self._next(lane)
                if order is not None:
                    await self._serve(lane, order)
                elif not await self._called(lane):
                    break
        finally:
            lane.work = None
            if not self._closed and (self._heavy or self._light):
                self._call(heavy=bool(self._heavy))
            await _ended(lane)

    async def _called(self, lane: _Lane) -> bool:
        """Wait for more work; False once the process has waited long enough for its size."""
        lane.resting = True
        for seconds in (GROWN_IDLE_SECONDS, IDLE_SECONDS - GROWN_IDLE_SECONDS):
            if not lane.bell.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(lane.bell.wait(), seconds)
            if lane.bell.is_set():
                lane.bell.clear()
                return True
            if lane.process is None or resident(lane.process.pid) > GROWN_BYTES:
                break
        lane.resting = False
        return False

    async def _serve(self, lane: _Lane, order: _Order) -> None:
        """One job: its future is resolved in any case."""
        try:
            result = await self._asked(lane, order.job)
        except (Fault, OSError, HelperBug) as error:
            if not order.future.done():
                order.future.set_exception(error)
        else:
            if not order.future.done():
                order.future.set_result(result)
        finally:
            if not order.future.done():  # a mistake of ours, or the loop ends
                order.future.set_exception(_died())
        if lane.process is not None and resident(lane.process.pid) > BLOATED_BYTES:
            await _ended(lane)

    async def _asked(self, lane: _Lane, job: Job) -> Lesson | Sheet:
        if lane.process is not None and _is_gone(lane.process):
            await _ended(lane)
        if lane.process is None:
            try:
                lane.process = await _started(self._memory)
            except OSError as error:
                detail = "the process that reads large indexes cannot be started"
                raise StoreUnavailable(detail, code="helper") from error
            if self._closed:
                _kill(lane.process)
        try:
            async with asyncio.timeout(self._job_seconds):
                reply = await _exchanged(lane.process, job)
        except TimeoutError as error:
            await _ended(lane)
            raise StoreUnavailable("a large index took too long to read", code="helper_slow") from error
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            await _ended(lane)
            raise _died() from error
        if isinstance(reply, Done):
            return reply.result
        raise _raised(reply)


async def _started(memory: int) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        START,
        str(memory),
        *sys.path,
        stdin=pipe,
        stdout=pipe,
        limit=PIPE_BYTES,
        start_new_session=True,  # a Ctrl-C at the terminal is not for it
    )


async def _exchanged(process: asyncio.subprocess.Process, job: Job) -> Done | Failed:
    inlet, outlet = process.stdin, process.stdout
    if inlet is None or outlet is None:
        raise RuntimeError("a helper process without pipes")
    inlet.write(frame(job))
    await inlet.drain()
    (size,) = LENGTH.unpack(await outlet.readexactly(LENGTH.size))
    reply: Done | Failed = pickle.loads(await outlet.readexactly(size))  # noqa: S301  # our own child's
    return reply


def _is_gone(process: asyncio.subprocess.Process) -> bool:
    return process.returncode is not None or process.stdin is None or process.stdin.is_closing()


async def _ended(lane: _Lane) -> None:
    process, lane.process = lane.process, None
    if process is not None:
        _kill(process)
        await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


def _raised(reply: Failed) -> Fault | OSError | HelperBug:
    if reply.fault is not None:
        if reply.text:
            reply.fault.__cause__ = HelperBug(reply.text)
        return reply.fault
    if reply.errno:
        return OSError(reply.errno, reply.text)
    return HelperBug(reply.text)


def _died() -> StoreUnavailable:
    return StoreUnavailable("the process that reads large indexes died", code="helper")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
