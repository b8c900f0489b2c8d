"""U23 to U26: parts that do not fit, where a broken body is continued."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos import Exchange, Oracle
from tests.chaos.behaviours import bad_range, changing, cut, flip, ok, status
from tests.chaos.server import Behaviour, HangUp
from tests.faults.watch import BIG, SMALL, Watch
from tests.house_proxy import promise

PKG = "/pkg-1.0.tar.gz"
HALF = BIG // 2
LAST = BIG - 1


def part(content_range: str, *, of: tuple[int, int] | None = None, **headers: str) -> Behaviour:
    """A 206 with this Content-Range and the bytes `of`, the right ones if not given."""

    async def behave(exchange: Exchange) -> None:
        body = exchange.body
        first = int(exchange.seen.headers["range"].removeprefix("bytes=").rstrip("-"))
        start, stop = of or (first, body.size)
        text = content_range.format(first=first, last=body.size - 1, size=body.size)
        fields = {"ETag": body.etag, "Content-Length": str(stop - start)}
        fields |= {"Content-Range": text} if text else {}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        await exchange.head(206, {name: value for name, value in fields.items() if value})
        await exchange.send(body.slice(start, stop))

    return behave


BAD_PARTS: dict[str, Behaviour] = {
    "no Content-Range": part(""),
    "starts too early": part("bytes 0-{last}/{size}", of=(0, BIG)),
    "overlaps by one": part("bytes 1-{last}/{size}", of=(1, BIG)),
    "starts too late": part("bytes 2999990-{last}/{size}", of=(2_999_990, BIG)),
    "ends too early": part("bytes {first}-2999990/{size}"),
    "another total": part("bytes {first}-{last}/3000001"),
    "end past the total": part("bytes {first}-3000000/{size}"),
    "no span": part("bytes */{size}"),
    "another unit": part("items {first}-{last}/{size}"),
    "reversed": part("bytes {last}-{first}/{size}"),
    "negative": part("bytes -{first}-{last}/{size}"),
    "two of them": part("bytes {first}-{last}/{size}, bytes 0-1/{size}"),
    "several parts": part("bytes {first}-{last}/{size}", Content_Type="multipart/byteranges; boundary=x"),
    "compressed": part("bytes {first}-{last}/{size}", Content_Encoding="gzip"),
    "without its tag": part("bytes {first}-{last}/{size}", ETag=""),
    "two lengths": part("bytes {first}-{last}/{size}", of=(0, 10)),
}


@pytest.mark.parametrize("name", BAD_PARTS)
async def test_u25_a_part_that_does_not_fit_is_dropped(watch: Watch, name: str) -> None:
    body = watch.chaos.script("/f.bin", cut(0.5), BAD_PARTS[name], ok(), size=BIG)
    got = await watch.proxy.get("/files/f.bin")
    assert (got.status, got.body) == (200, body.bytes())
    assert await watch.errors("bad_206") == 1
    assert await watch.grown("resumes_total") == 2
    await watch.proxy.settled()
    assert (await watch.proxy.get("/files/f.bin")).source == "cache"


@pytest.mark.parametrize("name", ["no Content-Range", "starts too early", "another total"])
async def test_u25_parts_that_never_fit_are_a_reset(watch: Watch, name: str) -> None:
    watch.chaos.script("/f.bin", cut(0.5), BAD_PARTS[name], size=BIG)
    await watch.reset("/files/f.bin", "short_body")
    assert await watch.errors("bad_206") == 3
    await watch.is_kept()
    await watch.next_is_right()


async def test_u25_a_small_body_starts_over_where_parts_never_fit(watch: Watch) -> None:
    body = watch.chaos.script("/f.bin", cut(0.5), bad_range("bytes 0-9/100"), ok(), size=SMALL)
    got = await watch.proxy.get("/files/f.bin")
    assert (got.status, got.body) == (200, body.bytes())
    assert "range" not in watch.chaos.last("/f.bin").headers, "one stream from the start"


async def test_u25_a_part_to_a_plain_get_is_no_file(watch: Watch) -> None:
    watch.chaos.script("/f.bin", bad_range("bytes 0-9/100"), size=BIG)
    got = await watch.refused("/files/f.bin", 502, "bad_206")
    assert "fwd-status=206" in got.headers["Cache-Status"]
    await watch.next_is_right()


async def test_u26_a_refused_part_starts_a_small_body_over(watch: Watch) -> None:
    refused = status(416, Content_Range=f"bytes */{SMALL}")
    body = watch.chaos.script("/f.bin", cut(0.5), refused, ok(), size=SMALL)
    got = await watch.proxy.get("/files/f.bin")
    assert (got.status, got.body) == (200, body.bytes())
    assert await watch.errors("no_resume") == 1
    assert "range" not in watch.chaos.last("/f.bin").headers


async def test_u26_refused_parts_of_a_body_that_was_begun_are_a_reset(watch: Watch) -> None:
    watch.chaos.script("/f.bin", cut(0.5), status(416), size=BIG)
    await watch.reset("/files/f.bin", "short_body")
    assert await watch.errors("no_resume") == 3
    await watch.is_kept()
    await watch.next_is_right()


# --- U23, U24: another representation, or the whole again ---


def other(behave: Callable[..., Behaviour] = ok, **options: object) -> Behaviour:
    """The same name and size, other bytes and validators."""

    async def changed(exchange: Exchange) -> None:
        body = exchange.body
        exchange.body = Oracle(body.name, body.size, seed=body.seed, version=1)
        if options.pop("blind", False):  # a server that pays no attention to If-Range
            exchange.seen.headers.pop("if-range", None)
        await behave(**options)(exchange)

    return changed


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("blind", [False, True], ids=["whole again", "part of another"])
async def test_u23_content_that_changes_after_part_k_is_never_mixed(
    watch: Watch, parts: int, blind: bool
) -> None:
    first = [cut(0.3)] * parts
    body = watch.chaos.script("/f.bin", *first, other(blind=blind), size=BIG)
    got = await watch.reset("/files/f.bin", "changed_mid_range")
    assert got.status == 200
    assert await watch.grown("integrity_failures_total", where="upstream") == 1
    assert body.sha256 not in [blob.name for blob in watch.proxy.blobs()]
    await watch.is_kept()
    await watch.next_is_right()


async def test_u23_before_a_byte_left_the_new_content_is_taken_whole(watch: Watch) -> None:
    watch.chaos.script("/f.bin", cut(0.5), other(), size=SMALL)
    got = await watch.proxy.get("/files/f.bin")
    assert (got.status, got.body) == (200, Oracle("/f.bin", SMALL, version=1).bytes())


async def test_u23_a_body_that_changes_with_every_request(watch: Watch) -> None:
    watch.chaos.script("/f.bin", changing(), size=BIG)
    got = await watch.proxy.get("/files/f.bin")
    assert (got.status, got.body) == (200, Oracle("/f.bin", BIG).bytes())
    await watch.proxy.settled()
    assert (await watch.proxy.get("/files/f.bin")).body == got.body


async def test_u24_the_whole_instead_of_the_rest_is_compared_and_used(watch: Watch) -> None:
    body = watch.chaos.script("/f.bin", cut(0.5, ranges=False), ok(ranges=False), size=BIG)
    got = await watch.proxy.get("/files/f.bin")
    assert (got.status, got.body) == (200, body.bytes())
    assert watch.chaos.hits("/f.bin") == 2, "the body is read once more, not more often"
    assert await watch.grown("resumes_total") == 1
    await watch.proxy.settled()
    assert (await watch.proxy.get("/files/f.bin")).source == "cache"


@pytest.mark.parametrize("at", [0, 0.2, 0.49])
async def test_u24_a_whole_that_begins_otherwise_is_not_used(watch: Watch, at: float) -> None:
    watch.chaos.script("/f.bin", _after_a_moment(cut(0.5, ranges=False)), _blindly(flip(at)), size=BIG)
    await watch.reset("/files/f.bin", "changed_mid_range")
    await watch.next_is_right()


def _after_a_moment(behave: Behaviour) -> Behaviour:
    """Hang up only once the client has had time to read: a body nobody has begun may start over."""

    async def breaks(exchange: Exchange) -> None:
        try:
            await behave(exchange)
        except HangUp:
            await exchange.pause(0.2)
            raise

    return breaks


def _blindly(behave: Behaviour) -> Behaviour:
    async def whole(exchange: Exchange) -> None:
        exchange.seen.headers.pop("range", None)
        await behave(exchange)

    return whole


async def test_u24_promised_bytes_may_come_from_parts_with_other_tags(watch: Watch) -> None:
    """The digest judges the whole, so a mirror's own entity tag is no obstacle."""
    relabelled = part("bytes {first}-{last}/{size}", ETag='"another"')
    body = watch.chaos.script(PKG, cut(0.5), relabelled, size=BIG)
    path = promise(watch.chaos, PKG[1:], body)
    got = await watch.proxy.get(path)
    assert (got.status, got.body) == (200, body.bytes())


async def test_u23_promised_bytes_that_change_midway_fail_the_digest(watch: Watch) -> None:
    body = watch.chaos.script(PKG, cut(0.5), other(blind=True), size=BIG)
    path = promise(watch.chaos, PKG[1:], body)
    await watch.proxy.get("/pypi/simple/pkg/")
    got = await watch.proxy.get(path)
    assert got.body is None
    await watch.told(path, "digest")
    assert await watch.grown("integrity_failures_total", where="upstream") >= 1
    await watch.next_is_right(path)
