"""Large bodies over several connections: R1 to R11, and U22 to U26 while they come so."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from artifactproxy.engine import pace
from artifactproxy.rules import crew
from artifactproxy.upstream.gate import Gate
from tests.chaos import Chaos, Exchange, Oracle
from tests.chaos.behaviours import cut, flip, gated, ok, stall, status
from tests.chaos.server import Behaviour
from tests.faults.watch import PKG, Watch, promised, watched
from tests.house_proxy import proxied

MIB = 2**20
SEGMENT = MIB
FROM = 2 * MIB
REMOTE = "download: {connections: 4, segment: 1MiB, from: 2MiB}"
LARGE = 6 * MIB + 12_345
FILE = "/files/f.bin"


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many connections as are allowed, from the first byte on: else it would depend on times."""
    monkeypatch.setattr(crew, "HUNGRY", 0.0)
    monkeypatch.setattr(pace, "SHORT", 0.0)
    monkeypatch.setattr(pace, "WINDOW", 3600.0)


@pytest.fixture
async def wide(tmp_path: Path, chaos: Chaos) -> AsyncIterator[Watch]:
    async with watched(tmp_path, chaos, remote=REMOTE) as watch:
        yield watch


def asked(watch: Watch, path: str = "/f.bin") -> list[str]:
    return [seen.headers.get("range", "") for seen in watch.chaos.requests if seen.path == path]


def held(behave: Behaviour | None = None, *, at: int = 100_000, seconds: float = 0.15) -> Behaviour:
    """Honest, but pauses so early that others have time to be asked and answered."""
    return behave or stall(at, seconds=seconds)


async def right(watch: Watch, body: Oracle, path: str = FILE) -> None:
    got = await watch.proxy.get(path)
    assert (got.status, got.source) == (200, "remote"), got.error
    assert got.body == body.bytes()
    await watch.proxy.settled()
    again = await watch.proxy.get(path)
    assert (again.source, again.body) == ("cache", body.bytes())


@pytest.mark.parametrize(
    "size",
    [1, SEGMENT - 1, SEGMENT, SEGMENT + 1, FROM - 1, FROM, FROM + 1, 3 * SEGMENT - 1, 3 * SEGMENT, LARGE],
)
async def test_r1_r9_every_size_is_whole(wide: Watch, size: int) -> None:
    body = wide.chaos.script("/f.bin", ok(), size=size)
    await right(wide, body)
    assert asked(wide)[0] == "bytes=0-"
    if size < FROM:
        assert len(asked(wide)) == 1, "a small file ends in the first request"


async def test_r1_an_empty_file_has_no_range(wide: Watch) -> None:
    path, _ = promised(wide, ok(), size=0)
    got = await wide.proxy.get(path)
    assert (got.status, got.body) == (200, b"")
    wide.chaos.script("/f.bin", status(416, Content_Range="bytes */0"), ok(), size=0)
    assert (await wide.proxy.get(FILE)).error == "empty", "an artifact without a byte and without a promise"
    assert asked(wide) == ["bytes=0-", ""]


async def test_r1_segments_are_asked_for_in_order_and_once(wide: Watch) -> None:
    body = wide.chaos.script("/f.bin", held(), ok(), size=LARGE)
    await right(wide, body)
    spans = [tuple(map(int, re.findall(r"\d+", text))) for text in asked(wide)[1:]]
    assert len(spans) >= 5
    later = sorted(span for span in spans if span[0] >= SEGMENT)  # asked for at one moment, they race
    assert all(start == stop + 1 for (_, stop), (start, _) in pairwise(later))
    assert all(stop - start < SEGMENT for start, stop in spans)
    tags = [seen.headers.get("if-range", "") for seen in wide.chaos.requests if seen.path == "/f.bin"]
    assert set(tags[1:]) == {body.etag}, "R5"
    codings = {s.headers["accept-encoding"] for s in wide.chaos.requests if s.path == "/f.bin"}
    assert codings == {"identity"}, "R8"


async def test_r9_a_promised_small_file_is_asked_for_plainly(wide: Watch) -> None:
    path, body = promised(wide, ok(), size=FROM - 1)
    await wide.proxy.get("/pypi/simple/pkg/")
    await right(wide, body, path)
    assert asked(wide, PKG) == [""]


@asynccontextmanager
async def most(watch: Watch) -> AsyncIterator[list[int]]:
    """How many connections to upstream are taken at once, at most. Seen from here: upstream notices late
    that one has ended."""
    seen = [0]
    gates = watch.proxy.engine.parts.upstream._gates  # type: ignore[attr-defined]
    gives = gates.give

    def give(gate: Gate) -> None:
        seen[0] = max(seen[0], gate.slots.taken)
        gives(gate)

    gates.give = give
    yield seen


