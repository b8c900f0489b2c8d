"""Answers on the wire: exact bytes, and resets where an answer cannot be finished."""

from __future__ import annotations

import asyncio
import hashlib
import os

import pytest

from artifactproxy.engine.answer import Answer, Bytes, Chunks, File, Nothing, Tail
from artifactproxy.errors import BadRange, BrokenPromise, StoreUnavailable, UpstreamAbsent, UpstreamBusy
from artifactproxy.model import Span
from artifactproxy.ports import LocalFile, Outcome

from .scripted import Pieces, Windows, chunks, file_body

BIG = os.urandom(1 << 20) * 3


async def test_bytes_arrive_with_their_head(rig) -> None:
    rig.engine.give("paper/a", lambda: Bytes(b"hello"), headers=(("Content-Type", "text/x"), ("ETag", '"e"')))
    reply = await rig.get("/paper/a")
    assert (reply.status, reply.reason, reply.body) == (200, "OK", b"hello")
    assert reply.headers["etag"] == '"e"'
    assert reply.headers["via"] == "1.1 artifactproxy"
    assert reply.headers["server"] == "artifactproxy"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert reply.headers["cross-origin-resource-policy"] == "same-origin"
    assert reply.headers["date"].endswith("GMT")
    assert len(reply.names) == len(set(reply.names))
    outcome = await rig.watch.last()
    assert (outcome.status, outcome.bytes, outcome.result) == (200, 5, "hit")
    assert outcome.request_id == reply.headers["x-request-id"]
    assert 0 < outcome.first_byte_seconds <= outcome.seconds


async def test_the_engine_can_set_its_own_guards(rig) -> None:
    rig.engine.give(
        "paper/a", lambda: Bytes(b"x"), headers=(("content-security-policy", "default-src 'self'"),)
    )
    reply = await rig.get("/paper/a")
    assert reply.headers["content-security-policy"] == "default-src 'self'"
    assert reply.names.count("content-security-policy") == 1
    assert reply.headers["x-content-type-options"] == "nosniff"


