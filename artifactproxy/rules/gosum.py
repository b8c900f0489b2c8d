"""Go's `h1:` checksums, which name what a module zip holds rather than its bytes.

`h1:` is the base64 of a sha256 over one line for each file, in the order of their names: the hex
sha256 of its content, two spaces, its name in the zip, a line end. The same over the one name
`go.mod` names a go.mod file. So a zip is judged when it is whole, whoever compressed it. Reference:
the Go modules reference, "Authenticating modules"; its limits are in "Module zip files".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

from artifactproxy.errors import BrokenPromise

ZIP_BYTES: Final = 500 * 2**20
UNPACKED_BYTES: Final = 500 * 2**20
MOD_BYTES: Final = 16 * 2**20
MEMBERS: Final = 200_000
DIRECTORY_BYTES: Final = 32 * 2**20  # it is read at once, and becomes twenty times as large

_PREFIX: Final = "h1:"
_PIECE: Final = 256 * 1024
_UTF8: Final = 0x800
_UNREADABLE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    IndexError,
    NotImplementedError,  # features of zip that the library does not know
    OverflowError,
    RuntimeError,
    ValueError,
)


def parse_h1(text: str) -> str | None:
    """The 32 bytes of an `h1:` checksum in hex; None if it is none."""
    if not text.startswith(_PREFIX):
        return None
    try:
        raw = base64.b64decode(text[len(_PREFIX) :], validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw.hex() if len(raw) == hashlib.sha256().digest_size else None


def hash_of_mod(sha256_hex: str) -> str:
    """The checksum in hex of a go.mod file with this sha256."""
    return _hash_of_files([(b"go.mod", sha256_hex)])


def hash_of_zip(file: BinaryIO, size: int) -> str:
    """The checksum in hex of a module zip of `size` bytes.

    Raises `BrokenPromise` for a zip that cannot be read, names a file twice or is past the limits,
    OSError only where `file` itself does.
    """
    if size > ZIP_BYTES:
        raise BrokenPromise(f"the module zip is larger than {ZIP_BYTES} bytes", code="bad_zip")
    bounded = _Bounded(file)
    try:
        with zipfile.ZipFile(bounded) as archive:
            return _hash_of_files(_files(archive))
    except _UNREADABLE as error:
        # The library takes a failed read of the end of the file for a file that is no zip.
        if bounded.failure is not None:
            raise bounded.failure from error
        raise BrokenPromise("the module zip cannot be read", code="bad_zip") from error


def _files(archive: zipfile.ZipFile) -> Iterator[tuple[bytes, str]]:
    """Names as they are written and hex sha256 of contents."""
    members = archive.infolist()
    if len(members) > MEMBERS:
        raise BrokenPromise(f"the module zip has more than {MEMBERS} files", code="bad_zip")
    left = UNPACKED_BYTES
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BrokenPromise("the module zip is packed in a way that Go cannot read", code="bad_zip")
        content = hashlib.sha256()
        with archive.open(member) as unpacked:
            while piece := unpacked.read(_PIECE):
                left -= len(piece)  # what the zip says of its sizes may be a lie
                if left < 0:
                    raise BrokenPromise(f"the module is larger than {UNPACKED_BYTES} bytes", code="bad_zip")
                content.update(piece)
        yield _name(member), content.hexdigest()


def _name(member: zipfile.ZipInfo) -> bytes:
    encoding = "utf-8" if member.flag_bits & _UTF8 else "cp437"
    return member.orig_filename.encode(encoding)


def _hash_of_files(files: Iterable[tuple[bytes, str]]) -> str:
    lines: dict[bytes, str] = {}
    for name, content in files:
        if name in lines or b"\n" in name:
            raise BrokenPromise("the module zip names a file twice or with a line end", code="bad_zip")
        lines[name] = content
    whole = hashlib.sha256()
    for name in sorted(lines):
        whole.update(b"%b  %b\n" % (lines[name].encode(), name))
    return whole.hexdigest()


class _Bounded(io.BufferedIOBase):
    """Reads no more at once than a directory may be long; remembers a failure of the medium."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failure: OSError | None = None

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > DIRECTORY_BYTES:
            raise ValueError("the directory of the zip is too large")
        try:
            return self._file.read(-1 if size is None else size)
        except OSError as error:
            self.failure = error
            raise