@pytest.mark.parametrize("connections", [1, 2, 3])
async def test_r9_never_more_connections_than_allowed(tmp_path: Path, chaos: Chaos, connections: int) -> None:
    remote = f"download: {{connections: {connections}, segment: 1MiB, from: 2MiB}}"
    async with watched(tmp_path, chaos, remote=remote) as watch, most(watch) as seen:
        all_asked = gated(50_000, lambda: chaos.hits("/f.bin") >= connections)
        body = chaos.script("/f.bin", all_asked, size=LARGE)
        await right(watch, body)
    assert seen == [connections]


async def test_r9_a_host_has_no_more_connections_than_allowed_over_all_downloads(
    tmp_path: Path, chaos: Chaos
) -> None:
    remote = "download: {connections: 8, max_per_host: 5, segment: 1MiB, from: 2MiB}"
    paths = [f"/f{n}.bin" for n in range(3)]
    all_asked = gated(50_000, lambda: sum(map(chaos.hits, paths)) >= 5)

    async def together(exchange: Exchange) -> None:
        """The first connection of a download is always given: none may take spare ones before."""
        while not all(map(chaos.hits, paths)):
            await exchange.pause(0.005)
        await all_asked(exchange)

    async with watched(tmp_path, chaos, remote=remote) as watch, most(watch) as seen:
        bodies = [chaos.script(path, together, size=LARGE) for path in paths]
        answers = await asyncio.gather(*(watch.proxy.get(f"/files{path}") for path in paths))
        assert [got.body for got in answers] == [body.bytes() for body in bodies]
    assert seen == [5]


# --- R2, U24: no ranges ---


@pytest.mark.parametrize("how", ["no ranges", "no length", "no validator", "coded"])
async def test_r2_r5_r8_what_cannot_be_had_in_parts_comes_as_one(wide: Watch, how: str) -> None:
    behave = {
        "no ranges": ok(ranges=False),
        "no length": ok(chunked=True, ranges=False),
        "no validator": ok(validators=False),
        "coded": ok(Content_Encoding="identity"),
    }[how]
    body = wide.chaos.script("/f.bin", behave, size=LARGE)
    await right(wide, body)
    if how != "coded":
        assert asked(wide) == ["bytes=0-"]


def probe_answer(content_range: str, **headers: str) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        size = exchange.body.size
        fields = {"ETag": exchange.body.etag, "Content-Length": str(size)}
        fields |= {"Content-Range": content_range.format(last=size - 1, size=size)} if content_range else {}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        await exchange.head(206, fields)
        await exchange.send(exchange.body.bytes()[: int(fields["Content-Length"])])

    return behave


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("", {}),
        ("bytes 0-{last}/*", {}),
        ("items 0-{last}/{size}", {}),
        ("bytes 1-{last}/{size}", {}),
        ("bytes 0-9/{size}", {"Content_Length": "10"}),
        ("bytes 0-{last}/{size}", {"Content_Length": "10"}),
        ("bytes 0-{last}/{size}", {"Content_Type": "multipart/byteranges; boundary=x"}),
    ],
)
async def test_r2_u25_a_probe_that_is_not_the_whole_is_asked_again_plainly(
    wide: Watch, text: str, headers: dict[str, str]
) -> None:
    body = wide.chaos.script("/f.bin", probe_answer(text, **headers), ok(), size=LARGE)
    await right(wide, body)
    assert asked(wide) == ["bytes=0-", ""]


async def test_r2_u26_a_refused_probe_is_asked_again_plainly(wide: Watch) -> None:
    body = wide.chaos.script("/f.bin", status(416), ok(), size=LARGE)
    await right(wide, body)
    assert asked(wide) == ["bytes=0-", ""]


async def test_u24_the_whole_instead_of_a_part_leaves_the_first_connection_alone(wide: Watch) -> None:
    body = wide.chaos.script("/f.bin", held(), ok(ranges=False), size=LARGE)
    await right(wide, body)
    assert await wide.errors("ranges_ignored") >= 1
    assert len(asked(wide)) <= 5, "nobody else is asked"


# --- R3, U25: parts that do not fit ---


def part(content_range: str, *, shift: int = 0, more: int = 0, less: int = 0, **headers: str) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        body = exchange.body
        first, last = map(int, re.findall(r"\d+", exchange.seen.headers["range"]))
        content = body.slice(first + shift, last + 1 + shift)
        content = content[: len(content) - less] + bytes(more)
        text = content_range.format(first=first, last=last, size=body.size, early=first - 1, late=last + 1)
        fields = {"ETag": body.etag, "Content-Length": str(len(content))}
        fields |= {"Content-Range": text} if text else {}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        await exchange.head(206, {name: value for name, value in fields.items() if value})
        await exchange.send(content)

    return behave


