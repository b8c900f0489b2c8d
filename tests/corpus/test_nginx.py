"""Part D behind nginx: we run the requests that nginx saw, no other, and nobody gets another's answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.corpus.entry import Case, cases
from tests.corpus.front import Front, Seen, nginx
from tests.corpus.play import FAULTLESS, answers_to, honest, marker_of, request_of
from tests.corpus.programs import FILES, MARKER, Program, running
from tests.corpus.wire import Reply, exchange
from tests.needs import needs

pytestmark = [pytest.mark.asyncio(loop_scope="module"), needs("nginx")]

HOST = "cache.example"
REFUSALS = {400, 405, 408, 411, 413, 414, 417, 421, 501, 505}

Line = dict[str, Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def program(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Program]:
    place = tmp_path_factory.mktemp("nginx") / "program"
    async with running(place, "c", "trusting", keepalive="10s") as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(program: Program) -> AsyncIterator[Front]:
    program.news()
    async with nginx(program.folder / "nginx", program.port) as started:
        yield started


@pytest.mark.parametrize("case", cases("D", "raw"), ids=lambda case: case.id)
async def test_behind_nginx(program: Program, front: Front, case: Case) -> None:
    before = program.stored()[0]
    program.news()
    front.news()
    request = request_of(case, program, HOST)
    got = await exchange(front.port, request + marker_of(case, program, HOST))
    expect = case.given.get("nginx", {})
    if expect.get("silent"):
        seen = await front.saw(1)
    else:
        finals = [answer for answer in answers_to(got, case, request) if answer.status >= 200]
        seen = await front.saw(len(finals))
        judge_answers(finals, seen, case.expect | expect)
    asked = [s for s in seen if s.upstream not in ("-", "")]
    judge_runs(await _runs(program, len(asked)), seen, asked)
    # On a new connection of a client, and on the one that nginx keeps to us.
    await honest(program, front.port, HOST)
    assert [s.target for s in await front.saw(1)] == ["/files/good.bin"]
    assert [line["path"] for line in await _runs(program, 1)] == ["good.bin"]
    assert program.stored()[0] == before, "a blob was stored"
    assert FAULTLESS not in program.said()


def judge_answers(finals: list[Reply], seen: list[Seen], expect: dict[str, Any]) -> None:
    """Every request that nginx saw has its own answer, in order."""
    assert [a.status for a in finals] == [s.status for s in seen], (finals, seen)
    assert finals
    for answer, asked in zip(finals, seen, strict=True):
        name = asked.target.removeprefix("/files/")
        if answer.status == 200 and asked.method == "GET" and name in FILES:
            assert answer.body == FILES[name], asked
        if answer.body == MARKER:
            assert name == "marker.bin"
        else:
            assert answer.status in REFUSALS | set(expect.get("status", [200, 206, 304, 404, 412])), (
                answer.head
            )


def judge_runs(runs: list[Line], seen: list[Seen], asked: list[Seen]) -> None:
    """What we ran is what nginx asked us for: as many, of the same kind, with the same outcome."""
    assert [line["status"] for line in runs] == [int(s.upstream) for s in asked], (runs, seen)
    for line, s in zip(runs, asked, strict=True):
        # What could not be read as a request has no repository, and no method that counts.
        assert line["method"] == s.method or "repo" not in line, (line, s)
    for word in ("smuggled", "posted"):
        told = [word in line.get("path", "") for line in runs if line["status"] != 400]
        assert sum(told) <= sum(word in s.target for s in asked), (runs, seen)


async def _runs(program: Program, count: int) -> list[Line]:
    """The requests in our log, which is written a moment after the answer; there must be no warning."""
    runs: list[Line] = []
    async with asyncio.timeout(60):
        while True:
            news = program.news()
            assert not [line for line in news if line["event"] == "warning"], news
            runs += [line for line in news if line["event"] == "request"]
            if len(runs) >= count:
                return runs
            await asyncio.sleep(0.001)
