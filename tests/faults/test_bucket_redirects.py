"""Clients that are sent on to the bucket: who is, what they get there, and for how long."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import aiohttp
import pytest
from yarl import URL

from tests.bucket import refuse
from tests.chaos import Chaos, Oracle
from tests.chaos.behaviours import ok, status
from tests.faults.bucketed import BIG, BLOBS, MIDDLE, SMALL, TIER, Rig, bucketed
from tests.faults.machine import metric

FROM = 100_000  # bytes


def sending(which: str) -> dict[str, object]:
    return {"redirect": which, "redirect_from": FROM, "redirect_for": "60s"}


async def followed(
    rig: Rig, path: str, method: str = "GET", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    """What a client ends up with that goes where it is sent, to the very address it was given."""
    where = URL(rig.proxy.base + path)
    while True:
        asking = rig.proxy.client.request(method, where, headers=headers, allow_redirects=False)
        async with asking as answer:
            if answer.status != 307:
                return answer.status, await answer.read(), dict(answer.headers)
            where = URL(answer.headers["Location"], encoded=True)


async def is_sent_on(rig: Rig, path: str, body: Oracle) -> str:
    """The address in the bucket."""
    got = await rig.proxy.get(path)
    assert (got.status, got.body, got.source) == (307, b"", "cache")
    where = got.headers["Location"]
    assert where.startswith(f"{rig.bucket.endpoint}/artifacts/{BLOBS}{body.sha256[:2]}/{body.sha256}?")
    assert got.headers["Cache-Control"] in ("no-store", "private, no-store"), "an address ends"
    assert rig.bucket.keys["access"].secret not in unquote(where)
    return where


@pytest.mark.parametrize("promised", [True, False], ids=["promised", "unpromised"])
async def test_blobs_are_had_from_the_bucket_itself(tmp_path: Path, chaos: Chaos, promised: bool) -> None:
    async with bucketed(tmp_path, chaos, store=sending("blobs")) as rig:
        path, body = await rig.stored(promised=promised, size=BIG)
        await is_sent_on(rig, path, body)
        status_, got, headers = await followed(rig, path)
        assert (status_, got == body.bytes()) == (200, True)
        assert path.rpartition("/")[2] in headers["Content-Disposition"]
        part = await followed(rig, path, Range="bytes=100-199")
        assert part[:2] == (206, body.slice(100, 200))
        head = await followed(rig, path, "HEAD")
        assert (head[0], head[1]) == (200, b"")
        assert head[2]["Content-Length"] == str(BIG)
        assert await metric(rig.proxy, "redirects_total") >= 3
        assert rig.hits(path) == 1
        small, little = await rig.stored(promised=promised, size=SMALL, name="small")
        await rig.is_hit(small, little)
        tag = (await rig.proxy.get(path, method="HEAD")).headers.get("ETag", "")
        if tag:
            assert (await rig.proxy.get(path, If_None_Match=tag)).status == 304
        await rig.normal()


async def test_a_first_request_is_never_sent_on(tmp_path: Path, chaos: Chaos) -> None:
    async with bucketed(tmp_path, chaos, store=sending("all")) as rig:
        path, body = await rig.given(promised=True, size=BIG)
        await rig.right(path, body, source="remote")
        await is_sent_on(rig, path, body)
        await rig.normal()


@pytest.mark.parametrize("which", ["never", "blobs", "all"])
async def test_indexes_only_where_everything_is_sent_on(tmp_path: Path, chaos: Chaos, which: str) -> None:
    async with bucketed(tmp_path, chaos, store=sending(which)) as rig:
        index = chaos.script("/list.json", ok(Cache_Control="max-age=600"), size=MIDDLE)
        file, body = await rig.stored(promised=True, size=MIDDLE)
        await rig.right("/files/list.json", index)
        page = await rig.proxy.get("/pypi/simple/f/")
        assert page.status == 200
        assert body.sha256.encode() in (page.body or b""), "what is rendered is ours to give"
        codes = [(await rig.proxy.get(path)).status for path in (file, "/files/list.json")]
        assert codes == {"never": [200, 200], "blobs": [307, 200], "all": [307, 307]}[which]
        for path, want in ((file, body), ("/files/list.json", index)):
            assert (await followed(rig, path))[:2] == (200, want.bytes())
        await rig.normal()


async def test_an_address_ends(tmp_path: Path, chaos: Chaos) -> None:
    async with bucketed(tmp_path, chaos, store=sending("blobs")) as rig:
        path, body = await rig.stored(promised=True, size=MIDDLE)
        where = URL(await is_sent_on(rig, path, body), encoded=True)
        async with aiohttp.ClientSession() as stranger:
            async with stranger.get(where) as answer:
                assert (answer.status, await answer.read()) == (200, body.bytes())
            async with stranger.delete(where) as answer:
                assert answer.status == 403, "it is for reading"
            rig.bucket.ahead = 61.0
            async with stranger.get(where) as answer:
                assert answer.status == 403
                assert "expired" in await answer.text()
            rig.bucket.ahead = 0.0
        assert (await followed(rig, path))[:2] == (200, body.bytes()), "the next address is good"
        await rig.normal()


async def test_s06_nobody_is_sent_to_what_is_not_there(tmp_path: Path, chaos: Chaos) -> None:
    async with bucketed(tmp_path, chaos, store=sending("blobs")) as rig:
        path, body = await rig.stored(promised=False, size=MIDDLE)
        del rig.bucket.objects[f"{BLOBS}{body.sha256[:2]}/{body.sha256}"]
        await rig.right(path, body, source="remote")
        await is_sent_on(rig, path, body)
        rig.bucket.damage(f"{BLOBS}{body.sha256[:2]}/{body.sha256}", b"short")
        await rig.right(path, body, source="remote")
        assert rig.quarantined()
        await is_sent_on(rig, path, body)
        await rig.normal()


async def test_s09_nobody_is_sent_to_a_bucket_that_is_away(tmp_path: Path, chaos: Chaos) -> None:
    async with bucketed(tmp_path, chaos, store=sending("blobs")) as rig:
        path, body = await rig.stored(promised=False, size=MIDDLE)
        rig.bucket.rule("*", refuse(503, "SlowDown"))
        got = await rig.proxy.get(path)
        assert (got.status, got.source, got.body == body.bytes()) == (200, "remote", True)
        chaos.script("/f.bin", status(404))
        got = await rig.proxy.get(path)
        assert (got.status, got.error) == (503, "store_away")
        rig.bucket.heal()
        chaos.script("/f.bin", ok(), size=MIDDLE)
        await rig.proxy.settled()
        await is_sent_on(rig, path, body)
        await rig.normal()


async def test_a_copy_is_nearer_than_the_bucket(tmp_path: Path, chaos: Chaos) -> None:
    async with bucketed(tmp_path, chaos, tier=TIER, store=sending("blobs")) as rig:
        path, body = await rig.given(promised=True, size=MIDDLE)
        await rig.right(path, body, source="remote")
        await rig.is_hit(path, body)
        rig.forget_copies()
        await is_sent_on(rig, path, body)
        await rig.normal()