RIGHT = "bytes {first}-{last}/{size}"
BAD_PARTS: dict[str, Behaviour] = {
    "no Content-Range": part(""),
    "starts too early": part("bytes {early}-{last}/{size}", shift=-1),
    "starts too late": part("bytes {late}-{last}/{size}"),
    "another place": part("bytes 0-9/{size}"),
    "ends too late": part("bytes {first}-{late}/{size}", more=1),
    "one byte more": part(RIGHT, more=1),
    "one byte less": part(RIGHT, less=1),
    "no total": part("bytes {first}-{last}/*"),
    "no span": part("bytes */{size}"),
    "another unit": part("items {first}-{last}/{size}"),
    "two of them": part(RIGHT + ", bytes 0-1/{size}"),
    "several parts": part(RIGHT, Content_Type="multipart/byteranges; boundary=x"),
    "compressed": part(RIGHT, Content_Encoding="gzip"),
    "without its tag": part(RIGHT, ETag=""),
}


@pytest.mark.parametrize("name", BAD_PARTS)
async def test_r3_u25_a_part_that_does_not_fit_ends_the_others(wide: Watch, name: str) -> None:
    body = wide.chaos.script("/f.bin", held(), closed(BAD_PARTS[name]), size=LARGE)
    await right(wide, body)
    assert await wide.errors("bad_206") >= 1
    assert len(asked(wide)) <= 5, "four at once, and the rest in order where the first had ended"


@pytest.mark.parametrize("name", ["one byte more", "starts too early", "no total"])
async def test_r3_u25_also_where_parts_had_fitted_before(wide: Watch, name: str) -> None:
    """The first connection has gone by then, or goes on alone: in order, and the rest is right."""
    good = [ok()] * 4
    body = wide.chaos.script("/f.bin", held(), *good, closed(BAD_PARTS[name]), ok(), size=LARGE)
    await right(wide, body)
    assert await wide.errors("bad_206") >= 1


def closed(behave: Behaviour) -> Behaviour:
    """Only a part that ends somewhere is answered so; a request for all there is, or all that is missing,
    is honest."""

    async def chosen(exchange: Exchange) -> None:
        ranged = exchange.seen.headers.get("range", "")
        await (ok() if not ranged or ranged.endswith("-") else behave)(exchange)

    return chosen


@pytest.mark.parametrize("bad", [BAD_PARTS["no total"], ok(ranges=False), status(416)])
async def test_r3_u24_u26_the_rest_is_asked_for_in_order_where_nobody_is_left(
    wide: Watch, bad: Behaviour
) -> None:
    body = wide.chaos.script("/f.bin", cut(300_000), closed(bad), size=LARGE)
    await right(wide, body)
    assert asked(wide)[-1].endswith("-"), "the rest, over one connection"
    assert not [line for line in wide.proxy.log_lines() if line.get("warning") == "fill_bug"]


async def test_r3_u25_chunked_parts_that_are_too_long_or_too_short(wide: Watch) -> None:
    def chunked(by: int) -> Behaviour:
        async def behave(exchange: Exchange) -> None:
            first, last = map(int, re.findall(r"\d+", exchange.seen.headers["range"]))
            text = f"bytes {first}-{last}/{exchange.body.size}"
            fields = {"ETag": exchange.body.etag, "Transfer-Encoding": "chunked", "Content-Range": text}
            await exchange.head(206, fields)
            content = exchange.body.slice(first, last + 1 + min(by, 0)) + b"x" * max(by, 0)
            await exchange.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content))

        return behave

    for number, by in enumerate((5, -5, 0)):
        body = wide.chaos.script(f"/c{number}.bin", held(), chunked(by), ok(), size=LARGE)
        await right(wide, body, f"/files/c{number}.bin")


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("blind", [False, True], ids=["whole again", "part of another"])
async def test_u23_content_that_changes_after_part_k_is_never_mixed(wide: Watch, k: int, blind: bool) -> None:
    before = wide.chaos.script("/f.bin", held(), *[ok()] * (k - 1), _other(blind), size=LARGE)
    after = Oracle("/f.bin", LARGE, version=1)
    got = await wide.proxy.get(FILE)
    assert got.body in (None, before.bytes(), after.bytes())
    await wide.proxy.settled()
    stored = {blob.name for blob in wide.proxy.blobs()}
    assert wide.kept is not None
    assert stored <= {before.sha256, after.sha256, wide.kept.sha256, *_index_blobs(wide)}
    await wide.next_is_right(size=LARGE)


