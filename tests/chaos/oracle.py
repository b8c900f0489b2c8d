"""Content that any reader can verify without having it: a function of (seed, name, size)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from functools import lru_cache

BLOCK = 64 * 1024


@lru_cache(maxsize=256)
def _block(seed: int, name: str, index: int) -> bytes:
    return random.Random(f"{seed}:{name}:{index}").randbytes(BLOCK)


class Oracle:
    """The bytes of one name. `version` makes other content under the same name."""

    def __init__(self, name: str, size: int, *, seed: int = 0, version: int = 0) -> None:
        self.name = name
        self.size = size
        self.seed = seed
        self.version = version
        self._key = f"{name}@{version}"

    def slice(self, start: int, stop: int) -> bytes:
        stop = min(stop, self.size)
        if start >= stop:
            return b""
        first = start // BLOCK
        blocks = [_block(self.seed, self._key, i) for i in range(first, (stop - 1) // BLOCK + 1)]
        return b"".join(blocks)[start - first * BLOCK : stop - first * BLOCK]

    def __iter__(self) -> Iterator[bytes]:
        for at in range(0, self.size, BLOCK):
            yield self.slice(at, at + BLOCK)

    def bytes(self) -> bytes:
        return self.slice(0, self.size)

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for block in self:
            digest.update(block)
        return digest.hexdigest()

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(f"{self.seed}:{self._key}:{self.size}".encode()).hexdigest()[:16]}"'

    @property
    def last_modified(self) -> str:
        return f"Mon, 0{1 + self.version % 9} Jan 2024 00:00:00 GMT"


def oracle(name: str, size: int, seed: int = 0) -> bytes:
    """The whole content at once."""
    return Oracle(name, size, seed=seed).bytes()
