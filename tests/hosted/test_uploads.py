"""Uploads in pieces: E10, C15, E11 of the corpus, and two processes that share one upload."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from artifactproxy.hosted.uploads import sweep_uploads
from tests.hosted.rig import NAME, Rig, code, rig, sha256

MIB = 2**20


async def patched(reg: Rig, where: str, piece: bytes, start: int) -> int:
    got = await reg.ask("PATCH", where, piece, Content_Range=f"{start}-{start + len(piece) - 1}")
    return got.status


@pytest.mark.parametrize("cuts", [[300_000], [1, 2], [100_000, 200_000, 299_999], []])
async def test_e10_in_pieces(reg: Rig, cuts: list[int]) -> None:
    body = os.urandom(300_000)
    where = await reg.begun()
    bounds = [0, *cuts]
    for start, stop in zip(bounds, cuts, strict=False):
        assert await patched(reg, where, body[start:stop], start) == 202
        status = await reg.ask("GET", where)
        assert (status.status, status.headers["Range"]) == (204, f"0-{stop - 1}")
    rest = body[bounds[-1] :]
    got = await reg.ask("PUT", f"{where}?digest={sha256(body)}", rest)
    assert (got.status, got.headers["Location"]) == (201, f"{reg.base}{NAME}/blobs/{sha256(body)}")
    assert (await reg.ask("GET", got.headers["Location"])).body == body
    assert (await reg.ask("GET", where)).status == 404
    await reg.quiet()
    assert await reg.rows() == [f"team/app blob:{sha256(body)}"]


async def test_one_piece_is_the_blob(reg: Rig) -> None:
    """As docker pushes: its bytes are stored once and never looked at again."""
    body = os.urandom(6 * MIB)
    where = await reg.begun()
    assert (await reg.ask("PATCH", where, body)).status == 202
    puts = _puts(reg)
    assert (await reg.ask("PUT", f"{where}?digest={sha256(body)}")).status == 201
    assert _puts(reg) == puts
    assert reg.blobs() == {sha256(body)[7:]}


def _puts(reg: Rig) -> int:
    if reg.bucket is None:
        return 0
    return reg.bucket.count("PutObject") + reg.bucket.count("UploadPart")


async def test_the_empty_blob_in_pieces(reg: Rig) -> None:
    where = await reg.begun()
    assert (await reg.ask("GET", where)).headers["Range"] == "0-0"
    assert (await reg.ask("PATCH", where, b"")).status == 202
    assert (await reg.ask("PUT", f"{where}?digest={sha256(b'')}")).status == 201


async def test_e10_pieces_come_in_order(reg: Rig) -> None:
    where = await reg.begun()
    assert await patched(reg, where, b"0123456789", 0) == 202
    for start in (0, 9, 11, 100):
        got = await reg.ask("PATCH", where, b"abc", Content_Range=f"{start}-{start + 2}")
        assert (got.status, got.headers["Range"]) == (416, "0-9")
        assert got.headers["Location"] == where
    for text in ("3", "abc-def", "10-9", "10-99", "-5"):
        got = await reg.ask("PATCH", where, b"abc", Content_Range=text)
        assert got.status == 400, text
    got = await reg.ask("PUT", f"{where}?digest={sha256(b'0123456789x')}", b"x", Content_Range="11-11")
    assert got.status == 416
    assert (await reg.ask("PUT", f"{where}?digest={sha256(b'0123456789x')}", b"x")).status == 201


async def test_e10_a_wrong_end_leaves_nothing(reg: Rig) -> None:
    for pieces in ([b"one"], [b"one", b"two"], []):
        where = await reg.begun()
        for piece in pieces:
            await reg.ask("PATCH", where, piece)
        got = await reg.ask("PUT", f"{where}?digest={sha256(b'something else')}", b"" if pieces else b"x")
        assert (got.status, code(got)) == (400, "DIGEST_INVALID")
        assert (await reg.ask("GET", where)).status == 404
    await reg.quiet()
    assert await reg.rows() == []
    where = await reg.begun()
    got = await reg.ask("PUT", where, b"x")
    assert (got.status, code(got)) == (400, "DIGEST_INVALID")


async def test_e10_cancelled(reg: Rig) -> None:
    where = await reg.begun()
    await reg.ask("PATCH", where, b"some")
    assert (await reg.ask("DELETE", where)).status == 204
    for method in ("GET", "PATCH", "DELETE"):
        got = await reg.ask(method, where, b"" if method == "PATCH" else None)
        assert (got.status, code(got)) == (404, "BLOB_UPLOAD_UNKNOWN")
    await reg.quiet()
    assert await reg.rows() == []


async def test_an_upload_belongs_to_its_name(reg: Rig) -> None:
    where = await reg.begun()
    stranger = where.replace("team/app", "team/other")
    assert (await reg.ask("PATCH", stranger, b"x")).status == 404
    assert (await reg.ask("DELETE", stranger)).status == 404
    assert (await reg.ask("GET", where)).status == 204


async def test_two_pieces_for_one_place(reg: Rig) -> None:
    where = await reg.begun()
    pieces = [bytes([number]) * 100_000 for number in range(6)]
    told = await asyncio.gather(*(reg.ask("PATCH", where, piece) for piece in pieces))
    won = [piece for piece, got in zip(pieces, told, strict=True) if got.status == 202]
    assert {got.status for got in told} <= {202, 416}
    # Each that was taken stands behind the one before it.
    size = int((await reg.ask("GET", where)).headers["Range"].partition("-")[2]) + 1
    assert size == 100_000 * len(won)


async def test_an_end_that_was_answered_to_nobody_is_answered_again(reg: Rig) -> None:
    where = await reg.begun()
    await reg.ask("PATCH", where, b"whole")
    ends = await asyncio.gather(*(reg.ask("PUT", f"{where}?digest={sha256(b'whole')}") for _ in range(4)))
    assert {got.status for got in ends} == {201}, "what another one ended is ended well"
    assert (await reg.ask("PUT", f"{where}?digest={sha256(b'whole')}")).status == 201
    assert (await reg.ask("PUT", f"{where}?digest={sha256(b'other')}")).status == 404


async def test_c15_a_piece_that_is_cut_is_sent_again(reg: Rig) -> None:
    body = os.urandom(900_000)
    where = await reg.begun()
    await patched(reg, where, body[:300_000], 0)
    for at in (1, 299_999):
        _, writer = await reg.raw()
        path = where.removeprefix(reg.base)
        writer.write(reg.head("PATCH", path, "Content-Length: 300000") + body[300_000 : 300_000 + at])
        await writer.drain()
        writer.close()
    await asyncio.sleep(0.1)
    assert (await reg.ask("GET", where)).headers["Range"] == "0-299999"
    assert await patched(reg, where, body[300_000:], 300_000) == 202
    assert (await reg.ask("PUT", f"{where}?digest={sha256(body)}")).status == 201
    assert (await reg.ask("GET", f"{NAME}/blobs/{sha256(body)}")).body == body


async def test_in_pieces_under_sha512(reg: Rig) -> None:
    body, where = os.urandom(10_000), await reg.begun()
    await reg.ask("PATCH", where, body)
    digest = f"sha512:{hashlib.sha512(body).hexdigest()}"
    assert (await reg.ask("PUT", f"{where}?digest={digest}")).status == 201
    assert (await reg.ask("GET", f"{NAME}/blobs/{digest}")).body == body


async def test_c17_no_more_than_the_cap_in_all(tmp_path: Path) -> None:
    async with rig(tmp_path / "a", limits={"blob_bytes": 1000}) as reg:
        where = await reg.begun()
        assert (await reg.ask("PATCH", where, bytes(600))).status == 202
        assert (await reg.ask("PATCH", where, bytes(401))).status == 413
        assert (await reg.ask("PATCH", where, bytes(400))).status == 202
        assert (await reg.ask("PATCH", where, bytes(1))).status == 413


async def test_e11_so_many_of_one_caller_and_they_end(tmp_path: Path) -> None:
    async with rig(tmp_path / "a", limits={"upload_sessions": 3, "upload_idle": "1h"}) as reg:
        opened = [await reg.begun() for _ in range(3)]
        await reg.ask("PATCH", opened[0], b"piece")
        got = await reg.ask("POST", f"{NAME}/blobs/uploads/")
        assert (got.status, code(got)) == (429, "TOOMANYREQUESTS")
        other = await reg.given("push")
        assert (await reg.ask("POST", f"{NAME}/blobs/uploads/", token=other)).status == 202
        reg.clock.ahead = 3000.0
        await reg.ask("PATCH", opened[1], b"still going on")
        assert await sweep_uploads(reg.registry._kit) == 0
        reg.clock.ahead = 3700.0
        assert await sweep_uploads(reg.registry._kit) == 3
        assert [(await reg.ask("GET", where)).status for where in opened] == [404, 204, 404]
        reg.clock.ahead = 0.0
        await reg.ask("DELETE", opened[1])


async def test_what_a_push_that_died_has_held_is_let_go(reg: Rig) -> None:
    received = await reg.registry._kit.receiving.receive(
        _once(b"never published"), repo="images", name="team/app", most=100
    )
    assert len(await reg.rows()) == 1
    assert await sweep_uploads(reg.registry._kit) == 0
    reg.clock.ahead = 90_000.0
    assert await sweep_uploads(reg.registry._kit) == 1
    assert await reg.rows() == []
    reg.clock.ahead = 0.0
    assert [ref.sha256 for ref in await reg.engine.parts.ledger.condemned(10**12, 9)] == [received.ref.sha256]


async def _once(body: bytes):  # type: ignore[no-untyped-def]
    yield body
