"""U13, U14, U16, U17, U35, U37: statuses that say no, not now, or nothing that makes sense."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest

from tests.chaos import Chaos, Exchange
from tests.chaos.behaviours import ok, status
from tests.chaos.server import Behaviour
from tests.faults.watch import AGAIN, BIG, INDEX, INDEX_BODY, Watch, watched


@pytest.mark.parametrize("code", [500, 501, 599])
async def test_u13_a_plain_5xx_is_not_asked_again(watch: Watch, code: int) -> None:
    watch.chaos.script("/f.bin", status(code, b"<b>secret trace of the upstream</b>"))
    got = await watch.refused("/files/f.bin", 502, "upstream_5xx")
    assert watch.chaos.hits("/f.bin") == 1
    assert got.headers["Cache-Status"] == f"artifactproxy; fwd=miss; fwd-status={code}"
    assert b"secret" not in (got.body or b"")
    assert str(code).encode() in (got.body or b"")
    line = await watch.line("fill", path="f.bin")
    assert line["upstream_status"] == code
    watch.chaos.script(INDEX, status(code))
    await watch.is_stale()
    await watch.is_kept()
    await watch.next_is_right()


@pytest.mark.parametrize(("code", "times"), [(502, 1), (503, 2), (504, 1), (408, 1)])
async def test_u14_a_passing_5xx_is_bridged(watch: Watch, code: int, times: int) -> None:
    body = watch.chaos.script("/f.bin", *[status(code)] * times, ok(), size=BIG)
    got = await watch.proxy.get("/files/f.bin")
    assert (got.status, got.body) == (200, body.bytes())
    assert watch.chaos.hits("/f.bin") == times + 1
    assert await watch.errors("upstream_5xx") == times


@pytest.mark.parametrize(("code", "times"), [(502, 3), (503, 4), (504, 3)])
async def test_u14_a_lasting_5xx_ends_after_two_retries(watch: Watch, code: int, times: int) -> None:
    body = watch.chaos.script("/f.bin", *[status(code)] * times, ok(), size=BIG)
    got = await watch.refused("/files/f.bin", 502, "upstream_5xx")
    assert watch.chaos.hits("/f.bin") == 3
    assert await watch.errors("upstream_5xx") == 3
    assert got.headers["Cache-Status"].endswith(f"fwd-status={code}")
    watch.chaos.script(INDEX, status(code))
    await watch.is_stale()
    await watch.is_kept()
    got = await watch.proxy.get("/files/f.bin")
    assert (got.status, got.body) == (200, body.bytes()), "and the next request asks again"


async def test_u14_another_upstream_is_asked(tmp_path: Path, chaos: Chaos) -> None:
    async with Chaos() as mirror:
        chaos.script("/f.bin", status(503))
        body = mirror.script("/f.bin", ok(), size=BIG)
        files = f"[{chaos.origin}/, {mirror.origin}/]"
        async with watched(tmp_path, chaos, files=files) as watch:
            got = await watch.proxy.get("/files/f.bin")
            assert (got.status, got.body) == (200, body.bytes())
            assert (chaos.hits("/f.bin"), mirror.hits("/f.bin")) == (3, 1)


@pytest.mark.parametrize("path", ["/f.bin", "/f.json"], ids=["artifact", "index"])
async def test_u16_unchanged_though_nothing_is_held(watch: Watch, path: str) -> None:
    watch.chaos.script(path, status(304, ETag='"7"'))
    await watch.refused(f"/files{path}", 502, "unexpected_304")
    assert watch.chaos.hits(path) == 3, "asked again as often as after any passing error"
    assert not any("if-none-match" in seen.headers for seen in watch.chaos.requests if seen.path == path)
    await watch.next_is_right()


async def test_u16_unchanged_of_something_else_is_asked_again_without_conditions(watch: Watch) -> None:
    watch.chaos.script(INDEX, status(304, ETag='"other"'), status(200, b'{"new": 1}', ETag='"2"'))
    got = await watch.proxy.get(f"/files{INDEX}", **AGAIN)
    assert (got.status, got.body) == (200, b'{"new": 1}')
    first, second = [seen.headers for seen in watch.chaos.requests if seen.path == INDEX][-2:]
    assert first["if-none-match"] == '"1"'
    assert "if-none-match" not in second
    assert await watch.errors("unexpected_304") == 1


async def test_u17_the_blob_goes_between_the_question_and_the_answer(watch: Watch) -> None:
    """While upstream is asked whether the index changed, its blob is lost: it is fetched anew."""

    async def lose(exchange: Exchange) -> None:
        for blob in watch.proxy.blobs():
            if blob.read_bytes() == INDEX_BODY:
                blob.unlink()
        await status(304, ETag='"1"')(exchange)

    watch.chaos.script(INDEX, lose, status(200, INDEX_BODY, ETag='"1"'))
    got = await watch.proxy.get(f"/files{INDEX}", **AGAIN)
    assert (got.status, got.body, got.source) == (200, INDEX_BODY, "remote")
    first, second = [seen.headers for seen in watch.chaos.requests if seen.path == INDEX][-2:]
    assert "if-none-match" in first
    assert "if-none-match" not in second
    assert await watch.grown("hollow_hits_total") == 1
    assert (await watch.warned("hollow_hit"))["path"] == INDEX[1:]
    watch.chaos.script(INDEX, status(500))
    await watch.is_stale()


async def test_u17_a_file_whose_blob_went_is_fetched_again(watch: Watch) -> None:
    body = watch.chaos.script("/f.bin", ok(), size=BIG)
    await watch.proxy.get("/files/f.bin")
    await watch.proxy.settled()
    for blob in watch.proxy.blobs():
        if blob.name == body.sha256:
            blob.unlink()
    got = await watch.proxy.get("/files/f.bin")
    assert (got.status, got.body, got.source) == (200, body.bytes(), "remote")
    assert watch.chaos.hits("/f.bin") == 2
    assert await watch.grown("hollow_hits_total") == 1
    await watch.next_is_right()


@pytest.mark.parametrize("code", [404, 410])
async def test_u35_absence_is_remembered_for_a_while_only(tmp_path: Path, chaos: Chaos, code: int) -> None:
    async with watched(tmp_path, chaos, remote="negative_ttl: 200ms") as watch:
        body = chaos.script("/f.bin", status(code), ok(), size=BIG)
        for _ in range(3):
            got = await watch.proxy.get("/files/f.bin")
            assert (got.status, got.error) == (code, "upstream_absent")
        assert chaos.hits("/f.bin") == 1, "remembered"
        await asyncio.sleep(0.25)
        got = await watch.proxy.get("/files/f.bin")
        assert (got.status, got.body) == (200, body.bytes())


async def test_u35_flapping_hides_nothing_that_is_stored(watch: Watch) -> None:
    body = watch.chaos.script("/f.bin", ok(), status(404), ok(), status(410), size=BIG)
    await watch.proxy.get("/files/f.bin")
    await watch.proxy.settled()
    for number in range(6):
        got = await watch.proxy.get("/files/f.bin", **(AGAIN if number % 2 else {}))
        assert (got.status, got.source, got.body) == (200, "cache", body.bytes())
    assert watch.chaos.hits("/f.bin") == 1
    watch.chaos.script(INDEX, status(404), status(200, b"[2]"), status(410), status(200, b"[4]"))
    seen = []
    for _ in range(4):
        await watch.proxy.settled()
        seen.append(await watch.proxy.get(f"/files{INDEX}", **AGAIN))
    assert [got.status for got in seen] == [404, 200, 410, 200], "an index follows upstream at once"
    assert seen[3].body == b"[4]"


async def test_u35_a_404_that_means_not_now_is_not_remembered(watch: Watch) -> None:
    watch.chaos.script("/f.bin", status(404, Retry_After="1"))
    got = await watch.refused("/files/f.bin", 503, "upstream_busy")
    assert "Retry-After" in got.headers
    await watch.next_is_right()


# --- U37: challenges ---


def challenge(realm: str, code: int = 401) -> Behaviour:
    return status(
        code,
        b"who are you?",
        WWW_Authenticate=f'Bearer realm="{realm}",service="x",scope="repository:x:pull"',
    )


@pytest.mark.parametrize("secret", [False, True], ids=["public", "with credentials"])
async def test_u37_a_challenge_that_points_elsewhere_sends_nothing_there(
    tmp_path: Path, chaos: Chaos, secret: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOOLS_PASSWORD", "hunter2")
    remote = "auth: {bearer: {file: %s}}" % (tmp_path / "token") if secret else ""
    (tmp_path / "token").write_text("hunter2")
    async with Chaos() as recorder, watched(tmp_path, chaos, remote=remote) as watch:
        chaos.script("/f.bin", challenge(recorder.url("/token")))
        code, error = (502, "upstream_denied") if secret else (403, "upstream_forbidden")
        got = await watch.refused("/files/f.bin", code, error)
        assert "WWW-Authenticate" not in got.headers
        assert recorder.connections == 0, "nobody went to the realm"
        told = got.body or b""
        assert b"hunter2" not in told
        assert base64.b64encode(b"hunter2") not in told
        assert "hunter2" not in watch.proxy.log.read_text()
        assert chaos.last("/f.bin").headers.get("authorization", "") == ("Bearer hunter2" if secret else "")
        await watch.is_kept()
        await watch.next_is_right()
