"""Who is believed, for how long, and what is told to whom."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from artifactproxy.errors import IndexUnavailable
from artifactproxy.model import Right, Scope
from artifactproxy.rules.bulletin import TOKENS
from artifactproxy.rules.credentials import NOISE_BYTES, TICKET_SECONDS, mint
from artifactproxy.tokens.desk import Desk
from artifactproxy.tokens.keys import NOBODY, RECHECK, UNSURE, USED_EVERY, Caller, Keys
from tests.tokens.shelf import Board, Shelf, Time

READ = (Scope(Right.READ, "*"),)


class House:
    """Two processes on one store."""

    def __init__(self) -> None:
        self.time, self.shelf, self.board = Time(), Shelf(), Board()
        self.keys = Keys(self.shelf, self.time, bulletin=self.board)
        self.other = Keys(self.shelf, self.time, bulletin=Board())
        self.desk = Desk(self.shelf, self.time, self.keys)

    async def made(self, name: str = "ci", *scopes: str, seconds: float | None = None) -> str:
        return str((await self.desk.create(name, scopes or ("read",), seconds))["token"])


@pytest.fixture
def house() -> House:
    return House()


def strip(caller: Caller) -> tuple[Any, ...]:
    return caller.name, caller.scopes, caller.most


async def test_a_token_is_believed_with_what_it_holds(house: House) -> None:
    token = await house.made("ci", "read", "push:images/*")
    caller = await house.keys.caller_of(token)
    assert strip(caller) == ("ci", (*READ, Scope(Right.PUSH, "images/*")), Right.ADMIN)
    assert not caller.by_ticket


@pytest.mark.parametrize("wrong", ["", "null", "x" * 4000, "a\0b", mint(b"z" * NOISE_BYTES)])
async def test_nothing_else_is_believed(house: House, wrong: str) -> None:
    await house.made()
    caller = await house.keys.caller_of(wrong)
    assert (caller.name, caller.scopes, caller.why) == ("", (), "this token is not known here")


async def test_the_name_of_a_token_is_not_its_secret(house: House) -> None:
    token = await house.made()
    forged = mint(house.shelf.rows[token[4:15]].id.encode() + b"x" * 21)
    assert (await house.keys.caller_of(forged)).name == ""
    # The same id with another secret, which a checksum alone would let through.
    house.shelf.rows[forged[4:15]] = house.shelf.rows[token[4:15]]
    assert (await house.keys.caller_of(forged)).why == "this token is not known here"


async def test_what_is_no_token_asks_nobody(house: House) -> None:
    for wrong in ("null", "apx_" + "0" * 50, "x" * 5000):
        await house.keys.caller_of(wrong)
    assert house.shelf.asked == []


async def test_a_revocation_counts_at_once_here_and_within_a_second_elsewhere(house: House) -> None:
    token = await house.made()
    for keys in (house.keys, house.other):
        assert (await keys.caller_of(token)).name == "ci"
    await house.desk.revoke("ci")
    assert (await house.keys.caller_of(token)) == Caller(why="the token ci was revoked")
    assert (await house.other.caller_of(token)).name == "ci"
    house.time.now += RECHECK
    assert (await house.other.caller_of(token)) == Caller(why="the token ci was revoked")


async def test_it_is_told_and_heard_sooner(house: House) -> None:
    token = await house.made()
    heard = Keys(house.shelf, house.time, bulletin=house.board)
    await heard.caller_of(token)
    await house.desk.revoke("ci")
    (told,) = house.board.told
    assert told == (TOKENS, token[4:15])
    house.board.say(*told)
    assert (await heard.caller_of(token)).why == "the token ci was revoked"


@pytest.mark.parametrize("odd", ["", "x" * 100_000, "../../etc", "\0"])
async def test_odd_news_harm_nobody(house: House, odd: str) -> None:
    token = await house.made()
    house.board.say(TOKENS, odd)
    assert (await house.keys.caller_of(token)).name == "ci"


async def test_what_was_looked_up_before_the_news_is_not_kept(house: House) -> None:
    token = await house.made()
    gate = asyncio.Event()
    find = house.shelf.find

    async def slow(id_: str) -> Any:
        row = await find(id_)
        await gate.wait()
        return row

    house.shelf.find = slow  # type: ignore[method-assign]
    asking = asyncio.create_task(house.keys.caller_of(token))
    await asyncio.sleep(0)
    await house.desk.revoke("ci")
    gate.set()
    await asking
    assert (await house.keys.caller_of(token)).why == "the token ci was revoked"


async def test_a_crowd_with_one_token_asks_once(house: House) -> None:
    token = await house.made()
    gate, find = asyncio.Event(), house.shelf.find

    async def slow(id_: str) -> Any:
        await gate.wait()
        return await find(id_)

    house.shelf.find = slow  # type: ignore[method-assign]
    crowd = [asyncio.create_task(house.keys.caller_of(token)) for _ in range(50)]
    await asyncio.sleep(0)
    crowd[0].cancel()
    await asyncio.sleep(0)
    gate.set()
    callers = await asyncio.gather(*crowd[1:])
    assert {caller.name for caller in callers} == {"ci"}
    assert len(house.shelf.asked) == 1
    await house.keys.close()


async def test_who_asks_after_a_revocation_does_not_get_what_was_asked_before(house: House) -> None:
    token = await house.made()
    gate, find = asyncio.Event(), house.shelf.find

    async def slow(id_: str) -> Any:
        row = await find(id_)
        await gate.wait()
        return row

    house.shelf.find = slow  # type: ignore[method-assign]
    early = asyncio.create_task(house.keys.caller_of(token))
    await asyncio.sleep(0.01)
    await house.desk.revoke("ci")
    late = asyncio.create_task(house.keys.caller_of(token))
    await asyncio.sleep(0.01)
    gate.set()
    assert (await late).why == "the token ci was revoked"
    await early
    await house.keys.close()


async def test_an_expiry_needs_no_news(house: House) -> None:
    token = await house.made(seconds=60)
    assert (await house.keys.caller_of(token)).name == "ci"
    house.time.now += 59.9
    assert (await house.keys.caller_of(token)).name == "ci"
    house.time.now += 0.1
    assert (await house.keys.caller_of(token)).why == "the token ci has expired"


async def test_a_token_is_looked_up_once_a_second(house: House) -> None:
    token = await house.made()
    for _ in range(50):
        await house.keys.caller_of(token)
    assert len(house.shelf.asked) == 1
    house.time.now += RECHECK
    await house.keys.caller_of(token)
    assert len(house.shelf.asked) == 2


async def test_while_the_index_is_away_what_was_known_counts_for_a_while(house: House) -> None:
    token, other = await house.made(), await house.made("other")
    await house.keys.caller_of(token)
    house.shelf.away = True
    house.time.now += UNSURE - 1
    assert (await house.keys.caller_of(token)).name == "ci"
    with pytest.raises(IndexUnavailable):
        await house.keys.caller_of(other)
    house.time.now += 1
    with pytest.raises(IndexUnavailable):
        await house.keys.caller_of(token)


async def test_but_not_what_was_revoked_meanwhile(house: House) -> None:
    token = await house.made()
    await house.keys.caller_of(token)
    house.shelf.away = True
    house.board.say(TOKENS, token[4:15])
    with pytest.raises(IndexUnavailable):
        await house.keys.caller_of(token)


async def test_a_clock_that_was_set_back_makes_nothing_last(house: House) -> None:
    token = await house.made()
    await house.keys.caller_of(token)
    house.time.now -= 1e6
    await house.desk.revoke("ci")
    assert (await house.other.caller_of(token)).why == "the token ci was revoked"


async def test_a_ticket_serves_for_its_token_until_that_ends(house: House) -> None:
    token = await house.made("ci", "admin")
    caller = await house.keys.caller_of(token)
    ticket = await house.keys.ticket_for(caller, Right.PUSH)
    assert token not in ticket
    found = await house.other.caller_of(ticket)
    assert (found.name, found.most, found.by_ticket) == ("ci", Right.PUSH, True)
    await house.desk.revoke("ci")
    assert (await house.keys.caller_of(ticket)).why == "the token ci was revoked"
    house.time.now += RECHECK
    found = await house.other.caller_of(ticket)
    assert (found.name, found.scopes, found.why) == ("", (), "the token ci was revoked")


async def test_a_ticket_ends_and_is_not_made_of_another(house: House) -> None:
    caller = await house.keys.caller_of(await house.made("ci", "admin"))
    ticket = await house.keys.ticket_for(caller, Right.READ)
    narrow = await house.keys.caller_of(ticket)
    again = await house.keys.caller_of(await house.keys.ticket_for(narrow, Right.ADMIN))
    assert again.most is Right.READ
    house.time.now += TICKET_SECONDS + 1
    assert (await house.keys.caller_of(ticket)).why.startswith("this ticket is over")


async def test_a_ticket_of_a_nobody_is_one(house: House) -> None:
    found = await house.keys.caller_of(await house.keys.ticket_for(NOBODY, Right.ADMIN))
    assert (found.name, found.scopes, found.by_ticket, found.why) == ("", (), True, "")


async def test_who_reads_the_index_alone_makes_no_tickets(house: House) -> None:
    mine = Keys(house.shelf, house.time, pepper="the cluster's secret")
    stolen = Keys(house.shelf, house.time)
    caller = await mine.caller_of(await house.made("ci", "admin"))
    ticket = await stolen.ticket_for(caller, Right.ADMIN)
    assert (await mine.caller_of(ticket)).name == ""


async def test_use_is_noted_now_and_then(house: House) -> None:
    token = await house.made()
    row = lambda: house.shelf.rows[token[4:15]]  # noqa: E731
    await house.keys.caller_of(token)
    await house.keys.close()
    first = row().used
    assert first == house.time.now
    house.time.now += USED_EVERY - 1
    await house.keys.caller_of(token)
    await house.keys.close()
    assert row().used == first
    house.time.now += 1
    await house.keys.caller_of(token)
    await house.keys.close()
    assert row().used == first + USED_EVERY


async def test_a_use_that_cannot_be_noted_harms_nobody(house: House) -> None:
    token = await house.made()

    async def away(*_: object) -> None:
        raise IndexUnavailable("away")

    house.shelf.use = away  # type: ignore[method-assign, assignment]
    assert (await house.keys.caller_of(token)).name == "ci"
    await house.keys.close()


async def test_scopes_of_a_later_version_grant_nothing(house: House) -> None:
    token = await house.made()
    from dataclasses import replace

    row = house.shelf.rows[token[4:15]]
    house.shelf.rows[row.id] = replace(row, scopes="read:npm publish:x:y own")
    assert (await house.keys.caller_of(token)).scopes == (Scope(Right.READ, "npm"),)
