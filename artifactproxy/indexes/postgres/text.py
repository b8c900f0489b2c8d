"""Any text of ours as a text of PostgreSQL, which cannot hold U+0000, and keys of one length.

U+0000 and U+0001 become two characters each. Order, prefixes and equality stay what they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from artifactproxy.model import ArtifactKey

_ESCAPE = "\x01"


def pack(text: str) -> str:
    """The text as it is stored."""
    if "\0" not in text and _ESCAPE not in text:
        return text
    return text.replace(_ESCAPE, "\x01\x02").replace("\0", "\x01\x01")


def unpack(text: str) -> str:
    return text.replace("\x01\x01", "\0").replace("\x01\x02", _ESCAPE)


def packed(row: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(pack(value) if isinstance(value, str) else value for value in row)


def unpacked(row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(unpack(value) if isinstance(value, str) and _ESCAPE in value else value for value in row)


def digest(*texts: str) -> bytes:
    """A short name for these texts, told apart also where one ends and the next begins. Raises
    UnicodeEncodeError for a lone surrogate."""
    hashed = hashlib.sha256()
    for text in texts:
        raw = text.encode()
        hashed.update(b"%d:" % len(raw))
        hashed.update(raw)
    return hashed.digest()


def digest_of(key: ArtifactKey) -> bytes:
    return digest(key.repo, key.path, key.variant)
