"""The backup file: a plain tar (POSIX.1-1988, GNU sizes) with members in a fixed order.

    artifactproxy-backup.json       what is to come
    index.sqlite3                   a consistent copy of the index
    blobs/sha256/ab/abcd...         the blobs that it names, in the order of their sha256
    damaged/abcd...                 empty; says that the blob before was not what its name says
    artifactproxy-backup-end.json   what came; without it the file is cut off

A tar from elsewhere is somebody else's writing. So the reader takes nothing but regular members
whose one header block names what is due: no links, no paths of its own choosing, no extended
headers, nothing sparse, no member twice.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

MANIFEST = "artifactproxy-backup.json"
END = "artifactproxy-backup-end.json"
DAMAGED = "damaged/"
VERSION = 1

CHUNK = 1024 * 1024
DOCUMENT_BYTES = 64 * 1024
_BLOCK = tarfile.BLOCKSIZE
_PADDING_BYTES = 1024 * 1024  # zeros after the end that tools add to fill a record
_COMPRESSED = {
    b"\x1f\x8b": "gzip -dc",
    b"\x28\xb5\x2f\xfd": "zstd -dc",
    b"\xfd7zXZ\x00": "xz -dc",
    b"BZh": "bzip2 -dc",
}


class BadBackup(Exception):
    """What was given is no whole backup; the text says what is wrong with it."""


class _Document(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    def text(self) -> bytes:
        return self.model_dump_json(indent=1).encode() + b"\n"


class Manifest(_Document):
    """The first member. Bytes; `made_at` in POSIX seconds; `layout` as in the data folder."""

    backup: Literal[1] = 1
    program: str
    made_at: float
    layout: NonNegativeInt
    index_bytes: NonNegativeInt
    index_sha256: str
    blobs: NonNegativeInt
    blob_bytes: NonNegativeInt
    entries: NonNegativeInt
    promises: NonNegativeInt


class End(_Document):
    """The last member: how many blobs are in the file, how many it lacks, and what began it."""

    manifest_sha256: str
    blobs: NonNegativeInt
    blob_bytes: NonNegativeInt
    missing: NonNegativeInt
    damaged: NonNegativeInt


_D = TypeVar("_D", bound=_Document)


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    size: int


class ArchiveWriter:
    """Writes to a descriptor, in pieces of at least 1 MiB. Raises OSError."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._held = bytearray()
        self.written = 0

    def put(self, name: str, size: int, chunks: Iterable[bytes]) -> None:
        """One member; `chunks` hold exactly `size` bytes."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o600
        self._write(info.tobuf(tarfile.GNU_FORMAT))
        for chunk in chunks:
            self._write(chunk)
        self._write(bytes(-size % _BLOCK))

    def put_document(self, name: str, document: _Document) -> None:
        text = document.text()
        self.put(name, len(text), [text])

    def finish(self) -> None:
        self._write(bytes(2 * _BLOCK))
        self._flush()

    def _write(self, piece: bytes) -> None:
        self._held += piece
        if len(self._held) >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        with memoryview(self._held) as left:
            done = 0
            while done < len(left):
                done += os.write(self._fd, left[done:])
        self.written += done
        self._held = bytearray()


class ArchiveReader:
    """Reads what `ArchiveWriter` wrote, forwards only. Raises `BadBackup` and OSError."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._began = False

    def next(self) -> Member:
        """The head of the next member; its body has to be read before the one after."""
        block = self._source.read(_BLOCK)
        if not self._began:
            _check_beginning(block)
            self._began = True
        if len(block) < _BLOCK:
            raise _cut_off()
        try:
            info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise BadBackup("it is damaged, or was not made by artifactproxy") from error
        if info.type != tarfile.REGTYPE or info.linkname or info.size < 0:
            raise BadBackup("it holds something that artifactproxy does not put into backups")
        return Member(info.name, info.size)

    def chunks(self, member: Member) -> Iterator[bytes]:
        left = member.size
        while left:
            chunk = self._source.read(min(CHUNK, left))
            if not chunk:
                raise _cut_off()
            left -= len(chunk)
            yield chunk
        padding = self._source.read(-member.size % _BLOCK)
        if len(padding) < -member.size % _BLOCK:
            raise _cut_off()
        if padding.strip(b"\0"):
            raise BadBackup("it is damaged between two of its members")

    def finish(self) -> None:
        """Nothing but the end mark of a tar, and the zeros that fill a record."""
        rest = b""
        while len(rest) <= _PADDING_BYTES and (piece := self._source.read(CHUNK)):
            rest += piece
        if len(rest) < 2 * _BLOCK:
            raise _cut_off()
        if len(rest) > _PADDING_BYTES or rest.strip(b"\0"):
            raise BadBackup("something follows its end")


def text_of(reader: ArchiveReader, member: Member) -> bytes:
    """The body of a member that is one of our JSON documents."""
    if member.size > DOCUMENT_BYTES:
        raise BadBackup(f"its {member.name} is too large to be one of ours")
    return b"".join(reader.chunks(member))


def parsed(text: bytes, name: str, kind: type[_D]) -> _D:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        versions = [e for e in error.errors() if e["loc"] == ("backup",) and type(e["input"]) is int]
        if versions and versions[0]["input"] > VERSION:
            raise BadBackup("it was made by a newer artifactproxy; restore it with that version") from error
        raise BadBackup(f"its {name} is damaged, or was not made by artifactproxy") from error


def expect(member: Member, name: str) -> None:
    if member.name != name:
        raise BadBackup(f"it holds {member.name[:100]!r} where {name} belongs")


def _check_beginning(block: bytes) -> None:
    for magic, tool in _COMPRESSED.items():
        if block.startswith(magic):
            raise BadBackup(f"it is compressed; unpack it on the way: {tool} FILE | artifactproxy restore -")
    if not block.startswith(MANIFEST.encode() + b"\0"):
        raise BadBackup("it was not made by artifactproxy backup")


def _cut_off() -> BadBackup:
    return BadBackup("it ends too early: it was cut off while it was made or copied")
