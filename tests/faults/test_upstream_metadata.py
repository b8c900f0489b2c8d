"""U29, U34: indexes that are bombs, and indexes that list less than they did."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import zlib
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import status
from tests.chaos.server import Behaviour
from tests.faults.watch import AGAIN, INDEX, Watch, watched
from tests.house_proxy import Got

PAGE = "/simple/pkg/"
JSON_TYPE = "application/vnd.pypi.simple.v1+json"
MIB = 2**20


def listing(files: int, **fields: object) -> bytes:
    entries = [
        {"filename": f"pkg-{n}.0.tar.gz", "url": f"/f/pkg-{n}.0.tar.gz", "hashes": {"sha256": f"{n:064x}"}}
        for n in range(files)
    ]
    return json.dumps({"meta": {"api-version": "1.1"}, "name": "pkg", "files": entries} | fields).encode()


def page(body: bytes, **headers: str) -> Behaviour:
    return status(200, body, Content_Type=JSON_TYPE, **headers)


async def ask(watch: Watch, **headers: str) -> Got:
    await watch.proxy.settled()
    return await watch.proxy.get("/pypi/simple/pkg/", Accept=JSON_TYPE, **headers)


def files_of(got: Got) -> int:
    return len(json.loads(got.body or b"{}")["files"])


# --- U29 ---


def members(count: int) -> bytes:
    return gzip.compress(b'{"a":1}', mtime=0) * count


def gzipped_zeros(size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(bytes(MIB)) for _ in range(size // MIB)), packer.flush()])


ZEROS = gzipped_zeros(128 * MIB)
# gzip is asked for; what comes in another coding is refused by its head.
BOMBS: dict[str, tuple[str, bytes, str]] = {
    "gzip": ("gzip", ZEROS, "bomb"),
    "x-gzip": ("x-gzip", ZEROS, "bomb"),
    "deflate": ("deflate", zlib.compress(bytes(64 * MIB), 9), "unasked_encoding"),
    "1000 members": ("gzip", members(1000), "bomb"),
    "nested": ("gzip, gzip", gzip.compress(ZEROS), "unasked_encoding"),
    "zstd": ("zstd", b"\x28\xb5\x2f\xfd" + bytes(1000), "unasked_encoding"),
    "br": ("br", bytes(1000), "unasked_encoding"),
    "ends early": ("gzip", gzip.compress(listing(50))[:-12], "short_body"),
    "damaged": ("gzip", b"\x1f\x8b\x08\x00 this is not a deflate stream", "bad_encoding"),
}


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


IN_HELPER = [(name, 1500) for name in ("gzip", "1000 members", "ends early")]


@pytest.mark.parametrize(("name", "files"), [*((name, 5) for name in BOMBS), *IN_HELPER])
async def test_u29_a_bomb_never_replaces_an_index(watch: Watch, name: str, files: int) -> None:
    coding, body, kind = BOMBS[name]
    watch.chaos.script(PAGE, page(listing(files)), page(body, Content_Encoding=coding))
    first = await ask(watch)
    assert files_of(first) == files
    await watch.proxy.settled()
    held = watch.proxy.blobs()
    before = resident()
    got = await ask(watch, **AGAIN)
    assert (got.status, got.source, got.body) == (200, "cache", first.body)
    assert "detail=stale-if-error" in got.headers["Cache-Status"]
    assert resident() - before < 32 * MIB
    await watch.proxy.settled()
    assert (await watch.numbers())["artifactproxy_temp_bytes"] == 0
    assert await watch.errors(kind) >= 1
    await watch.told("/pypi/simple/pkg/", kind)
    assert watch.proxy.blobs() == held
    await watch.is_kept()
    watch.chaos.script(PAGE, page(listing(7)))
    assert files_of(await ask(watch, **AGAIN)) == 7


@pytest.mark.parametrize("name", BOMBS)
async def test_u29_a_bomb_where_nothing_is_held_is_a_502(watch: Watch, name: str) -> None:
    coding, body, kind = BOMBS[name]
    watch.chaos.script(PAGE, page(body, Content_Encoding=coding))
    got = await watch.refused("/pypi/simple/pkg/", 502, kind)
    assert got.body
    watch.chaos.script(PAGE, page(listing(3)))
    assert files_of(await ask(watch)) == 3


GARBAGE = b'{"meta": {"api-version": "1.1"}, "name": "pkg", "files": [' + b'{"filename":"x"},' * 400_000
DEEP = b'{"meta":{"api-version":"1.1"},"name":"pkg","files":' + b"[" * 200_000


@pytest.mark.parametrize("body", [GARBAGE, DEEP], ids=["7 MB without an end", "200,000 levels"])
async def test_u29_what_cannot_be_read_costs_the_server_nothing(watch: Watch, body: bytes) -> None:
    """Within ratio and size, and still no document: the helper process finds out."""
    packed = gzip.compress(body, 1, mtime=0)
    watch.chaos.script(PAGE, page(listing(5)), page(body), page(packed, Content_Encoding="gzip"))
    first = await ask(watch)
    before = resident()
    for _ in range(2):
        got = await ask(watch, **AGAIN)
        assert (got.status, got.source, got.body) == (200, "cache", first.body)
    assert resident() - before < 32 * MIB
    line = await watch.line("fill", path="simple/pkg/", result="failed")
    assert line["error"] in ("bad_index", "bomb")
    await watch.is_kept()


async def test_u29_an_index_above_its_limit_is_cut(tmp_path: Path, chaos: Chaos) -> None:
    async with watched(tmp_path, chaos, extra="max_index: 100KB") as watch:
        chaos.script(PAGE, page(listing(5)), page(listing(3000)))
        first = await ask(watch)
        got = await ask(watch, **AGAIN)
        assert got.body == first.body
        await watch.told("/pypi/simple/pkg/", "too_large")
        assert await watch.errors("too_large") >= 1


# --- U34 ---


def kept_bodies(watch: Watch) -> int:
    with sqlite3.connect(f"file:{watch.proxy.data / 'index.sqlite3'}?mode=ro", uri=True) as db:
        return int(db.execute("SELECT count(*) FROM superseded").fetchone()[0])


async def shrank(watch: Watch) -> float:
    return await watch.grown("index_shrank_total", repo="pypi")


@pytest.mark.parametrize("files", [10, 1500], ids=["small index", "index of the helper process"])
async def test_u34_an_index_that_lost_most_of_its_files_is_served_and_pointed_out(
    watch: Watch, files: int
) -> None:
    left = files * 4 // 10
    watch.chaos.script(PAGE, page(listing(files)), page(listing(left)))
    await ask(watch)
    await watch.proxy.settled()
    held = watch.proxy.blobs()
    got = await ask(watch, **AGAIN)
    assert files_of(got) == left
    assert await shrank(watch) == 1
    line = await watch.warned("index_shrank", path="simple/pkg/")
    assert (line["before"], line["now"]) == (files, left)
    assert set(held) <= set(watch.proxy.blobs()), "the body before it is kept"
    assert kept_bodies(watch) == 1
    await watch.proxy.engine.gc(run=True)
    assert set(held) <= set(watch.proxy.blobs())
    await watch.next_is_right()


@pytest.mark.parametrize("left", [9, 10, 11, 30])
async def test_u34_ordinary_changes_are_not_pointed_out(watch: Watch, left: int) -> None:
    watch.chaos.script(PAGE, page(listing(10)), page(listing(left, versions=["1"])))
    await ask(watch)
    assert files_of(await ask(watch, **AGAIN)) == left
    assert await shrank(watch) == 0
    assert await watch.grown("index_went_back_total") == 0


async def test_u34_an_index_that_goes_back_in_time_is_pointed_out(watch: Watch) -> None:
    new, old = "Tue, 02 Jan 2024 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 GMT"
    watch.chaos.script(
        PAGE, page(listing(10), Last_Modified=new), page(listing(10, versions=["1"]), Last_Modified=old)
    )
    await ask(watch)
    assert (await ask(watch, **AGAIN)).status == 200
    assert await watch.grown("index_went_back_total", repo="pypi") == 1
    line = await watch.warned("index_went_back", path="simple/pkg/")
    assert (line["before"], line["now"]) == (new, old)
    assert await shrank(watch) == 0
    assert kept_bodies(watch) == 1


async def test_u34_an_index_that_nobody_reads_is_followed_quietly(watch: Watch) -> None:
    """A generic document lists nothing that we know of."""
    watch.chaos.script(INDEX, status(200, b"[]"))
    got = await watch.proxy.get(f"/files{INDEX}", **AGAIN)
    assert got.body == b"[]"
    assert await watch.grown("index_shrank_total") == 0
    assert kept_bodies(watch) == 1
