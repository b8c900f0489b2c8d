"""Every data folder that a crash may leave, from a recording.

At each moment of the recording, what was not synced may or may not have reached the medium:
each name of a directory as it was at its last sync or after any later change; the bytes of a file
whole, as last synced, torn at a block boundary, or its size with zeros in place of bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.power.recorder import INDEX, Op, Recording

BLOCK = 4096
MOST = 48  # of one moment; beyond that a seeded sample, the extremes always among it


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes that are compared often."""

    bytes: bytes
    digest: bytes


@dataclass(slots=True)
class State:
    """Files and directories by their path; `acked` are the paths that must be answered from it."""

    files: dict[str, Body]
    folders: frozenset[str]
    database: dict[str, bytes] | None
    acked: set[tuple[str, str]]
    moment: int

    def key(self) -> bytes:
        parts = [repr(sorted(self.folders)).encode()]
        parts += [path.encode() + body.digest for path, body in sorted(self.files.items())]
        parts += [side.encode() + _digest(body) for side, body in sorted((self.database or {}).items())]
        return _digest(b"\0".join(parts))

    def make(self, root: Path) -> None:
        """Lay it out below `root`, as after a reboot: no file there belongs to a live process."""
        root.mkdir(parents=True)
        for folder in sorted(self.folders):
            (root / folder).mkdir(mode=0o700)
        for path, body in self.files.items():
            place = root / path
            if place.suffix == ".part":
                place = place.with_name("0." + place.name.partition(".")[2])
            place.write_bytes(body.bytes)
            place.chmod(0o600)
        for side, body in (self.database or {}).items():
            (root / f"{INDEX}{side}").write_bytes(body)
            (root / f"{INDEX}{side}").chmod(0o600)


@dataclass(slots=True)
class _File:
    synced: bytes = b""
    pending: list[Op] = field(default_factory=list)
    _found: list[Body] = field(default_factory=list)

    def write(self, op: Op) -> None:
        self.pending.append(op)
        self._found = []

    def sync(self) -> None:
        self.synced, self.pending, self._found = self._whole(), [], []

    def variants(self) -> list[Body]:
        """What may be found in it; the whole comes first, what was synced last."""
        if not self._found:
            self._found = [Body(body, _digest(body)) for body in self._variants()]
        return self._found

    def _whole(self) -> bytes:
        return _written(self.synced, self.pending)

    def _variants(self) -> list[bytes]:
        whole, base = self._whole(), self.synced
        if not self.pending or whole == base:
            return [whole]
        first = min(op.at for op in self.pending)
        torn = (first + len(whole)) // 2 // BLOCK * BLOCK
        candidates = [
            whole,
            whole[: max(torn, len(base))],
            whole[:first].ljust(len(whole), b"\0"),
            whole[:torn].ljust(len(whole), b"\0"),
            base,
        ]
        return list(dict.fromkeys(candidates))


@dataclass(slots=True)
class _Folder:
    synced: dict[str, int] = field(default_factory=dict)
    pending: list[Op] = field(default_factory=list)

    def groups(self) -> list[list[Op]]:
        """Changes that do not wait for one another: by name, and by renames inside the directory."""
        groups: list[list[Op]] = []
        for op in self.pending:
            tied = [g for g in groups if any(_tied(op, other) for other in g)]
            merged = [other for g in tied for other in g] + [op]
            groups = [g for g in groups if g not in tied] + [merged]
        return groups


def _tied(one: Op, other: Op) -> bool:
    return one.entry == other.entry or (one.group != 0 and one.group == other.group)


def _written(base: bytes, ops: Sequence[Op]) -> bytes:
    body = bytearray(base)
    for op in ops:
        if op.kind == "size":
            del body[op.at :]
            body.extend(b"\0" * (op.at - len(body)))
            continue
        body.extend(b"\0" * (op.at - len(body)))
        body[op.at : op.at + len(op.data)] = op.data
    return bytes(body)


