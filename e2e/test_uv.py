"""uv installs an application with many dependencies: cold, warm, and with no internet left.

Where the registry has no metadata files uv reads the metadata of each wheel by ranges.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from e2e.clients import Uv
from e2e.servers import Forwarder, Proxy, Seen

APPLICATION = "jupyterlab"
MANY = 50


@dataclass(frozen=True, slots=True)
class Step:
    installed: dict[str, str]
    seen: Seen
    bytes_down: int


def _step(uv: Uv, proxy: Proxy, forwarder: Forwarder | None) -> Step:
    before = forwarder.counts()["bytes_down"] if forwarder else 0
    with proxy.watch() as seen:
        python = uv.install(APPLICATION, index=proxy.index)
    after = forwarder.counts()["bytes_down"] if forwarder else 0
    return Step(uv.installed(python), seen, after - before)


@pytest.fixture(scope="module")
def first(uv: Uv, proxy: Proxy, forwarder: Forwarder) -> Step:
    return _step(uv, proxy, forwarder)


@pytest.fixture(scope="module")
def second(first: Step, uv: Uv, proxy: Proxy, forwarder: Forwarder) -> Step:
    return _step(uv, proxy, forwarder)


@pytest.fixture(scope="module")
def third(second: Step, uv: Uv, proxy: Proxy, forwarder: Forwarder) -> Step:
    forwarder.stop()
    return _step(uv, proxy, None)


def test_the_first_installation_comes_from_upstream(first: Step) -> None:
    assert APPLICATION in first.installed
    assert len(first.seen.files()) == len(first.installed) >= MANY
    # Which of two requests for one file comes first is uv's business, so only the first one counts. A HEAD
    # may be answered from what an index promises.
    opening: dict[str, str] = {}
    for row in first.seen.requests("artifact"):
        if row["method"] == "GET":
            opening.setdefault(row["path"], row["source"])
    assert set(opening.values()) == {"remote"}


def test_no_request_is_refused(first: Step, second: Step, third: Step) -> None:
    for step in (first, second, third):
        assert step.seen.errors() == []


def test_metadata_is_read_without_the_whole_wheel_or_beside_it(first: Step) -> None:
    asked = first.seen.requests("artifact")
    ranges = {row["path"] for row in asked if row["method"] == "GET" and row["status"] == 206}
    sidecars = {row["path"] for row in asked if row["path"].endswith(".metadata")}
    assert len(ranges | sidecars) >= MANY


def test_no_wheel_is_needed_twice_upstream(first: Step) -> None:
    fills = Counter(fill["path"] for fill in first.seen.fills("artifact"))
    assert set(first.seen.files()) <= set(fills)
    assert {path: count for path, count in fills.items() if count > 1} == {}
    # Project pages arrive compressed, so files alone may not exceed their sum by much.
    received = sum(fill["bytes"] for fill in first.seen.fills())
    assert first.bytes_down < received * 1.1 + 2_000_000


def test_the_second_installation_comes_from_the_cache(first: Step, second: Step) -> None:
    assert second.installed == first.installed
    assert second.seen.files() and set(second.seen.files()) <= set(first.seen.files())
    assert second.seen.sources() == {"cache"}
    assert second.seen.fills("artifact") == []


def test_without_the_internet_a_third_installation_works(first: Step, third: Step) -> None:
    assert third.installed == first.installed
    assert third.seen.sources() == {"cache"}
