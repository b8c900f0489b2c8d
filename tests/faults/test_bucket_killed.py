"""The program is killed in the middle of an upload: after the next start nothing of it is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from artifactproxy.inspection import fsck
from tests.bucket import Bucket
from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.faults.bucketed import BIG, BLOBS, PATIENT, SMALL, consistent, top_keys
from tests.faults.machine import command, program, until
from tests.house_proxy import configuration, promise

PLACES = [
    "upload.intended=kill",
    "upload.created=kill",
    "upload.part=kill@1",
    "upload.part=kill@3",
    "upload.sent=kill",
    "upload.completed=kill",
]
OLD = 3700.0  # seconds after which an object without a row is nobody's


def blobs(bucket: Bucket) -> set[str]:
    return {key.rpartition("/")[2] for key in bucket.objects if key.startswith(BLOBS)}


@pytest.mark.parametrize("promised", [True, False], ids=["promised", "unpromised"])
@pytest.mark.parametrize(
    ("place", "lists"), [(place, True) for place in PLACES] + [("upload.created=kill", False)]
)
async def test_s05_a_program_killed_while_it_uploads_leaves_nothing(
    tmp_path: Path, chaos: Chaos, promised: bool, place: str, lists: bool
) -> None:
    """`lists` False: as buckets that list the uploads of one exact key only."""
    async with Bucket(lists_uploads=lists) as bucket:
        limits = {"sweep_every": "200ms", "blob_grace": "0s"}
        top = top_keys(bucket, tmp_path, limits=limits, store={"parts": 1, "local_tier": 0})
        configuration(tmp_path, chaos.origin, PATIENT, "", top)
        path, body = "/files/f.bin", chaos.script("/f.bin", ok(), size=BIG)
        if promised:
            body = chaos.script("/f-1.0.tar.gz", ok(), size=BIG)
            path = promise(chaos, "f-1.0.tar.gz", body)
        async with program(tmp_path, env={"ARTIFACTPROXY_FAILPOINTS": place}) as running:
            if promised:
                assert (await running.get("/pypi/simple/f/")).status == 200
            got = await running.get(path)
            assert got.body in (None, body.bytes()), "short and yet complete"
            assert await running.ended() == -9
        assert len(bucket.contents.uploads) == (0 if "completed" in place or "intended" in place else 1)
        assert (body.sha256 in blobs(bucket)) == ("completed" in place)
        config = configuration(tmp_path, chaos.origin, PATIENT, "", top)
        lines = [line async for line in fsck(config, full=True, repair=False)]
        wrong = [line["finding"] for line in lines if "finding" in line and not line["finding"].get("note")]
        assert wrong == [], "what the dead one left is consistent as it lies"
        bucket.ahead = OLD
        async with program(tmp_path) as running:
            await until(lambda: not bucket.contents.uploads)
            code, said = await command(tmp_path, "gc", "--run", "--json")
            assert code == 0, said
            assert body.sha256 not in blobs(bucket), "nobody's object"
            for _ in range(2):
                got = await running.get(path)
                assert (got.status, got.body == body.bytes()) == (200, True)
                await until(lambda: body.sha256 in blobs(bucket))
            small = chaos.script("/next.bin", ok(), size=SMALL)
            assert (await running.get("/files/next.bin")).body == small.bytes()
            await until(lambda: small.sha256 in blobs(bucket))
            assert await running.stop() == 0
        assert bucket.contents.uploads == {}
        bucket.ahead = 0.0
        await consistent(tmp_path, chaos, bucket, top)