class Disk:
    """What the medium holds for sure, and what is under way to it."""

    def __init__(self, recording: Recording, seed: int) -> None:
        self._recording = recording
        self._rng = random.Random(seed)
        self._folders: dict[int, _Folder] = {node: _Folder() for node in recording.folders}
        self._files: dict[int, _File] = {}
        self._acked: set[tuple[str, str]] = set()
        self._database: dict[str, bytes] | None = None

    def states(self, since: int) -> Iterator[State]:
        """The states of every moment from `since` on, as they come; the same may come again."""
        for moment, op in enumerate([None, *self._recording.ops]):
            if op is not None:
                self._apply(op)
            if moment >= since:
                yield from self._moment(moment)

    def _apply(self, op: Op) -> None:
        if op.kind == "name":
            self._folders[op.node].pending.append(op)
        elif op.kind in ("write", "size"):
            self._files.setdefault(op.node, _File()).write(op)
        elif op.kind == "sync" and op.node in self._folders:
            folder = self._folders[op.node]
            folder.synced = _entries(folder.synced, folder.pending)
            folder.pending = []
        elif op.kind == "sync":
            self._files.setdefault(op.node, _File()).sync()
        elif op.kind == "commit":
            self._database = op.database
        elif op.kind == "acked":
            self._acked.add((op.entry, op.data.decode()))
        else:
            self._acked = {pair for pair in self._acked if pair[0] != op.entry}

    def _databases(self, moment: int) -> list[dict[str, bytes] | None]:
        """A commit may be on the medium before the program learns of it."""
        coming = next((op for op in self._recording.ops[moment:] if op.kind == "commit"), None)
        found = [self._database]
        if coming is not None and coming.begun <= moment:
            found.append(coming.database)
        return found

    def _moment(self, moment: int) -> Iterator[State]:
        groups = [(node, group) for node, f in self._folders.items() for group in f.groups()]
        choices = [range(len(group) + 1) for _, group in groups]
        for chosen in self._sample(choices):
            persisted: dict[int, list[Op]] = {}
            for (node, group), count in zip(groups, chosen, strict=True):
                persisted.setdefault(node, []).extend(group[:count])
            folders, files = self._tree(persisted)
            bodies = [self._files.get(node, _File()).variants() for node in files.values()]
            for database in self._databases(moment):
                for found in self._sample([range(len(each)) for each in bodies]):
                    content = {path: each[at] for path, each, at in zip(files, bodies, found, strict=True)}
                    yield State(content, folders, database, set(self._acked), moment)

    def _tree(self, persisted: dict[int, list[Op]]) -> tuple[frozenset[str], dict[str, int]]:
        folders, files = set(), {}
        left = [("", 0)]
        while left:
            prefix, node = left.pop()
            entries = _entries(self._folders[node].synced, persisted.get(node, []))
            for entry, child in entries.items():
                if child in self._folders:
                    folders.add(prefix + entry)
                    left.append((f"{prefix}{entry}/", child))
                else:
                    files[prefix + entry] = child
        return frozenset(folders), files

    def _sample(self, choices: Sequence[range]) -> Iterator[tuple[int, ...]]:
        if math.prod(len(each) for each in choices) <= MOST:
            yield from itertools.product(*choices)
            return
        yield tuple(0 for _ in choices)
        yield tuple(len(each) - 1 for each in choices)
        for _ in range(MOST - 2):
            yield tuple(self._rng.choice(each) for each in choices)


def _entries(base: dict[str, int], changes: Sequence[Op]) -> dict[str, int]:
    found = dict(base)
    for op in changes:
        if op.child is None:
            found.pop(op.entry, None)
        else:
            found[op.entry] = op.child
    return found


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


def distinct(recording: Recording, seed: int, since: int = 0) -> list[State]:
    """Each different folder once, with everything that had been answered from it at any moment."""
    found: dict[bytes, State] = {}
    for state in Disk(recording, seed).states(since):
        same = found.setdefault(state.key(), state)
        same.acked |= state.acked
    return list(found.values())
