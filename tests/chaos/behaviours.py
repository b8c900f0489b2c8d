"""What a scripted upstream can do with one request. Each function makes a `Behaviour`.

`ok` knows conditions and ranges. The body faults (`cut`, `stall`, `slow`, `flip`...) apply to the
whole body or to the range that was asked; `ranges=False` makes them ignore Range.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass

from .oracle import BLOCK, Oracle
from .server import Behaviour, Exchange

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(slots=True)
class _Plan:
    """What an honest server would send."""

    status: int
    headers: dict[str, str]
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


def _plan(exchange: Exchange, *, ranges: bool = True, validators: bool = True) -> _Plan:
    body, asked = exchange.body, exchange.seen.headers
    headers = {"Content-Type": "application/octet-stream"}
    if validators:
        headers |= {"ETag": body.etag, "Last-Modified": body.last_modified}
        matches = asked.get("if-none-match")
        if matches is not None:
            if body.etag in matches or matches == "*":
                return _Plan(304, headers, 0, 0)
        elif asked.get("if-modified-since") == body.last_modified:
            return _Plan(304, headers, 0, 0)
    if ranges:
        headers["Accept-Ranges"] = "bytes"
        match = _RANGE.fullmatch(asked.get("range", ""))
        if match and asked.get("if-range", body.etag) in (body.etag, body.last_modified):
            return _ranged(match, body, headers)
    headers["Content-Length"] = str(body.size)
    return _Plan(200, headers, 0, body.size)


def _ranged(match: re.Match[str], body: Oracle, headers: dict[str, str]) -> _Plan:
    first, last = match.groups()
    if first:
        start, stop = int(first), min(int(last) + 1 if last else body.size, body.size)
    else:
        start, stop = max(body.size - int(last or 0), 0), body.size
    if start >= stop:
        return _Plan(416, {"Content-Range": f"bytes */{body.size}", "Content-Length": "0"}, 0, 0)
    headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{body.size}", "Content-Length": str(stop - start)}
    return _Plan(206, headers, start, stop)


async def _pour(exchange: Exchange, start: int, stop: int) -> None:
    for at in range(start, stop, BLOCK * 4):
        await exchange.send(exchange.body.slice(at, min(at + BLOCK * 4, stop)))


def _part(at: float, size: int) -> int:
    """An offset: a share below 1, a number of bytes from 1 on, from the end if negative."""
    if at < 0:
        return max(size + int(at), 0)
    return int(size * at) if isinstance(at, float) and at < 1 else min(int(at), size)


def ok(*, ranges: bool = True, validators: bool = True, chunked: bool = False, **extra: str) -> Behaviour:
    """An honest answer. `extra` headers: `Cache_Control="no-cache"`."""

    async def behave(exchange: Exchange) -> None:
        plan = _plan(exchange, ranges=ranges, validators=validators)
        headers = plan.headers | {name.replace("_", "-"): value for name, value in extra.items()}
        if chunked and plan.status == 200:
            del headers["Content-Length"]
            headers["Transfer-Encoding"] = "chunked"
        await exchange.head(plan.status, headers, "OK")
        if exchange.seen.method == "HEAD":
            return
        if not (chunked and plan.status == 200):
            await _pour(exchange, plan.start, plan.stop)
            return
        for block in exchange.body:
            await exchange.send(b"%x\r\n%b\r\n" % (len(block), block))
        await exchange.send(b"0\r\n\r\n")

    return behave


def cut(
    at: float = 0.5,
    *,
    rst: bool = False,
    ranges: bool = True,
    chunked: bool = False,
    validators: bool = True,
) -> Behaviour:
    """The whole body is announced and ends at `at`, by FIN or by RST."""

    async def behave(exchange: Exchange) -> None:
        plan = _plan(exchange, ranges=ranges, validators=validators)
        stop = plan.start + _part(at, plan.size)
        if chunked:
            del plan.headers["Content-Length"]
            await exchange.head(plan.status, plan.headers | {"Transfer-Encoding": "chunked"})
            await exchange.send(b"%x\r\n" % plan.size)
        else:
            await exchange.head(plan.status, plan.headers)
        await _pour(exchange, plan.start, stop)
        if rst:
            await exchange.pause(0.05)  # let the bytes out: a reset throws away what is unsent
            exchange.reset()
        exchange.hang_up()

    return behave


def stall(at: float = 0.5, *, seconds: float = 3600, ranges: bool = True) -> Behaviour:
    """Sends up to `at`, is silent for `seconds`, then goes on."""

    async def behave(exchange: Exchange) -> None:
        plan = _plan(exchange, ranges=ranges)
        middle = plan.start + _part(at, plan.size)
        await exchange.head(plan.status, plan.headers)
        await _pour(exchange, plan.start, middle)
        await exchange.pause(seconds)
        await _pour(exchange, middle, plan.stop)

    return behave


def gated(at: float, opens: Callable[[], bool], *, seconds: float = 20) -> Behaviour:
    """Sends up to `at`, is silent until it `opens` (at most `seconds`), then goes on."""

    async def behave(exchange: Exchange) -> None:
        plan = _plan(exchange)
        middle = plan.start + _part(at, plan.size)
        await exchange.head(plan.status, plan.headers)
        await _pour(exchange, plan.start, middle)
        for _ in range(int(seconds / 0.005)):
            if opens():
                break
            await exchange.pause(0.005)
        await _pour(exchange, middle, plan.stop)

    return behave


def slow(rate: float, *, step: float = 0.05) -> Behaviour:
    """`rate` bytes a second, in portions every `step` seconds."""

    async def behave(exchange: Exchange) -> None:
        plan = _plan(exchange)
        await exchange.head(plan.status, plan.headers)
        portion = max(int(rate * step), 1)
        for at in range(plan.start, plan.stop, portion):
            await exchange.send(exchange.body.slice(at, min(at + portion, plan.stop)))
            await exchange.pause(step)

    return behave


def lies(by: int) -> Behaviour:
    """Announces `by` bytes more (then it is short) or fewer (then too much follows) than it sends."""

    async def behave(exchange: Exchange) -> None:
        plan = _plan(exchange)
        plan.headers["Content-Length"] = str(plan.size + by)
        await exchange.head(plan.status, plan.headers)
        await _pour(exchange, plan.start, plan.stop)
        if by > 0:
            exchange.hang_up()

    return behave


def longer(by: int) -> Behaviour:
    """A well-framed body that has `by` bytes more than the true content."""

    async def behave(exchange: Exchange) -> None:
        size = exchange.body.size
        await exchange.head(200, {"Content-Length": str(size + by), "ETag": exchange.body.etag})
        await _pour(exchange, 0, size)
        await exchange.send(b"\x00" * by)

    return behave


def flip(at: float = 0.5) -> Behaviour:
    """Complete and well framed, with one bit of the byte at `at` turned over."""

    async def behave(exchange: Exchange) -> None:
        plan = _plan(exchange)
        await exchange.head(plan.status, plan.headers)
        body = bytearray(exchange.body.slice(plan.start, plan.stop))
        body[min(_part(at, len(body)), len(body) - 1)] ^= 1
        await exchange.send(bytes(body))

    return behave


def endless(*, chunk: int = 65536, delay: float = 0.0) -> Behaviour:
    """Chunked, without end."""

    async def behave(exchange: Exchange) -> None:
        await exchange.head(200, {"Transfer-Encoding": "chunked"})
        block = b"%x\r\n%b\r\n" % (chunk, b"e" * chunk)
        while not exchange.stopping.is_set():
            await exchange.send(block)
            await exchange.pause(delay)

    return behave


def unframed(at: float | None = None, *, rst: bool = False) -> Behaviour:
    """No length, not chunked: the body ends with the connection, whole or at `at`."""

    async def behave(exchange: Exchange) -> None:
        size = exchange.body.size
        await exchange.head(200, {"Content-Type": "application/octet-stream", "ETag": exchange.body.etag})
        await _pour(exchange, 0, size if at is None else _part(at, size))
        if rst:
            await exchange.pause(0.05)
            exchange.reset()
        exchange.hang_up()

    return behave


def gzipped() -> Behaviour:
    """Compressed although nobody asked."""

    async def behave(exchange: Exchange) -> None:
        body = gzip.compress(exchange.body.bytes(), mtime=0)
        await exchange.head(200, {"Content-Encoding": "gzip", "Content-Length": str(len(body))})
        await exchange.send(body)

    return behave


def status(code: int, body: bytes = b"", **headers: str) -> Behaviour:
    """Just this status: `status(503, Retry_After="2")`, `status(304)`."""

    async def behave(exchange: Exchange) -> None:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if code not in (204, 304):
            fields["Content-Length"] = str(len(body))
        await exchange.head(code, fields)
        if exchange.seen.method != "HEAD" and code not in (204, 304):
            await exchange.send(body)

    return behave


def empty() -> Behaviour:
    return status(200)


def portal() -> Behaviour:
    """A captive portal: 200 with a page instead of the bytes."""
    return status(200, b"<!DOCTYPE html><title>Please log in</title>", Content_Type="text/html")


def redirect(location: str | Callable[[Exchange], str], code: int = 302) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        target = location if isinstance(location, str) else location(exchange)
        await exchange.send(
            f"HTTP/1.1 {code} Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()
        )

    return behave


def changing(ranges: bool = True) -> Behaviour:
    """Other content and validators with every request."""

    async def behave(exchange: Exchange) -> None:
        body = exchange.body
        exchange.body = Oracle(body.name, body.size, seed=body.seed, version=exchange.number)
        await ok(ranges=ranges)(exchange)

    return behave


def slow_head(interval: float = 0.05) -> Behaviour:
    """A status line, then one header line per interval for ever."""

    async def behave(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\n")
        for number in itertools.count():
            if exchange.stopping.is_set():
                exchange.hang_up()
            await exchange.send(b"X-%d: x\r\n" % (number % 100))
            await exchange.pause(interval)

    return behave


def silence() -> Behaviour:
    """No answer at all, on an open connection."""

    async def behave(exchange: Exchange) -> None:
        await exchange.for_ever()

    return behave


def slam(*, rst: bool = False) -> Behaviour:
    """The connection ends instead of an answer."""

    async def behave(exchange: Exchange) -> None:
        if rst:
            exchange.reset()
        exchange.hang_up()

    return behave


def interim_flood(interval: float = 0.0, count: int | None = None) -> Behaviour:
    """`100 Continue` for ever, or `count` times and then an honest answer."""

    async def behave(exchange: Exchange) -> None:
        for _ in itertools.count() if count is None else range(count):
            await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await exchange.pause(interval)
            if exchange.stopping.is_set():
                exchange.hang_up()
        await ok()(exchange)

    return behave


def raw(data: bytes, *, close: bool = True) -> Behaviour:
    """These very bytes."""

    async def behave(exchange: Exchange) -> None:
        await exchange.send(data)
        if close:
            exchange.hang_up()

    return behave


def bad_range(content_range: str, code: int = 206) -> Behaviour:
    """The range that was asked, under a Content-Range that says something else; also to a GET
    that asked for none."""

    async def behave(exchange: Exchange) -> None:
        plan = _plan(exchange)
        plan.headers["Content-Range"] = content_range
        await exchange.head(code, plan.headers)
        await _pour(exchange, plan.start, plan.stop)

    return behave


def then_extra(extra: bytes, *, delay: float = 0.0) -> Behaviour:
    """An honest answer, and after `delay` bytes nobody asked for on the same connection."""

    async def behave(exchange: Exchange) -> None:
        await ok()(exchange)
        await asyncio.sleep(delay)
        await exchange.send(extra)

    return behave


def cut_from_zero(at: float = 0.5) -> Behaviour:
    """The whole again, whatever was asked, without framing, and it ends at `at`."""
    return unframed(at)
