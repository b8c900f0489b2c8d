"""What must be done without: looked at, told once per change, cheap for whoever asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from artifactproxy.engine import degrade
from artifactproxy.engine.degrade import Watch, mode_of
from artifactproxy.errors import StoreAway
from tests.engine.parts import Notes


class Part:
    """An adapter that is well unless `wrong`; with `hangs` it does not answer."""

    def __init__(self) -> None:
        self.asked = 0
        self.wrong = ""
        self.hangs: asyncio.Event | None = None

    async def check(self) -> None:
        self.asked += 1
        if self.hangs is not None:
            await self.hangs.wait()
        if self.wrong:
            raise StoreAway(self.wrong)

    async def close(self) -> None: ...


class House:
    def __init__(self, every: float) -> None:
        self.parts: dict[str, Any] = {name: Part() for name in ("store", "index", "coordination")}
        self.notes = Notes()
        bearable = frozenset({"coordination"})
        self.watch = Watch(self.parts, self.notes, bearable=bearable, every=every)

    def degraded(self, name: str) -> float | None:
        return self.notes.gauges.get(("degraded", name))


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House(every=3600.0)
    yield house
    await house.watch.close()


async def until(told: Any) -> None:
    async with asyncio.timeout(60):
        while not told():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("wrong", "mode", "ready"),
    [
        ((), "ok", True),
        (("coordination",), "without coordination", True),
        (("index",), "without index", False),
        (("store", "coordination"), "without coordination, without store", False),
        (("store", "index", "coordination"), "without coordination, without index, without store", False),
    ],
)
async def test_n05_each_mode_has_its_words(
    house: House, wrong: tuple[str, ...], mode: str, ready: bool
) -> None:
    for name in wrong:
        house.parts[name].wrong = f"{name} is gone"
    found = await house.watch.readiness()
    assert (found.mode, found.ready) == (mode, ready)
    assert found.verdicts == {n: f"{n} is gone" if n in wrong else "ok" for n in house.parts}
    assert {n: house.degraded(n) for n in house.parts} == {n: float(n in wrong) for n in house.parts}


def test_the_words_do_not_depend_on_an_order() -> None:
    assert mode_of({"store", "index"}) == mode_of({"index", "store"}) == "without index, without store"


async def test_a_crowd_of_probes_is_one_look(house: House) -> None:
    slow = asyncio.Event()
    house.parts["store"].hangs = slow
    probes = [asyncio.create_task(house.watch.readiness()) for _ in range(50)]
    await asyncio.sleep(0.01)
    probes[0].cancel()
    slow.set()
    await asyncio.wait(probes)
    for _ in range(10):
        await house.watch.readiness()
    assert [part.asked for part in house.parts.values()] == [1, 1, 1]


async def test_what_is_wrong_is_asked_for_anew(house: House) -> None:
    house.parts["store"].wrong = "gone"
    assert not (await house.watch.readiness()).ready
    house.parts["store"].wrong = ""
    assert (await house.watch.readiness()).ready


async def test_each_change_is_told_once() -> None:
    house = House(every=0.005)
    house.watch.start()
    store = house.parts["store"]
    await until(lambda: store.asked > 2)
    assert house.notes.told == []
    store.wrong = "gone"
    await until(lambda: house.notes.events("degraded"))
    seen = store.asked
    await until(lambda: store.asked > seen + 3)
    assert house.notes.events("degraded") == [
        {"dependency": "store", "detail": "gone", "mode": "without store"}
    ]
    store.wrong = ""
    await until(lambda: house.notes.events("recovered"))
    assert house.notes.events("recovered") == [{"dependency": "store", "mode": "ok"}]
    assert len(house.notes.told) == 2
    await house.watch.close()


async def test_n05_a_dependency_that_hangs_is_wrong(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(degrade, "LONGEST", 0.02)
    house.parts["index"].hangs = asyncio.Event()
    found = await house.watch.readiness()
    assert (found.ready, found.mode) == (False, "without index")
    assert found.verdicts["index"] == "no answer within 0.02 s"


async def test_a_probe_is_not_kept_waiting(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(degrade, "PATIENCE", 0.01)
    monkeypatch.setattr(degrade, "FRESH", 0.0)
    assert (await house.watch.readiness()).ready
    house.parts["index"].hangs = asyncio.Event()
    async with asyncio.timeout(20):
        assert (await house.watch.readiness()).ready, "what was known last"


async def test_work_that_fails_is_told_before_anybody_looks(house: House) -> None:
    await house.watch.readiness()
    house.watch.failed("store")
    assert house.degraded("store") == 1
    house.watch.worked("store")
    assert house.degraded("store") == 0
    house.watch.worked("index")
    asked = house.parts["store"].asked
    house.watch.doubt()
    await house.watch.readiness()
    assert house.parts["store"].asked == asked + 1


async def test_work_does_not_take_back_what_a_look_found(house: House) -> None:
    house.parts["index"].wrong = "removed under the running program"
    await house.watch.readiness()
    house.watch.failed("index")
    house.watch.worked("index")
    assert house.degraded("index") == 1
