"""Data folders with known content, and the commands as processes."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from artifactproxy.datadir import DataFolder
from artifactproxy.indexes.sqlite import SqliteIndex
from artifactproxy.model import ArtifactKey, BlobRef, CacheEntry, Digest, Kind, Promise
from artifactproxy.ports import Use
from artifactproxy.stores.fs import FsStore

DEADLINE = 60  # seconds; a bound on hanging, not a measurement
NOW = 1_700_000_000.0
ROOT = Path(__file__).parents[2]
TABLES = ("entries", "promises", "superseded", "blobs", "uses", "locals")


def body(number: int) -> bytes:
    """Sizes around a tar block and around the size of a copied piece."""
    size = (0, 1, 511, 512, 513, 4000, 70_000, 1_048_577)[number % 8]
    return f"{number}:".encode() + bytes([number % 256]) * size


def ref_of(content: bytes) -> BlobRef:
    return BlobRef(hashlib.sha256(content).hexdigest(), len(content))


def entry_of(number: int, ref: BlobRef | None) -> CacheEntry:
    key = ArtifactKey("files", f"dir/é {number}.bin", "v" if number % 3 else "")
    return CacheEntry(
        key,
        Kind.ARTIFACT,
        ref,
        status=200 if ref else 404,
        etag=f'"{number}"',
        first_seen=NOW + number / 3,
        last_used=NOW + number,
        released=NOW - number,
        released_from="upload-time",
        purl=f"pkg:generic/x@{number}",
        generation=number + 1,
    )


async def fill(data: Path, count: int = 16) -> list[BlobRef]:
    """`count` artifacts, promises, an absence, an index with a superseded body, ledger lines."""
    folder = DataFolder(data)
    store = FsStore(data, fsync=False)
    index = SqliteIndex(data / "index.sqlite3", locals_=("mine",))
    await store.start()
    await index.start()
    refs = []
    for number in range(count):
        content = body(number) if count <= 1000 else str(number).encode()
        refs.append(ref_of(content))
        await store.put_bytes(refs[-1], content)
        await index.record(entry_of(number, refs[-1]))
    page = CacheEntry(ArtifactKey("files", "page/"), Kind.INDEX, None, generation=1)
    for text in (b"old page", b"new page"):
        ref = ref_of(text)
        await store.put_bytes(ref, text)
        await index.record(replace(page, ref=ref, generation=page.generation + len(refs)))
        refs.append(ref)
    await index.record(entry_of(count, None))
    await index.learn(
        Promise(
            ArtifactKey("files", f"p{n}"), (Digest("sha256", f"{n:064x}"),), size=n, url="http://u.example/"
        )
        for n in range(5)
    )
    await index.count([Use(1, "10.0.0.1", "files", "", refs[0].sha256, 2, 3)])
    assert await index.generation() > 0
    await index.close()
    await store.close()
    folder.close()
    return refs


def rows(data: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table."""
    with sqlite3.connect(data / "index.sqlite3") as db:
        found = {
            table: sorted(map(repr, db.execute(f"SELECT * FROM {table}").fetchall())) for table in TABLES
        }
    db.close()
    return found


def counters(data: Path) -> dict[str, int]:
    with sqlite3.connect(data / "index.sqlite3") as db:
        found = dict(db.execute("SELECT name, value FROM counters").fetchall())
    db.close()
    return found


def blobs(data: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (data / "blobs" / "sha256").rglob("*") if p.is_file()}


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, to see that nothing has changed. SQLite's side files come and go."""
    if not folder.exists():
        return {}
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in sorted(folder.rglob("*"))
        if not p.name.endswith(("-wal", "-shm"))
    }


def command(*arguments: str, failpoints: str = "", **options: object) -> subprocess.Popen[bytes]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ARTIFACTPROXY_")}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(
        [sys.executable, "-m", "artifactproxy", *arguments],
        cwd=ROOT,
        env=env | {"ARTIFACTPROXY_FAILPOINTS": failpoints},
        **pipes,
    )


def ran(*arguments: str, failpoints: str = "", **options: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    with command(*arguments, failpoints=failpoints, **options) as process:
        out, err = process.communicate(timeout=DEADLINE)
    return process.returncode, (out or b"").decode(), (err or b"").decode()
