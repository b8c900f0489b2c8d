"""Two processes on one index: what one of them ends, the other does not believe for longer than a second."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from artifactproxy import indexes
from artifactproxy.errors import IndexUnavailable
from artifactproxy.indexes.census import SqliteCensus
from artifactproxy.model import Right
from artifactproxy.tokens.desk import Desk
from artifactproxy.tokens.keys import RECHECK, Keys
from tests.contracts.harness import INDEXES, Indexes, harness_of


@pytest.fixture(params=sorted(indexes.KINDS))
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Indexes:
    box: Indexes = harness_of(INDEXES, request.param, tmp_path)
    return box


async def test_made_here_believed_there_revoked_here_ended_there(box: Indexes) -> None:
    async with box.open() as index, box.open(owner=False) as other:
        desk = Desk(index.tokens, box.clock, Keys(index.tokens, box.clock))
        there = Keys(other.tokens, box.clock)
        token = (await desk.create("ci", ["read", "push:images/*"], None))["token"]
        caller = await there.caller_of(token)
        assert (caller.name, len(caller.scopes)) == ("ci", 2)
        ticket = await there.ticket_for(caller, Right.READ)
        assert (await Keys(index.tokens, box.clock).caller_of(ticket)).name == "ci"
        await desk.revoke("ci")
        box.clock.now += RECHECK
        for secret in (token, ticket):
            assert (await there.caller_of(secret)).why == "the token ci was revoked"
        await there.close()


async def test_many_at_once_look_a_token_up_and_use_is_noted(box: Indexes) -> None:
    async with box.open() as index:
        keys = Keys(index.tokens, box.clock)
        token = (await Desk(index.tokens, box.clock).create("ci", ["read"], None))["token"]
        callers = await asyncio.gather(*(keys.caller_of(token) for _ in range(50)))
        assert {caller.name for caller in callers} == {"ci"}
        await keys.close()
        assert (await index.tokens.tokens())[0].used == box.clock.now


async def test_while_the_index_is_away(box: Indexes) -> None:
    if box.away is None or box.back is None:
        return  # this index is never away
    async with box.open() as index:
        keys = Keys(index.tokens, box.clock)
        desk = Desk(index.tokens, box.clock, keys)
        token = (await desk.create("ci", ["read"], None))["token"]
        other = (await desk.create("other", ["read"], None))["token"]
        await keys.caller_of(token)
        box.away()
        box.clock.now += 30
        assert (await keys.caller_of(token)).name == "ci"
        for refused in (keys.caller_of(other), desk.revoke("ci"), desk.create("new", ["read"], None)):
            with pytest.raises(IndexUnavailable):
                await refused
        box.back()
        await keys.close()


async def test_tokens_move_to_another_index(tmp_path: Path) -> None:
    old, new = (harness_of(INDEXES, "sqlite", tmp_path / name) for name in ("old", "new"))
    async with old.open() as index, new.open() as target:
        desk = Desk(index.tokens, old.clock)
        token = (await desk.create("ci", ["read"], None))["token"]
        gone = (await desk.create("gone", ["read"], None))["token"]
        await desk.revoke("gone")
        path: Any = index._path
        census = SqliteCensus(path)
        await target.tokens.adopt(await census.tokens())
        await census.close()
        keys = Keys(target.tokens, new.clock)
        assert (await keys.caller_of(token)).name == "ci"
        assert (await keys.caller_of(gone)).name == ""
        await keys.close()