def _index_blobs(watch: Watch) -> set[str]:
    return {blob.name for blob in watch.proxy.blobs() if blob.stat().st_size < 100_000}


def _other(blind: bool) -> Behaviour:
    async def changed(exchange: Exchange) -> None:
        exchange.body = Oracle(exchange.body.name, exchange.body.size, version=1)
        if blind:
            exchange.seen.headers.pop("if-range", None)
        await ok()(exchange)

    return changed


# --- R4: what breaks goes on from its last good byte ---


@pytest.mark.parametrize(
    "broken",
    [cut(0.5), cut(0.5, rst=True), cut(0), cut(1), stall(0.5), status(500), status(502), status(503)],
    ids=["fin", "rst", "no byte", "one byte", "stall", "500", "502", "503"],
)
async def test_r4_a_broken_part_goes_on_from_its_last_good_byte(wide: Watch, broken: Behaviour) -> None:
    body = wide.chaos.script("/f.bin", held(), ok(), broken, ok(), size=LARGE)
    await right(wide, body)
    assert await wide.grown("resumes_total") >= 1
    spans = [tuple(map(int, re.findall(r"\d+", text))) for text in asked(wide)[1:]]
    wanted = sum(stop + 1 - start for start, stop in spans)
    # What another connection takes over has been asked for before, though it did not come.
    assert wanted <= 1.5 * LARGE, "no good byte is asked for again"


@pytest.mark.parametrize("at", [0, 1, 100_000, 0.3, 0.9])
async def test_r4_the_first_connection_may_break_too(wide: Watch, at: float) -> None:
    body = wide.chaos.script("/f.bin", cut(at), ok(), size=LARGE)
    await right(wide, body)


async def test_r4_attempts_are_bounded_and_the_end_is_a_reset(wide: Watch) -> None:
    wide.chaos.script("/f.bin", cut(0.1), cut(0), size=LARGE)
    got = await wide.proxy.get(FILE)
    assert (got.status, got.body) == (200, None)
    assert len(asked(wide)) < 40
    await wide.is_kept()
    await wide.next_is_right(size=LARGE)


async def test_r4_who_asks_to_be_left_alone_is_left_alone(wide: Watch) -> None:
    busy = status(429, Retry_After="1")
    body = wide.chaos.script("/f.bin", held(seconds=0.05), ok(), busy, ok(), size=LARGE)
    await right(wide, body)
    times = [seen.at for seen in wide.chaos.requests if seen.path == "/f.bin"]
    refused = times[2]
    assert not [at for at in times if refused + 0.3 < at < refused + 0.95], "nobody asks in the meantime"


# --- R6: redirects ---


async def test_r6_redirects_are_followed_once_and_again_when_they_expire(tmp_path: Path) -> None:
    async with Chaos() as front, Chaos() as back:
        signs = [0]

        async def sends(exchange: Exchange) -> None:
            signs[0] += 1
            target = back.url(f"/signed.bin?signature={signs[0]}")
            await exchange.head(302, {"Location": target, "Content-Length": "0"})

        uses = [0]

        async def serves(exchange: Exchange) -> None:
            uses[0] += 1
            fresh = exchange.seen.target.endswith(f"={signs[0]}") and not (uses[0] == 5 and signs[0] == 1)
            await (held(seconds=0.05) if fresh else status(403))(exchange)

        front.script("/f.bin", sends, size=LARGE)
        body = back.script("/signed.bin", serves, size=LARGE)
        auth = f"auth: {{bearer: {{file: {_secret(tmp_path)}}}}}"
        remote = f"{REMOTE}\nallow_private: [127.0.0.0/8]\n{auth}"
        async with proxied(tmp_path, front.origin, remote=remote) as proxy:
            got = await proxy.get(FILE)
            assert (got.status, got.body) == (200, body.bytes())
            await proxy.check()
        assert front.hits("/f.bin") == 2, "once for all parts, and once more when it had expired"
        assert all("authorization" in seen.headers for seen in front.requests)
        assert not any("authorization" in seen.headers for seen in back.requests)
        assert "signature" not in (tmp_path / "log").read_text()


def _secret(folder: Path) -> Path:
    path = folder / "token"
    path.write_text("hidden")
    return path


# --- R7, U22: promised bytes ---


