"""The corpus over raw sockets, against the real program with each of aiohttp's two request parsers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from tests.corpus.entry import Case, cases
from tests.corpus.play import play
from tests.corpus.programs import PARSERS, Program, running

pytestmark = pytest.mark.asyncio(loop_scope="module")
CASES = cases("ACDEG", "raw")


@dataclass(slots=True)
class Programs:
    """One running program for each parser and site, started when the first attack needs it."""

    folder: Path
    stack: AsyncExitStack
    started: dict[tuple[str, str], Program] = field(default_factory=dict)

    async def get(self, parser: str, site: str) -> Program:
        key = parser, site
        if key not in self.started:
            place = running(self.folder / f"{parser}-{site}", parser, site)
            self.started[key] = await self.stack.enter_async_context(place)
        return self.started[key]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def programs(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Programs]:
    async with AsyncExitStack() as stack:
        yield Programs(tmp_path_factory.mktemp("raw"), stack)


def _id(value: object) -> str:
    return value.id if isinstance(value, Case) else str(value)


@pytest.mark.parametrize(("parser", "case"), [(p, c) for p in PARSERS for c in CASES], ids=_id)
async def test_raw(programs: Programs, parser: str, case: Case) -> None:
    site = case.given.get("site", "open")
    program = await programs.get(parser, site)
    host = "cache.example" if site == "public" else f"localhost:{program.port}"
    await play(case, program, host)
