"""Reading a growing body: one offset for each client, as fast as that client is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from artifactproxy.errors import Fault, StoreUnavailable
from artifactproxy.model import Digest, Span

READ_BYTES = 256 * 1024
WINDOW_BYTES = 1024 * 1024


class Tailed(Protocol):
    """What a reader sees of a spool."""

    fault: Fault | None
    sealed: bool
    written: int

    @property
    def released(self) -> int: ...
    @property
    def in_memory(self) -> bool: ...
    @property
    def fileno(self) -> int: ...
    @property
    def digests(self) -> tuple[Digest, ...]: ...
    def peek(self, start: int, stop: int) -> bytes: ...
    async def changed(self) -> None: ...
    def leave(self) -> None: ...


class SpoolReader:
    """One client's own offset; its speed touches nobody."""

    def __init__(self, spool: Tailed, span: Span | None) -> None:
        self._spool = spool
        self._offset = span.start if span else 0
        self._stop = span.stop if span else None
        self._open = True
        self.on_close: Callable[[], None] | None = None

    async def read(self) -> bytes:
        """What may leave now, at most 256 KiB; b"" at the verified end; raises the fault."""
        spool = self._spool
        while True:
            if spool.fault is not None:
                raise spool.fault
            limit = spool.released if self._stop is None else min(spool.released, self._stop)
            if self._offset < limit:
                chunk = spool.peek(self._offset, min(limit, self._offset + READ_BYTES))
                if not chunk:
                    raise StoreUnavailable("a temporary file is shorter than what was written to it")
                self._offset += len(chunk)
                return chunk
            if spool.sealed:
                return b""
            await spool.changed()

    async def window(self) -> tuple[int, Span] | None:
        """The descriptor and the span of it that may leave now, at most 1 MiB; None in memory and
        at the end."""
        spool = self._spool
        while True:
            if spool.fault is not None:
                raise spool.fault
            limit = spool.released if self._stop is None else min(spool.released, self._stop)
            if self._offset < limit:
                span = Span(self._offset, min(limit, self._offset + WINDOW_BYTES))
                return None if spool.in_memory else (spool.fileno, span)
            if spool.sealed:
                return None
            await spool.changed()

    def advance(self, size: int) -> None:
        self._offset += size

    async def whole(self) -> int:
        """How many bytes are left for this reader, once everything is verified; raises the fault."""
        spool = self._spool
        while not spool.sealed:
            if spool.fault is not None:
                raise spool.fault
            await spool.changed()
        return (spool.written if self._stop is None else self._stop) - self._offset

    @property
    def sha256(self) -> str:
        """Of the whole body, once `whole` has returned."""
        return next(digest.hex for digest in self._spool.digests if digest.algorithm == "sha256")

    def close(self) -> None:
        if self._open:
            self._open = False
            self._spool.leave()
            if self.on_close is not None:
                self.on_close()
