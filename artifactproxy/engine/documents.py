"""Reading and rendering indexes: pure provider functions, run where they cannot stall the loop.

Small documents are handled in place. Larger ones are read from a file by one lazily started
helper process, which ends when it has been idle. Rendered bodies are remembered by (content,
representation, base address, view, provider revision) and dropped at their `next_flip`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import multiprocessing
import os
import signal
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from artifactproxy.engine.answer import Bytes, File
from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.spool import Spool
from artifactproxy.engine.terms import Source
from artifactproxy.errors import StoreUnavailable
from artifactproxy.model import Limits, Promise, Route, Span, View
from artifactproxy.ports import BlobStore, Clock, LocalFile
from artifactproxy.providers import PROVIDERS
from artifactproxy.providers._base import Provider, Site
from artifactproxy.rules.digests import entity_tag

HELPER_IDLE_SECONDS = 60.0

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True, weakref_slot=True, eq=False)
class Made:
    """A rendered body: in memory, or in an unlinked file that `fd` keeps alive.

    The descriptor is closed with the last holder and not when the memo lets go: somebody may just
    be about to duplicate it, and its number may by then be another file's.
    """

    size: int
    sha256: str
    body: bytes | None
    fd: int
    next_flip: float | None

    def __post_init__(self) -> None:
        if self.fd >= 0:
            weakref.finalize(self, os.close, self.fd)

    def part(self, span: Span) -> Bytes | File:
        """A span of it, to be sent; a file is handed out as a descriptor of its own."""
        if self.body is not None:
            return Bytes(self.body[span.start : span.stop])
        return File(LocalFile(os.dup(self.fd), self.size), span)


class Documents:
    """Learns from and renders index bodies. `new_path` names a temp file."""

    def __init__(self, store: BlobStore, new_path: Callable[[], Path], limits: Limits, clock: Clock) -> None:
        self._store = store
        self._new_path = new_path
        self._limits = limits
        self._clock = clock
        self._helper = _Reader()
        self._memo: OrderedDict[str, Made] = OrderedDict()
        self._memo_bytes = 0
        self._file_bytes = 0
        self._making: dict[str, asyncio.Task[Made]] = {}

    async def learn(self, mount: Mount, route: Route, source: Source) -> list[Promise]:
        """What this verified body promises. Raises `UpstreamBroken` if it is not a document,
        `BlobMissing` if the store lost it."""
        if source.ref.size <= self._limits.inline_index:
            return list(mount.provider.learn(route, await self._whole(source), source.url))
        provider = mount.provider
        try:
            with await self._file(source) as path:
                job = (provider.name, provider.site, route, path, source.url)
                return await self._helper.run(_learn_file, *job)
        except OSError as error:
            raise StoreUnavailable("an index could not be handed to its reader", code="store_temp") from error

    def tag(self, mount: Mount, route: Route, source: Source, base: str, view: View) -> str:
        """The strong entity tag of the rendered body, known without rendering it."""
        provider = mount.provider
        shown = f"{view.epoch}:{','.join(sorted(view.hidden))}"
        facts = (
            source.ref.sha256,
            provider.name,
            str(provider.revision),
            route.media_type,
            base,
            source.url,
            shown,
        )
        return entity_tag("\n".join(facts))

    async def render(self, mount: Mount, route: Route, source: Source, base: str, view: View) -> Made:
        """The body this client must see. Raises `BlobMissing` if the store lost the source."""
        tag = self.tag(mount, route, source, base, view)
        made = self._recall(tag)
        if made is not None:
            return made
        task = self._making.get(tag)
        if task is None:
            task = asyncio.create_task(self._make(mount, route, source, base, view))
            self._making[tag] = task
            task.add_done_callback(lambda done: self._made(tag, done))
        return await asyncio.shield(task)

    async def _make(self, mount: Mount, route: Route, source: Source, base: str, view: View) -> Made:
        if source.ref.size <= self._limits.inline_index:
            body = await self._whole(source)
            rendered = mount.provider.render(route, body, base, view, source.url)
            return Made(len(rendered.body), _sha256(rendered.body), rendered.body, -1, rendered.next_flip)
        out = self._new_path()
        provider = mount.provider
        try:
            with await self._file(source) as path:
                job = (provider.name, provider.site, route, path, base, view, source.url, str(out))
                size, sha256, next_flip = await self._helper.run(_render_file, *job)
            fd = os.open(out, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreUnavailable("a rendered index could not be kept", code="store_temp") from error
        finally:
            out.unlink(missing_ok=True)
        return Made(size, sha256, None, fd, next_flip)

    async def _whole(self, source: Source) -> bytes:
        if source.spool is not None:
            return source.spool.peek(0, source.ref.size)
        local = await self._store.locate(source.ref)
        if not isinstance(local, LocalFile):
            raise StoreUnavailable("this store cannot hand out local files")
        try:
            return os.pread(local.fd, local.size, 0)
        finally:
            os.close(local.fd)

    async def _file(self, source: Source) -> AbstractContextManager[str]:
        if source.spool is not None:
            return _readable(source.spool, self._new_path)
        local = await self._store.locate(source.ref)
        if not isinstance(local, LocalFile):
            raise StoreUnavailable("this store cannot hand out local files")
        return _readable(local, self._new_path)

    # --- the memo ---

    def _recall(self, tag: str) -> Made | None:
        made = self._memo.get(tag)
        if made is None:
            return None
        if made.next_flip is not None and made.next_flip <= self._clock():
            self._drop(tag)
            return None
        self._memo.move_to_end(tag)
        return made

    def _made(self, tag: str, done: asyncio.Task[Made]) -> None:
        self._making.pop(tag, None)
        if done.cancelled() or done.exception() is not None:
            return
        made = done.result()
        self._memo[tag] = made
        if made.body is None:
            self._file_bytes += made.size
        else:
            self._memo_bytes += made.size
        limits = self._limits
        while len(self._memo) > 1 and (
            self._memo_bytes > limits.memo_bytes or self._file_bytes > limits.memo_file_bytes
        ):
            self._drop(next(iter(self._memo)))

    def _drop(self, tag: str) -> None:
        made = self._memo.pop(tag)
        if made.body is None:
            self._file_bytes -= made.size
        else:
            self._memo_bytes -= made.size

    @property
    def kept_files(self) -> int:
        """Rendered bodies that are kept in unlinked files, one descriptor each."""
        return sum(made.body is None for made in self._memo.values())

    async def close(self) -> None:
        for task in list(self._making.values()):
            task.cancel()
        if self._making:
            await asyncio.wait(list(self._making.values()))
        for tag in list(self._memo):
            self._drop(tag)
        await self._helper.close()


@contextmanager
def _readable(source: Spool | LocalFile, new_path: Callable[[], Path]) -> Iterator[str]:
    """A path under which another process can read a spool or an opened file, which is closed."""
    if isinstance(source, Spool):
        if source.in_memory:
            with _copied(source.peek(0, source.written), new_path()) as path:
                yield path
            return
        # Its name may go at any moment, when the store takes the file over.
        source = LocalFile(os.dup(source.fileno), source.written)
    try:
        shared = Path(f"/proc/{os.getpid()}/fd/{source.fd}")
        if shared.exists():
            yield str(shared)
            return
        with _copied(os.pread(source.fd, source.size, 0), new_path()) as path:
            yield path
    finally:
        os.close(source.fd)


@contextmanager
def _copied(body: bytes, path: Path) -> Iterator[str]:
    try:
        path.write_bytes(body)
        yield str(path)
    finally:
        path.unlink(missing_ok=True)


class _Reader:
    """One process for large documents, started when first needed, ended when idle."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._busy = 0
        self._idle: asyncio.TimerHandle | None = None

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Raises the fault that `work` raised, or `StoreUnavailable` if the process died."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1, mp_context=multiprocessing.get_context("spawn"), initializer=_die_with_parent
            )
        if self._idle is not None:
            self._idle.cancel()
        self._busy += 1
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, partial(work, *args, **kwargs))
        except BrokenProcessPool as error:
            self._forget()
            raise StoreUnavailable("the process that reads large indexes died", code="helper") from error
        finally:
            self._busy -= 1
            self._idle = loop.call_later(HELPER_IDLE_SECONDS, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self._busy == 0:
            self._forget()

    def _forget(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    async def close(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        pool, self._pool = self._pool, None
        if pool is not None:
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)


def _die_with_parent() -> None:
    """Signals are the parent's business; a killed parent takes the helper along (Linux)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _provider(name: str, site: Site) -> Provider:
    return PROVIDERS[name](site)


def _learn_file(name: str, site: Site, route: Route, path: str, url: str) -> list[Promise]:
    return list(_provider(name, site).learn(route, Path(path).read_bytes(), url))


def _render_file(
    name: str, site: Site, route: Route, path: str, base: str, view: View, url: str, out: str
) -> tuple[int, str, float | None]:
    rendered = _provider(name, site).render(route, Path(path).read_bytes(), base, view, url)
    fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(rendered.body)
    return len(rendered.body), _sha256(rendered.body), rendered.next_flip


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
