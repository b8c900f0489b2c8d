"""A recorder of the file operations below one folder, in their order, with their content.

It stands between this process and `os`, under one lock, so that the order written down is the order
in which they happened. SQLite does its own: a commit that has returned is one durable operation, and
the whole database is copied then. Locks and leases say nothing after a crash and are left out.
"""

from __future__ import annotations

import functools
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from artifactproxy import failpoints
from artifactproxy.indexes.sqlite import SqliteIndex
from artifactproxy.stores import medium

INDEX = "index.sqlite3"
_LEFT_OUT = ("lock", "leases", "control.sock", INDEX)

Kind = Literal["name", "write", "size", "sync", "commit", "acked", "withdrawn"]


@dataclass(slots=True)
class Op:
    """`name`: `entry` of directory `node` becomes `child` (None: it is gone); those of one `group`
    change together. `write`: `data` at `at` of `node`. `sync`: all of `node` is on the medium.
    `commit`: the files of the database are `database`, perhaps already since `begun` operations.
    `acked` and `withdrawn`: `entry` was answered from the cache with the bytes whose sha256 is `data`,
    or is no longer sure to be."""

    kind: Kind
    node: int = 0
    entry: str = ""
    child: int | None = None
    group: int = 0
    at: int = 0
    data: bytes = b""
    database: dict[str, bytes] = field(default_factory=dict)
    begun: int = 0


