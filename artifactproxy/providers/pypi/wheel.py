"""The core metadata inside a wheel, for upstreams that serve no `.metadata` beside it.

PEP 427 (layout), PEP 658 (the sidecar is exactly the METADATA member). A wheel is attacker-written:
only the central directory and one member are read, under caps, and doubt means None.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from typing import IO, BinaryIO, cast

from artifactproxy.providers.pypi import names

MAX_METADATA = 10 * 2**20
MAX_DIRECTORY = 8 * 2**20
MAX_MEMBERS = 50_000
MAX_RATIO = 200

_MEMBER = re.compile(r"([^/]+)\.dist-info/METADATA")
_BROKEN = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,  # methods and flags that zipfile does not read
    RuntimeError,  # encrypted members
    EOFError,
    ValueError,  # offsets and names that make no sense
    OverflowError,
)


class _Frugal(io.RawIOBase):
    """A file that hands out no more bytes than `left`, whatever the archive claims to need."""

    def __init__(self, source: BinaryIO, left: int) -> None:
        super().__init__()
        self._source = source
        self.left = left

    def read(self, size: int = -1, /) -> bytes:
        body = self._source.read(self.left + 1 if size < 0 else min(size, self.left + 1))
        if len(body) > self.left:
            raise ValueError("the archive wants more than it may have")
        self.left -= len(body)
        return body

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        return self._source.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def metadata(source: BinaryIO, filename: str) -> bytes | None:
    """METADATA of the wheel called `filename`; None unless there is exactly one at the top level
    and it belongs to this project."""
    try:
        frugal = _Frugal(source, MAX_DIRECTORY)
        with zipfile.ZipFile(cast("IO[bytes]", frugal)) as archive:
            frugal.left = MAX_METADATA
            member = _member(archive, filename)
            return _read(archive, member) if member else None
    except _BROKEN:
        return None


def _member(archive: zipfile.ZipFile, filename: str) -> zipfile.ZipInfo | None:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        return None
    found = [(match, info) for info in members if (match := _MEMBER.fullmatch(info.filename))]
    if len(found) != 1:
        return None
    match, info = found[0]
    project, version = names.split(filename)
    its_project, _, its_version = match[1].partition("-")
    same = names.normalised(its_project) == project and _same_version(its_version, version)
    sane = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not info.flag_bits & 1
    small = info.file_size <= min(MAX_METADATA, 4096 + info.compress_size * MAX_RATIO)
    return info if same and sane and small else None


def _same_version(one: str, other: str) -> bool:
    known = names.canonical_version(one) and names.canonical_version(other)
    return one == other or (bool(known) and names.order(one) == names.order(other))


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | None:
    with archive.open(member) as opened:
        body = opened.read(MAX_METADATA + 1)
    # The member may be longer than the directory says; the reader checks its CRC only at the end.
    if len(body) != member.file_size or not body.lstrip().startswith(b"Metadata-Version:"):
        return None
    return body
