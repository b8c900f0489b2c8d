"""Tokens are told once, named once, and listed without what they are."""

from __future__ import annotations

import json
import re

import pytest

from artifactproxy.errors import BadRequest
from artifactproxy.rules.credentials import fingerprint
from artifactproxy.tokens.desk import KEPT, Desk, NameTaken, NoSuchToken
from tests.tokens.shelf import Shelf, Time


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def desk(shelf: Shelf, time: Time) -> Desk:
    return Desk(shelf, time)


async def test_it_is_told_once_and_kept_as_a_fingerprint(desk: Desk, shelf: Shelf) -> None:
    made = await desk.create("ci", ["read", "push:images/*", "read"], 90 * 86400.0)
    assert list(made) == ["name", "token", "scopes", "expires"]
    assert (made["name"], made["scopes"]) == ("ci", ["read", "push:images/*"])
    assert made["expires"] == "2024-02-12T22:13:20Z"
    (row,) = shelf.rows.values()
    assert row.fingerprint == fingerprint(made["token"])
    assert made["token"] not in repr(row) + json.dumps(await desk.list())
    assert (await desk.create("for-ever", ["admin"], None))["expires"] is None


@pytest.mark.parametrize(
    "name", ["", "10.0.0.5", "1st", "control", "anonymous", "a b", "a/b", "a\n", "a" * 65, "é", "-x", "a;b"]
)
async def test_a_name_is_a_plain_word_and_no_address(desk: Desk, shelf: Shelf, name: str) -> None:
    with pytest.raises(BadRequest, match="name"):
        await desk.create(name, ["read"], None)
    assert shelf.rows == {}


@pytest.mark.parametrize(
    "scopes", [[], ["read"] * 101, ["own"], ["read:"], ["read", "push:X"], ["read push"]]
)
async def test_scopes_that_are_none_are_refused_whole(desk: Desk, shelf: Shelf, scopes: list[str]) -> None:
    with pytest.raises(BadRequest, match=r"scope|pattern"):
        await desk.create("ci", scopes, None)
    assert shelf.rows == {}


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e12, float("inf"), float("nan")])
async def test_an_end_that_is_none_is_refused(desk: Desk, shelf: Shelf, seconds: float) -> None:
    with pytest.raises(BadRequest, match="expires"):
        await desk.create("ci", ["read"], seconds)
    assert shelf.rows == {}


async def test_a_name_is_free_again_after_its_token(desk: Desk, time: Time) -> None:
    await desk.create("ci", ["read"], None)
    with pytest.raises(NameTaken, match="revoke it first"):
        await desk.create("ci", ["admin"], None)
    assert (await desk.revoke("ci")) == {"name": "ci", "revoked": "2023-11-14T22:13:20Z"}
    time.now += 5
    await desk.create("ci", ["read"], 10.0)
    time.now += 10
    await desk.create("ci", ["read"], None)
    states = [row["state"] for row in (await desk.list())["tokens"]]
    assert states == ["revoked", "expired", "in force"]


async def test_revoking_what_is_not_there_says_so(desk: Desk) -> None:
    with pytest.raises(NoSuchToken, match="token list"):
        await desk.revoke("ci")
    await desk.create("ci", ["read"], None)
    await desk.revoke("ci")
    with pytest.raises(NoSuchToken):
        await desk.revoke("ci")


async def test_what_is_listed(desk: Desk) -> None:
    await desk.create("ci", ["read", "push:images"], 60.0)
    assert (await desk.list())["tokens"] == [
        {
            "name": "ci",
            "state": "in force",
            "scopes": ["read", "push:images"],
            "created": "2023-11-14T22:13:20Z",
            "expires": "2023-11-14T22:14:20Z",
            "revoked": None,
            "used": None,
        }
    ]


async def test_no_two_tokens_are_alike(desk: Desk) -> None:
    made = [(await desk.create(f"t{number}", ["read"], None))["token"] for number in range(50)]
    assert len({token[4:] for token in made}) == len({token[4:15] for token in made}) == 50
    assert all(re.fullmatch(r"apx_[0-9A-Za-z]{50}", token) for token in made)


def test_they_are_kept_as_long_as_the_ledger_names_them() -> None:
    from artifactproxy.limits import Limits

    assert Limits().ledger_keep == KEPT