class Recording:
    """Nodes are files and directories, told apart also when an inode number is used again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ops: list[Op] = []
        self.folders = {0}
        self._lock = threading.RLock()
        self._nodes: dict[int, int] = {}  # by inode number
        self._count = 0
        self._groups = 0
        self._begun = 0
        self._nodes[root.stat().st_ino] = 0

    # --- marks of a scenario ---

    def acked(self, path: str, sha256: str) -> None:
        """These bytes, or newer ones of a document that changes, may not be lost from here on."""
        self._add(Op("acked", entry=path, data=sha256.encode()))

    def withdrawn(self, *paths: str) -> None:
        """Before something is purged, evicted or damaged."""
        for path in paths:
            self._add(Op("withdrawn", entry=path))

    def _add(self, op: Op) -> None:
        with self._lock:
            self.ops.append(op)

    # --- the database ---

    def commit_begins(self) -> None:
        with self._lock:
            self._begun = len(self.ops)

    def commit_ended(self) -> None:
        with self._lock:
            files = {side: self.root / f"{INDEX}{side}" for side in ("", "-wal")}
            found = {side: path.read_bytes() for side, path in files.items() if path.exists()}
            self.ops.append(Op("commit", database=found, begun=self._begun))

    # --- files ---

    def _tracked(self, path: Any) -> bool:
        try:
            inside = Path(os.fsdecode(path)).absolute().relative_to(self.root)
        except (TypeError, ValueError):
            return False
        return bool(inside.parts) and not inside.parts[0].startswith(_LEFT_OUT)

    def _new(self, inode: int, *, folder: bool) -> int:
        self._count += 1
        self._nodes[inode] = self._count
        if folder:
            self.folders.add(self._count)
        return self._count

    def _place(self, path: Any) -> tuple[int, str]:
        found = Path(os.fsdecode(path)).absolute()
        return self._nodes[found.parent.stat().st_ino], found.name

    def _named(self, path: Any, child: int | None, group: int = 0) -> None:
        node, entry = self._place(path)
        self.ops.append(Op("name", node, entry, child, group))

    def _fd_node(self, fd: Any) -> int | None:
        try:
            about = os.fstat(fd)
        except (OSError, TypeError):
            return None
        if not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):
            return None
        return self._nodes.get(about.st_ino)

    def open(self, real: Callable[..., int], path: Any, flags: int, *args: Any, **named: Any) -> int:
        if not flags & (os.O_CREAT | os.O_TRUNC) or not self._tracked(path):
            return real(path, flags, *args, **named)
        with self._lock:
            new = not os.path.lexists(path)
            fd = real(path, flags, *args, **named)
            if new:
                self._named(path, self._new(os.fstat(fd).st_ino, folder=False))
            elif flags & os.O_TRUNC:
                self.ops.append(Op("size", self._nodes[os.fstat(fd).st_ino], at=0))
            return fd

    def mkdir(self, real: Callable[..., None], path: Any, *args: Any, **named: Any) -> None:
        if not self._tracked(path):
            real(path, *args, **named)
            return
        with self._lock:
            real(path, *args, **named)
            self._named(path, self._new(os.stat(path).st_ino, folder=True))

    def remove(self, real: Callable[..., None], path: Any, *args: Any, **named: Any) -> None:
        if not self._tracked(path):
            real(path, *args, **named)
            return
        with self._lock:
            found = os.lstat(path)
            real(path, *args, **named)
            self._named(path, None)
            if found.st_nlink == 1:
                self._nodes.pop(found.st_ino, None)

    def rename(self, real: Callable[..., None], old: Any, new: Any, *args: Any, **named: Any) -> None:
        if not self._tracked(new):
            real(old, new, *args, **named)
            return
        with self._lock:
            node = self._nodes[os.lstat(old).st_ino]
            real(old, new, *args, **named)
            # Within one directory this is one change of it; of two, each keeps its own time.
            same = self._place(old)[0] == self._place(new)[0]
            self._groups += same
            group = self._groups if same else 0
            self._named(new, node, group)
            self._named(old, None, group)

    def link(self, real: Callable[..., None], old: Any, new: Any, *args: Any, **named: Any) -> None:
        with self._lock:
            real(old, new, *args, **named)
            if self._tracked(new):
                self._named(new, self._nodes[os.lstat(new).st_ino])

    def written(self, real: Callable[..., int], fd: int, data: Any, *at: int) -> int:
        """write(2) with a single buffer or with many, and pwrite(2), which names its place."""
        node = self._fd_node(fd)
        if node is None:
            return real(fd, data, *at)
        with self._lock:
            start = at[0] if at else os.lseek(fd, 0, os.SEEK_CUR)
            body = b"".join(bytes(part) for part in data) if isinstance(data, list) else bytes(data)
            count = real(fd, data, *at)
            self.ops.append(Op("write", node, at=start, data=body[:count]))
            return count

    def resized(self, real: Callable[..., None], fd: int, size: int) -> None:
        node = self._fd_node(fd)
        with self._lock:
            real(fd, size)
            if node is not None:
                self.ops.append(Op("size", node, at=size))

    def synced(self, real: Callable[..., None], fd: int) -> None:
        node = self._fd_node(fd)
        with self._lock:
            real(fd)
            if node is not None:
                self.ops.append(Op("sync", node))


_WATCHED = {
    "open": "open",
    "mkdir": "mkdir",
    "unlink": "remove",
    "remove": "remove",
    "rmdir": "remove",
    "rename": "rename",
    "replace": "rename",
    "link": "link",
    "write": "written",
    "writev": "written",
    "pwrite": "written",
    "pwritev": "written",
    "ftruncate": "resized",
    "fsync": "synced",
    "fdatasync": "synced",
}


@contextmanager
def recording(root: Path) -> Iterator[Recording]:
    """Everything that happens below `root`, which is there and empty."""
    found = Recording(root)
    before: list[tuple[Any, str, Any]] = []

    def put(owner: Any, name: str, value: Any) -> None:
        before.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    hit, prepare = failpoints.hit, SqliteIndex._prepare

    def noticed(name: str) -> None:
        if name == "row.written":
            found.commit_begins()
        hit(name)
        if name == "row.committed":
            found.commit_ended()

    def prepared(index: SqliteIndex) -> Any:
        found.commit_begins()
        connection = prepare(index)
        found.commit_ended()
        return connection

    try:
        for name, method in _WATCHED.items():
            real = getattr(os, name)
            put(os, name, functools.partial(getattr(found, method), real))
        put(medium, "_flush", os.fdatasync)
        put(failpoints, "hit", noticed)
        put(SqliteIndex, "_prepare", prepared)
        yield found
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)
