"""The helper process: reads, renders and recodes large indexes, one job after the other.

A job comes in on standard input and its result leaves on what was standard output, each as one
pickled frame behind its length. The program knows providers and nothing of servers, so that it is
small and starts fast. Large bodies do not pass through the pipe: they are files, named by path.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import os
import pickle
import resource
import signal
import struct
import traceback
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from artifactproxy.errors import Busy, Fault
from artifactproxy.model import ArtifactKey, Digest, Promise, Rendered, Route, View
from artifactproxy.providers import PROVIDERS
from artifactproxy.providers._base import Provider, Site
from artifactproxy.rules.coding import PIECE, Coding, encoded, pieces, plain

LENGTH = struct.Struct("!Q")
BATCH = 128  # promises that are unpacked at a time: less than a millisecond of the event loop
TIDY_BYTES = 48 * 2**20
NICE = 5  # answering requests goes first


# --- promises, packed ---


class Lesson(Collection[Promise]):
    """What an index promises, packed: thousands of objects at once would stall the event loop that
    unpacks them and its garbage collector, so they are made as they are taken."""

    __slots__ = ("_batches", "_size")

    def __init__(self, promises: Iterable[Promise]) -> None:
        rows = [_packed(promise) for promise in promises]
        self._size = len(rows)
        self._batches = [pickle.dumps(rows[at : at + BATCH], 5) for at in range(0, len(rows), BATCH)]

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Promise]:
        for batch in self._batches:
            yield from map(_unpacked, pickle.loads(batch))  # noqa: S301  # our own, from our own child

    def __contains__(self, promise: object) -> bool:
        return any(each == promise for each in self)


def _packed(promise: Promise) -> tuple[Any, ...]:
    key = promise.key
    return (
        (key.repo, key.path, key.variant),
        [(digest.algorithm, digest.hex) for digest in promise.digests],
        promise.size,
        promise.url,
        promise.taught_by,
        promise.released,
        promise.released_from,
        promise.purl,
    )


def _unpacked(row: tuple[Any, ...]) -> Promise:
    key, digests, *rest = row
    return Promise(ArtifactKey(*key), tuple([Digest(*digest) for digest in digests]), *rest)


# --- jobs ---


@dataclass(frozen=True, slots=True)
class Index:
    """A body to work on, in memory or in a file, and how it is to be read."""

    provider: str
    site: Site
    route: Route
    body: bytes | str
    url: str

    def content(self) -> bytes:
        return _content(self.body)

    def reading(self) -> Provider:
        return PROVIDERS[self.provider](self.site)


@dataclass(frozen=True, slots=True)
class Sheet:
    """A finished body: itself if it is small, else it lies in the file that the job named."""

    size: int
    sha256: str
    body: bytes | None
    next_flip: float | None


@dataclass(frozen=True, slots=True)
class Learn:
    index: Index

    def run(self) -> Lesson:
        index = self.index
        return Lesson(index.reading().learn(index.route, index.content(), index.url))


@dataclass(frozen=True, slots=True)
class Render:
    """`out` is made if more than `memory` bytes come of it."""

    index: Index
    base: str
    view: View
    coding: Coding
    out: str
    memory: int

    def run(self) -> Sheet:
        rendered = self._rendered()
        body = encoded(pieces(rendered.body), self.coding)
        return _written(body, self.out, self.memory, rendered.next_flip)

    def _rendered(self) -> Rendered:
        # A function of its own, so that the source is gone before the result is compressed.
        index = self.index
        return index.reading().render(index.route, index.content(), self.base, self.view, index.url)


@dataclass(frozen=True, slots=True)
class Recode:
    """The same document in another coding: several times cheaper than rendering it again."""

    body: bytes | str
    held: Coding
    coding: Coding
    out: str
    memory: int
    next_flip: float | None

    def run(self) -> Sheet:
        body = encoded(plain(_pieces(self.body), self.held), self.coding)
        return _written(body, self.out, self.memory, self.next_flip)


Job = Learn | Render | Recode


def _content(body: bytes | str) -> bytes:
    if isinstance(body, bytes):
        return body
    with Path(body).open("rb") as file:
        return file.read()


def _pieces(body: bytes | str) -> Iterator[bytes]:
    if isinstance(body, bytes):
        yield body
        return
    with Path(body).open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _written(body: Iterable[bytes | memoryview], out: str, memory: int, next_flip: float | None) -> Sheet:
    """Hash a body and put it where it belongs, holding at most `memory` bytes of it."""
    sha256 = hashlib.sha256()
    held, size, file = bytearray(), 0, None
    try:
        for piece in body:
            sha256.update(piece)
            size += len(piece)
            if file is None and size > memory:
                file = _created(out)
                file.write(held)
                held = bytearray()
            if file is None:
                held += piece
            else:
                file.write(piece)
    finally:
        if file is not None:
            file.close()
    return Sheet(size, sha256.hexdigest(), bytes(held) if file is None else None, next_flip)


def _created(path: str) -> BinaryIO:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    return os.fdopen(fd, "wb")


# --- the process ---


@dataclass(frozen=True, slots=True)
class Done:
    result: Lesson | Sheet


@dataclass(frozen=True, slots=True)
class Failed:
    """A fault to be raised again, or what is known of another failure."""

    fault: Fault | None
    errno: int
    text: str


def frame(value: object) -> bytes:
    content = pickle.dumps(value, 5)
    return LENGTH.pack(len(content)) + content


def serve(memory: int = 0) -> None:
    """Work until standard input ends. What a provider prints must not get between the frames."""
    _bound_memory(memory)
    inlet, outlet = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _yield_to_parent()
    gc.freeze()
    gc.disable()  # documents have no cycles, and looking for some costs a third of their parsing
    while head := inlet.read(LENGTH.size):
        outlet.write(frame(_run(inlet.read(*LENGTH.unpack(head)))))
        outlet.flush()
        _tidy()


def _run(content: bytes) -> Done | Failed:
    job: Job = pickle.loads(content)  # noqa: S301  # from our own parent
    try:
        return Done(job.run())
    except Exception as error:  # noqa: BLE001 - it is raised again in the server
        return _failed(error)


def _failed(error: Exception) -> Failed:
    if isinstance(error, MemoryError):
        return Failed(
            Busy("this index needs more memory than there is", code="memory", retry_after=60.0), 0, ""
        )
    if isinstance(error, Fault):
        cause = error.__cause__ or error.__context__
        return Failed(error, 0, f"{type(cause).__name__}: {cause}" if cause else "")
    if isinstance(error, OSError) and error.errno:
        return Failed(None, error.errno, str(error))
    return Failed(None, 0, "".join(traceback.format_exception(error)))


def resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 where that cannot be told."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_bytes().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _tidy() -> None:
    """Give back what a large document took; the reply has left already."""
    if resident(os.getpid()) < TIDY_BYTES:
        return
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _bound_memory(size: int) -> None:
    """Better one document refused than the machine out of memory."""
    if not size:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        size = min(size, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (size, hard))


def _yield_to_parent() -> None:
    """Signals are the parent's business; a killed parent takes the helper along (Linux)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    with contextlib.suppress(OSError):
        os.nice(NICE)
