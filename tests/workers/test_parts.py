"""The line between supervisor and workers, what is asked over it, and one check at a time in a folder."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.channel import Channel, Lines, line_of
from artifactproxy.checkup.checkup import Checkup
from artifactproxy.datadir import DataFolder, alone
from artifactproxy.errors import Busy
from artifactproxy.questions import Questions
from artifactproxy.web import sockets

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(st.dictionaries(st.text(), VALUES, max_size=3), max_size=5), st.integers(1, 50))
def test_messages_arrive_whole_however_they_are_cut(messages: list[dict[str, Any]], size: int) -> None:
    sent = b"".join(map(line_of, messages))
    lines = Lines()
    heard = [m for at in range(0, len(sent), size) for m in lines.feed(sent[at : at + size])]
    assert heard == messages


# --- a worker's end -------------------------------------------------------------------------


@pytest.fixture
async def line() -> AsyncIterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    ours.setblocking(False)
    channel = Channel(theirs)
    await channel.open()
    yield channel, ours
    channel.broken = lambda: None
    ours.close()
    await asyncio.sleep(0.01)
    channel._spare.close()


async def said(ours: socket.socket) -> dict[str, Any]:
    async with asyncio.timeout(20):
        return Lines().feed(await asyncio.get_running_loop().sock_recv(ours, 65536))[0]


async def test_a_supervisor_that_does_not_read_costs_a_bounded_memory(
    line: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, ours = line
    monkeypatch.setattr("artifactproxy.channel.WAITING_MAX", 100_000)
    for _ in range(100):
        channel.tell(b"x" * 50_000)
    transport = channel._transport
    assert transport is not None
    assert transport.get_write_buffer_size() < 200_000
    heard = Lines()
    async with asyncio.timeout(60):
        while transport.get_write_buffer_size():  # what it does read is whole
            heard.feed(await asyncio.get_running_loop().sock_recv(ours, 1 << 20))
    channel.tell(b"after")
    async with asyncio.timeout(60):
        while not (new := heard.feed(await asyncio.get_running_loop().sock_recv(ours, 1 << 20))):
            await asyncio.sleep(0)
        while new[-1]["text"] != "after":
            new = heard.feed(await asyncio.get_running_loop().sock_recv(ours, 1 << 20)) or new


async def test_a_worker_ends_when_it_is_told_and_when_the_supervisor_is_gone(line) -> None:
    channel, ours = line
    stopped, broken = asyncio.Event(), asyncio.Event()
    channel.stopped, channel.broken = stopped.set, broken.set
    ours.send(line_of({"is": "stop"}))
    async with asyncio.timeout(20):
        await stopped.wait()
        assert not broken.is_set()
        ours.close()
        await broken.wait()


async def test_news_travel_both_ways_byte_for_byte(line) -> None:
    channel, ours = line
    heard: list[bytes] = []
    channel.listen(heard.append)
    channel.tell(bytes(range(256)))
    message = await said(ours)
    ours.send(line_of(message))
    async with asyncio.timeout(20):
        while not heard:
            await asyncio.sleep(0.01)
    assert heard == [bytes(range(256))]


async def test_a_question_gets_its_own_answer_and_silence_is_no_error(line) -> None:
    channel, ours = line
    asking = asyncio.create_task(channel.ask("running", {"a": 1}))
    question = await said(ours)
    assert (question["what"], question["value"]) == ("running", {"a": 1})
    ours.send(line_of({"is": "said", "id": question["id"] + 1, "values": [0]}))
    ours.send(line_of({"is": "said", "id": question["id"], "values": [1, 2]}))
    assert await asking == [1, 2]
    assert await channel.request({"is": "ask", "what": "x", "value": None}, patience=0.05) == {}


async def test_a_fault_is_no_answer_and_a_foreign_question_neither(line) -> None:
    channel, ours = line

    async def busy(value: object) -> None:
        raise Busy("not now")

    channel.answer("running", busy)
    for what in ("running", "unheard of"):
        ours.send(line_of({"is": "ask", "id": 7, "what": what, "value": None}))
        answer = await said(ours)
        assert (answer["is"], answer["id"]) == ("said", 7)
        assert "value" not in answer


# --- the supervisor's questions -------------------------------------------------------------


class Asked:
    def __init__(self, number: int) -> None:
        self.number = number
        self.heard: list[dict[str, Any]] = []

    def say(self, message: dict[str, Any]) -> None:
        self.heard.append(message)


def test_a_question_is_done_when_all_have_answered_or_died_or_time_is_over() -> None:
    questions, workers = Questions(), [Asked(1), Asked(2), Asked(3)]
    done: list[tuple[dict[int, Any], set[int]]] = []
    questions.ask("running", None, workers, 60, lambda *told: done.append(told))
    number = workers[0].heard[0]["id"]
    questions.said(1, {"id": number, "value": "a"})
    questions.said(1, {"id": number, "value": "b"})
    questions.died(2)
    assert done == []
    questions.said(3, {"id": number, "fault": "not now"})
    assert done == [({1: "a"}, set())]
    questions.said(3, {"id": number, "value": "late"})
    questions.ask("running", None, workers, 0, lambda *told: done.append(told))
    questions.close_overdue()
    assert done[1] == ({}, {1, 2, 3})
    questions.ask("running", None, [], 60, lambda *told: done.append(told))
    assert done[2] == ({}, set())
    assert questions.due == float("inf")


# --- sockets --------------------------------------------------------------------------------


def test_a_port_with_shares_is_taken_for_others_and_each_gets_some() -> None:
    first = sockets.tcp("127.0.0.1", 0)
    port = first[0].getsockname()[1]
    shares = sockets.shares(first, 3)
    clients = []
    try:
        with pytest.raises(OSError, match="in use"):
            sockets.tcp("127.0.0.1", port)
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(120)]
        for (share,) in shares:
            share.accept()[0].close()
    finally:
        for sock in (*clients, *(each for share in shares for each in share)):
            sock.close()


# --- one at a time --------------------------------------------------------------------------


def test_only_one_process_is_alone_in_a_folder(tmp_path: Path) -> None:
    DataFolder(tmp_path).close()
    look = (
        "import sys; from pathlib import Path; from artifactproxy.datadir import alone\n"
        "with alone(Path(sys.argv[1])) as first: print(first)"
    )
    with alone(tmp_path) as first:
        other = subprocess.run([sys.executable, "-c", look, str(tmp_path)], capture_output=True, check=True)
        assert (first, other.stdout) == (True, b"False\n")
    with alone(tmp_path) as again:
        assert again


async def test_a_check_beside_that_of_another_process_is_refused(tmp_path: Path) -> None:
    DataFolder(tmp_path).close()
    checkup = Checkup(None, None, None, lambda: alone(tmp_path))  # type: ignore[arg-type]

    async def lines():
        yield {"progress": {}}

    with alone(tmp_path), pytest.raises(Busy, match="another check"):
        async for _ in checkup._alone("fsck", lines()):
            pass
    assert [line async for line in checkup._alone("fsck", lines())] == [{"progress": {}}]
