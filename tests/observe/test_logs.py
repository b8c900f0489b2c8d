"""The log: whole JSON lines, no secrets, and never a reason to stop."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.observe.logs import JsonLog, without_secrets
from artifactproxy.ports import Outcome


@pytest.fixture
def written(tmp_path):
    """A log on a file and a way to read its lines."""
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    log = JsonLog(fd, clock=lambda: 86400.25)
    yield log, lambda: [json.loads(line) for line in path.read_bytes().splitlines()]
    os.close(fd)


def test_a_request_is_one_line_without_empty_fields(written) -> None:
    log, lines = written
    log.outcome(Outcome("request", repo="pypi", path="a", status=200, bytes=5, seconds=0.25, result="hit"))
    log.outcome(Outcome("fill"))
    log.flush()
    first, second = lines()
    assert first == {
        "time": "1970-01-02T00:00:00.250Z", "event": "request", "repo": "pypi", "path": "a", "status": 200, "bytes": 5,
        "result": "hit", "first_byte_seconds": 0.0, "seconds": 0.25,
    }  # fmt: skip
    assert set(second) == {"time", "event", "first_byte_seconds", "seconds"}


def test_warnings_name_what_is_wrong(written) -> None:
    log, lines = written
    log.warning("store_full", repo="pypi", seconds=1.5, count=3)
    log.flush()
    assert lines()[0] == {
        "time": "1970-01-02T00:00:00.250Z", "event": "warning", "warning": "store_full",
        "repo": "pypi", "seconds": 1.5, "count": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://user:hunter2@up.example/a?X-Amz-Signature=hunter2", "https://up.example/a?..."),
        (
            "cannot reach https://hunter2@up.example:8443/a?t=hunter2 now",
            "cannot reach https://up.example:8443/a?... now",
        ),
        ("redis://:hunter2@cache.example/0", "redis://cache.example/0"),
        (
            "postgres://u:hunter2@db.example/x, https://ok.example/y",
            "postgres://db.example/x, https://ok.example/y",
        ),
        ("https://up.example/a@b", "https://up.example/a@b"),
        ("no address", "no address"),
    ],
)
def test_addresses_lose_their_secrets(written, text, clean) -> None:
    log, lines = written
    assert without_secrets(text) == clean
    log.outcome(Outcome("request", cause=text, upstream_url=text, extra={"note": text}))
    log.warning("upstream", detail=text)
    log.flush()
    assert "hunter2" not in json.dumps(lines())
    assert [line.get("cause", line.get("detail")) for line in lines()] == [clean, clean]


def test_a_query_in_the_path_stays_out(written) -> None:
    log, lines = written
    log.outcome(Outcome("request", path="a/b?token=hunter2"))
    log.flush()
    assert lines()[0]["path"] == "a/b"


@given(st.text(st.characters(), max_size=200))
def test_no_text_breaks_a_line(text) -> None:
    read, write = os.pipe()
    try:
        log = JsonLog(write)
        log.outcome(Outcome("request", path="x", reason=text, extra={"client_request_id": text}))
        log.warning("event", fact=text)
        log.flush()
        raw = os.read(read, 1 << 16)
    finally:
        os.close(read)
        os.close(write)
    assert raw.count(b"\n") == 2
    assert all(32 <= byte < 127 for byte in raw.replace(b"\n", b""))
    assert all(json.loads(line) for line in raw.splitlines())


def test_huge_texts_are_cut(written) -> None:
    log, lines = written
    log.warning("request_failed", traceback="x" * 100_000)
    log.flush()
    assert len(lines()[0]["traceback"]) < 9000


async def test_lines_are_written_in_batches(tmp_path, monkeypatch) -> None:
    writes = []
    monkeypatch.setattr(
        "artifactproxy.observe.logs.os.write", lambda fd, data: writes.append(data) or len(data)
    )
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    log = JsonLog(fd, every=0.02, size=2000)
    for _ in range(5):
        log.outcome(Outcome("request"))
    assert writes == []
    await asyncio.sleep(0.06)
    assert [data.count(b"\n") for data in writes] == [5]
    log.warning("big", text="x" * 3000)
    assert len(writes) == 2
    log.outcome(Outcome("request"))
    log.close()
    assert len(writes) == 3
    os.close(fd)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, errno.EIO, errno.EBADF])
async def test_a_log_that_cannot_be_written_is_dropped_and_counted(written, monkeypatch, number) -> None:
    log, lines = written

    def broken(fd, data):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("artifactproxy.observe.logs.os.write", broken)
        for _ in range(3):
            log.outcome(Outcome("request"))
        log.flush()
    assert log.dropped == 3
    log.outcome(Outcome("request", repo="after"))
    log.flush()
    assert [line["repo"] for line in lines()] == ["after"]


async def test_a_reader_that_does_not_keep_up_never_blocks_us() -> None:
    """The pipe stays a blocking one: its other holders share that flag."""
    read, write = os.pipe()
    log = JsonLog(write, every=0.01)
    for n in range(3000):
        log.warning("noise", n=n, text="x" * 100)
    log.flush()
    got = b""
    for _ in range(1000):
        got += os.read(read, 1 << 16)
        log.flush()
        if got.count(b"\n") == 3000:
            break
    assert [json.loads(line)["n"] for line in got.splitlines()] == list(range(3000))
    assert log.dropped == 0
    os.close(read)
    os.close(write)


async def test_a_reader_that_is_stuck_costs_bounded_memory(monkeypatch) -> None:
    monkeypatch.setattr("artifactproxy.observe.logs._BACKLOG_BYTES", 50_000)
    read, write = os.pipe()
    log = JsonLog(write, every=60)
    for n in range(5000):
        log.warning("noise", n=n, text="x" * 100)
    assert log._bytes < 200_000
    log.close()
    assert log.dropped > 3000
    os.close(read)
    os.close(write)


async def test_sockets_and_closed_descriptors() -> None:
    ours, theirs = socket.socketpair()
    log = JsonLog(ours.fileno())
    log.warning("hello")
    log.flush()
    assert json.loads(theirs.recv(1000))["warning"] == "hello"
    theirs.close()
    log.warning("lost")
    log.flush()
    ours.close()
    log.warning("lost too")
    log.close()
    assert log.dropped == 2


def test_without_a_loop_lines_are_written_at_once(written) -> None:
    log, lines = written
    log.warning("starting")
    assert lines()[0]["warning"] == "starting"


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("debug", ["fill", "noticed", "warning"]),
        ("info", ["fill", "noticed", "warning"]),
        ("warning", ["warning"]),
        ("error", ["warning"]),
    ],
)
def test_the_level_says_what_is_written_and_may_change(written, level, said) -> None:
    log, lines = written
    log.level = level
    log.outcome(Outcome("fill"))
    log.notice("noticed")
    log.warning("wrong")
    log.level = "info"
    log.notice("again")
    log.flush()
    assert [line["event"] for line in lines()] == [*said, "again"]


@pytest.mark.parametrize("length", [10, 700, 4000])
def test_several_processes_may_write_to_one_pipe(monkeypatch, length) -> None:
    """What leaves at once are whole lines, as long as a pipe takes one at once."""
    read, write = os.pipe()
    pieces: list[bytes] = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, text: pieces.append(bytes(text)) or real(fd, text))
    lines = [json.dumps({"number": number, "text": "y" * length}).encode() + b"\n" for number in range(12)]
    assert JsonLog(write)._write(b"".join(lines)) == b""
    assert b"".join(pieces) == b"".join(lines)
    assert all(piece.endswith(b"\n") for piece in pieces)
    os.close(write)
    os.close(read)
