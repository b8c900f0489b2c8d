"""Pushes into a bucket: E1 to E3, E6 and E8, and a store that fails on the way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.bucket import Bucket, refuse, reset
from tests.hosted.rig import NAME, Rig, rig, sha256

MIB = 2**20
PART = 5 * MIB


@pytest.fixture
async def far(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path / "a", bucket=Bucket(), limits={"log_every": "5ms"}) as running:
        yield running


def written() -> int:
    """Bytes that this process has caused to be written to a disk, or may yet (proc_pid_io(5))."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("write_bytes")).split()[1])


async def test_e1_nothing_of_a_push_is_written_to_this_disk(far: Rig) -> None:
    for target in (f"{NAME}/blobs/uploads/?digest=", f"{NAME}/blobs/"):
        body = os.urandom(8 * PART)
        method = "POST" if target.endswith("=") else "PUT"
        before, seen = written(), set[str]()

        async def slowly(body: bytes = body, seen: set[str] = seen):  # type: ignore[no-untyped-def]
            for start in range(0, len(body), MIB):
                yield body[start : start + MIB]
                seen.update(far.temp_files())
                await asyncio.sleep(0)

        got = await far.ask(method, target + sha256(body), slowly(), Content_Length=str(len(body)))
        assert got.status == 201
        assert seen == set(), "no temporary file at any moment"
        assert written() - before < MIB, "rows and the log, and nothing of the body"
        assert (await far.ask("GET", f"{NAME}/blobs/{sha256(body)}")).body == body


async def test_e2_what_lies_in_memory_is_bounded(far: Rig) -> None:
    """However many pushes there are, and however slow the bucket is."""
    budget = far.engine.parts.truth.budget  # type: ignore[union-attr]
    bodies = [os.urandom(3 * PART + n) for n in range(8)]
    most = 0
    done = asyncio.Event()

    async def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, budget.pieces)
            await asyncio.sleep(0.002)

    watching = asyncio.create_task(watch())
    told = await asyncio.gather(
        *(far.ask("POST", f"{NAME}/blobs/uploads/?digest={sha256(body)}", body) for body in bodies)
    )
    done.set()
    await watching
    assert [got.status for got in told] == [201] * 8
    assert 0 < most <= 64 * MIB
    assert budget.pieces == 0


async def test_e3_parts_leave_while_the_body_arrives(far: Rig) -> None:
    assert far.bucket is not None
    body = os.urandom(3 * PART)
    sent = []

    async def slowly():  # type: ignore[no-untyped-def]
        for start in range(0, len(body), PART):
            yield body[start : start + PART]
            await asyncio.sleep(0.2)
            sent.append(far.bucket.count("UploadPart") if far.bucket else 0)

    got = await far.ask(
        "POST", f"{NAME}/blobs/uploads/?digest={sha256(body)}", slowly(), Content_Length=str(len(body))
    )
    assert got.status == 201
    assert sent[1] >= 1
    assert far.bucket.count("CompleteMultipartUpload") == 1


async def test_e3_an_upload_is_begun_while_its_first_part_arrives(far: Rig) -> None:
    """And ended in the bucket, where nothing else of the body comes."""
    assert far.bucket is not None
    body = os.urandom(3 * PART)
    _, writer = await far.raw()
    writer.write(far.head("PUT", f"{NAME}/blobs/{sha256(body)}", f"Content-Length: {len(body)}"))
    writer.write(body[:100_000])
    async with asyncio.timeout(60):
        while not far.bucket.contents.uploads:
            await asyncio.sleep(0.01)
    assert not far.bucket.count("UploadPart")
    writer.close()
    await far.quiet()
    assert not far.bucket.contents.uploads
    assert far.blobs() == set()


async def test_e4_complete_is_never_asked_for_other_bytes(far: Rig) -> None:
    assert far.bucket is not None
    body = os.urandom(2 * PART + 1)
    got = await far.ask("POST", f"{NAME}/blobs/uploads/?digest={sha256(b'else')}", body)
    assert got.status == 400
    await far.quiet()
    assert far.bucket.count("CompleteMultipartUpload") == far.bucket.count("PutObject") == 0
    assert far.bucket.count("AbortMultipartUpload") == 1


