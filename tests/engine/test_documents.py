"""Rendered indexes in their content codings: one document, two representations, each with its laws."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from artifactproxy.engine.reader import Learn, Recode, Render
from artifactproxy.engine.workers import Workers
from tests.chaos import Chaos
from tests.chaos.behaviours import ok, status
from tests.house_proxy import Got, Proxy, proxied

SIMPLE = "application/vnd.pypi.simple.v1+json"
PKG = "/pypi/simple/pkg/"
FORMS = {
    "in the loop": "limits: {inline_index: 10MiB}",
    "by the helper, in memory": "limits: {inline_index: 1KiB}",
    "by the helper, in files": "limits: {inline_index: 1KiB, memory_body: 2KiB}",
}


def listing(chaos: Chaos, name: str, files: int = 300) -> None:
    listed = [
        {
            "filename": f"{name}-1.{n}.tar.gz",
            "url": chaos.url(f"/{name}-1.{n}.tar.gz"),
            "hashes": {"sha256": f"{n:064x}"},
        }
        for n in range(files)
    ]
    page = {"meta": {"api-version": "1.0"}, "name": name, "files": listed}
    chaos.script(f"/simple/{name}/", status(200, json.dumps(page).encode(), Content_Type=SIMPLE))


@pytest.fixture(params=FORMS.values(), ids=FORMS)
async def proxy(tmp_path: Path, chaos: Chaos, request: pytest.FixtureRequest) -> AsyncIterator[Proxy]:
    listing(chaos, "pkg")
    async with proxied(tmp_path, chaos.origin, top=request.param) as running:
        yield running
        await running.check()


@pytest.fixture
async def helped(tmp_path: Path, chaos: Chaos) -> AsyncIterator[Proxy]:
    """Everything goes through the helper process."""
    listing(chaos, "pkg")
    top = "limits: {inline_index: 1KiB, memory_body: 2KiB, blob_grace: 0}"
    async with proxied(tmp_path, chaos.origin, top=top) as running:
        yield running
        await running.check()


async def page(proxy: Proxy, coding: str = "", path: str = PKG, method: str = "GET", **headers: str) -> Got:
    if coding:
        headers["Accept_Encoding"] = coding
    return await proxy.get(path, method, Accept=SIMPLE, **headers)


def whole(got: Got) -> bytes:
    """The document in an answer, after checking all that its head says of the bytes sent."""
    assert got.body is not None
    assert (got.status, int(got.headers["Content-Length"])) == (200, len(got.body))
    sha256 = hashlib.sha256(got.body)
    assert got.headers["X-Checksum-Sha256"] == sha256.hexdigest()
    assert got.headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(sha256.digest()).decode()}:"
    assert got.headers["Vary"] == "Accept, Accept-Encoding"
    coded = got.headers.get("Content-Encoding")
    assert coded in (None, "gzip")
    return gzip.decompress(got.body) if coded else got.body


@pytest.mark.parametrize("order", [("gzip", ""), ("", "gzip")], ids=["gzip first", "identity first"])
async def test_both_codings_are_one_document(proxy: Proxy, order: tuple[str, str]) -> None:
    got = {coding: await page(proxy, coding) for coding in order}
    assert got["gzip"].headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in got[""].headers
    assert whole(got["gzip"]) == whole(got[""])
    assert len(got["gzip"].body or b"") < len(got[""].body or b"") / 3
    assert got["gzip"].headers["ETag"] != got[""].headers["ETag"]
    again = {coding: await page(proxy, coding) for coding in order}
    assert [again[c].body for c in order] == [got[c].body for c in order]
    assert [again[c].headers["ETag"] for c in order] == [got[c].headers["ETag"] for c in order]


async def test_conditions_are_judged_for_each_coding(proxy: Proxy) -> None:
    tags = {coding: (await page(proxy, coding)).headers["ETag"] for coding in ("", "gzip")}
    for coding, other in (("", "gzip"), ("gzip", "")):
        same = await page(proxy, coding, If_None_Match=tags[coding])
        assert (same.status, same.headers["ETag"], same.body) == (304, tags[coding], b"")
        assert same.headers["Vary"] == "Accept, Accept-Encoding"
        assert (await page(proxy, coding, If_None_Match=tags[other])).status == 200
        both = await page(proxy, coding, If_None_Match=f"{tags[other]}, {tags[coding]}")
        assert both.status == 304
        assert (await page(proxy, coding, If_Match=tags[other])).status == 412


async def test_head_says_what_get_says(proxy: Proxy) -> None:
    for coding in ("", "gzip"):
        head, got = await page(proxy, coding, method="HEAD"), await page(proxy, coding)
        assert (head.status, head.body) == (200, b"")
        for name in ("Content-Length", "Content-Encoding", "ETag", "Vary", "Repr-Digest", "Content-Type"):
            assert head.headers.get(name) == got.headers.get(name), name


async def test_a_range_is_one_of_the_bytes_that_the_tag_names(proxy: Proxy) -> None:
    got = {coding: await page(proxy, coding) for coding in ("", "gzip")}
    for coding, other in (("", "gzip"), ("gzip", "")):
        body, tag = got[coding].body or b"", got[coding].headers["ETag"]
        part = await page(proxy, coding, Range="bytes=10-99", If_Range=tag)
        assert (part.status, part.body) == (206, body[10:100])
        assert part.headers["Content-Range"] == f"bytes 10-99/{len(body)}"
        assert part.headers.get("Content-Encoding") == got[coding].headers.get("Content-Encoding")
        rest = await page(proxy, coding, Range="bytes=100-", If_Range=tag)
        assert rest.body == body[100:]
        changed = await page(proxy, coding, Range="bytes=10-99", If_Range=got[other].headers["ETag"])
        assert (changed.status, changed.body) == (200, body)
        past = await page(proxy, coding, Range=f"bytes={len(body)}-")
        assert (past.status, past.headers["Content-Range"]) == (416, f"bytes */{len(body)}")


@pytest.mark.parametrize("accept", ["gzip;q=0", "identity", "br, zstd", "gzip;q=x", "*;q=0", "gzip;q=0.1, *"])
async def test_who_does_not_want_gzip_does_not_get_it(proxy: Proxy, accept: str) -> None:
    got = await page(proxy, accept)
    assert "Content-Encoding" not in got.headers
    assert len(json.loads(whole(got))["files"]) == 300


@pytest.mark.parametrize("coding", ["", "gzip"])
async def test_an_old_client(proxy: Proxy, coding: str) -> None:
    host, port = proxy.base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    wanted = f"Accept-Encoding: {coding}\r\n" if coding else ""
    writer.write(f"GET {PKG} HTTP/1.0\r\nAccept: {SIMPLE}\r\n{wanted}\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert b" 200 " in head.split(b"\r\n")[0]
    assert f"Content-Length: {len(body)}".encode() in head
    assert (b"Content-Encoding: gzip" in head) is bool(coding)
    assert len(json.loads(gzip.decompress(body) if coding else body)["files"]) == 300


async def test_html_is_compressed_as_well(proxy: Proxy) -> None:
    plain = await proxy.get(PKG, Accept="text/html")
    coded = await proxy.get(PKG, Accept="text/html", Accept_Encoding="gzip")
    assert coded.headers["Content-Encoding"] == "gzip"
    assert whole(coded) == whole(plain)
    assert whole(plain).count(b"<a ") == 300


async def test_what_is_stored_as_it_came_is_sent_as_it_is(proxy: Proxy, chaos: Chaos) -> None:
    for name in ("/f.bin", "/i.json"):
        body = chaos.script(name, ok(), size=50_000)
        for _ in range(2):
            got = await proxy.get(f"/files{name}", Accept_Encoding="gzip, *")
            assert got.body == body.bytes()
            assert "Content-Encoding" not in got.headers
            await proxy.settled()


async def test_small_pages_stay_as_they_are(proxy: Proxy, chaos: Chaos) -> None:
    listing(chaos, "small", files=1)
    got = await page(proxy, "gzip", "/pypi/simple/small/")
    assert "Content-Encoding" not in got.headers
    assert len(json.loads(whole(got))["files"]) == 1


# --- what is made, and how often ---


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the jobs that helper processes were given."""
    given: list[str] = []
    run = Workers.run

    async def noted(self: Workers, job: Learn | Render | Recode, size: int):
        given.append(type(job).__name__)
        return await run(self, job, size)  # type: ignore[arg-type]

    monkeypatch.setattr(Workers, "run", noted)
    return given


