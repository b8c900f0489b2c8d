"""Blobs in one request: E4 to E9 and E12, C15 to C18, and who may read what."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from tests.hosted.rig import NAME, Rig, code, rig, sha256

MIB = 2**20
PART = 5 * MIB
SIZES = [0, 1, 256 * 1024, 256 * 1024 + 1, 2 * PART + 7]


@pytest.mark.parametrize("size", SIZES)
async def test_pushed_in_one_request_and_read_back(reg: Rig, size: int) -> None:
    body = os.urandom(size)
    digest = sha256(body)
    got = await reg.ask("POST", f"{NAME}/blobs/uploads/?digest={digest}", body)
    assert (got.status, got.headers["Docker-Content-Digest"]) == (201, digest)
    assert got.headers["Location"] == f"{reg.base}{NAME}/blobs/{digest}"
    back = await reg.ask("GET", got.headers["Location"], token="")
    assert (back.status, back.body == body, back.headers["Docker-Content-Digest"]) == (200, True, digest)
    head = await reg.ask("HEAD", f"{NAME}/blobs/{digest}")
    assert (head.status, head.headers["Content-Length"]) == (200, str(size))
    assert reg.blobs() == {digest[7:]}
    assert await reg.rows() == [f"team/app blob:{digest}"]


async def test_put_under_its_digest(reg: Rig) -> None:
    body = os.urandom(PART + 1)
    got = await reg.ask("PUT", f"{NAME}/blobs/{sha256(body)}", body)
    assert got.status == 201
    assert (await reg.ask("GET", f"{NAME}/blobs/{sha256(body)}")).body == body


async def test_by_the_other_address(reg: Rig) -> None:
    """The base with the repository first; every address in an answer is of that kind."""
    body = b"the same place"
    got = await reg.ask("POST", f"/images/v2/team/app/blobs/uploads/?digest={sha256(body)}", body)
    assert got.headers["Location"] == f"{reg.base}/images/v2/team/app/blobs/{sha256(body)}"
    assert (await reg.ask("GET", got.headers["Location"])).body == body
    assert (await reg.ask("GET", f"{NAME}/blobs/{sha256(body)}")).body == body


async def test_ranges(reg: Rig) -> None:
    body = os.urandom(300_000)
    await reg.pushed(body)
    got = await reg.ask("GET", f"{NAME}/blobs/{sha256(body)}", Range="bytes=1000-1999")
    assert (got.status, got.body) == (206, body[1000:2000])
    assert got.headers["Content-Range"] == f"bytes 1000-1999/{len(body)}"
    got = await reg.ask("GET", f"{NAME}/blobs/{sha256(body)}", Range="bytes=300000-")
    assert got.status == 416


@pytest.mark.parametrize("size", SIZES[1:])
async def test_c16_e4_a_wrong_digest_leaves_nothing(reg: Rig, size: int) -> None:
    body = os.urandom(size)
    wrong = sha256(body + b"!")
    for method, path in (("POST", f"{NAME}/blobs/uploads/?digest={wrong}"), ("PUT", f"{NAME}/blobs/{wrong}")):
        got = await reg.ask(method, path, body)
        assert (got.status, code(got)) == (400, "DIGEST_INVALID")
    await reg.quiet()
    assert (reg.blobs(), await reg.rows()) == (set(), [])


async def test_e5_a_bad_push_beside_a_good_one_harms_nothing(reg: Rig) -> None:
    """Two pushes of one digest, one of them of other bytes."""
    body = os.urandom(2 * PART + 3)
    other = bytearray(body)
    other[-1] ^= 1
    target = f"{NAME}/blobs/uploads/?digest={sha256(body)}"
    for _ in range(3):
        good, bad = await asyncio.gather(reg.ask("POST", target, body), reg.ask("POST", target, bytes(other)))
        assert good.status == 201
        assert bad.status in (400, 201), "only where the good one was there before its body was read"
        assert (await reg.ask("GET", f"{NAME}/blobs/{sha256(body)}")).body == body
    assert reg.blobs() == {sha256(body)[7:]}


async def test_c17_e7_over_the_cap_is_told_at_once(tmp_path: Path) -> None:
    async with rig(tmp_path / "a", limits={"blob_bytes": 100_000}) as reg:
        body = os.urandom(100_001)
        reader, writer = await reg.raw()
        path = f"{NAME}/blobs/uploads/?digest={sha256(body)}"
        writer.write(reg.head("POST", path, f"Content-Length: {len(body)}"))
        status = await asyncio.wait_for(reader.readline(), 20)
        assert b" 413 " in status, "before a byte of it was sent"
        writer.close()

        async def endless():  # type: ignore[no-untyped-def]
            for _ in range(20):
                yield os.urandom(20_000)

        got = await reg.ask("POST", path, endless())
        assert (got.status, code(got)) == (413, "SIZE_INVALID")
        assert (await reg.ask("POST", path, body[:100_000])).status == 400
        assert reg.blobs() == set()


async def test_e9_what_is_here_is_answered_before_its_body(reg: Rig) -> None:
    body = os.urandom(PART)
    await reg.pushed(body)
    reader, writer = await reg.raw()
    lines = f"Content-Length: {len(body)}", "Expect: 100-continue"
    writer.write(reg.head("POST", f"{NAME}/blobs/uploads/?digest={sha256(body)}", *lines))
    assert b" 201 " in await asyncio.wait_for(reader.readline(), 20)
    writer.close()
    if reg.bucket is not None:
        assert reg.bucket.count("UploadPart") + reg.bucket.count("PutObject") == 1


async def test_what_is_not_here_is_asked_to_go_on(reg: Rig) -> None:
    body = os.urandom(70_000)
    reader, writer = await reg.raw()
    lines = f"Content-Length: {len(body)}", "Expect: 100-continue"
    writer.write(reg.head("PUT", f"{NAME}/blobs/{sha256(body)}", *lines))
    assert b" 100 " in await asyncio.wait_for(reader.readline(), 20)
    writer.write(body)
    await reader.readline()
    assert b" 201 " in await asyncio.wait_for(reader.readline(), 20)
    writer.close()


@pytest.mark.parametrize("at", [1, PART - 1, PART, PART + 1, 2 * PART - 1, 2 * PART, 2 * PART + 1])
async def test_c15_e6_a_push_that_is_cut_leaves_nothing(reg: Rig, at: int) -> None:
    body = os.urandom(2 * PART + 7)
    for abruptly in (False, True):
        _, writer = await reg.raw()
        path = f"{NAME}/blobs/uploads/?digest={sha256(body)}"
        writer.write(reg.head("POST", path, f"Content-Length: {len(body)}") + body[:at])
        await writer.drain()
        await asyncio.sleep(0.05)
        if abruptly:
            writer.transport.abort()
        writer.close()
    await reg.quiet()
    assert (reg.blobs(), await reg.rows()) == (set(), [])
    assert (await reg.ask("GET", f"{NAME}/blobs/{sha256(body)}")).status == 404
    await reg.pushed(body)


async def test_c15_a_body_that_stops_coming(tmp_path: Path) -> None:
    async with rig(tmp_path / "a", limits={"keepalive": "300ms"}) as reg:
        body = os.urandom(400_000)
        reader, writer = await reg.raw()
        path = f"{NAME}/blobs/uploads/?digest={sha256(body)}"
        writer.write(reg.head("POST", path, f"Content-Length: {len(body)}") + body[:300_000])
        assert b" 408 " in await asyncio.wait_for(reader.readline(), 20)
        writer.close()
        await reg.quiet()
        assert reg.blobs() == set()


async def test_c18_many_at_once_are_one_blob(reg: Rig) -> None:
    body = os.urandom(300_000)
    told = await asyncio.gather(
        *(reg.ask("POST", f"{NAME}/blobs/uploads/?digest={sha256(body)}", body) for _ in range(50))
    )
    assert [got.status for got in told] == [201] * 50
    assert reg.blobs() == {sha256(body)[7:]}
    await reg.quiet()
    assert await reg.rows() == [f"team/app blob:{sha256(body)}"]


async def test_e12_digests_are_strict(reg: Rig) -> None:
    right = sha256(b"a")
    for wrong in (
        right.upper(),
        right[:-1],
        right + "0",
        "sha256:" + "g" * 64,
        "md5:" + "0" * 32,
        "sha512:" + "0" * 64,
        "sha256",
        "sha256:",
    ):
        got = await reg.ask("POST", f"{NAME}/blobs/uploads/?digest={wrong}", b"a")
        assert (got.status, code(got)) == (400, "DIGEST_INVALID"), wrong
    assert reg.blobs() == set()


async def test_e12_sha512_is_spoken(reg: Rig) -> None:
    body = os.urandom(300_000)
    digest = f"sha512:{hashlib.sha512(body).hexdigest()}"
    wrong = await reg.ask("POST", f"{NAME}/blobs/uploads/?digest={digest}", body + b"!")
    assert (wrong.status, code(wrong)) == (400, "DIGEST_INVALID")
    assert (await reg.ask("POST", f"{NAME}/blobs/uploads/?digest={digest}", body)).status == 201
    got = await reg.ask("GET", f"{NAME}/blobs/{digest}")
    assert (got.body == body, got.headers["Docker-Content-Digest"]) == (True, digest)
    # It was given to this name under that digest only.
    assert (await reg.ask("GET", f"{NAME}/blobs/{sha256(body)}")).status == 404


async def test_a_blob_is_read_only_where_it_was_given_to(reg: Rig) -> None:
    digest = await reg.pushed(b"a secret of one team")
    other = "/v2/images/other/app"
    for method in ("GET", "HEAD"):
        assert (await reg.ask(method, f"{other}/blobs/{digest}")).status == 404
    # Who only knows the digest must bring the bytes.
    reader, writer = await reg.raw()
    writer.write(reg.head("PUT", f"{other}/blobs/{digest}", "Content-Length: 20", "Expect: 100-continue"))
    assert b" 100 " in await asyncio.wait_for(reader.readline(), 20)
    writer.close()
    got = await reg.ask("POST", f"{other}/blobs/uploads/?mount={digest}&from=images/team/app")
    assert (got.status, got.headers["Docker-Content-Digest"]) == (201, digest)
    assert (await reg.ask("GET", f"{other}/blobs/{digest}")).body == b"a secret of one team"


async def test_mounts(reg: Rig) -> None:
    digest = await reg.pushed(b"to be mounted")
    for query in ("from=team/app", "from=images/team/app", ""):
        got = await reg.ask("POST", f"/v2/images/n{len(query)}/blobs/uploads/?mount={digest}&{query}")
        wanted = 202 if query == "from=team/app" else 201
        assert got.status == wanted, query
    got = await reg.ask("POST", f"/images/v2/inner/blobs/uploads/?mount={digest}&from=team/app")
    assert got.status == 201
    for source in ("images/nothing", "elsewhere/team/app"):
        got = await reg.ask("POST", f"/v2/images/z/blobs/uploads/?mount={digest}&from={source}")
        assert got.status == 202, "an upload is begun instead"
    got = await reg.ask("POST", "/v2/images/z/blobs/uploads/?mount=sha256:12&from=images/team/app")
    assert (got.status, code(got)) == (400, "DIGEST_INVALID")


async def test_deleted_by_name(reg: Rig) -> None:
    digest = await reg.pushed(b"to be deleted")
    await reg.ask("POST", f"/v2/images/other/blobs/uploads/?mount={digest}&from=images/team/app")
    assert (await reg.ask("DELETE", f"{NAME}/blobs/{digest}")).status == 202
    assert (await reg.ask("GET", f"{NAME}/blobs/{digest}")).status == 404
    got = await reg.ask("DELETE", f"{NAME}/blobs/{digest}")
    assert (got.status, code(got)) == (404, "BLOB_UNKNOWN")
    assert (await reg.ask("GET", f"/v2/images/other/blobs/{digest}")).status == 200


async def test_nothing_pushed_is_evicted_or_purged(reg: Rig) -> None:
    digest = await reg.pushed(os.urandom(100_000))
    janitor = reg.engine._janitor
    assert await janitor.evict(10**12) == (0, 0)
    assert await janitor.collect(0.0) == (0, 0)
    got = await reg.ask("GET", f"{NAME}/blobs/{digest}")
    assert got.status == 200
    with pytest.raises(Exception, match="takes pushes"):
        await reg.engine.purge("images")
