"""The three ways to a file: the running instance, its data folder where none is running, and the world.

Each ends with the whole, verified file at its destination, or raises and has left nothing there.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from artifactproxy import control, wiring
from artifactproxy.config import Config, Log
from artifactproxy.engine.answer import Answer, Bytes, Chunks, File, Tail
from artifactproxy.engine.engine import Engine
from artifactproxy.engine.mounts import Mount
from artifactproxy.errors import BrokenPromise, Fault, UpstreamBroken
from artifactproxy.fetch.names import Elsewhere, Ours
from artifactproxy.fetch.onefile import ASK, REPO, OneFile
from artifactproxy.fetch.place import COPY_BYTES, Destination, Draft, copied
from artifactproxy.fetch.shown import Seen, Shown
from artifactproxy.fetch.workplace import Order, workplace
from artifactproxy.limits import Download, Policy, RemoteLimits
from artifactproxy.model import Ask
from artifactproxy.upstream.access import RemoteAccess
from artifactproxy.upstream.guard import Network

LOOK = 0.1  # seconds between two looks at how far it is
LOOK_AFAR = 0.25  # the same where the running instance is asked
NO_BOUND = 2**50  # bytes; the disk is the bound of a file that somebody asks for by name
WRONG = frozenset({BrokenPromise.code, "size"})
"""Codes that say: these are other bytes than those that were promised."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """`source` is `remote` or `cache`; `resumed` bytes of it were there from an earlier try."""

    size: int
    sha256: str
    source: str = "remote"
    resumed: int = 0


@dataclass(frozen=True, slots=True)
class Net:
    """How an address elsewhere is reached."""

    egress: str = ""
    no_proxy: tuple[str, ...] = ()
    allow_private: tuple[Network, ...] = ()
    download: Download = field(default_factory=Download)


class WrongBytes(Exception):
    """Whole, but not the file that was wanted; nothing was written."""


def judge(found: str, wanted: str) -> None:
    """Raises `WrongBytes`."""
    if wanted and found != wanted:
        raise WrongBytes(f"the sha256 is {found}, not {wanted}")


# --- the running instance ---


def by_instance(data: Path, named: Ours, sha256: str, place: Destination, shown: Shown) -> Fetched:
    """Raises `control.NotRunning` before anything is done, `control.Refused` and `WrongBytes`."""
    url = quote(named.text, safe="")
    with control.opened(data, f"/fetch?url={url}") as incoming, place.draft() as draft:
        shown.begin(incoming.length)
        source = incoming.headers.get("x-artifact-source", "cache")
        look = 0.0
        try:
            while piece := incoming.read(COPY_BYTES):
                draft.write(piece)
                if source == "remote" and (now := time.monotonic()) >= look:
                    look = now + LOOK_AFAR
                    shown.progress(_seen(control.call(data, "GET", f"/explain?url={url}")))
                shown.come(draft.size)
        except control.CutOff as cut:
            raise _why(data, url, cut) from cut
        judge(draft.sha256, sha256)
    return Fetched(draft.size, draft.sha256, source)


def _why(data: Path, url: str, cut: control.CutOff) -> Exception:
    """A body that is no good is broken off; the instance remembers what was wrong."""
    with suppress(control.NotRunning, control.Refused):
        failure = control.call(data, "GET", f"/explain?url={url}").get("last_failure") or {}
        said = failure.get("cause") or failure.get("error", "")
        if failure.get("error") in WRONG:
            return WrongBytes(said)
        if said:
            return control.Refused(f"{cut}: {said}", code=str(failure.get("error")))
    return cut


# --- the data folder ---


async def by_folder(config: Config, named: Ours, sha256: str, place: Destination, shown: Shown) -> Fetched:
    """Raises `Fault` and `WrongBytes`."""
    store = replace(config.store, redirect="never") if config.store is not None else None
    config = replace(config, store=store, log=Log(config.log.file or Path(os.devnull), config.log.level))
    async with _ended_by_signals(), wiring.offline(config) as engine:
        return await _Watch(engine, named.ask, shown).during(lambda watch: _copied(watch, sha256, place))


async def _copied(watch: _Watch, sha256: str, place: Destination) -> Fetched:
    """Into a file of its own: the one in the store must not change when the user's does."""
    answer = await watch.handle()
    with place.draft() as draft:
        await _take(answer, draft)
        judge(draft.sha256, sha256)
    await watch.stored()
    return Fetched(draft.size, draft.sha256, dict(answer.headers).get("X-Artifact-Source", "cache"))


async def _take(answer: Answer, draft: Draft) -> None:
    """The whole body, once it is verified."""
    match answer.body:
        case Bytes(body):
            draft.write(body)
        case File(file, span):
            try:
                await asyncio.to_thread(copied, file.fd, span.size, draft, span.start)
            finally:
                os.close(file.fd)
        case Chunks(chunks, _):
            async for chunk in chunks:
                await asyncio.to_thread(draft.write, chunk)
        case Tail(reader, _):
            try:
                await reader.whole()
                while piece := await reader.read():
                    await asyncio.to_thread(draft.write, piece)
            finally:
                reader.close()
        case _:
            raise UpstreamBroken(f"there is no body to fetch: the answer is {answer.status}")