@pytest.mark.parametrize("size", [300_000, 2 * PART + 1])
@pytest.mark.parametrize(
    "op", ["UploadPart", "PutObject", "CreateMultipartUpload", "CompleteMultipartUpload"]
)
async def test_e6_a_store_that_fails_on_the_way(far: Rig, op: str, size: int) -> None:
    """Killed in the middle, or refusing: no 201, and nothing is visible or left over."""
    assert far.bucket is not None
    body = os.urandom(size)
    target = f"{NAME}/blobs/uploads/?digest={sha256(body)}"
    for action in (refuse(403, "AccessDenied"), reset()):
        far.bucket.rule(op, action)
        got = await far.ask("POST", target, body)
        hit = far.bucket.count(op) > 0
        assert got.status == (503 if hit else 201)
        far.bucket.heal()
        far.bucket.history.clear()
        if hit:
            assert (await far.ask("GET", f"{NAME}/blobs/{sha256(body)}")).status == 404
    await far.pushed(body)
    await settle(far)


async def settle(far: Rig) -> None:
    """Uploads of which it is not known how they ended are tidied up later."""
    assert far.bucket is not None
    far.clock.ahead = far.bucket.ahead = 700.0
    await far.engine.parts.truth.tidy()  # type: ignore[union-attr]
    far.clock.ahead = far.bucket.ahead = 0.0


async def test_e6_a_push_goes_on_when_one_part_fails_once(far: Rig) -> None:
    assert far.bucket is not None
    far.bucket.rule("UploadPart", reset(), nth=1)
    body = os.urandom(3 * PART)
    await far.pushed(body)
    assert (await far.ask("GET", f"{NAME}/blobs/{sha256(body)}")).body == body


async def test_the_bucket_cannot_be_asked_whether_a_blob_is_there(far: Rig) -> None:
    """Fail closed: not knowing is no reason to answer 201, nor 404."""
    assert far.bucket is not None
    digest = await far.pushed(b"here")
    far.bucket.rule("HeadObject", refuse(403, "AccessDenied"))
    far.bucket.rule("GetObject", refuse(403, "AccessDenied"))
    assert (await far.ask("HEAD", f"{NAME}/blobs/{digest}")).status == 503
    assert (await far.ask("POST", f"{NAME}/blobs/uploads/?digest={digest}", b"here")).status == 503
    far.bucket.heal()
    assert (await far.ask("GET", f"{NAME}/blobs/{digest}")).body == b"here"


async def test_what_the_store_has_lost_is_mended_by_pushing_again(far: Rig) -> None:
    assert far.bucket is not None
    digest = await far.pushed(b"lost and found")
    (key,) = [key for key in far.bucket.objects if digest[7:] in key]
    far.bucket.objects.pop(key)
    got = await far.ask("GET", f"{NAME}/blobs/{digest}")
    assert got.status == 503, "our own trouble is no absence"
    assert (await far.ask("HEAD", f"{NAME}/blobs/{digest}")).status == 404, "so that clients push it"
    await far.pushed(b"lost and found")
    assert (await far.ask("GET", f"{NAME}/blobs/{digest}")).body == b"lost and found"


async def offered(far: Rig, body: bytes, *, sent: bool) -> int:
    """Push in two requests, the second of which waits for the word to go on; how often the bucket was asked
    for a blob from then on. Without `sent` the word must not come."""
    assert far.bucket is not None
    place = (await far.begun()).removeprefix(far.base) + f"?digest={sha256(body)}"
    before = len(far.bucket.history)
    reader, writer = await far.raw()
    writer.write(far.head("PUT", place, f"Content-Length: {len(body)}", "Expect: 100-continue"))
    if sent:
        assert b" 100 " in await reader.readline()
        writer.write(body)
        await reader.readline()
    assert b" 201 " in await reader.readline()
    writer.close()
    return sum("blobs/sha256/" in call.key for call in far.bucket.history[before:])


async def test_e9_what_is_here_costs_one_look_into_the_store(far: Rig) -> None:
    body = os.urandom(PART)
    await far.pushed(body)
    assert await offered(far, body, sent=False) == 1


async def test_what_the_store_has_lost_is_asked_for_again(far: Rig) -> None:
    """Also where the last request of an upload brings all of it."""
    assert far.bucket is not None
    body = os.urandom(70_000)
    digest = await far.pushed(body)
    (key,) = [key for key in far.bucket.objects if digest[7:] in key]
    far.bucket.objects.pop(key)
    await offered(far, body, sent=True)
    assert (await far.ask("GET", f"{NAME}/blobs/{digest}")).body == body
