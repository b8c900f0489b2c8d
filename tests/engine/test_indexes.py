"""Indexes: freshness, revalidation, what is served when upstream fails, and what they teach."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from artifactproxy import failpoints
from tests.chaos import Chaos
from tests.chaos.behaviours import cut, flip, ok, portal, slam, status
from tests.house_proxy import Proxy, promise, proxied

TTL = "ttl: 0s\nstale_while_revalidate: 0s\nmin_revalidate: 0s"
SIMPLE = "application/vnd.pypi.simple.v1+json"


@pytest.fixture
async def proxy(tmp_path: Path, chaos: Chaos) -> AsyncIterator[Proxy]:
    """Indexes are stale at once, so that every request decides anew."""
    async with proxied(tmp_path, chaos.origin, remote=TTL) as running:
        yield running
        await running.check()


async def test_an_index_is_fresh_for_its_ttl_then_revalidated(tmp_path: Path, chaos: Chaos) -> None:
    remote = "ttl: 300ms\nstale_while_revalidate: 0s\nmin_revalidate: 0s"
    body = chaos.script("/i.json", ok(), size=5000)
    async with proxied(tmp_path, chaos.origin, remote=remote) as proxy:
        first = await proxy.get("/files/i.json")
        assert (first.source, first.body) == ("remote", body.bytes())
        assert (await proxy.get("/files/i.json")).source == "cache"
        assert chaos.hits("/i.json") == 1
        await asyncio.sleep(0.4)
        again = await proxy.get("/files/i.json")
        assert (again.source, again.body) == ("cache", body.bytes())
        assert again.headers["Cache-Status"] == "artifactproxy; fwd=stale; fwd-status=304"
        assert chaos.last("/i.json").headers["if-none-match"]
        await proxy.check()


async def test_a_changed_index_is_seen(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/i.json", ok(), size=5000)
    await proxy.get("/files/i.json")
    await proxy.settled()
    newer = chaos.script("/i.json", ok(), size=5000, version=2)
    got = await proxy.get("/files/i.json")
    assert (got.source, got.body) == ("remote", newer.bytes())
    assert "fwd-status=200" in got.headers["Cache-Status"]


@pytest.mark.parametrize(
    "trouble",
    [status(500), status(503), status(429, Retry_After="5"), slam(), cut(0.5, ranges=False)],
    ids=["500", "503", "429", "slam", "cut"],
)
async def test_stale_if_error(proxy: Proxy, chaos: Chaos, trouble: object) -> None:
    body = chaos.script("/i.json", ok(), size=5000)
    await proxy.get("/files/i.json")
    await proxy.settled()
    chaos.script("/i.json", trouble, size=5000, version=2)  # type: ignore[arg-type]
    got = await proxy.get("/files/i.json")
    assert (got.status, got.body, got.source) == (200, body.bytes(), "cache")
    assert "detail=stale-if-error" in got.headers["Cache-Status"]


async def test_stale_ends_with_its_window(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/i.json", ok(), status(500), size=5000)
    async with proxied(tmp_path, chaos.origin, remote=f"{TTL}\nstale_if_error: 0s") as proxy:
        await proxy.get("/files/i.json")
        await asyncio.sleep(0.3)
        assert (await proxy.get("/files/i.json")).status == 502
        await proxy.check()


async def test_a_refusal_by_upstream_is_not_bridged(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/i.json", ok(), status(403), size=5000)
    await proxy.get("/files/i.json")
    await proxy.settled()
    assert (await proxy.get("/files/i.json")).status == 403


async def test_stale_while_revalidate_answers_at_once(tmp_path: Path, chaos: Chaos) -> None:
    old = chaos.script("/i.json", ok(), size=5000)
    async with proxied(tmp_path, chaos.origin, remote="ttl: 0s\nmin_revalidate: 0s") as proxy:
        await proxy.get("/files/i.json")
        await proxy.settled()
        new = chaos.script("/i.json", ok(), size=5000, version=2)
        got = await proxy.get("/files/i.json")
        assert got.body == old.bytes()
        assert "detail=stale-while-revalidate" in got.headers["Cache-Status"]
        await proxy.settled()
        assert (await proxy.get("/files/i.json")).body == new.bytes()
        await proxy.check()


async def test_a_client_that_insists_is_taken_upstream_at_most_so_often(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/i.json", ok(), size=5000)
    async with proxied(tmp_path, chaos.origin, remote="ttl: 1h\nmin_revalidate: 200ms") as proxy:
        for _ in range(5):
            await proxy.get("/files/i.json", Cache_Control="no-cache")
        assert chaos.hits("/i.json") == 1
        await asyncio.sleep(0.25)
        await proxy.get("/files/i.json", Cache_Control="no-cache")
        assert chaos.hits("/i.json") == 2
        await proxy.check()


async def test_offline_serves_what_is_held_and_says_504_for_the_rest(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/i.json", ok(), size=5000)
    async with proxied(tmp_path, chaos.origin, remote=TTL) as proxy:
        await proxy.get("/files/i.json")
        await proxy.settled()
    before = len(chaos.requests)
    async with proxied(tmp_path, chaos.origin, remote=f"{TTL}\noffline: true") as proxy:
        assert (await proxy.get("/files/i.json")).body == body.bytes()
        got = await proxy.get("/files/other.bin")
        assert (got.status, got.error) == (504, "not_cached")
        assert b"offline" in (got.body or b"")
        await proxy.check()
    assert len(chaos.requests) == before


async def test_only_if_cached(proxy: Proxy, chaos: Chaos) -> None:
    got = await proxy.get("/files/f.bin", Cache_Control="only-if-cached")
    assert (got.status, got.error) == (504, "not_cached")
    assert chaos.requests == []


# --- project pages ---


async def test_a_page_in_html_and_json_from_one_body(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", ok())
    promise(chaos, "pkg-1.0.tar.gz", body)
    html = await proxy.get("/pypi/simple/pkg/", Accept="text/html")
    assert html.headers["Content-Type"].startswith("text/html")
    assert f"#sha256={body.sha256}".encode() in (html.body or b"")
    page = await proxy.get("/pypi/simple/pkg/", Accept=SIMPLE)
    assert page.headers["Content-Type"] == SIMPLE
    assert page.headers["Vary"] == "Accept, Accept-Encoding"
    assert page.headers["ETag"] != html.headers["ETag"]
    [file] = json.loads(page.body or b"")["files"]
    assert file["url"] == f"../../packages/127.0.0.1:{chaos.port}/pkg-1.0.tar.gz"
    assert file["upload-time"] == "2026-01-02T03:04:05Z"
    same = await proxy.get("/pypi/simple/pkg/", Accept=SIMPLE, If_None_Match=page.headers["ETag"])
    assert same.status == 304


async def test_a_broken_page_never_replaces_a_good_one(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", ok())
    promise(chaos, "pkg-1.0.tar.gz", body)
    good = await proxy.get("/pypi/simple/pkg/", Accept=SIMPLE)
    await proxy.settled()
    for trouble in (
        portal(),
        status(200, b"{}", Content_Type=SIMPLE),
        status(200, b"{", Content_Type=SIMPLE),
    ):
        chaos.script("/simple/pkg/", trouble)
        got = await proxy.get("/pypi/simple/pkg/", Accept=SIMPLE)
        assert (got.status, got.body) == (200, good.body)
        assert "stale-if-error" in got.headers["Cache-Status"]


async def test_a_broken_page_with_nothing_to_fall_back_on(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/simple/pkg/", portal())
    got = await proxy.get("/pypi/simple/pkg/")
    assert (got.status, got.error) == (502, "unexpected_html")
    assert "502" not in got.reason and len(got.reason) > 10, "pip shows nothing but the reason phrase"


async def test_an_unknown_project_is_404_and_remembered(proxy: Proxy, chaos: Chaos) -> None:
    for _ in range(2):
        assert (await proxy.get("/pypi/simple/nope/")).status == 404
    assert chaos.hits("/simple/nope/") == 1


async def test_a_large_page_is_rendered_by_the_helper_process(tmp_path: Path, chaos: Chaos) -> None:
    files = [
        {
            "filename": f"pkg-1.{n}.tar.gz",
            "url": chaos.url(f"/pkg-1.{n}.tar.gz"),
            "hashes": {"sha256": f"{n:064x}"},
        }
        for n in range(3000)
    ]
    page = {"meta": {"api-version": "1.0"}, "name": "pkg", "files": files}
    chaos.script("/simple/pkg/", status(200, json.dumps(page).encode(), Content_Type=SIMPLE))
    async with proxied(tmp_path, chaos.origin, top="limits: {inline_index: 1KiB}") as proxy:
        got = await proxy.get("/pypi/simple/pkg/", Accept=SIMPLE)
        assert len(json.loads(got.body or b"")["files"]) == 3000
        html = await proxy.get("/pypi/simple/pkg/", Accept="text/html")
        assert (html.body or b"").count(b"<a ") == 3000
        part = await proxy.get("/pypi/simple/pkg/", Accept="text/html", Range="bytes=0-99")
        assert (part.status, part.body) == (206, (html.body or b"")[:100])
        await proxy.check()


@pytest.mark.parametrize("memo", ["512MiB", "1KiB"], ids=["remembered", "forgotten at once"])
async def test_many_large_pages_at_once_while_their_files_move(
    tmp_path: Path, chaos: Chaos, memo: str
) -> None:
    """The helper reads a body that the commit renames under it; and a rendered one may be
    forgotten before whoever waits for it takes it."""
    names = [f"pkg{n}" for n in range(12)]
    for name in names:
        files = [
            {
                "filename": f"{name}-1.{n}.tar.gz",
                "url": chaos.url(f"/{name}-1.{n}.tar.gz"),
                "hashes": {"sha256": f"{n:064x}"},
            }
            for n in range(300)
        ]
        page = {"meta": {"api-version": "1.0"}, "name": name, "files": files}
        chaos.script(f"/simple/{name}/", status(200, json.dumps(page).encode(), Content_Type=SIMPLE))
    async with proxied(
        tmp_path,
        chaos.origin,
        top=f"limits: {{inline_index: 1KiB, memory_body: 1KiB, memo_file_bytes: {memo}}}",
    ) as proxy:
        asked = names * 3
        pages = await asyncio.gather(*(proxy.get(f"/pypi/simple/{n}/", Accept=SIMPLE) for n in asked))
        assert {page.status for page in pages} == {200}
        assert [json.loads(page.body or b"")["name"] for page in pages] == asked
        assert {len(json.loads(page.body or b"")["files"]) for page in pages} == {300}
        await proxy.check()


# --- teachers ---


async def test_a_held_index_teaches_again_what_was_forgotten(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=400_000)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    async with proxied(tmp_path, chaos.origin) as proxy:
        await proxy.get("/pypi/simple/pkg/")
        await proxy.settled()
        await proxy.engine._parts.ledger.unlearn("pypi")
        assert (await proxy.get(path)).body == body.bytes()
        await proxy.settled()
        assert (await proxy.engine.explain(_ask(path)))["row"]["verified_by"] == "digest"
        assert chaos.hits("/simple/pkg/") == 1
        await proxy.check()


@pytest.mark.parametrize("size", [20_000, 400_000], ids=["small", "big"])
async def test_when_the_index_is_the_stale_party_it_is_read_again(
    proxy: Proxy, chaos: Chaos, size: int
) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=size)
    path = promise(chaos, "pkg-1.0.tar.gz", body, sha256="ab" * 32)
    await proxy.get("/pypi/simple/pkg/")
    await proxy.settled()
    promise(chaos, "pkg-1.0.tar.gz", body)
    got = await proxy.get(path)
    if size > 65536:
        assert got.body is None, "its bytes were not what had been promised when it began"
        await proxy.settled()
        got = await proxy.get(path)
    assert (got.status, got.body) == (200, body.bytes())


async def test_purging_a_path_keeps_what_its_index_said(tmp_path: Path, chaos: Chaos) -> None:
    async with Chaos() as foreign:
        body = foreign.script("/pkg-1.0.tar.gz", ok(), size=400_000)
        entry = {
            "filename": "pkg-1.0.tar.gz",
            "url": foreign.url("/pkg-1.0.tar.gz"),
            "hashes": {"sha256": body.sha256},
        }
        page = json.dumps({"meta": {"api-version": "1.0"}, "name": "pkg", "files": [entry]}).encode()
        chaos.script("/simple/pkg/", status(200, page, Content_Type=SIMPLE))
        path = f"packages/127.0.0.1:{foreign.port}/pkg-1.0.tar.gz"
        async with proxied(tmp_path, chaos.origin, remote="allow_private: [127.0.0.0/8]") as proxy:
            assert (await proxy.get(f"/pypi/{path}")).status == 200
            await proxy.settled()
            await proxy.engine.purge("pypi", path=path)
            got = await proxy.get(f"/pypi/{path}")
            assert (got.status, got.source) == (200, "remote")
            await proxy.check()


async def test_a_lock_file_asks_for_the_file_first(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=500_000)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    got = await proxy.get(path)
    assert (got.status, got.body) == (200, body.bytes())
    assert chaos.hits("/simple/pkg/") == 1
    await proxy.settled()
    row = await proxy.engine.explain(_ask(path))
    assert row["row"]["verified_by"] == "digest"
    assert row["row"]["taught_by"] == "simple/pkg/"
    assert row["row"]["released"] == 1767323045.0


async def test_a_teacher_that_cannot_be_read_vouches_for_nothing(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=500_000)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    chaos.script("/simple/pkg/", status(500))
    got = await proxy.get(path)
    assert got.body is None or got.status == 502
    await proxy.settled()
    assert proxy.blobs() == []
    promise(chaos, "pkg-1.0.tar.gz", body)
    assert (await proxy.get(path)).body == body.bytes()


async def test_a_file_that_no_index_lists_is_kept_by_framing(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=500_000)
    got = await proxy.get(f"/pypi/packages/127.0.0.1:{chaos.port}/pkg-1.0.tar.gz")
    assert (got.status, got.body) == (200, body.bytes())
    await proxy.settled()
    row = await proxy.engine.explain(_ask(f"/pypi/packages/127.0.0.1:{chaos.port}/pkg-1.0.tar.gz"))
    assert row["row"]["verified_by"] == "framing"


async def test_a_foreign_host_is_contacted_only_on_an_indexs_word(proxy: Proxy, chaos: Chaos) -> None:
    async with Chaos() as foreign:
        foreign.script("/pkg-1.0.tar.gz", ok())
        promise(chaos, "pkg-1.0.tar.gz", foreign.script("/other", ok()))
        got = await proxy.get(f"/pypi/packages/127.0.0.1:{foreign.port}/pkg-1.0.tar.gz")
        assert (got.status, got.error) == (403, "unpromised_host")
        head = await proxy.get(f"/pypi/packages/127.0.0.1:{foreign.port}/pkg-1.0.tar.gz", "HEAD")
        assert head.status == 403
        assert foreign.connections == 0


async def test_a_promised_foreign_host_still_meets_the_address_guard(tmp_path: Path, chaos: Chaos) -> None:
    async with Chaos() as foreign:
        body = foreign.script("/pkg-1.0.tar.gz", ok(), size=400_000)
        entry = {
            "filename": "pkg-1.0.tar.gz",
            "url": foreign.url("/pkg-1.0.tar.gz"),
            "hashes": {"sha256": body.sha256},
        }
        page = json.dumps({"meta": {"api-version": "1.0"}, "name": "pkg", "files": [entry]}).encode()
        chaos.script("/simple/pkg/", status(200, page, Content_Type=SIMPLE))
        path = f"/pypi/packages/127.0.0.1:{foreign.port}/pkg-1.0.tar.gz"
        async with proxied(tmp_path / "guarded", chaos.origin) as proxy:
            got = await proxy.get(path)
            assert (got.status, got.error) == (502, "blocked_address")
            assert foreign.connections == 0
            await proxy.check()
        async with proxied(tmp_path / "open", chaos.origin, remote="allow_private: [127.0.0.0/8]") as proxy:
            got = await proxy.get(path)
            assert (got.status, got.body) == (200, body.bytes())
            await proxy.check()


async def test_a_changed_promise_for_a_stored_file_is_refused_and_reported(
    proxy: Proxy, chaos: Chaos
) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=400_000)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    await proxy.get(path)
    await proxy.settled()
    promise(chaos, "pkg-1.0.tar.gz", body, sha256="00" * 32)
    await proxy.get("/pypi/simple/pkg/")
    got = await proxy.get(path)
    assert (got.source, got.body) == ("cache", body.bytes())
    await asyncio.sleep(0.2)
    assert any(line.get("warning") == "immutable_changed" for line in proxy.log_lines())


async def test_other_bytes_under_a_name_once_seen_are_refused(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=20_000)
    await proxy.get("/files/f.bin")
    await proxy.settled()
    [blob] = proxy.blobs()
    blob.unlink()
    chaos.script("/f.bin", ok(), size=20_000, version=2)
    got = await proxy.get("/files/f.bin")
    assert (got.status, got.error) == (502, "digest")
    await proxy.engine.purge("files", path="f.bin")
    assert (await proxy.get("/files/f.bin")).status == 200


# --- sidecars ---


def wheel(metadata: bytes = b"Metadata-Version: 2.1\nName: pkg\nVersion: 1.0\n") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("pkg/__init__.py", b"x" * 1000)
        archive.writestr("pkg-1.0.dist-info/METADATA", metadata)
    return out.getvalue()


def listed(chaos: Chaos, body: bytes, sidecar: bytes | None) -> str:
    entry: dict[str, object] = {
        "filename": "pkg-1.0-py3-none-any.whl",
        "url": chaos.url("/pkg-1.0-py3-none-any.whl"),
        "hashes": {"sha256": hashlib.sha256(body).hexdigest()},
    }
    if sidecar is not None:
        entry["core-metadata"] = {"sha256": hashlib.sha256(sidecar).hexdigest()}
    page = json.dumps({"meta": {"api-version": "1.0"}, "name": "pkg", "files": [entry]}).encode()
    chaos.script("/simple/pkg/", status(200, page, Content_Type=SIMPLE))
    chaos.script("/pkg-1.0-py3-none-any.whl", status(200, body))
    return f"/pypi/packages/127.0.0.1:{chaos.port}/pkg-1.0-py3-none-any.whl.metadata"


async def test_a_sidecar_comes_from_upstream_where_it_has_it(proxy: Proxy, chaos: Chaos) -> None:
    path = listed(chaos, wheel(), b"from upstream")
    chaos.script("/pkg-1.0-py3-none-any.whl.metadata", status(200, b"from upstream"))
    got = await proxy.get(path)
    assert (got.status, got.body) == (200, b"from upstream")
    assert chaos.hits("/pkg-1.0-py3-none-any.whl") == 0


async def test_a_missing_sidecar_is_made_from_the_wheel(proxy: Proxy, chaos: Chaos) -> None:
    metadata = b"Metadata-Version: 2.1\nName: pkg\nVersion: 1.0\n"
    path = listed(chaos, wheel(metadata), metadata)
    got = await proxy.get(path)
    assert (got.status, got.body) == (200, metadata)
    await proxy.settled()
    again = await proxy.get(path)
    assert (again.source, again.body) == ("cache", metadata)
    assert chaos.hits("/pkg-1.0-py3-none-any.whl") == 1


async def test_a_made_sidecar_must_be_what_the_index_promised(proxy: Proxy, chaos: Chaos) -> None:
    path = listed(chaos, wheel(), b"something else")
    got = await proxy.get(path)
    assert got.status == 502


async def test_a_wrong_sidecar_is_refused(proxy: Proxy, chaos: Chaos) -> None:
    path = listed(chaos, wheel(), b"from upstream")
    chaos.script("/pkg-1.0-py3-none-any.whl.metadata", status(200, b"from somebody"))
    assert (await proxy.get(path)).status == 502


# --- several upstreams ---


async def test_failover_toward_upstream(tmp_path: Path, chaos: Chaos) -> None:
    async with Chaos() as second:
        body = second.script("/f.bin", ok(), size=400_000)
        both = f"[{chaos.origin}/, {second.origin}/]"
        for trouble in (status(500), status(404), slam()):
            chaos.script("/f.bin", trouble)
            async with proxied(tmp_path / f"{id(trouble)}", chaos.origin, files=both) as proxy:
                got = await proxy.get("/files/f.bin")
                assert (got.status, got.body) == (200, body.bytes())
                await proxy.check()


async def test_absent_only_when_all_say_so(tmp_path: Path, chaos: Chaos) -> None:
    async with Chaos() as second:
        chaos.script("/f.bin", status(404))
        second.script("/f.bin", status(500))
        both = f"[{chaos.origin}/, {second.origin}/]"
        async with proxied(tmp_path, chaos.origin, files=both) as proxy:
            assert (await proxy.get("/files/f.bin")).status == 502
            second.script("/f.bin", status(404))
            assert (await proxy.get("/files/f.bin")).status == 404
            await proxy.check()


async def test_a_promised_body_is_continued_from_another_upstream(tmp_path: Path, chaos: Chaos) -> None:
    async with Chaos() as second:
        body = chaos.script("/f.bin", ok(), size=2_000_000)
        second.script("/f.bin", ok(), size=2_000_000)
        async with proxied(tmp_path, chaos.origin, files=f"[{chaos.origin}/, {second.origin}/]") as proxy:
            await proxy.get("/files/f.bin")
            await proxy.settled()
            for blob in proxy.blobs():
                blob.unlink()
            chaos.script("/f.bin", cut(0.5), status(503), size=2_000_000)
            got = await proxy.get("/files/f.bin")
            assert (got.status, got.body) == (200, body.bytes())
            assert second.hits("/f.bin") >= 1
            await proxy.check()


async def test_a_bad_mirror_is_no_end(tmp_path: Path, chaos: Chaos) -> None:
    """Wrong bytes from the first upstream, small enough that nobody holds one: the second is asked."""
    async with Chaos() as second:
        body = chaos.script("/f.bin", ok(), size=20_000)
        second.script("/f.bin", ok(), size=20_000)
        async with proxied(tmp_path, chaos.origin, files=f"[{chaos.origin}/, {second.origin}/]") as proxy:
            await proxy.get("/files/f.bin")
            await proxy.settled()
            for blob in proxy.blobs():
                blob.unlink()
            chaos.script("/f.bin", flip(0.5), size=20_000)
            got = await proxy.get("/files/f.bin")
            assert (got.status, got.body) == (200, body.bytes())
            await proxy.check()


def _ask(path: str):
    from artifactproxy.model import Ask

    _, repo, rest = path.split("/", 2)
    return Ask(repo, rest)


async def test_wrong_bytes_and_then_none(proxy: Proxy, chaos: Chaos) -> None:
    """The second chance finds nothing: the first fault stands."""
    body = chaos.script("/pkg-1.0.tar.gz", flip(0.5), status(404), size=20_000)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    got = await proxy.get(path)
    assert (got.status, got.error) == (502, "digest")


async def test_nobody_begins_to_read_what_is_known_to_be_wrong(proxy: Proxy, chaos: Chaos) -> None:
    """One byte more than the held tail: a reader could begin just when the verdict falls."""
    body = chaos.script("/pkg-1.0.tar.gz", flip(0.5), ok(), size=65_537)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    answers = await asyncio.gather(*(proxy.get(path) for _ in range(30)))
    assert {answer.status for answer in answers} <= {200, 502}
    assert {answer.body for answer in answers if answer.status == 200} <= {body.bytes(), None}


async def test_what_was_answered_a_moment_ago_is_not_older_for_the_next(tmp_path, chaos) -> None:
    """Between its verification and its row a body is what everybody gets."""
    async with proxied(tmp_path, chaos.origin, remote="ttl: 1h\nmin_revalidate: 0s") as proxy:
        chaos.script("/d.json", ok(), size=1000)
        await proxy.get("/files/d.json")
        await proxy.settled()
        newer = chaos.script("/d.json", ok(), size=1000, version=2)
        failpoints.arm("tmp.fsynced=sleep:0.5")  # of the store's thread: the disk is slow
        try:
            assert (await proxy.get("/files/d.json", Cache_Control="no-cache")).body == newer.bytes()
            got = await proxy.get("/files/d.json")
            assert (got.source, got.body) == ("cache", newer.bytes())
            assert chaos.hits("/d.json") == 2
        finally:
            failpoints.arm("")
        await proxy.settled()
        assert (await proxy.get("/files/d.json")).body == newer.bytes()
        await proxy.check()