# --- the world ---


async def by_address(
    config: Config, named: Elsewhere, sha256: str, place: Destination, shown: Shown, net: Net
) -> Fetched:
    """Over an engine with a data folder of its own, beside the file. Raises `Fault`, `WrongBytes` and
    `Failure`."""
    with workplace(place, Order(named.url, sha256)) as work:
        alone = _alone(config, work.folder.path)
        try:
            running = wiring.running(alone, folder=work.folder, keep_parts=True)
            async with _ended_by_signals(), running as (engine, _, _):
                wiring.swap(engine, alone, {REPO: _mount(named, sha256, net)}, {REPO: _way(named, net)})
                return await _Watch(engine, ASK, shown).during(lambda watch: _adopted(watch, place))
        except Fault as fault:
            if fault.code in WRONG:
                work.keep = False  # whichever of them are wrong
                raise WrongBytes(fault.detail) from fault
            raise


async def _adopted(watch: _Watch, place: Destination) -> Fetched:
    answer = await watch.handle()
    if not isinstance(answer.body, Tail):  # complete already: the last try ended between here and there
        with place.draft() as draft:
            await _take(answer, draft)
        return Fetched(draft.size, draft.sha256)
    reader = answer.body.reader
    try:
        size = await reader.whole()
        window = await reader.window()
        if window is not None:
            await asyncio.to_thread(place.adopt, window[0], size)
        else:
            with place.draft() as draft:
                while piece := await reader.read():
                    draft.write(piece)
        return Fetched(size, reader.sha256)
    finally:
        reader.close()


def _alone(config: Config, folder: Path) -> Config:
    """Nothing of the proxy but its bounds and its engine."""
    return replace(
        config,
        data=folder,
        data_limit=None,
        workers=1,
        store=None,
        index=None,
        coordination=None,
        cluster=None,
        log=Log(Path(os.devnull)),
        limits=replace(config.limits, temp_bytes=NO_BOUND),
        remotes={},
    )


def _mount(named: Elsewhere, sha256: str, net: Net) -> Mount:
    return Mount(
        REPO,
        OneFile(named.url, sha256),
        Policy(max_artifact_bytes=NO_BOUND),
        _limits(net),
        upstreams=(_origin(named),),
        download=net.download,
    )


def _limits(net: Net) -> RemoteLimits:
    """There is nobody else to leave a place to."""
    return RemoteLimits(connections_per_host=net.download.max_per_host)


def _way(named: Elsewhere, net: Net) -> RemoteAccess:
    """The address that was typed may be anywhere; where it redirects to may not be a private network."""
    origin = _origin(named)
    return RemoteAccess(
        origins=(origin,),
        credentials={origin: named.credential} if named.credential else {},
        allow_private=net.allow_private,
        egress=net.egress,
        no_proxy=net.no_proxy,
        limits=_limits(net),
        max_per_host=net.download.max_per_host,
        via=wiring.VIA,
    )


def _origin(named: Elsewhere) -> str:
    parts = urlsplit(named.url)
    return f"{parts.scheme}://{parts.netloc}/"


# --- in this process ---


class _Watch:
    """Tells how far the download of `ask` is, for as long as something is done. Whoever interrupts that
    waits for nothing."""

    def __init__(self, engine: Engine, ask: Ask, shown: Shown) -> None:
        self._engine = engine
        self._ask = ask
        self._shown = shown
        self._resumed = 0

    async def handle(self) -> Answer:
        """The engine's answer, whose size is shown."""
        answer = await self._engine.handle(self._ask)
        await self._look()
        self._shown.begin(getattr(answer.body, "length", None))
        return answer

    async def during(self, act: Callable[[_Watch], Awaitable[Fetched]]) -> Fetched:
        looking = asyncio.create_task(self._keep_looking())
        try:
            fetched = await act(self)
        except asyncio.CancelledError:
            await self._engine.close(0.0)
            raise
        finally:
            looking.cancel()
        return replace(fetched, resumed=self._resumed)

    async def stored(self) -> None:
        """Until the download is in the cache, or nothing will come of it."""
        while "fill" in await self._engine.explain(self._ask):  # noqa: ASYNC110  (there is no event for it)
            await asyncio.sleep(LOOK / 2)

    async def _keep_looking(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(LOOK)

    async def _look(self) -> None:
        seen = _seen(await self._engine.explain(self._ask))
        self._resumed = max(self._resumed, seen.get("resumed", 0))
        self._shown.progress(seen)


def _seen(report: dict[str, Any]) -> Seen:
    """How far a fill is, out of what `explain` tells; empty where there is none."""
    fill = report.get("fill") or {}
    return fill["progress"] | {"segment": fill["segment"]} if "progress" in fill else {}


@asynccontextmanager
async def _ended_by_signals() -> AsyncIterator[None]:
    """SIGTERM and SIGHUP end a fetch as Ctrl-C does."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    numbers = (signal.SIGTERM, signal.SIGHUP)
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        if task is not None:
            task.cancel()

    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    except asyncio.CancelledError:
        if stopped:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
