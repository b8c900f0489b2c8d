"""S3 rows, the bucket itself: credentials that end, a bucket that is closed, another clock, lists of garbage."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.bucket import Action, Bucket, Key, delay, garbage, refuse, stall
from tests.bucket.replies import Reply
from tests.chaos import Chaos, Oracle
from tests.faults.bucketed import BIG, MIDDLE, NO_TIER, SMALL, TIER, Rig, all_right, bucketed
from tests.faults.machine import metric, readiness

TIERS = pytest.mark.parametrize("tier", [NO_TIER, TIER], ids=["no tier", "tier"])
CODES = ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"]
KEYS = "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n"


def rotated(bucket: Bucket, code: str) -> tuple[str, Key]:
    """The bucket takes other keys from now on, and refuses the old ones with this code."""
    new = Key("new-secret")
    name = "access" if code == "SignatureDoesNotMatch" else "fresh"
    if code == "ExpiredToken":
        bucket.keys["access"].ended = True
    elif code == "InvalidAccessKeyId":
        del bucket.keys["access"]
    bucket.keys[name] = new
    return name, new


async def without_the_bucket(rig: Rig, path: str, held: Oracle) -> None:
    """Held or not, clients get their bytes; our trouble is told, and never as an absence."""
    await all_right(rig, path, held, 2)
    cold, body = await rig.given(promised=False, size=SMALL, name="cold")
    got = await rig.proxy.get(cold)
    assert (got.status, got.body) == (200, body.bytes())
    ready, found = await readiness(rig.proxy)
    assert (ready, found["mode"]) == (503, "without store")
    assert await metric(rig.proxy, "degraded", dependency="store") == 1
    assert (await rig.proxy.get("/livez")).status == 200
    missing = await rig.proxy.get("/files/none.bin")
    assert missing.status == 404, "an absence is only what upstream said"


async def is_back(rig: Rig, path: str, held: Oracle) -> None:
    ready, found = await readiness(rig.proxy)
    assert (ready, found["mode"]) == (200, "ok")
    assert await metric(rig.proxy, "degraded", dependency="store") == 0
    await rig.proxy.settled()
    await rig.is_hit(path, held)
    await rig.normal()


# --- S08 -------------------------------------------------------------------------------------


@TIERS
@pytest.mark.parametrize("code", CODES)
async def test_s08_keys_that_are_rotated_under_load_are_looked_for_once_more(
    tmp_path: Path, chaos: Chaos, monkeypatch: pytest.MonkeyPatch, tier: int, code: str
) -> None:
    profile = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    profile.write_text(KEYS.format("access", "secret/+word"))
    chain = {"access_key": None, "secret_key": None}
    async with bucketed(tmp_path, chaos, tier=tier, store=chain) as rig:
        held, body = await rig.stored(promised=True, size=BIG)
        made = [await rig.given(promised=False, size=MIDDLE + n, name=f"n{n}") for n in range(6)]
        new = rotated(rig.bucket, code)
        profile.write_text(KEYS.format(new[0], new[1].secret))
        load = [all_right(rig, *each, 2) for each in [*made, (held, body)]]
        await asyncio.gather(*load)
        await rig.proxy.settled()
        assert all(rig.holds(each) for _, each in made)
        refused = sum(call.code == code for call in rig.bucket.history)
        assert 1 <= refused <= len(load) * 2, "each of those that were under way, once"
        assert (await readiness(rig.proxy))[1]["mode"] == "ok"
        assert not [line for line in rig.proxy.log_lines() if line.get("warning") == "store_waits"]
        for path, each in made:
            await rig.is_hit(path, each)
        await rig.normal()


@pytest.mark.parametrize("code", CODES)
async def test_s08_keys_that_are_not_taken_are_a_store_that_is_away(
    tmp_path: Path, chaos: Chaos, code: str
) -> None:
    async with bucketed(tmp_path, chaos) as rig:
        path, body = await rig.stored(promised=False, size=MIDDLE)
        old = dict(rig.bucket.keys)
        secret = Key(old["access"].secret)
        rotated(rig.bucket, code)
        await without_the_bucket(rig, path, body)
        text = (rig.proxy.log.read_text() + json.dumps(await readiness(rig.proxy))).lower()
        assert secret.secret not in text, "no key is told"
        rig.bucket.keys = {"access": secret}
        await is_back(rig, path, body)


# --- S09 -------------------------------------------------------------------------------------

CLOSED = {
    "no bucket": refuse(404, "NoSuchBucket"),
    "404 of a stranger": Action(reply=lambda: Reply(404, {"Content-Type": "text/html"}, b"<html>not here")),
    "policy": refuse(403, "AccessDenied"),
    "another region": refuse(301, "PermanentRedirect"),
    "a captive portal": garbage(b"<html>please log in"),
    "silence": stall(),
}


@TIERS
@pytest.mark.parametrize("how", CLOSED)
async def test_s09_a_bucket_that_is_closed_is_no_absence(
    tmp_path: Path, chaos: Chaos, tier: int, how: str
) -> None:
    async with bucketed(
        tmp_path, chaos, tier=tier, store={"read": "300ms"}, limits={"watch_every": "1h"}
    ) as rig:
        path, body = await rig.stored(promised=False, size=MIDDLE)
        rows = await rig.rows()
        rig.bucket.rule("*", CLOSED[how])
        await without_the_bucket(rig, path, body)
        await rig.warned("degraded", dependency="store")
        assert set(rows) <= set(await rig.rows()), "no row was forgotten"
        assert rig.holds(body)
        assert rig.quarantined() == []
        rig.bucket.heal()
        await is_back(rig, path, body)


async def test_s09_a_bucket_that_is_down_comes_back_on_its_own(tmp_path: Path, chaos: Chaos) -> None:
    async with bucketed(tmp_path, chaos) as rig:
        path, body = await rig.stored(promised=False, size=MIDDLE)
        port = rig.bucket.port
        await rig.bucket.stop()
        await without_the_bucket(rig, path, body)
        await rig.bucket.start(port)
        await is_back(rig, path, body)


# --- S10 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [3600.0, -3600.0], ids=["an hour ahead", "an hour behind"])
async def test_s10_another_clock_is_taken_over(tmp_path: Path, chaos: Chaos, ahead: float) -> None:
    bucket = Bucket(ahead=ahead)
    async with bucketed(tmp_path, chaos, bucket=bucket) as rig:
        path, body = await rig.stored(promised=True, size=BIG)
        await rig.is_hit(path, body)
        bucket.ahead = -ahead
        bucket.history.clear()
        await rig.is_hit(path, body)
        skewed = [call for call in bucket.history if call.code == "RequestTimeTooSkewed"]
        assert (len(skewed), bucket.count("GetObject")) == (1, 2)
        cold, other = await rig.given(promised=True, size=BIG, name="g")
        await rig.right(cold, other, source="remote")
        await rig.is_hit(cold, other)
        assert (await readiness(rig.proxy))[0] == 200
        bucket.ahead = 0.0
        await rig.normal()


# --- S13 -------------------------------------------------------------------------------------

LISTS = {
    "no list": garbage(b"<html>nothing to see"),
    "empty": garbage(b"", "application/xml"),
    "broken": garbage(b"<ListBucketResult><Contents><Key>x</Key>", "application/xml"),
    "refused": refuse(500),
    "late": delay(0.5),
}


@pytest.mark.parametrize("how", LISTS)
async def test_s13_no_list_is_ever_waited_for_by_a_request(tmp_path: Path, chaos: Chaos, how: str) -> None:
    async with bucketed(tmp_path, chaos, limits={"watch_every": "1h"}) as rig:
        path, body = await rig.stored(promised=True, size=MIDDLE)
        rows = await rig.rows("pypi")
        rig.bucket.rule("List*", LISTS[how])
        await rig.is_hit(path, body)
        cold, other = await rig.given(promised=True, size=BIG, name="cold")
        await rig.right(cold, other, source="remote")
        await rig.is_hit(cold, other)
        assert (await readiness(rig.proxy))[0] == 200, "what clients wait for works"
        assert rig.bucket.count("ListObjectsV2") == 0
        got = await rig.proxy.get("/files/none.bin")
        assert got.status == 404
        await rig.proxy.engine._janitor.sweep()
        assert rig.holds(body)
        assert rig.holds(other)
        assert set(rows) <= set(await rig.rows("pypi"))
        rig.bucket.heal()
        assert (await readiness(rig.proxy))[0] == 200
        await rig.normal()
