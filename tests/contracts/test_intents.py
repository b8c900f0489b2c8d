"""T1 to T3 of `ports.Intents`, for every kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from artifactproxy.ports import Intent
from tests.contracts.harness import NOW, Indexes

INTENT = Intent("one", "a" * 64, "", "replica 1", NOW)


async def test_t1_durable_when_intend_returns(box: Indexes) -> None:
    async with box.open() as index:
        await index.intend(INTENT)
        async with box.open(owner=False) as other:
            assert await other.intents(NOW + 1, 10) == [INTENT]
    async with box.open() as index:
        assert await index.intents(NOW + 1, 10) == [INTENT]


async def test_t1_the_same_id_again_replaces_it(index: Any) -> None:
    await index.intend(INTENT)
    again = Intent("one", "b" * 64, "what the store gave", "replica 2", NOW + 5)
    await index.intend(again)
    assert await index.intents(NOW + 10, 10) == [again]


async def test_t2_fulfil_is_idempotent_and_spares_others(index: Any) -> None:
    other = replace(INTENT, id="other")
    await index.intend(INTENT)
    await index.intend(other)
    for _ in range(2):
        await index.fulfil(["one", "never intended"])
        assert await index.intents(NOW + 1, 10) == [other]
    await index.fulfil([])
    await index.fulfil([f"{number}" for number in range(1200)] + ["other"])
    assert await index.intents(NOW + 1, 10) == []


async def test_t3_those_that_began_before_a_moment_oldest_first(index: Any) -> None:
    intents = [replace(INTENT, id=f"{number}", started=NOW + number) for number in range(6)]
    for each in reversed(intents):
        await index.intend(each)
    assert await index.intents(NOW + 4, 10) == intents[:4]
    assert await index.intents(NOW + 4, 2) == intents[:2]
    assert await index.intents(NOW, 10) == []
