"""Parts B and F where a hostile upstream is the attacker: what it names is not fetched, what it sends
does no harm. One instance plays all cases, and answers a normal request after each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.corpus.carriers import CARRIERS
from tests.corpus.entry import Case, cases
from tests.corpus.world import World, world
from tests.house_proxy import Got

CHECK_EVERY = 20  # cases; the whole store, which every case adds to

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def around(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder: Path = tmp_path_factory.mktemp("corpus")
    async with world(folder) as made:
        yield made


@pytest.mark.parametrize("case", cases("B", "upstream"), ids=lambda case: case.id)
async def test_upstream(around: World, case: Case) -> None:
    await around.begin()
    name = case.id.lower()
    for _ in range(case.given.get("times", 1)):
        got = await CARRIERS[case.given["by"]](around, around.filled(case.given["url"]), name)
        expected(case, got)
    await around.proxy.settled()
    for word in case.entry.must_not:
        MUST_NOT[word](around, case)
    await around.normal(name)
    if case.number % CHECK_EVERY == 0:
        await around.check()


def expected(case: Case, got: Got | None) -> None:
    if case.expect.get("entry") == "dropped":
        assert got is None, "the document still names it"
        return
    assert got is not None, "the document names it no more"
    assert got.status in case.expect["status"], (got.status, got.error, got.body)
    codes = case.expect.get("code", [])
    assert got.error in codes or not codes, got.error
    if got.status >= 500:
        assert "X-Artifact-Source" not in got.headers


def silent(around: World, case: Case) -> None:
    """No packet to anybody but the upstreams; to the friend only where the case allows it."""
    assert around.recorders.connections() == 0
    assert around.strangers() == []
    if not case.given.get("friend"):
        assert around.recorders.friend.requests == []


def unresolved(around: World, case: Case) -> None:
    """No look-up either, but for a name that the case gives."""
    assert set(around.wire.names.asked) <= {case.given.get("name", "")}


def nothing_new(around: World, case: Case) -> None:
    if not case.given.get("stores"):
        assert around.stored() == (set(), set())


def secret(around: World, case: Case) -> None:
    del case
    assert around.leaks() == []


MUST_NOT = {"connect": silent, "look_up": unresolved, "store": nothing_new, "leak": secret}
