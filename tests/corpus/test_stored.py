"""Part F: what we hand out does not run in a browser on our origin, nor in a terminal that shows our log."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from tests.corpus.entry import Case, cases
from tests.corpus.stored import RECIPES, harmless
from tests.corpus.world import World, world
from tests.house_proxy import Got

CHECK_EVERY = 20  # cases; the whole store, which every case adds to

pytestmark = pytest.mark.asyncio(loop_scope="module")

MARKUP = ("<script", "<img", "<svg")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def around(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder: Path = tmp_path_factory.mktemp("corpus")
    async with world(folder) as made:
        yield made


@pytest.mark.parametrize("case", cases("F", "upstream"), ids=lambda case: case.id)
async def test_stored(around: World, case: Case) -> None:
    await around.begin()
    log_at = around.proxy.log.stat().st_size
    shared = {key: case.given[key] for key in ("line", "at") if key in case.given}
    made = await RECIPES[case.given["recipe"]](
        around, case.id.lower(), **case.given.get("with", {}), **shared
    )
    assert made
    for got in made:
        path = next(path for path, _, asked in around.asked if asked is got)
        harmless(got, around.proxy.base + path)
        _expected(case, got)
    await around.proxy.settled()
    for word in case.entry.must_not:
        if word == "echo":
            assert [m for got in made for m in MARKUP if _shows(got, m)] == []
        elif word == "store":
            assert around.stored() == (set(), set())
        elif word == "connect":
            assert around.strangers() == []
        elif word == "redirect":
            assert [got.headers["Location"] for got in made if "evil" in _away(got)] == []
        else:
            assert word == "markup"  # which `harmless` judges in every page
    await around.normal(case.id.lower())
    if case.number % CHECK_EVERY == 0:
        await around.check()
    _judge_log(around, log_at)
    assert around.leaks() == []


def _expected(case: Case, got: Got) -> None:
    for key, value in case.expect.items():
        if key == "status":
            assert got.status in value, (got.status, got.error, got.body)
        elif key == "type":
            assert got.headers.get("Content-Type", "") in value or got.status in (304, *ERRORS), got.headers
        elif key == "attached":
            assert ("Content-Disposition" in got.headers) is value or got.status in (304, *ERRORS)
        elif key == "lacks":
            assert all(text.lower() not in str(dict(got.headers)).lower() for text in value)
        else:
            raise AssertionError(f"the player does not know {key}")


ERRORS = range(400, 600)


def _away(got: Got) -> str:
    """The host that a redirect of ours leads to; all of them are relative."""
    return urlsplit(got.headers.get("Location", "")).netloc


def _shows(got: Got, mark: str) -> bool:
    """Whether markup stands in the head, or in a body that somebody might render."""
    body = (got.body or b"").decode("utf-8", "replace").lower()
    plain = got.headers.get("Content-Type", "").startswith("text/plain")
    return mark in str(dict(got.headers)).lower() or (mark in body and not plain)


def _judge_log(around: World, log_at: int) -> None:
    """Every line is one object of printable ASCII."""
    lines = around.proxy.log.read_bytes()[log_at:].split(b"\n")
    assert lines.pop() == b""
    for line in lines:
        assert line.isascii() and line.decode().isprintable(), line
        assert isinstance(json.loads(line), dict)