async def test_fields_of_this_hop_are_not_taken_from_the_answer(rig) -> None:
    hop = (("Connection", "upgrade"), ("Transfer-Encoding", "gzip"), ("Date", "never"), ("Via", "1.0 x"))
    rig.engine.give("paper/a", lambda: Bytes(b"x"), headers=hop)
    reply = await rig.get("/paper/a")
    assert "transfer-encoding" not in reply.headers
    assert reply.headers["connection"] == "close"
    assert reply.headers["date"] != "never"
    assert reply.names.count("via") == 1


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, len(BIG)])
async def test_files_and_spans_are_exact(rig, tmp_path, size) -> None:
    content = BIG[:size]
    rig.engine.give("paper/f", file_body(tmp_path / "f", content))
    rig.engine.give("paper/p", file_body(tmp_path / "p", content, Span(size // 3, size)), status=206)
    client = await rig.connect()
    for _ in range(2):
        await client.ask("/paper/f")
        assert (await client.reply()).body == content
        await client.ask("/paper/p")
        part = await client.reply()
        assert (part.status, part.body) == (206, content[size // 3 :])
    client.close()
    assert (await rig.watch.last(4)).bytes == size - size // 3


async def test_many_readers_of_one_file(rig, tmp_path) -> None:
    rig.engine.give("paper/f", file_body(tmp_path / "f", BIG))
    replies = await asyncio.gather(*(rig.get("/paper/f") for _ in range(8)))
    assert {hashlib.sha256(reply.body).hexdigest() for reply in replies} == {hashlib.sha256(BIG).hexdigest()}


@pytest.mark.parametrize("pieces", [[b""], [b"abc"], [b"a" * 70_000, b"b" * 70_000], [BIG, BIG]])
async def test_tails_and_chunks_with_and_without_length(rig, pieces) -> None:
    whole = b"".join(pieces)
    readers = []

    def tail(length):
        readers.append(Pieces(*pieces))
        return Tail(readers[-1], length)

    rig.engine.give("paper/known", lambda: tail(len(whole)))
    rig.engine.give("paper/unknown", lambda: tail(None))
    rig.engine.give("paper/chunks", lambda: Chunks(chunks(*pieces), len(whole)))
    rig.engine.give("paper/loose", lambda: Chunks(chunks(b"", *pieces, b""), None))
    client = await rig.connect()
    for name in ("known", "unknown", "chunks", "loose"):
        await client.ask(f"/paper/{name}")
        reply = await client.reply()
        assert reply.body == whole
        assert ("transfer-encoding" in reply.headers) == (name in ("unknown", "loose"))
    client.close()
    await rig.watch.last(4)
    assert [reader.closed for reader in readers] == [1, 1]


async def test_the_first_bytes_leave_before_the_rest_is_there(rig) -> None:
    gate = asyncio.Event()
    rig.engine.give("paper/t", lambda: Tail(Pieces(b"first", gate, b"last"), 9))
    client = await rig.connect()
    await client.ask("/paper/t")
    await client.head()
    assert await client.exactly(5) == b"first"
    gate.set()
    assert await client.exactly(4) == b"last"
    client.close()


@pytest.mark.parametrize("kind", ["bytes", "file", "big", "tail", "chunks", "nothing"])
async def test_head_then_pipelined_get_is_byte_exact(rig, tmp_path, kind) -> None:
    """The content looks like a response: one leaked byte would be parsed as the next answer."""
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison" * 4000
    reader = Pieces(poison)
    make = {
        "bytes": lambda: Bytes(poison),
        "file": file_body(tmp_path / "f", poison[:1000]),
        "big": file_body(tmp_path / "b", poison),
        "tail": lambda: Tail(reader, len(poison)),
        "chunks": lambda: Chunks(chunks(poison), len(poison)),
        "nothing": Nothing,
    }[kind]
    rig.engine.give(
        "paper/a", make, headers=(("Content-Length", str(len(poison))),) if kind == "nothing" else ()
    )
    rig.engine.give("paper/b", lambda: Bytes(b"the next one"))
    client = await rig.connect()
    host = b"Host: x\r\n\r\n"
    await client.send(b"HEAD /paper/a HTTP/1.1\r\n" + host + b"GET /paper/b HTTP/1.1\r\n" + host)
    first = await client.reply("HEAD")
    assert first.headers["content-length"] == str(1000 if kind == "file" else len(poison))
    second = await client.reply()
    assert second.body == b"the next one"
    assert client.buffer == b""
    client.close()
    assert (await rig.watch.last()).bytes == 0
    if kind == "tail":
        assert (reader.reads, reader.closed) == (0, 1)


@pytest.mark.parametrize("status", [304, 204, 302, 412])
async def test_bodiless_statuses_then_get(rig, status) -> None:
    async def script(ask):
        body = Bytes(b"must not leave") if status in (304, 204) else Nothing()
        return Answer(status, [("ETag", '"e"'), ("Content-Length", "14")], body, Outcome("request"))

    rig.engine.answers["paper/n"] = script
    rig.engine.give("paper/b", lambda: Bytes(b"next"))
    client = await rig.connect()
    await client.ask("/paper/n")
    first = await client.reply()
    assert first.status == status
    assert first.body == b""
    await client.ask("/paper/b")
    assert (await client.reply()).body == b"next"
    client.close()


async def _failing(rig, path: str) -> bytes:
    client = await rig.connect()
    await client.ask(path)
    with pytest.raises(ConnectionResetError):
        await client.rest()
    got = client.buffer
    client.close()
    return got


@pytest.mark.parametrize("length", [10, None])
@pytest.mark.parametrize(
    "error",
    [BrokenPromise("wrong digest"), StoreUnavailable("gone"), RuntimeError("a bug"), OSError(5, "EIO")],
)
async def test_a_failure_after_the_first_byte_is_a_reset(rig, length, error) -> None:
    reader = Pieces(b"12345", error)
    rig.engine.give("paper/t", lambda: Tail(reader, length))
    got = await _failing(rig, "/paper/t")
    assert got.count(b"HTTP/1.1") <= 1
    assert b"wrong digest" not in got
    assert not got.endswith(b"0\r\n\r\n")
    outcome = await rig.watch.last()
    assert outcome.result == "error"
    assert outcome.error == getattr(error, "code", "internal")
    assert reader.closed == 1


@pytest.mark.parametrize("pieces", [(b"123",), (b"123", b"4567890")])
async def test_a_body_that_is_not_as_long_as_announced_is_a_reset(rig, pieces) -> None:
    rig.engine.give("paper/t", lambda: Tail(Pieces(*pieces), 8))
    await _failing(rig, "/paper/t")
    assert rig.watch.warnings[-1][0] == "answer_broken"


async def test_a_shrunken_file_is_a_reset_or_an_error(rig, tmp_path) -> None:
    def cut(name: str, size: int) -> None:
        path = tmp_path / name
        path.write_bytes(b"x" * 100)

        def make() -> File:
            return File(LocalFile(os.open(path, os.O_RDONLY), size), Span(0, size))

        rig.engine.give(f"paper/{name}", make)

    cut("big", 100_000)
    cut("small", 200)
    await _failing(rig, "/paper/big")
    reply = await rig.get("/paper/small")
    assert (reply.status, reply.headers["x-proxy-error"]) == (503, "store_unavailable")
    assert "content-length" in reply.headers


async def test_an_unreadable_file_is_an_error_before_the_head(rig, tmp_path) -> None:
    rig.engine.give("paper/d", lambda: File(LocalFile(os.open(tmp_path, os.O_RDONLY), 10), Span(0, 10)))
    reply = await rig.get("/paper/d")
    assert (reply.status, reply.headers["retry-after"]) == (503, "5")


async def test_a_failure_before_the_first_byte_is_a_proper_error(rig) -> None:
    for name, body in {
        "tail": lambda: Tail(Pieces(BrokenPromise("wrong digest")), 10),
        "loose": lambda: Tail(Pieces(0.01, BrokenPromise("wrong digest")), None),
        "chunks": lambda: Chunks(chunks(BrokenPromise("wrong digest")), 10),
    }.items():
        rig.engine.give(f"paper/{name}", body)
        reply = await rig.get(f"/paper/{name}")
        assert (reply.status, reply.headers["x-proxy-error"], reply.reason) == (502, "digest", "wrong digest")
        assert reply.headers["content-type"] == "text/x-paper"
        assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("fault", "status", "name", "value"),
    [
        (UpstreamBusy("wait", retry_after=1.2), 503, "retry-after", "2"),
        (BadRange("no", size=7), 416, "content-range", "bytes */7"),
        (UpstreamAbsent("gone", status=410), 410, "x-proxy-error", "upstream_absent"),
    ],
)
async def test_faults_carry_their_headers(rig, fault, status, name, value) -> None:
    rig.engine.fail("paper/x", lambda: fault)
    reply = await rig.get("/paper/x")
    assert (reply.status, reply.headers[name]) == (status, value)
    head = await rig.get("/paper/x", method="HEAD")
    assert (head.status, head.headers["content-length"], head.body) == (
        status,
        reply.headers["content-length"],
        b"",
    )


async def test_a_reason_phrase_cannot_break_the_head(rig) -> None:
    rig.engine.fail("paper/x", lambda: UpstreamBusy("bad\r\nSet-Cookie: a=b\x00é" + "z" * 2000))
    reply = await rig.get("/paper/x")
    assert reply.status == 503
    assert "set-cookie" not in reply.headers
    assert len(reply.reason) <= 400


async def test_a_bug_shows_the_request_id_and_nothing_else(rig) -> None:
    rig.engine.fail("paper/x", lambda: RuntimeError("the password is hunter2"))
    reply = await rig.get("/paper/x")
    assert (reply.status, reply.headers["x-proxy-error"]) == (500, "internal")
    assert reply.headers["x-request-id"].encode() in reply.body
    assert b"hunter2" not in reply.body
    event, facts = rig.watch.warnings[-1]
    assert event == "request_failed"
    assert "hunter2" in facts["traceback"]
    assert facts["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "\u2028"])
async def test_a_header_that_would_split_the_answer_is_a_bug(rig, value) -> None:
    rig.engine.give("paper/x", lambda: Bytes(b"x"), headers=(("X-Name", value),))
    reply = await rig.get("/paper/x")
    assert reply.status == 500
    assert "x-evil" not in reply.headers


async def test_an_untrue_length_is_a_bug(rig) -> None:
    rig.engine.give("paper/x", lambda: Chunks(chunks(b"x"), 1), headers=(("Content-Length", "2"),))
    rig.engine.give(
        "paper/y", lambda: Chunks(chunks(b"x"), 1), headers=(("Content-Length", "1"), ("content-length", "3"))
    )
    assert (await rig.get("/paper/x")).status == 500
    assert (await rig.get("/paper/y")).status == 500


async def test_a_broken_error_page_is_replaced(rig) -> None:
    def page(fault, ask):
        raise ValueError("provider bug")

    rig.engine.page = page
    reply = await rig.get("/paper/none")
    assert (reply.status, reply.body) == (404, b"no such thing\n")
    assert rig.watch.warnings[-1][0] == "error_page_failed"


async def test_http_10_gets_a_length_and_a_close(rig) -> None:
    rig.engine.give("paper/t", lambda: Tail(Pieces(b"a" * 100_000, b"b"), None))
    rig.engine.give("paper/bad", lambda: Tail(Pieces(b"a", BrokenPromise("wrong")), None))
    got = await rig.raw(b"GET /paper/t HTTP/1.0\r\n\r\n")
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"Content-Length: 100001" in head
    assert b"chunked" not in head
    assert b"Connection: close" in head
    assert body == b"a" * 100_000 + b"b"
    assert (await rig.raw(b"GET /paper/bad HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 502 ")


async def test_http_10_keep_alive_is_confirmed(rig) -> None:
    rig.engine.give("paper/a", lambda: Bytes(b"x"))
    client = await rig.connect()
    for _ in range(2):
        await client.send(b"GET /paper/a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (await client.reply()).headers["connection"] == "keep-alive"
    client.close()


async def test_http_10_and_a_document_without_bounds(rig, monkeypatch) -> None:
    monkeypatch.setattr("artifactproxy.web.respond.SPOOL_BYTES", 1000)
    reader = Pieces(b"a" * 600, b"a" * 600, b"never")
    rig.engine.give("paper/c", lambda: Chunks(chunks(b"a" * 600, b"a" * 600, b"never"), None))
    rig.engine.give("paper/t", lambda: Tail(reader, None))
    assert (await rig.raw(b"GET /paper/c HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 505 ")
    # What lies in a file of ours is waited for, however long it is.
    got = await rig.raw(b"GET /paper/t HTTP/1.0\r\n\r\n")
    assert b"Content-Length: 1205" in got
    assert reader.closed == 1


async def test_a_file_system_without_sendfile_is_read_instead(rig, tmp_path, monkeypatch) -> None:
    def unsupported(*args):
        raise OSError(22, "EINVAL")

    monkeypatch.setattr("artifactproxy.web.sendfile.os.sendfile", unsupported)
    rig.engine.give("paper/f", file_body(tmp_path / "f", BIG))
    client = await rig.connect()
    for _ in range(2):
        await client.ask("/paper/f")
        assert (await client.reply()).body == BIG
    client.close()


@pytest.mark.parametrize("supported", [True, False], ids=["sendfile", "copied"])
async def test_a_file_of_unknown_length_leaves_in_chunks(rig, tmp_path, monkeypatch, supported) -> None:
    def unsupported(*args):
        raise OSError(22, "EINVAL")

    if not supported:
        monkeypatch.setattr("artifactproxy.web.sendfile.os.sendfile", unsupported)
    pieces = (BIG[:10], BIG[10:300_000], BIG[300_000:])
    rig.engine.give("paper/f", lambda: Tail(Windows(tmp_path / "f", *pieces), None))
    client = await rig.connect()
    for _ in range(2):
        await client.ask("/paper/f")
        reply = await client.reply()
        assert (reply.headers["transfer-encoding"], reply.body) == ("chunked", BIG)
    assert client.buffer == b""
    client.close()
    assert (await rig.watch.last(2)).bytes == len(BIG)


async def test_a_disk_error_in_the_middle_is_a_reset(rig, tmp_path, monkeypatch) -> None:
    real, calls = os.sendfile, []

    def failing(out, fd, at, count):
        calls.append(at)
        if len(calls) > 2:
            raise OSError(5, "EIO")
        return real(out, fd, at, min(count, 1000))

    monkeypatch.setattr("artifactproxy.web.sendfile.os.sendfile", failing)
    rig.engine.give("paper/f", file_body(tmp_path / "f", BIG))
    await _failing(rig, "/paper/f")
    outcome = await rig.watch.last()
    assert (outcome.error, outcome.bytes) == ("store_unavailable", 2000)
