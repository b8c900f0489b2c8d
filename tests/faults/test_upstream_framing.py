"""U10 to U12, U36, U38, U39: heads and framings that no honest server sends, over the whole program."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.chaos.behaviours import interim_flood, ok, raw, status, then_extra
from tests.chaos.tables import BAD_FRAMINGS, BAD_HEADS, HOSTILE_HEADERS
from tests.faults.watch import INDEX, SMALL, Watch

POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
# Extra bytes behind a body that is complete by its own length: the body counts, the rest is dropped.
COMPLETE = {"body too long"}
CODES = {"bad_framing", "bad_head", "short_body", "unframed_body", "no_answer"}


async def test_u11_u12_no_bad_framing_becomes_a_file(watch: Watch) -> None:
    """The whole table over one running proxy, so that a poisoned connection would show."""
    assert len(BAD_FRAMINGS) >= 20
    for number, (name, data) in enumerate(BAD_FRAMINGS.items()):
        path = f"/framing/{number}.bin"
        watch.chaos.script(path, raw(data))
        got = await watch.proxy.get(f"/files{path}")
        if name in COMPLETE:
            assert (got.status, got.body) in ((200, b"hel"), (502, got.body)), name
            continue
        assert got.status == 502, name
        assert got.error in CODES, name
        await watch.told(f"/files{path}", got.error)
        clean = watch.chaos.script(f"/clean/{number}.bin", ok(), size=1000)
        assert (await watch.proxy.get(f"/files/clean/{number}.bin")).body == clean.bytes(), name
    bad = sum(await asyncio.gather(*(watch.errors(code) for code in CODES)))
    assert bad >= len(BAD_FRAMINGS) - len(COMPLETE)
    held = {blob.stat().st_size for blob in watch.proxy.blobs()}
    assert 5 not in held, "nothing of the five bytes was kept"
    await watch.is_kept()


@pytest.mark.parametrize(
    "name", ["length and chunked", "two lengths", "chunk size not hex", "cut in a chunk"]
)
async def test_u11_a_good_index_outlives_bad_framing(watch: Watch, name: str) -> None:
    watch.chaos.script(INDEX, raw(BAD_FRAMINGS[name]))
    await watch.is_stale()
    await watch.next_is_right()


async def test_u36_heads_beyond_all_limits(watch: Watch) -> None:
    heads = BAD_HEADS | {
        "129 headers": b"HTTP/1.1 200 OK\r\n" + b"X-Y: z\r\n" * 129 + b"Content-Length: 0\r\n\r\n",
        "a megabyte": b"HTTP/1.1 200 OK\r\n" + (b"X-Y: " + b"z" * 8000 + b"\r\n") * 140 + b"\r\n",
    }
    for number, (name, data) in enumerate(heads.items()):
        watch.chaos.script(f"/head/{number}.bin", raw(data, close=False))
        got = await watch.refused(f"/files/head/{number}.bin", 502, "bad_head")
        assert "evil" not in str(got.headers), name
    watch.chaos.script(INDEX, raw(BAD_HEADS["header of 9 KB"]))
    await watch.is_stale()
    await watch.is_kept()
    await watch.next_is_right()


async def test_u36_a_flood_of_interim_answers_ends_at_the_deadline(brisk: Watch) -> None:
    brisk.chaos.script("/f.bin", interim_flood())
    await brisk.refused("/files/f.bin", 504, "first_byte")
    body = brisk.chaos.script("/g.bin", interim_flood(count=50), size=SMALL)
    assert (await brisk.proxy.get("/files/g.bin")).body == body.bytes(), "some are allowed"
    await brisk.next_is_right()


@pytest.mark.parametrize("delay", [0.0, 0.05], ids=["at once", "late"])
async def test_u39_an_answer_nobody_asked_for_ends_its_connection(watch: Watch, delay: float) -> None:
    watch.chaos.script("/f.bin", then_extra(POISON, delay=delay), size=SMALL)
    await watch.proxy.get("/files/f.bin")
    await asyncio.sleep(delay + 0.1)
    shifted = watch.chaos.last("/f.bin").connection
    for number in range(5):
        clean = watch.chaos.script(f"/n{number}.bin", ok(), size=SMALL)
        got = await watch.proxy.get(f"/files/n{number}.bin")
        assert (got.status, got.body) == (200, clean.bytes())
        assert watch.chaos.last(f"/n{number}.bin").connection != shifted
    if delay:  # it was in the pool when the bytes came
        assert await watch.errors("unsolicited") == 1
        assert (await watch.warned("unsolicited_bytes"))["host"] == "127.0.0.1"
    await watch.is_kept()
    await watch.next_is_right("/files/g.bin")


# --- U38: what may leave towards a client ---

# RFC 9110 and 9111, our own contract, and what the web floor adds to every answer.
ALLOWED = {
    *("accept-ranges", "age", "cache-control", "cache-status", "connection", "content-disposition"),
    *("content-encoding", "content-length", "content-range", "content-type", "date", "etag"),
    *("last-modified", "repr-digest", "retry-after", "server", "transfer-encoding", "vary", "via"),
    *("content-security-policy", "cross-origin-resource-policy", "x-content-type-options"),
    *("x-artifact-source", "x-checksum-sha256", "x-proxy-error", "x-request-id"),
}
HOSTILE = HOSTILE_HEADERS | {
    **{f"X-Evil-{n}": "evil" for n in range(40)},
    "Access-Control-Allow-Credentials": "evil",
    "Content-Location": "http://evil.example/",
    "Cross-Origin-Resource-Policy": "cross-origin evil",
    "Expect-CT": "evil",
    "Keep-Alive": "timeout=evil",
    "NEL": '{"evil":1}',
    "Permissions-Policy": "evil=*",
    "Proxy-Connection": "evil",
    "Report-To": '{"evil":1}',
    "Server": "evil",
    "SourceMap": "/evil",
    "Trailer": "X-Evil",
    "Upgrade": "evil",
    "Via": "1.1 evil",
    "X-Artifact-Source": "evil",
    "X-Checksum-Sha256": "evil",
    "X-Proxy-Error": "evil",
    "X-Request-Id": "evil",
    "X-XSS-Protection": "evil",
}


@pytest.mark.parametrize("path", ["/h.bin", "/h.json", "/h.html"], ids=["artifact", "index", "page"])
async def test_u38_only_what_is_allowed_crosses(watch: Watch, path: str) -> None:
    """Cold and held, whole, part, head and condition, and errors: the same short list."""
    assert len(HOSTILE) >= 60
    hostile = {name.replace("-", "_"): value for name, value in HOSTILE.items()}
    watch.chaos.script(path, status(200, b"<script>1</script>" * 300, ETag='"1"', **hostile))
    watch.chaos.script("/gone.bin", status(404, b"x", **hostile))
    watch.chaos.script("/broken.bin", status(500, b"x", **hostile))
    answers = [await watch.proxy.get(f"/files{path}")]
    await watch.proxy.settled()
    answers += [
        await watch.proxy.get(f"/files{path}"),
        await watch.proxy.get(f"/files{path}", "HEAD"),
        await watch.proxy.get(f"/files{path}", Range="bytes=0-9"),
        await watch.proxy.get(f"/files{path}", If_None_Match="*"),
        await watch.proxy.get("/files/gone.bin"),
        await watch.proxy.get("/files/broken.bin"),
    ]
    assert [a.status for a in answers] == [200, 200, 200, 206, 304, 404, 502]
    for answer in answers:
        assert {name.lower() for name in answer.headers} <= ALLOWED
        assert "evil" not in str(dict(answer.headers))
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert re.search(r"\bsandbox\b", answer.headers["Content-Security-Policy"])
        assert "text/html" not in answer.headers.get("Content-Type", "") or path == "/h.html"
    await watch.next_is_right()