@pytest.mark.parametrize("at", [0, 0.5, -1])
@pytest.mark.parametrize("number", [0, 1, 3])
async def test_r7_u22_wrong_bytes_in_any_part_are_never_stored(wide: Watch, number: int, at: float) -> None:
    behaviours: list[Behaviour] = [ok()] * number + [flip(at), ok()]
    path, body = promised(wide, *behaviours, size=LARGE)
    clients = await asyncio.gather(*(wide.proxy.get(path) for _ in range(20)))
    assert {got.body for got in clients} <= {None, body.bytes()}
    await wide.proxy.settled()
    await wide.next_is_right(path, size=LARGE)


async def test_r5_promised_bytes_come_in_parts_without_a_validator(wide: Watch) -> None:
    path, body = promised(wide, held(stall(100_000, seconds=0.1)), ok(validators=False), size=LARGE)
    await wide.proxy.get("/pypi/simple/pkg/")
    await right(wide, body, path)
    assert len(asked(wide, PKG)) > 3


@pytest.mark.parametrize("at", [0.3, 0.0], ids=["breaks", "gives nothing"])
async def test_r4_a_broken_download_goes_on_from_another_upstream(tmp_path: Path, at: float) -> None:
    """The index of the first has promised the digest; the first breaks off and does not recover, and what is
    missing comes from the second, which nobody has asked before."""
    async with Chaos() as one, Chaos() as two:
        body = one.script("/pkg/-/pkg-1.0.0.tgz", cut(300_000), cut(at), status(503), size=LARGE)
        two.script("/pkg/-/pkg-1.0.0.tgz", ok(), size=LARGE)
        integrity = base64.b64encode(hashlib.sha512(body.bytes()).digest()).decode()
        dist = {"tarball": one.url("/pkg/-/pkg-1.0.0.tgz"), "integrity": f"sha512-{integrity}"}
        version = {"name": "pkg", "version": "1.0.0", "dist": dist}
        page = {"name": "pkg", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
        one.script("/pkg", status(200, json.dumps(page).encode(), Content_Type="application/json"))
        both = f"npm:\n  provider: npm\n  upstream: ['{one.origin}/', '{two.origin}/']\n  {REMOTE}\n"
        async with proxied(tmp_path, one.origin, remotes=both, extra="first_byte: 10s") as proxy:
            assert (await proxy.get("/npm/pkg")).status == 200
            got = await proxy.get("/npm/pkg/-/pkg-1.0.0.tgz")
            assert (got.status, got.body) == (200, body.bytes())
            await proxy.settled()
            again = await proxy.get("/npm/pkg/-/pkg-1.0.0.tgz")
            assert (again.source, again.body) == ("cache", body.bytes())
            await proxy.check()
        parts = asked_of(two, "/pkg/-/pkg-1.0.0.tgz")
        assert parts
        assert all(start >= 65_536 for start, _ in parts), "no byte that is there already"


def asked_of(chaos: Chaos, path: str) -> list[tuple[int, int]]:
    """First and last byte of each request; -1 for an open end."""
    asked = (seen.headers.get("range", "bytes=0-") for seen in chaos.requests if seen.path == path)
    spans = (text.removeprefix("bytes=").split("-") for text in asked)
    return [(int(first), int(last or -1)) for first, last in spans]


# --- R10, R11 ---


async def test_point_r11_first_bytes_flow_while_later_ones_are_still_loading(wide: Watch) -> None:
    """R11. The first segment is there, the second waits: the client has the first, and not more."""
    word = asyncio.Event()

    async def waits(exchange: Exchange) -> None:
        await word.wait()
        await ok()(exchange)

    body = wide.chaos.script("/f.bin", held(at=SEGMENT - 1000, seconds=0.3), waits, ok(), size=LARGE)
    async with wide.proxy.client.get(wide.proxy.base + FILE) as answer:
        start = await answer.content.readexactly(SEGMENT - 2000)
        assert start == body.slice(0, SEGMENT - 2000)
        async with asyncio.timeout(20):
            while wide.chaos.hits("/f.bin") < 5:
                await asyncio.sleep(0.01)
        word.set()
        assert start + await answer.read() == body.bytes()


async def test_point_r10_giving_up_closes_all_connections(wide: Watch) -> None:
    """R10. The last reader of a stream without a known length is rare here, so the engine is stopped."""
    wide.chaos.script("/f.bin", stall(100_000, seconds=20), size=LARGE)
    task = asyncio.create_task(wide.proxy.get(FILE))
    async with asyncio.timeout(20):
        while wide.chaos.hits("/f.bin") < 4:
            await asyncio.sleep(0.01)
    await wide.proxy.engine._fills.drain(0)
    assert (await task).body is None
    await wide.proxy.check()
