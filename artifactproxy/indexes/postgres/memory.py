"""Rows of recent look-ups, and whether they may be told without asking again.

An *epoch* is a time during which every change was heard of. What was read in it is right until its
change is heard; what was read before is kept too, for when the database is away.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from artifactproxy.model import ArtifactKey, Found, Promise


@dataclass(slots=True)
class _Row:
    found: Found
    digest: bytes
    epoch: int


class Memory:
    """At most `limit` rows, the least recently used leave first. Unknown keys are not kept: a scan
    for names that do not exist would push out the rest."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: OrderedDict[ArtifactKey, _Row] = OrderedDict()
        self._keys: dict[bytes, ArtifactKey] = {}
        # Look-ups under way by key: one whose token has gone read what may have changed since.
        self._asking: dict[bytes, object] = {}
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: ArtifactKey) -> Found | None:
        """What is known and may be told."""
        row = self._rows.get(key)
        if row is None or row.epoch != self._epoch:
            return None
        self._rows.move_to_end(key)
        return row.found

    def last(self, key: ArtifactKey) -> Found | None:
        """What was known once."""
        row = self._rows.get(key)
        if row is None:
            return None
        self._rows.move_to_end(key)
        return row.found

    def asking(self, digest: bytes) -> object:
        """A look-up begins; the token goes to `learn` or `left`."""
        token = self._asking[digest] = object()
        return token

    def left(self, digest: bytes, token: object) -> bool:
        """The look-up ended; whether nothing was heard of the key meanwhile."""
        if self._asking.get(digest) is not token:
            return False
        del self._asking[digest]
        return True

    def learn(self, digest: bytes, token: object, key: ArtifactKey, found: Found) -> bool:
        """The look-up ended with this; whether that is still right."""
        if not self.left(digest, token):
            return False
        if found.entry is None:
            self._forget(key)
            return True
        self._rows[key] = _Row(found, digest, self._epoch)
        self._rows.move_to_end(key)
        self._keys[digest] = key
        if len(self._rows) > self._limit:
            self._forget(next(iter(self._rows)))
        return True

    def holds(self, digest: bytes) -> bool:
        return digest in self._keys

    def promised(self, digest: bytes, token: object, promise: Promise) -> None:
        """A promise that we wrote stands now; the row goes if anything else was heard of it meanwhile."""
        if not self.left(digest, token):
            self.drop([digest])
        elif (key := self._keys.get(digest)) is not None:
            row = self._rows[key]
            row.found = replace(row.found, promise=promise)

    def used(self, keys: Iterable[ArtifactKey], at: float) -> None:
        """These were used at that time; a change too small to look anew for."""
        for key in keys:
            row = self._rows.get(key)
            if row and row.found.entry and row.found.entry.last_used < at:
                row.found = replace(row.found, entry=replace(row.found.entry, last_used=at))

    def drop(self, digests: Iterable[bytes]) -> None:
        """These have changed."""
        for digest in digests:
            self._asking.pop(digest, None)
            key = self._keys.get(digest)
            if key is not None:
                self._forget(key)

    def drop_repo(self, repo: str) -> None:
        self._asking.clear()
        for key in [key for key in self._rows if key.repo == repo]:
            self._forget(key)

    def doubt(self) -> None:
        """Anything may have changed: a new epoch."""
        self._epoch += 1
        self._asking.clear()

    def _forget(self, key: ArtifactKey) -> None:
        row = self._rows.pop(key, None)
        if row is not None:
            self._keys.pop(row.digest, None)
