"""Reading and rendering indexes: pure provider functions, run where they cannot stall the loop.

Small documents are handled in place, larger ones in the helper processes (`workers`). Rendered
bodies are remembered by (content, representation, base address, view, provider revision, content
coding) and dropped at their `next_flip`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from artifactproxy.engine.bodies import Bodies
from artifactproxy.engine.memo import Made, Memo
from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.reader import Index, Learn, Recode, Render
from artifactproxy.engine.temps import disk_fault
from artifactproxy.engine.terms import Source
from artifactproxy.engine.workers import Workers
from artifactproxy.limits import Limits
from artifactproxy.model import Promise, Route, View
from artifactproxy.ports import Clock
from artifactproxy.rules.coding import LEAST_BYTES, MAKER, Coding, compressible, encoded, pieces, wanted
from artifactproxy.rules.digests import entity_tag


class Documents:
    """Learns from and renders index bodies. `new_path` names a temp file."""

    def __init__(self, bodies: Bodies, new_path: Callable[[], Path], limits: Limits, clock: Clock) -> None:
        self._bodies = bodies
        self._new_path = new_path
        self._limits = limits
        self._workers = Workers(limits.index_seconds, memory=limits.index_memory)
        self._memo = Memo(limits.memo_bytes, limits.memo_file_bytes, clock)
        self._making: dict[str, asyncio.Task[Made]] = {}
        self._turn = asyncio.Lock()

    @property
    def kept_files(self) -> int:
        """Rendered bodies that are kept in unlinked files, one descriptor each."""
        return self._memo.files

    async def learn(self, mount: Mount, route: Route, source: Source) -> Collection[Promise]:
        """What this verified body promises. Raises `UpstreamBroken` if it is not a document,
        `BlobMissing` if the store lost it."""
        size = source.ref.size
        if size <= self._limits.inline_index:
            content = await self._whole(source)
            async with self._one_a_turn():
                return list(mount.provider.learn(route, content, source.url))
        try:
            async with self._body(source) as body:
                return await self._workers.run(Learn(_index(mount, route, source, body)), size)
        except OSError as error:
            raise disk_fault(error) from error

    def coding(self, route: Route, source: Source, accept_encoding: str | None) -> Coding:
        """The content coding that this client is sent. It is chosen by the size of the source,
        because the answer to a condition must be known without rendering."""
        if accept_encoding is None or source.ref.size < LEAST_BYTES or not compressible(route.media_type):
            return ""
        return wanted(accept_encoding)

    def tag(
        self, mount: Mount, route: Route, source: Source, base: str, view: View, coding: Coding = ""
    ) -> str:
        """The strong entity tag of the rendered body, known without rendering it."""
        provider = mount.provider
        shown = f"{view.epoch}:{','.join(sorted(view.hidden))}"
        facts = [
            source.ref.sha256,
            provider.name,
            str(provider.revision),
            route.media_type,
            route.key.variant,
            route.key.path,
            base,
            source.url,
            shown,
        ]
        if coding:
            facts += [coding, MAKER]
        return entity_tag("\n".join(facts))

    def forget(self) -> None:
        """What was rendered: the providers may write it differently now."""
        self._memo.clear()

    def made(self, tag: str) -> Made | None:
        """What was rendered before, if it is still kept."""
        return self._memo.get(tag)

    async def render(
        self, mount: Mount, route: Route, source: Source, base: str, view: View, coding: Coding = ""
    ) -> Made:
        """The body this client must see. Raises `BlobMissing` if the store lost the source,
        `StoreFull` and `StoreUnavailable` if the result cannot be kept."""
        tag = self.tag(mount, route, source, base, view, coding)
        made = self._memo.get(tag)
        if made is not None:
            return made
        task = self._making.get(tag)
        if task is None:
            task = asyncio.create_task(self._make(mount, route, source, base, view, coding))
            self._making[tag] = task
            task.add_done_callback(partial(self._keep, tag))
        return await asyncio.shield(task)

    def _keep(self, tag: str, done: asyncio.Task[Made]) -> None:
        self._making.pop(tag, None)
        if not done.cancelled() and done.exception() is None:
            self._memo.put(tag, done.result())

    async def close(self) -> None:
        await self._workers.close()  # first: then nobody writes to the files of those that fail now
        if self._making:
            await asyncio.wait(list(self._making.values()))
        self._memo.clear()

    # --- making ---

    async def _make(
        self, mount: Mount, route: Route, source: Source, base: str, view: View, coding: Coding
    ) -> Made:
        size, limits = source.ref.size, self._limits
        if size <= limits.inline_index:
            content = await self._whole(source)
            async with self._one_a_turn():
                rendered = mount.provider.render(route, content, base, view, source.url)
                body = b"".join(encoded(pieces(rendered.body), coding))
            return Made(len(body), hashlib.sha256(body).hexdigest(), body, -1, rendered.next_flip)
        held: Coding = "" if coding else "gzip"
        sibling = self._memo.get(self.tag(mount, route, source, base, view, held))
        twin = _content(sibling)
        if sibling is not None and twin is not None:
            # The same document in the other coding is there: far cheaper than rendering it again.
            flip = sibling.next_flip
            return await self._produced(
                lambda out: Recode(twin, held, coding, out, limits.memory_body, flip), size
            )
        async with self._body(source) as held_body:
            index = _index(mount, route, source, held_body)
            return await self._produced(
                lambda out: Render(index, base, view, coding, out, limits.memory_body), size
            )

    @asynccontextmanager
    async def _one_a_turn(self) -> AsyncIterator[None]:
        """Work in the event loop, one document in each of its rounds: fifty that come at once are
        each short, but not together."""
        async with self._turn:
            yield
            await asyncio.sleep(0)

    async def _produced(self, job: Callable[[str], Render | Recode], size: int) -> Made:
        out = self._new_path()
        try:
            sheet = await self._workers.run(job(str(out)), size)
            fd = -1 if sheet.body is not None else os.open(out, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise disk_fault(error) from error
        finally:
            _remove(out)
        return Made(sheet.size, sheet.sha256, sheet.body, fd, sheet.next_flip)

    # --- sources ---

    async def _whole(self, source: Source) -> bytes:
        try:
            if source.spool is not None:
                return source.spool.peek(0, source.ref.size)
            return await self._bodies.whole(source.ref)
        except OSError as error:
            raise disk_fault(error) from error

    @asynccontextmanager
    async def _body(self, source: Source) -> AsyncIterator[bytes | str]:
        """The body itself where it is small, else a path under which another process can read it."""
        if source.ref.size <= self._limits.memory_body:
            yield await self._whole(source)
            return
        async with self._file(source) as fd:
            path = _shared(fd)
            if path is not None:
                yield path
                return
            async with _copied(fd, self._new_path()) as path:
                yield path

    @asynccontextmanager
    async def _file(self, source: Source) -> AsyncIterator[int]:
        if source.spool is None:
            async with self._bodies.file(source.ref) as fd:
                yield fd
            return
        # Its name may go at any moment, when the store takes the file over.
        fd = os.dup(source.spool.fileno)
        try:
            yield fd
        finally:
            os.close(fd)


def _index(mount: Mount, route: Route, source: Source, body: bytes | str) -> Index:
    return Index(mount.provider.name, mount.provider.site, route, body, source.url)


def _content(made: Made | None) -> bytes | str | None:
    """A kept body, or a path to it, if another process can be given it."""
    if made is None or made.body is not None:
        return made.body if made is not None else None
    return _shared(made.fd)


def _shared(fd: int) -> str | None:
    """A path under which another process of ours can open this file, where there is one (Linux)."""
    path = Path(f"/proc/{os.getpid()}/fd/{fd}")
    return str(path) if path.exists() else None


@asynccontextmanager
async def _copied(fd: int, path: Path) -> AsyncIterator[str]:
    def copy() -> None:
        with os.fdopen(os.dup(fd), "rb") as source, path.open("xb") as target:
            shutil.copyfileobj(source, target)

    try:
        await asyncio.to_thread(copy)
        yield str(path)
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
