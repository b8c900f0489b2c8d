"""U22, U27, U28, U30, U33: complete bodies that are wrong, too long, compressed or empty."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from pathlib import Path

import pytest

from tests.chaos import Chaos, Oracle
from tests.chaos.behaviours import empty, endless, flip, gzipped, longer, ok, raw
from tests.faults.watch import BIG, PKG, SMALL, Watch, promised, watched, whole
from tests.house_proxy import promise

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


# --- U22: wrong bytes ---


@pytest.mark.parametrize("at", [0, 0.5, -1], ids=["first", "middle", "last"])
async def test_u22_one_wrong_bit_and_a_crowd(watch: Watch, at: float) -> None:
    path, body = promised(watch, flip(at))
    answers = await asyncio.gather(*(watch.proxy.get(path) for _ in range(100)))
    assert not [a for a in answers if a.status == 200 and a.body is not None], "nobody holds a whole 200"
    await watch.told(path, "digest")
    assert await watch.grown("integrity_failures_total", where="upstream") >= 1
    assert (await watch.warned("broken_promise", path=path.removeprefix("/pypi/")))["detail"]
    assert body.sha256 not in [blob.name for blob in watch.proxy.blobs()]
    await watch.is_kept()
    await watch.next_is_right(path)


@pytest.mark.parametrize("at", [0, 0.5, -1], ids=["first", "middle", "last"])
async def test_u22_small_wrong_bytes_are_asked_for_once_more(watch: Watch, at: float) -> None:
    path, _ = promised(watch, flip(at), size=SMALL)
    got = await watch.proxy.get(path)
    assert (got.status, got.error) == (502, "digest")
    assert watch.chaos.hits(PKG) == 2
    assert watch.chaos.last(PKG).headers["cache-control"] == "no-cache"
    assert await watch.grown("integrity_failures_total", where="upstream") == 2
    await watch.told(path, "digest")
    await watch.next_is_right(path, SMALL)


async def test_u22_a_bad_cache_on_the_way_is_stepped_over(watch: Watch) -> None:
    path, body = promised(watch, flip(0.5), ok(), size=SMALL)
    await whole(watch, path, body)
    assert await watch.grown("integrity_failures_total", where="upstream") == 1


# --- U27, U28: too long ---


@pytest.mark.parametrize("known", [True, False], ids=["promised before", "promised meanwhile"])
async def test_u27_longer_than_promised_is_cut(watch: Watch, known: bool) -> None:
    path, _ = promised(watch, longer(5000))
    if known:
        await watch.proxy.get("/pypi/simple/pkg/")
    got = await watch.proxy.get(path)
    assert got.body is None or got.status == 502
    await watch.proxy.settled()
    line = await watch.line("fill", path=path.removeprefix("/pypi/"), result="failed")
    assert line["error"] in ("too_large", "overlong", "size")
    await watch.next_is_right(path)


async def test_u27_an_endless_body_ends_at_the_promised_size(watch: Watch) -> None:
    path, _ = promised(watch, endless())
    got = await watch.proxy.get(path)
    assert got.body is None or got.status == 502
    await watch.told(path, "overlong")
    assert await watch.errors("overlong") == 1
    await watch.next_is_right(path)


async def test_u28_an_endless_body_ends_at_the_limit(tmp_path: Path, chaos: Chaos) -> None:
    async with watched(tmp_path, chaos, extra="max_artifact: 5MB") as watch:
        chaos.script("/f.bin", endless())
        await watch.reset("/files/f.bin", "too_large")
        assert (await watch.numbers())["artifactproxy_temp_bytes"] == 0
        assert watch.proxy.temp_files() == []
        await watch.is_kept()
        await watch.next_is_right()


async def test_u28_an_endless_body_ends_at_the_temp_quota(tmp_path: Path, chaos: Chaos) -> None:
    top = "limits: {temp_bytes: 4MB}"
    async with watched(tmp_path, chaos, extra="max_artifact: 50MB", top=top) as watch:
        chaos.script("/f.bin", endless())
        held = watch.proxy.blobs()
        got = await watch.proxy.get("/files/f.bin")
        assert got.body is None
        await watch.proxy.settled()
        assert (await watch.numbers())["artifactproxy_temp_bytes"] == 0
        assert watch.proxy.blobs() == held
        line = await watch.line("fill", path="f.bin", result="failed")
        assert line["error"] == "store_full"
        assert await watch.grown("store_errors_total", kind="store_full") >= 1
        body = chaos.script("/f.bin", ok(), size=BIG)
        got = await watch.proxy.get("/files/f.bin")
        assert (got.status, got.body) == (200, body.bytes()), "right, though perhaps not kept for a moment"


# --- U30, U33 ---


async def test_u30_unasked_coding_passes_with_its_header_and_is_not_kept(watch: Watch) -> None:
    watch.chaos.script("/f.bin", gzipped(), size=BIG)
    held = watch.proxy.blobs()
    got = await watch.proxy.get("/files/f.bin")
    assert (got.status, got.headers["Content-Encoding"]) == (200, "gzip")
    assert "bypass" in got.headers["Cache-Status"]
    await watch.proxy.settled()
    assert watch.proxy.blobs() == held
    assert (await watch.line("fill", path="f.bin"))["result"] == "unstored"
    await watch.next_is_right()


async def test_u30_a_promise_judges_the_bytes_as_they_came(watch: Watch) -> None:
    body = watch.chaos.script(PKG, gzipped(), size=SMALL)
    sent = gzip.compress(body.bytes(), mtime=0)
    twin = Oracle(PKG, len(sent))
    path = promise(watch.chaos, PKG[1:], twin, sha256=hashlib.sha256(sent).hexdigest())
    got = await watch.proxy.get(path)
    assert (got.status, got.body) == (200, sent)
    assert "Content-Encoding" not in got.headers
    await watch.proxy.settled()
    assert (await watch.proxy.get(path)).source == "cache"


async def test_u30_a_promise_of_the_decoded_file_is_broken(watch: Watch) -> None:
    path, body = promised(watch, gzipped(), size=SMALL)
    got = await watch.proxy.get(path)
    assert got.status == 502
    assert body.sha256 not in [blob.name for blob in watch.proxy.blobs()]
    await watch.next_is_right(path, SMALL)


@pytest.mark.parametrize("chunked", [False, True], ids=["length 0", "chunked"])
async def test_u33_an_empty_body_is_not_an_artifact(watch: Watch, chunked: bool) -> None:
    nothing = raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", close=False)
    watch.chaos.script("/f.bin", nothing if chunked else empty())
    await watch.refused("/files/f.bin", 502, "empty")
    await watch.next_is_right()


async def test_u33_the_empty_file_itself_is_fine(watch: Watch) -> None:
    path, body = promised(watch, ok(), size=0)
    assert body.sha256 == EMPTY_SHA256
    await whole(watch, path, body)


async def test_u33_an_empty_file_with_another_digest_is_refused(watch: Watch) -> None:
    path, _ = promised(watch, empty(), size=SMALL)
    got = await watch.proxy.get(path)
    assert got.status == 502
    await watch.next_is_right(path, SMALL)