async def test_a_document_is_rendered_once_for_both_codings(helped: Proxy, jobs: list[str]) -> None:
    pages = await asyncio.gather(*(page(helped, "gzip") for _ in range(10)))
    assert {whole(each) for each in pages} == {whole(pages[0])}
    assert jobs == ["Learn", "Render"]
    assert whole(await page(helped)) == whole(pages[0])
    assert jobs == ["Learn", "Render", "Recode"]
    for coding in ("", "gzip"):
        await page(helped, coding)
    assert len(jobs) == 3


async def test_a_304_after_a_restart_renders_nothing(tmp_path: Path, chaos: Chaos, jobs: list[str]) -> None:
    listing(chaos, "pkg")
    top = "limits: {inline_index: 1KiB}"
    first: dict[str, Got] = {}
    base = ""
    for _ in range(2):
        async with proxied(tmp_path, chaos.origin, top=top) as proxy:
            # Addresses in the document are those of the server that the client named.
            named = {"Host": base or proxy.base.removeprefix("http://")}
            base = named["Host"]
            jobs.clear()
            for coding in ("", "gzip"):
                if coding in first:
                    tag = first[coding].headers["ETag"]
                    assert (await page(proxy, coding, If_None_Match=tag, **named)).status == 304
            assert jobs == [] or not first
            for coding in ("", "gzip"):
                got = await page(proxy, coding, **named)
                before = first.setdefault(coding, got)
                assert (got.headers["ETag"], got.body) == (before.headers["ETag"], before.body)
            await proxy.check()


