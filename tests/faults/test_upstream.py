"""What upstream does wrong, what the client gets for it, and that nothing of it is kept.

Ids are those of the fault matrix. After each: the store is consistent, no temp file and no
descriptor is left, and the next request is right.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import (
    bad_range,
    changing,
    cut,
    empty,
    endless,
    flip,
    gzipped,
    lies,
    longer,
    ok,
    portal,
    redirect,
    silence,
    slam,
    slow_head,
    stall,
    status,
    unframed,
)
from tests.house_proxy import Proxy, promise, proxied

BIG = 3_000_000  # spooled to a temp file
SMALL = 20_000  # answered only after verification


@pytest.fixture
async def proxy(tmp_path: Path, chaos: Chaos) -> AsyncIterator[Proxy]:
    async with proxied(tmp_path, chaos.origin) as running:
        yield running
        await running.check()


async def good_next(proxy: Proxy, chaos: Chaos, path: str = "/files/f.bin", size: int = BIG) -> None:
    """The next request is right: upstream is honest now."""
    await proxy.settled()
    name = "/" + path.split("/", 2)[2] if path.startswith("/files/") else "/" + path.rpartition("/")[2]
    body = chaos.script(name, ok(), size=size)
    first = await proxy.get(path)
    assert (first.status, first.body) == (200, body.bytes())
    await proxy.settled()
    before = chaos.hits(name)
    second = await proxy.get(path)
    assert (second.status, second.source, second.body) == (200, "cache", body.bytes())
    assert chaos.hits(name) == before


@pytest.mark.parametrize("at", [1, 0.5, -1], ids=["1 byte", "half", "all but one"])
@pytest.mark.parametrize("rst", [False, True], ids=["fin", "rst"])
async def test_u07_a_cut_body_is_resumed(proxy: Proxy, chaos: Chaos, at: float, rst: bool) -> None:
    body = chaos.script("/f.bin", cut(at, rst=rst), ok(), size=BIG)
    got = await proxy.get("/files/f.bin")
    assert (got.status, got.body) == (200, body.bytes())
    assert chaos.hits("/f.bin") == 2
    assert chaos.last("/f.bin").headers["range"].startswith("bytes=")
    await good_next(proxy, chaos)


async def test_u07_cut_for_ever_is_a_reset_never_a_short_200(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", cut(0.5), cut(0.5, ranges=False), size=BIG)
    got = await proxy.get("/files/f.bin")
    assert got.body is None
    assert proxy.blobs() == []
    await good_next(proxy, chaos)


async def test_u07_small_body_cut_for_ever_has_a_proper_status(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", cut(0.5), size=SMALL)
    got = await proxy.get("/files/f.bin")
    assert (got.status, got.error) == (502, "short_body")
    assert "X-Artifact-Source" not in got.headers
    await good_next(proxy, chaos)


async def test_u06_a_stalled_body_is_resumed(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", stall(0.5), ok(), size=BIG)
    got = await proxy.get("/files/f.bin")
    assert (got.status, got.body) == (200, body.bytes())
    await good_next(proxy, chaos)


async def test_u09_announced_longer_than_sent(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", lies(1000), size=BIG)
    got = await proxy.get("/files/f.bin")
    assert got.body is None or got.status == 502
    assert proxy.blobs() == []
    await good_next(proxy, chaos)


async def test_u10_more_bytes_than_announced_with_a_promise(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", lies(-1000), size=BIG)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    got = await proxy.get(path)
    assert got.body is None or got.status == 502
    await good_next(proxy, chaos, path)


async def test_u27_longer_than_promised(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", longer(5000), size=BIG)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    assert (await proxy.get("/pypi/simple/pkg/")).status == 200
    got = await proxy.get(path)
    assert got.body is None or got.status == 502
    await good_next(proxy, chaos, path)


@pytest.mark.parametrize("at", [0, 0.5, -1], ids=["first", "middle", "last"])
async def test_u22_one_wrong_bit_big(proxy: Proxy, chaos: Chaos, at: float) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", flip(at), size=BIG)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    got = await proxy.get(path)
    assert got.body is None, "nobody may hold a complete body of wrong bytes"
    assert [b.name for b in proxy.blobs() if b.name == body.sha256] == []
    await good_next(proxy, chaos, path)


async def test_u22_one_wrong_bit_small_is_a_502_or_mended(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", flip(0.5), size=SMALL)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    got = await proxy.get(path)
    assert (got.status, got.error) == (502, "digest")
    assert chaos.hits("/pkg-1.0.tar.gz") == 2, "once more, past caches on the way"
    assert chaos.last("/pkg-1.0.tar.gz").headers["cache-control"] == "no-cache"
    await good_next(proxy, chaos, path, SMALL)


async def test_u22_a_bad_cache_on_the_way_is_stepped_over(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", flip(0.5), ok(), size=SMALL)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    got = await proxy.get(path)
    assert (got.status, got.body) == (200, body.bytes())


async def test_u28_endless_body_ends_at_the_limit(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", endless())
    async with proxied(tmp_path, chaos.origin, extra="max_artifact: 5MB") as proxy:
        got = await proxy.get("/files/f.bin")
        assert got.body is None
        await proxy.settled()
        assert proxy.blobs() == []
        await good_next(proxy, chaos)
        await proxy.check()


@pytest.mark.parametrize("at", [None, 0.5], ids=["whole", "cut"])
@pytest.mark.parametrize("rst", [False, True], ids=["fin", "rst"])
async def test_u08_without_framing_and_promise_nothing_is_kept(
    proxy: Proxy, chaos: Chaos, at: float | None, rst: bool
) -> None:
    chaos.script("/f.bin", unframed(at, rst=rst), size=BIG)
    got = await proxy.get("/files/f.bin")
    assert (got.status, got.error) == (502, "unframed_body")
    assert proxy.blobs() == []
    await good_next(proxy, chaos)


async def test_u08_without_framing_but_promised_is_verified_and_kept(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", unframed(), size=BIG)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    got = await proxy.get(path)
    assert (got.status, got.body) == (200, body.bytes())
    await proxy.settled()
    assert (await proxy.get(path)).source == "cache"


async def test_u08_cut_without_framing_but_promised_is_refused(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/pkg-1.0.tar.gz", unframed(0.5), size=BIG)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    got = await proxy.get(path)
    assert got.body is None or got.status == 502
    await good_next(proxy, chaos, path)


async def test_u08_accept_unframed_relays_and_never_stores(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", unframed(), size=BIG)
    async with proxied(tmp_path, chaos.origin, remote="accept_unframed: true") as proxy:
        for _ in range(2):
            got = await proxy.get("/files/f.bin")
            assert (got.status, got.body, got.source) == (200, body.bytes(), "remote")
            assert "bypass" in got.headers["Cache-Status"]
            await proxy.settled()
        assert proxy.blobs() == []
        await proxy.check()


async def test_u30_compressed_unasked_passes_with_its_header_and_is_not_kept(
    proxy: Proxy, chaos: Chaos
) -> None:
    chaos.script("/f.bin", gzipped(), size=BIG)
    got = await proxy.get("/files/f.bin")
    assert got.status == 200
    assert got.headers["Content-Encoding"] == "gzip"
    assert "bypass" in got.headers["Cache-Status"]
    await proxy.settled()
    assert proxy.blobs() == []
    await good_next(proxy, chaos)


async def test_u01_refused_is_a_502_after_two_quick_tries(proxy: Proxy, chaos: Chaos) -> None:
    port = chaos.port
    await chaos.stop()
    got = await proxy.get("/files/f.bin")
    assert (got.status, got.error) == (502, "upstream_refused")
    await chaos.start(port)
    await good_next(proxy, chaos)


async def test_u04_a_slow_head_is_cut_by_an_absolute_deadline(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", slow_head(0.1))
    got = await proxy.get("/files/f.bin")
    assert (got.status, got.error) == (504, "first_byte")
    await good_next(proxy, chaos)


async def test_u04_silence_is_a_504(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", silence())
    got = await proxy.get("/files/f.bin")
    assert (got.status, got.error) == (504, "first_byte")
    await good_next(proxy, chaos)


async def test_u13_500_is_not_retried(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", status(500))
    got = await proxy.get("/files/f.bin")
    assert got.status == 502
    assert chaos.hits("/f.bin") == 1
    await good_next(proxy, chaos)


@pytest.mark.parametrize("code", [502, 503, 504])
async def test_u14_a_passing_5xx_is_retried(proxy: Proxy, chaos: Chaos, code: int) -> None:
    body = chaos.script("/f.bin", status(code), status(code), ok(), size=BIG)
    got = await proxy.get("/files/f.bin")
    assert (got.status, got.body) == (200, body.bytes())


async def test_u14_a_lasting_5xx_is_a_502(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", status(503))
    got = await proxy.get("/files/f.bin")
    assert got.status in (502, 503)
    assert chaos.hits("/f.bin") == 3
    await good_next(proxy, chaos)


async def test_u15_429_is_honoured_for_the_whole_upstream(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", status(429, Retry_After="30"))
    chaos.script("/g.bin", ok())
    got = await proxy.get("/files/f.bin")
    assert got.status == 429
    assert 1 <= int(got.headers["Retry-After"]) <= 31
    other = await proxy.get("/files/g.bin")
    assert other.status in (429, 503)
    assert "Retry-After" in other.headers
    assert chaos.hits("/g.bin") == 0


async def test_u16_304_for_nothing(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", status(304))
    got = await proxy.get("/files/f.bin")
    assert (got.status, got.error) == (502, "unexpected_304")
    await good_next(proxy, chaos)


async def test_u18_a_redirect_loop(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", redirect("/f.bin"))
    got = await proxy.get("/files/f.bin")
    assert (got.status, got.error) == (502, "redirects")
    await good_next(proxy, chaos)


async def test_u19_a_redirect_to_a_private_address_sends_no_packet(proxy: Proxy, chaos: Chaos) -> None:
    async with Chaos() as private:
        private.script("/secret", ok())
        chaos.script("/f.bin", redirect(private.url("/secret")))
        got = await proxy.get("/files/f.bin")
        assert (got.status, got.error) == (502, "blocked_address")
        assert private.connections == 0
    await good_next(proxy, chaos)


async def test_u23_content_that_changes_midway_is_never_mixed(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", changing(), size=BIG)
    got = await proxy.get("/files/f.bin")
    if got.body is not None and got.status == 200:
        await proxy.settled()
        assert (await proxy.get("/files/f.bin")).body == got.body
    await proxy.settled()


async def test_u25_206_to_a_plain_get(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", bad_range("bytes 0-9/100"), size=BIG)
    got = await proxy.get("/files/f.bin")
    assert (got.status, got.error) == (502, "bad_206")
    await good_next(proxy, chaos)


async def test_u32_a_captive_portal_is_not_an_artifact(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/pkg-1.0.tar.gz", portal(), size=BIG)
    body = chaos.script("/other", ok(), size=BIG)
    path = promise(chaos, "pkg-1.0.tar.gz", body)
    got = await proxy.get(path)
    assert got.status == 502
    await good_next(proxy, chaos, "/files/f.bin")


async def test_u33_an_empty_body_is_not_an_artifact(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", empty())
    got = await proxy.get("/files/f.bin")
    assert (got.status, got.error) == (502, "empty")
    await good_next(proxy, chaos)


async def test_u35_404_is_remembered_for_a_while_and_hides_nothing_stored(proxy: Proxy, chaos: Chaos) -> None:
    chaos.script("/f.bin", status(404))
    for _ in range(3):
        got = await proxy.get("/files/f.bin")
        assert got.status == 404
        assert got.error == "upstream_absent"
    assert chaos.hits("/f.bin") == 1
    body = chaos.script("/g.bin", ok(), status(404), size=BIG)
    await proxy.get("/files/g.bin")
    await proxy.settled()
    got = await proxy.get("/files/g.bin", Cache_Control="no-cache")
    assert (got.status, got.source, got.body) == (200, "cache", body.bytes())


async def test_a_connection_slammed_shut_is_retried(proxy: Proxy, chaos: Chaos) -> None:
    body = chaos.script("/f.bin", slam(), ok(), size=BIG)
    got = await proxy.get("/files/f.bin")
    assert (got.status, got.body) == (200, body.bytes())
    await proxy.settled()
