"""M1 to M3 of `ports.Bulletin`, for every kind that reaches others, and the one that reaches nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from artifactproxy.coordination.bulletin import ChannelBulletin, LocalBulletin
from tests.contracts.harness_redis import Tenant, redis_bulletins
from tests.coordination.tools import Net

Open = Callable[[], AbstractAsyncContextManager[Any]]


def redis_boards() -> Open:
    tenant = Tenant()
    return lambda: redis_bulletins(tenant)


BOARDS: dict[str, Callable[[], Open]] = {"channel": lambda: Net().open, "redis": redis_boards}


@pytest.fixture(params=sorted(BOARDS))
def open_(request: pytest.FixtureRequest) -> Open:
    return BOARDS[request.param]()


class Ear:
    """What a board let its process hear on some topics."""

    def __init__(self, board: Any, *topics: str) -> None:
        self.heard: list[tuple[str, str]] = []
        for topic in topics:
            board.listen(topic, lambda text, topic=topic: self.heard.append((topic, text)))

    async def until(self, *wanted: tuple[str, str]) -> None:
        async with asyncio.timeout(60):
            while not set(wanted) <= set(self.heard):
                await asyncio.sleep(0.005)


async def test_m1_it_does_not_come_back(open_: Open) -> None:
    async with open_() as one, open_() as other:
        mine, theirs = Ear(one, "t", "end"), Ear(other, "t")
        for number in range(10):
            one.tell("t", str(number), seconds=number % 2 * 60)
        await theirs.until(*(("t", str(number)) for number in range(10)))
        other.tell("end", "")
        await mine.until(("end", ""))
        assert mine.heard == [("end", "")]
        late = Ear(one, "t")
        await asyncio.sleep(0.02)
        assert late.heard == []


ODD = ["", "\0", "\ud800", "\U0001f372" * 1000, '{"v": 1}', "x" * 100_000]


async def test_m1_telling_never_raises_and_nothing_is_changed_on_the_way(open_: Open) -> None:
    async with open_() as one, open_() as other:
        ear = Ear(other, "t")
        for seconds in (float("nan"), float("inf"), -1.0, 1e300):
            one.tell("t", str(seconds), seconds=seconds)
        one.tell("t", "x" * (2 << 20))  # too long for anybody: lost
        for text in ODD:
            one.tell("t", text)
        await ear.until(*(("t", text) for text in ODD), ("t", "nan"), ("t", "inf"))
        assert max(len(text) for _, text in ear.heard) == 100_000


async def test_m2_who_listens_hears_and_the_topic_decides(open_: Open) -> None:
    async with open_() as one, open_() as other, open_() as third:
        ears = [Ear(board, "a", "b") for board in (other, third)]
        deaf = Ear(third, "c")
        one.tell("a", "1")
        other.tell("b", "2")
        one.tell("d", "3")
        await ears[1].until(("a", "1"), ("b", "2"))
        await ears[0].until(("a", "1"))
        assert (len(ears[0].heard), deaf.heard) == (1, [])


async def test_m2_a_listener_that_raises_harms_nobody(open_: Open) -> None:
    def hurt(text: str) -> None:
        raise ValueError(text)

    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    async with open_() as one, open_() as other:
        other.listen("t", hurt)
        ear = Ear(other, "t")
        one.tell("t", "1")
        one.tell("t", "2")
        await ear.until(("t", "1"), ("t", "2"))
    assert [str(context["exception"]) for context in complaints] == ["1", "2"]


async def test_m3_who_comes_later_hears_what_still_counts(open_: Open) -> None:
    async with open_() as one, open_() as early:
        before = Ear(early, "t")
        one.tell("t", "still", seconds=60)
        one.tell("t", "gone", seconds=0.05)
        one.tell("t", "only now")
        await before.until(("t", "still"), ("t", "gone"), ("t", "only now"))
        await asyncio.sleep(0.1)
        async with open_() as late:
            ear = Ear(late, "t", "end")
            await ear.until(("t", "still"))
            again = Ear(early, "t")  # a listener that comes later, in a process that has heard it
            await again.until(("t", "still"))
            one.tell("end", "")
            await ear.until(("end", ""))
            assert ear.heard == [("t", "still"), ("end", "")]
            assert again.heard == [("t", "still")]


async def test_m3_also_when_its_teller_is_gone(open_: Open) -> None:
    async with open_() as keeper:
        ear = Ear(keeper, "t")
        async with open_() as teller:
            teller.tell("t", "still", seconds=60)
            await ear.until(("t", "still"))
        async with open_() as late:
            await Ear(late, "t").until(("t", "still"))


async def test_the_board_of_one_process() -> None:
    board = LocalBulletin()
    await board.start()
    ear = Ear(board, "t")
    board.tell("t", "1", seconds=60)
    later = Ear(board, "t")
    await asyncio.sleep(0)
    assert (ear.heard, later.heard) == ([], [])
    await board.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"v": 2, "from": "a", "n": 1, "topic": "t", "text": ""}',
        b'{"v": 1, "from": "a", "n": 1, "topic": "t"}',
        b'{"v": 1, "from": "a", "n": true, "topic": "t", "text": ""}',
        b'{"v": 1, "from": "a", "n": 1, "topic": "", "text": ""}',
        b'{"v": 1, "from": "a", "n": 1, "topic": "t", "text": "", "seconds": NaN}',
        b'{"v": 1, "from": "a", "n": 1, "topic": "t", "text": "", "seconds": 1e400}',
        b'{"v": 1, "from": "a", "n": 1, "topic": "t", "text": "' + b"x" * (1 << 20) + b'"}',
    ],
)
async def test_what_is_no_message_is_not_heard(raw: bytes) -> None:
    sent: list[bytes] = []
    board = ChannelBulletin(sent.append)
    ear = Ear(board, "t")
    board.receive(raw)
    await asyncio.sleep(0)
    assert (ear.heard, sent) == ([], [])


async def test_what_is_kept_is_bounded() -> None:
    sent: list[bytes] = []
    board = ChannelBulletin(lambda raw: None)
    for number in range(5000):
        board.tell("t", str(number), seconds=60 + number)
    asking = ChannelBulletin(sent.append)
    await asking.start()
    answers: list[bytes] = []
    board._pass_on = answers.append
    board.receive(sent[0])
    assert len(answers) <= 1000
    assert b'"4999"' in answers[0] + answers[-1]
