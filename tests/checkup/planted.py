"""Damage of every kind: how it is planted, and what the check must call it."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from tests.checkup.world import Plant, blob_of, row_of, sql

DEAD = "0123456789ab.4194305.1-1-ab.part"  # a temporary file of a process of another boot
HOURS = 3 * 3600.0


@dataclass(frozen=True)
class Planted:
    """`mended` None: that part is not repaired but told."""

    invariant: str
    kind: str
    plant: Plant
    fast: bool = True
    live: bool = True


def update(statement: str, *parameters: object) -> Plant:
    def plant(data: Path) -> None:
        with sql(data) as db:
            assert db.execute(statement, parameters).rowcount >= 1

    return plant


def _damage(data: Path) -> None:
    with blob_of(data, "tool.bin").open("r+b") as file:
        file.seek(100_000)
        byte = file.read(1)
        file.seek(100_000)
        file.write(bytes([byte[0] ^ 1]))


def _shorten(data: Path) -> None:
    os.truncate(blob_of(data, "tool.bin"), 1000)


def _lengthen(data: Path) -> None:
    with blob_of(data, "tool.bin").open("ab") as file:
        file.write(b"!")


def _old_body(data: Path) -> None:
    with sql(data) as db:
        (sha256,) = db.execute("SELECT sha256 FROM superseded").fetchone()
    (data / "blobs/sha256" / sha256[:2] / sha256).unlink()


def make_blob(data: Path, body: bytes, age: float) -> str:
    sha256 = hashlib.sha256(body).hexdigest()
    path = data / "blobs/sha256" / sha256[:2] / sha256
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(body)
    os.utime(path, (time.time() - age,) * 2)
    return sha256


def _orphan(data: Path) -> None:
    make_blob(data, b"nobody wants me", HOURS)


def _forgotten(data: Path) -> None:
    """Forgotten and not doomed: its process died in between."""
    _, size = row_of(data, "small.bin")
    os.utime(blob_of(data, "small.bin"), (1, 1))
    with sql(data) as db:
        assert db.execute("DELETE FROM entries WHERE path = 'small.bin'").rowcount == 1
    assert size == 10


def _damaged_orphan(data: Path) -> None:
    path = data / "blobs/sha256/ab" / ("ab" * 32)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(b"not what it says")


def _temp(data: Path) -> None:
    (data / "tmp" / DEAD).write_bytes(b"half")


def _trial(data: Path) -> None:
    (data / "blobs/sha256" / DEAD).write_bytes(b"")


def _linked(data: Path) -> None:
    os.link(blob_of(data, "tool.bin"), data / "second-name")


def _symlink(data: Path) -> None:
    blob = blob_of(data, "tool.bin")
    blob.rename(data / "elsewhere")
    blob.symlink_to(data / "elsewhere")


def _misplaced(data: Path) -> None:
    blob = blob_of(data, "tool.bin")
    wrong = data / "blobs/sha256" / ("00" if not blob.name.startswith("00") else "01")
    wrong.mkdir(mode=0o700, exist_ok=True)
    blob.rename(wrong / blob.name)


def _stray(place: str) -> Plant:
    def plant(data: Path) -> None:
        path = data / place
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_bytes(b"whose is this?")

    return plant


def _folder(data: Path) -> None:
    (data / "blobs/sha256/not-a-shard").mkdir()
    (data / "blobs/sha256/not-a-shard/file").write_bytes(b"x")


def _phantom(data: Path) -> None:
    update("INSERT INTO blobs (sha256, size, added_at, doomed_at) VALUES (?, 12345, 1, NULL)", "d" * 64)(data)


def _overdue(data: Path) -> None:
    sha256 = make_blob(data, b"doomed long ago", HOURS)
    update(
        "INSERT INTO blobs (sha256, size, added_at, doomed_at) VALUES (?, 15, 1, ?)",
        sha256,
        time.time() - HOURS,
    )(data)


def _contradiction(data: Path) -> None:
    sha256 = make_blob(data, b"other bytes", 0)
    update("INSERT INTO blobs (sha256, size, added_at, doomed_at) VALUES (?, 11, 1, NULL)", sha256)(data)
    update("UPDATE entries SET sha256 = ?, size = 11 WHERE path = 'tool.bin'", sha256)(data)


def _name(data: Path) -> None:
    update("UPDATE entries SET path = 'sm%61ll.bin' WHERE path = 'small.bin'")(data)


def _pypi(column: str, value: object) -> Plant:
    return update(f"UPDATE promises SET {column} = ? WHERE repo = 'pypi' AND path LIKE '%pkg%'", value)


SIGNED = "http://127.0.0.1/tool.bin?X-Amz-Signature=abc"
FAR = time.time() + 10 * 86400
PLANTED = {
    "missing": Planted("I01", "missing", lambda data: blob_of(data, "tool.bin").unlink()),
    "short": Planted("I01", "size", _shorten),
    "long": Planted("I01", "size", _lengthen),
    "row-size": Planted("I01", "size", update("UPDATE entries SET size = 7 WHERE path = 'tool.bin'")),
    "old-body": Planted("I01", "old-body", _old_body),
    "damaged": Planted("I02", "damaged", _damage, fast=False),
    "damaged-orphan": Planted("I02", "damaged", _damaged_orphan, fast=False),
    "orphan": Planted("I10", "orphan", _orphan),
    "forgotten": Planted("I10", "orphan", _forgotten),
    "temp": Planted("I13", "temp", _temp),
    "trial": Planted("I13", "temp", _trial),
    "phantom": Planted("I14", "phantom", _phantom),
    "uncounted": Planted("I14", "uncounted", update("DELETE FROM blobs WHERE size = 300000")),
    "miscounted": Planted("I14", "miscounted", update("UPDATE blobs SET size = 1 WHERE size = 300000")),
    "doomed": Planted("I15", "doomed", update("UPDATE blobs SET doomed_at = 1 WHERE size = 300000")),
    "generation": Planted(
        "I16", "generation", update("UPDATE entries SET generation = 10000000 WHERE path = 'page.json'")
    ),
    "ahead": Planted(
        "I17", "time", update("UPDATE entries SET fetched_at = ? WHERE path = 'page.json'", FAR)
    ),
    "ttl": Planted("I17", "ttl", update("UPDATE entries SET ttl = -5 WHERE path = 'page.json'")),
    "name": Planted("I19", "name", _name),
    "userinfo": Planted(
        "I20",
        "credential",
        update("UPDATE entries SET source = 'http://u:secret@127.0.0.1/x' WHERE path = 'tool.bin'"),
    ),
    "signed": Planted(
        "I20", "credential", update("UPDATE entries SET source = ? WHERE path = 'tool.bin'", SIGNED)
    ),
    "promised-userinfo": Planted(
        "I20", "credential-promised", _pypi("url", "http://u:secret@127.0.0.1/pkg-1.0.tar.gz")
    ),
    "mode": Planted("I21", "mode", lambda data: blob_of(data, "tool.bin").chmod(0o644)),
    "setuid": Planted("I21", "mode", lambda data: blob_of(data, "tool.bin").chmod(0o4700)),
    "folder-mode": Planted("I21", "mode", lambda data: (data / "blobs/sha256").chmod(0o755)),
    "index-mode": Planted("I21", "mode", lambda data: (data / "index.sqlite3").chmod(0o644)),
    "linked": Planted("I21", "link", _linked),
    "symlink": Planted("I21", "link", _symlink),
    "misplaced": Planted("I22", "misplaced", _misplaced),
    "stray-beside": Planted("I22", "stray", _stray("blobs/README")),
    "stray-shard": Planted("I22", "stray", _stray("blobs/sha256/ab/notes.txt")),
    "stray-temp": Planted("I22", "stray", _stray("tmp/upload.tmp")),
    "stray-name": Planted("I22", "stray", _stray("blobs/sha256/ab/line\n\x1b[2J")),
    "stray-folder": Planted("I22", "stray", _folder),
    "row": Planted("I23", "row", update("UPDATE entries SET status = 'odd' WHERE path = 'tool.bin'")),
    "row-kind": Planted("I23", "row", update("UPDATE entries SET kind = 'odd' WHERE path = 'small.bin'")),
    "promise": Planted("I23", "promise", _pypi("digests", "nonsense")),
    "contradiction": Planted("I24", "contradiction", _contradiction),
}
