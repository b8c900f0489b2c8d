"""K1 to K8 of `ports.tokens.TokenStore`, for every kind of index."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from artifactproxy.errors import IndexUnavailable
from artifactproxy.ports.tokens import Token
from tests.contracts.harness import NOW, Indexes

TOKEN = Token("id000000001", "builds", "f" * 64, "read push:images/*", NOW)
LONG_AGO = NOW - 1e6


async def test_k1_durable_when_add_returns(box: Indexes) -> None:
    async with box.open() as index:
        assert await index.tokens.add(TOKEN, before=LONG_AGO) is True
        async with box.open(owner=False) as other:
            assert await other.tokens.find(TOKEN.id) == TOKEN
    async with box.open() as index:
        assert await index.tokens.find(TOKEN.id) == TOKEN


async def test_k1_one_name_is_in_force_once(index: Any) -> None:
    await index.tokens.add(TOKEN, before=LONG_AGO)
    again = replace(TOKEN, id="id000000002", created=NOW + 5)
    assert await index.tokens.add(again, before=LONG_AGO) is False
    assert await index.tokens.tokens() == [TOKEN]
    await index.tokens.revoke("builds", NOW + 6)
    assert await index.tokens.add(again, before=LONG_AGO) is True


async def test_k1_an_expired_one_leaves_its_name(index: Any) -> None:
    await index.tokens.add(replace(TOKEN, expires=NOW + 10), before=LONG_AGO)
    early, late = (replace(TOKEN, id=f"id{at}", created=NOW + at) for at in (9, 10))
    assert await index.tokens.add(early, before=LONG_AGO) is False
    assert await index.tokens.add(late, before=LONG_AGO) is True


async def test_k1_of_two_at_once_one_gets_the_name(box: Indexes) -> None:
    async with box.open() as one, box.open(owner=False) as two:
        wanted = [replace(TOKEN, id=f"id{number}") for number in range(10)]
        added = await asyncio.gather(
            *((one, two)[at % 2].tokens.add(each, before=LONG_AGO) for at, each in enumerate(wanted))
        )
        assert sorted(added) == [False] * 9 + [True]
        assert [token.id for token in await one.tokens.tokens()] == [wanted[added.index(True)].id]


async def test_k2_every_field_and_none_for_a_stranger(index: Any) -> None:
    whole = replace(TOKEN, expires=NOW + 1.25, used=NOW + 0.5)
    await index.tokens.add(whole, before=LONG_AGO)
    assert await index.tokens.find(whole.id) == whole
    assert await index.tokens.find("id000000009") is None
    assert await index.tokens.find("") is None


async def test_k3_revoking_keeps_the_row_and_tells_which(index: Any) -> None:
    await index.tokens.add(TOKEN, before=LONG_AGO)
    revoked = replace(TOKEN, revoked=NOW + 3)
    assert await index.tokens.revoke("builds", NOW + 3) == revoked
    assert await index.tokens.find(TOKEN.id) == revoked
    assert await index.tokens.revoke("builds", NOW + 9) is None
    assert await index.tokens.revoke("nobody", NOW) is None
    assert await index.tokens.find(TOKEN.id) == revoked


async def test_k3_it_is_the_one_in_force_where_an_expired_one_had_the_name(index: Any) -> None:
    await index.tokens.add(replace(TOKEN, expires=NOW + 1), before=LONG_AGO)
    young = replace(TOKEN, id="id000000002", created=NOW + 2)
    await index.tokens.add(young, before=LONG_AGO)
    found = await index.tokens.revoke("builds", NOW + 3)
    assert found == replace(young, revoked=NOW + 3)


async def test_k3_another_process_finds_it_revoked(box: Indexes) -> None:
    async with box.open() as index, box.open(owner=False) as other:
        await index.tokens.add(TOKEN, before=LONG_AGO)
        assert (await other.tokens.find(TOKEN.id)).revoked is None
        await index.tokens.revoke("builds", NOW)
        assert (await other.tokens.find(TOKEN.id)).revoked == NOW


async def test_k4_by_name_then_by_age(index: Any) -> None:
    older = replace(TOKEN, id="b", name="b", created=NOW - 9, revoked=NOW - 8)
    tokens = [replace(TOKEN, id="B", name="B"), replace(TOKEN, id="a", name="a"), older]
    tokens.append(replace(older, id="c", created=NOW, revoked=None))
    for token in (tokens[2], tokens[0], tokens[3], tokens[1]):
        assert await index.tokens.add(token, before=LONG_AGO)
    assert await index.tokens.tokens() == tokens


async def test_k5_use_never_goes_back_and_creates_nothing(index: Any) -> None:
    await index.tokens.add(TOKEN, before=LONG_AGO)
    await index.tokens.use([TOKEN.id, "id000000009"], NOW + 5)
    await index.tokens.use([TOKEN.id], NOW + 4)
    assert await index.tokens.tokens() == [replace(TOKEN, used=NOW + 5)]


async def test_k6_the_first_proposal_is_everybodys(box: Indexes) -> None:
    async with box.open() as index, box.open(owner=False) as other:
        proposed = ["a" * 64, "b" * 64]
        found = await asyncio.gather(
            *(each.tokens.seal(text) for each, text in zip((index, other), proposed, strict=True))
        )
        assert found[0] == found[1]
        assert found[0] in proposed
    async with box.open() as index:
        assert await index.tokens.seal("c" * 64) == found[0]


async def test_k7_what_ended_long_ago_is_forgotten_with_the_next(index: Any) -> None:
    gone = replace(TOKEN, id="gone", name="gone", revoked=NOW - 100)
    over = replace(TOKEN, id="over", name="over", expires=NOW - 100)
    late = replace(TOKEN, id="late", name="late", revoked=NOW - 50)
    for token in (gone, over, late, replace(TOKEN, id="live", name="live")):
        await index.tokens.add(token, before=LONG_AGO)
    await index.tokens.add(TOKEN, before=NOW - 60)
    assert [token.id for token in await index.tokens.tokens()] == [TOKEN.id, "late", "live"]


async def test_k8_what_cannot_be_told_raises(box: Indexes) -> None:
    async with box.open() as index:
        await index.tokens.add(TOKEN, before=LONG_AGO)
    for call in (index.tokens.find(TOKEN.id), index.tokens.tokens(), index.tokens.revoke("builds", NOW)):
        with pytest.raises(IndexUnavailable):
            await call


async def test_k9_adopted_rows_are_as_they_were_and_the_last_word(index: Any) -> None:
    await index.tokens.add(TOKEN, before=LONG_AGO)
    rows = [replace(TOKEN, revoked=NOW + 1), replace(TOKEN, id="id000000002", created=NOW + 2, used=NOW + 3)]
    for _ in range(2):
        await index.tokens.adopt(rows)
        assert await index.tokens.tokens() == rows
    await index.tokens.adopt([])
    assert await index.tokens.tokens() == rows
