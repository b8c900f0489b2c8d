"""What is in the bucket: objects, uploads under way, and the conditions on both."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from .replies import Refusal

PART_LEAST = 5 * 2**20
PARTS_MOST = 10_000


@dataclass(slots=True)
class Body:
    """A body that arrived; `data` is None where it is not kept. Digests in hex."""

    size: int
    sha256: str
    md5: str
    data: bytes | None


def body_of(data: bytes) -> Body:
    return Body(len(data), hashlib.sha256(data).hexdigest(), hashlib.md5(data).hexdigest(), data)


@dataclass(slots=True)
class Stored:
    """`sha256` is of the whole, "" where only the parts were kept as digests."""

    size: int
    etag: str
    sha256: str
    data: bytes | None
    modified: float
    headers: dict[str, str] = field(default_factory=dict)
    parts: tuple[Body, ...] = ()


@dataclass(slots=True)
class Upload:
    id: str
    key: str
    started: float
    headers: dict[str, str] = field(default_factory=dict)
    parts: dict[int, Body] = field(default_factory=dict)


@dataclass(slots=True)
class Contents:
    now: Callable[[], float]
    part_least: int = PART_LEAST
    objects: dict[str, Stored] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def get(self, key: str) -> Stored:
        if key not in self.objects:
            raise Refusal(404, "NoSuchKey", Key=key)
        return self.objects[key]

    def put(self, key: str, body: Body, headers: dict[str, str]) -> Stored:
        stored = Stored(body.size, f'"{body.md5}"', body.sha256, body.data, self.now(), headers)
        self.objects[key] = stored
        return stored

    def may_write(self, key: str, conditions: Mapping[str, str]) -> None:
        """`If-None-Match: *` and `If-Match` on what writes."""
        there = self.objects.get(key)
        if conditions.get("if-none-match") == "*" and there is not None:
            raise Refusal(412, "PreconditionFailed", Condition="If-None-Match")
        wanted = conditions.get("if-match")
        if wanted is None:
            return
        if there is None:
            raise Refusal(404, "NoSuchKey", Key=key)
        if wanted not in ("*", there.etag, there.etag.strip('"')):
            raise Refusal(412, "PreconditionFailed", Condition="If-Match")

    def create(self, key: str, headers: dict[str, str]) -> Upload:
        upload = Upload(f"upload-{next(self._numbers)}.{abs(hash(key)):x}", key, self.now(), headers)
        self.uploads[upload.id] = upload
        return upload

    def upload(self, name: str, key: str) -> Upload:
        found = self.uploads.get(name)
        if found is None or found.key != key:
            raise Refusal(404, "NoSuchUpload", UploadId=name)
        return found

    def part(self, name: str, key: str, number: int, body: Body) -> str:
        if not 1 <= number <= PARTS_MOST:
            raise Refusal(400, "InvalidArgument", f"Part number must be between 1 and {PARTS_MOST}")
        self.upload(name, key).parts[number] = body
        return f'"{body.md5}"'

    def complete(
        self, name: str, key: str, wanted: list[tuple[int, str]], conditions: Mapping[str, str]
    ) -> Stored:
        upload = self.upload(name, key)
        if not wanted:
            raise Refusal(400, "MalformedXML")
        numbers = [number for number, _ in wanted]
        if numbers != sorted(set(numbers)):
            raise Refusal(400, "InvalidPartOrder")
        parts = [self._checked(upload, number, etag) for number, etag in wanted]
        for part in parts[:-1]:
            if part.size < self.part_least:
                raise Refusal(400, "EntityTooSmall", MinSizeAllowed=str(self.part_least))
        self.may_write(key, conditions)
        digest = hashlib.md5(b"".join(bytes.fromhex(part.md5) for part in parts)).hexdigest()
        data = joined(parts)
        sha256 = hashlib.sha256(data).hexdigest() if data is not None else ""
        size = sum(part.size for part in parts)
        stored = Stored(
            size, f'"{digest}-{len(parts)}"', sha256, data, self.now(), upload.headers, tuple(parts)
        )
        self.objects[key] = stored
        del self.uploads[upload.id]
        return stored

    def _checked(self, upload: Upload, number: int, etag: str) -> Body:
        part = upload.parts.get(number)
        if part is None or part.md5 != etag.strip('"'):
            raise Refusal(400, "InvalidPart", PartNumber=str(number))
        return part

    def abort(self, name: str, key: str) -> None:
        del self.uploads[self.upload(name, key).id]

    def listing(
        self, prefix: str, delimiter: str, after: str, limit: int
    ) -> tuple[list[tuple[str, Stored]], list[str], str]:
        """Keys and common prefixes of one page, and what the next page comes after ("" at the end)."""
        keys: list[tuple[str, Stored]] = []
        folders: list[str] = []
        last = ""
        for key in sorted(self.objects, key=lambda k: k.encode()):
            if not key.startswith(prefix):
                continue
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            name = key[: at + len(delimiter)] if at >= 0 else key
            if name.encode() <= after.encode() or name in folders:
                continue
            if len(keys) + len(folders) == limit:
                return keys, folders, last
            last = name
            if at >= 0:
                folders.append(name)
            else:
                keys.append((key, self.objects[key]))
        return keys, folders, ""


def joined(parts: Iterable[Body]) -> bytes | None:
    """All bytes of these, None where some were not kept."""
    blocks = []
    for part in parts:
        if part.data is None:
            return None
        blocks.append(part.data)
    return b"".join(blocks)