async def test_a_dropped_file_gives_its_descriptor_back(tmp_path: Path, chaos: Chaos) -> None:
    names = [f"pkg{n}" for n in range(15)]
    for name in names:
        listing(chaos, name, files=50)
    top = "limits: {inline_index: 1KiB, memory_body: 1, memo_file_bytes: 10KiB}"
    async with proxied(tmp_path, chaos.origin, top=top) as proxy:
        for coding in ("gzip", ""):
            for name in names:
                assert json.loads(whole(await page(proxy, coding, f"/pypi/simple/{name}/")))["name"] == name
        await proxy.check()
        assert proxy.engine.states()["rendered_files"] < 15
        assert len(proxy.open_bodies()) == proxy.engine.states()["rendered_files"]


# --- faults ---


def helper(proxy: Proxy) -> int:
    return proxy.engine._documents._workers.pids[0]


async def held_by_a_stopped_helper(proxy: Proxy, **headers: str) -> tuple[int, asyncio.Task[Got]]:
    """A page is held, another representation of it is asked for, and the helper stands still."""
    await page(proxy)
    await proxy.settled()
    pid = helper(proxy)
    os.kill(pid, signal.SIGSTOP)
    asked = asyncio.create_task(proxy.get(PKG, Accept="text/html", **headers))
    for _ in range(5_000):
        if proxy.engine._documents._making:
            break
        await asyncio.sleep(0.01)
    assert not asked.done()
    return pid, asked


async def test_a_helper_killed_while_it_renders(helped: Proxy) -> None:
    pid, asked = await held_by_a_stopped_helper(helped)
    os.kill(pid, signal.SIGKILL)
    got = await asked
    assert (got.status, got.error) == (503, "helper")
    again = await helped.get(PKG, Accept="text/html")
    assert whole(again).count(b"<a ") == 300
    assert helper(helped) != pid


async def test_a_helper_killed_while_it_learns(helped: Proxy, chaos: Chaos) -> None:
    await page(helped)
    listing(chaos, "other")
    pid = helper(helped)
    os.kill(pid, signal.SIGSTOP)
    asked = asyncio.create_task(page(helped, "gzip", "/pypi/simple/other/"))
    while not chaos.hits("/simple/other/"):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    got = await asked
    assert (got.status, got.error) == (503, "helper")
    assert whole(await page(helped, "gzip", "/pypi/simple/other/"))


async def test_a_client_that_leaves_while_it_is_rendered(helped: Proxy) -> None:
    pid, asked = await held_by_a_stopped_helper(helped, Accept_Encoding="gzip")
    stays = asyncio.create_task(helped.get(PKG, Accept="text/html", Accept_Encoding="gzip"))
    await asyncio.sleep(0.05)
    asked.cancel()
    await asyncio.sleep(0.05)
    os.kill(pid, signal.SIGCONT)
    assert whole(await stays).count(b"<a ") == 300


async def test_a_purge_while_it_is_rendered(helped: Proxy, chaos: Chaos) -> None:
    pid, asked = await held_by_a_stopped_helper(helped)
    await helped.engine.purge("pypi")
    await helped.engine.gc(run=True)
    listing(chaos, "pkg", files=20)
    os.kill(pid, signal.SIGCONT)
    assert whole(await asked).count(b"<a ") == 300, "what was asked before the purge"
    assert whole(await helped.get(PKG, Accept="text/html")).count(b"<a ") == 20


async def test_a_stop_while_it_is_rendered(tmp_path: Path, chaos: Chaos) -> None:
    listing(chaos, "pkg")
    async with proxied(tmp_path, chaos.origin, top="limits: {inline_index: 1KiB, memory_body: 1}") as proxy:
        pid, asked = await held_by_a_stopped_helper(proxy)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    assert proxy.temp_files() == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
