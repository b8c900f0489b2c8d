"""Every route, every method, every kind of caller: who gets in, and what the others are told."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from artifactproxy.engine.answer import Bytes
from artifactproxy.engine.mounts import Mount
from artifactproxy.errors import IndexUnavailable
from artifactproxy.model import Ask, Operation, Right, Route
from artifactproxy.providers._base import Site
from artifactproxy.rules.credentials import NOISE_BYTES, mint
from artifactproxy.tokens.desk import Desk
from artifactproxy.tokens.keys import Keys
from artifactproxy.web.access import AccessRules
from tests.tokens.shelf import Shelf, Time
from tests.web.scripted import Paper, Rig

CLOSED = AccessRules(open_reading=False)
RIGHTS = {"GET": Right.READ, "HEAD": Right.READ, "PUT": Right.PUSH, "DELETE": Right.DELETE}


class Images(Paper):
    """Names of two segments or one before `/at/`; what a method does is plain."""

    name = "images"
    methods = frozenset(RIGHTS)

    def operation(self, ask: Ask) -> Operation:
        return Operation(RIGHTS[ask.method], ask.repo, ask.path.rpartition("/at/")[0])

    def classify(self, ask: Ask) -> Route:
        raise NotImplementedError


TOKENS = {
    "reader": ["read"],
    "paper-reader": ["read:paper"],
    "publisher": ["push:images"],
    "team": ["push:images/team/*"],
    "keeper": ["admin:images"],
    "other-keeper": ["admin:other"],
    "admin": ["admin"],
}


class World:
    """A server with every kind of token; `header` is what a caller of that name shows."""

    def __init__(self, rig: Rig, keys: Keys, desk: Desk, shelf: Shelf) -> None:
        self.rig, self.keys, self.desk, self.shelf = rig, keys, desk, shelf
        self.tokens: dict[str, str] = {}

    async def fill(self) -> None:
        for name, scopes in TOKENS.items():
            self.tokens[name] = (await self.desk.create(name, scopes, None))["token"]
        await self.desk.revoke("admin")
        self.tokens["revoked"] = self.tokens["admin"]
        self.tokens["admin"] = (await self.desk.create("admin", ["admin"], None))["token"]
        self.tokens["forged"] = mint(b"f" * NOISE_BYTES)
        self.rig.engine.more["images"] = Mount("images", Images(Site("images", ())))
        for path in ("paper/a", "other/a", "images/app/at/1", "images/team/web/at/1"):
            self.rig.engine.give(path, lambda: Bytes(b"content"))

    def header(self, caller: str) -> str:
        return f"Authorization: Bearer {self.tokens[caller]}\r\n" if caller else ""

    async def get(self, target: str, caller: str = "", method: str = "GET", more: str = "") -> Any:
        return await self.rig.get(target, self.header(caller) + more, method)


@pytest.fixture
async def closed(rigs) -> World:
    return await opened(rigs, CLOSED)


async def opened(rigs: Any, access: AccessRules, **limits: Any) -> World:
    shelf, time = Shelf(), Time()
    keys = Keys(shelf, time)
    world = World(await rigs(access, keys=keys, **limits), keys, Desk(shelf, time, keys), shelf)
    await world.fill()
    return world


IN = 405  # past the gate: these repositories have no pushes, which is said to whoever may push
TABLE = {
    # target, method: nobody, and who gets what; everybody else 404
    ("/paper/a", "GET"): {"reader": 200, "paper-reader": 200, "admin": 200},
    ("/paper/a", "HEAD"): {"reader": 200, "paper-reader": 200, "admin": 200},
    ("/paper/a", "PUT"): {"reader": IN, "paper-reader": IN, "admin": IN},
    ("/paper/a", "DELETE"): {"reader": IN, "paper-reader": IN, "admin": IN},
    ("/paper/a", "POST"): {"reader": IN, "paper-reader": IN, "admin": IN},
    ("/repository/paper/a", "GET"): {"reader": 200, "paper-reader": 200, "admin": 200},
    ("/artifactory/paper/a", "GET"): {"reader": 200, "paper-reader": 200, "admin": 200},
    ("/artifactory/api/paper/paper/a", "GET"): {"reader": 200, "paper-reader": 200, "admin": 200},
    ("/artifactory/api/other/paper/a", "GET"): {},
    ("/api/v1/remote/paper/a", "HEAD"): {"reader": 200, "paper-reader": 200, "admin": 200},
    ("/other/a", "GET"): {"reader": 200, "other-keeper": 200, "admin": 200},
    ("/nothing/a", "GET"): {},
    ("/nothing/a", "PUT"): {"reader": IN, "admin": IN},
    ("/images/app/at/1", "GET"): {"reader": 200, "publisher": 200, "keeper": 200, "admin": 200},
    ("/images/app/at/1", "HEAD"): {"reader": 200, "publisher": 200, "keeper": 200, "admin": 200},
    ("/images/app/at/1", "PUT"): {"reader": 403, "publisher": IN, "keeper": IN, "admin": IN},
    ("/images/app/at/1", "DELETE"): {"reader": 403, "publisher": 403, "keeper": IN, "admin": IN},
    ("/repository/images/app/at/1", "DELETE"): {"reader": 403, "publisher": 403, "keeper": IN, "admin": IN},
    ("/images/team/web/at/1", "GET"): {
        "reader": 200, "publisher": 200, "team": 200, "keeper": 200, "admin": 200,
    },
    ("/images/team/web/at/1", "PUT"): {"reader": 403, "publisher": IN, "team": IN, "keeper": IN, "admin": IN},
    ("/images/team/web/at/1", "DELETE"): {
        "reader": 403, "publisher": 403, "team": 403, "keeper": IN, "admin": IN,
    },
    ("/metrics", "GET"): {"reader": 200, "admin": 200, **dict.fromkeys(
        ("paper-reader", "publisher", "team", "keeper", "other-keeper"), 403)},
    ("/", "GET"): dict.fromkeys(TOKENS, 200),
    ("/setup", "GET"): dict.fromkeys(TOKENS, 200),
}  # fmt: skip
NOBODIES = ("", "revoked", "forged")


@pytest.mark.parametrize(("target", "method"), list(TABLE))
async def test_who_may_do_what(closed: World, target: str, method: str) -> None:
    expected = TABLE[target, method]
    for caller in (*NOBODIES, *TOKENS):
        reply = await closed.get(target, caller, method)
        wanted = 401 if caller in NOBODIES else expected.get(caller, 404)
        assert reply.status == wanted, (caller, reply)
        assert ("www-authenticate" in reply.headers) is (wanted == 401)
        if wanted == 404 or wanted == 401:
            assert b"content" not in reply.body


@pytest.mark.parametrize(("target", "method"), [key for key in TABLE if key[0] not in ("/", "/setup")])
async def test_the_engine_sees_only_who_may(closed: World, target: str, method: str) -> None:
    for caller in (*NOBODIES, *TOKENS):
        closed.rig.engine.asked.clear()
        reply = await closed.get(target, caller, method)
        if reply.status in (401, 403) or (reply.status == 404 and "nothing" not in target):
            assert closed.rig.engine.asked == [], caller


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST"])
async def test_what_may_not_be_known_is_what_is_not_there(closed: World, method: str) -> None:
    """Byte for byte, for a nobody and for a caller with other rights."""
    for caller in ("", "paper-reader"):
        answers = []
        for target in ("/other/a", "/other/never", "/nothing/a"):
            reply = await closed.get(target, caller, method)
            reply.body = reply.body.replace(b"'nothing'", b"'other'")
            reply.reason = reply.reason.replace("'nothing'", "'other'")
            for changing in ("date", "x-request-id", "content-length"):
                reply.headers.pop(changing, None)
            answers.append(reply)
        assert answers[0] == answers[1] == answers[2]


async def test_nothing_tells_what_is_held(closed: World) -> None:
    """G05, G13: not by Range, not by conditions, not by a name of an image that is there."""
    for more in (
        "",
        "Range: bytes=0-3\r\n",
        'If-None-Match: "x"\r\n',
        "If-None-Match: *\r\n",
        "If-Match: *\r\n",
    ):
        there = await closed.get("/images/app/at/1", "team", more=more)
        absent = await closed.get("/images/nope/at/1", "team", more=more)
        assert (
            (there.status, there.body) == (absent.status, absent.body) == (404, b"there is no such name here")
        )


@pytest.mark.parametrize("user", ["", "__token__", "anybody", "token:"[:-1]])
async def test_a_token_is_a_password_with_any_user_name(closed: World, user: str) -> None:
    text = base64.b64encode(f"{user}:{closed.tokens['reader']}".encode()).decode()
    reply = await closed.rig.get("/paper/a", f"Authorization: Basic {text}\r\n")
    assert reply.status == 200


GARBAGE = [
    "Basic :", "Basic Og==", "Bearer null", "Bearer", "Bearer " + "a" * 7000, "Basic " + "QUFB" * 1500, "null",
    "Bearer undefined", "Basic bnVsbA==", "Bearer a b", "Negotiate x", "Basic \xff\xfe", "Bearer a, Bearer b",
    'Digest username="admin"', "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.", "apx_", "Bearer apx_" + "0" * 50,
    "Bearer apxt_-_4_9999999999_" + "0" * 64,
]  # fmt: skip


@pytest.mark.parametrize("shown", GARBAGE)
async def test_garbage_is_nobodys(closed: World, shown: str) -> None:
    reply = await closed.rig.get("/paper/a", f"Authorization: {shown}\r\n")
    assert reply.status == 401
    assert shown.encode("latin-1") not in reply.body
    assert reply.headers["www-authenticate"] == 'Basic realm="artifactproxy"'
    assert (await closed.rig.watch.last()).caller == "127.0.0.1"


async def test_two_tokens_are_no_token(closed: World) -> None:
    reply = await closed.rig.get("/paper/a", closed.header("reader") + closed.header("admin"))
    assert reply.status == 401


async def test_where_reading_is_open_nobody_needs_to_be_known(rigs) -> None:
    world = await opened(rigs, AccessRules())
    for caller in (*NOBODIES, *TOKENS):
        assert (await world.get("/paper/a", caller)).status == 200
        assert (await world.get("/metrics", caller)).status == 200
    for shown in GARBAGE:
        assert (await world.rig.get("/paper/a", f"Authorization: {shown}\r\n")).status == 200
    statuses = {
        caller: (await world.get("/images/app/at/1", caller, "PUT")).status for caller in (*NOBODIES, *TOKENS)
    }
    told = {"": 401, "revoked": 401, "forged": 401, "publisher": IN, "keeper": IN, "admin": IN}
    assert statuses == {**dict.fromkeys(TOKENS, 403), **told}


async def test_the_log_names_the_token_and_keeps_the_address(closed: World) -> None:
    await closed.get("/paper/a", "reader")
    ask = closed.rig.engine.asked[-1]
    assert ask.caller == "reader"
    assert [scope.right for scope in ask.scopes] == [Right.READ]
    outcome = await closed.rig.watch.last()
    assert outcome.caller == "reader"
    assert outcome.extra["address"] == "127.0.0.1"
    await closed.get("/paper/a", "forged")
    outcome = await closed.rig.watch.last(2)
    assert (outcome.caller, outcome.status) == ("127.0.0.1", 401)
    assert closed.tokens["forged"] not in repr(outcome)


async def test_lists_name_only_what_the_caller_may_see(closed: World) -> None:
    index = (await closed.get("/", "team")).body.decode()
    assert "/images/" in index
    assert "/paper/" not in index
    assert b"scissors" in (await closed.get("/setup", "paper-reader")).body
    texts = (await closed.get("/setup/scissors", "paper-reader")).body
    assert b"/paper/" in texts
    assert b"/other/" not in texts
    assert (await closed.get("/setup/scissors?repo=other", "paper-reader")).status == 404


async def test_probes_need_no_token_and_no_index(closed: World) -> None:
    closed.shelf.away = True
    for page in ("/livez", "/readyz", "/robots.txt"):
        for caller in ("", "reader"):
            assert (await closed.get(page, caller)).status == 200
    reply = await closed.get("/paper/a", "reader")
    assert (reply.status, reply.headers["x-proxy-error"]) == (503, IndexUnavailable.code)
    assert (await closed.get("/paper/a")).status == 401


async def test_a_body_is_not_waited_for_where_nobody_may_send_it(closed: World) -> None:
    client = await closed.rig.connect()
    await client.ask("/images/app/at/1", "Content-Length: 1000000\r\nExpect: 100-continue\r\n", "PUT")
    reply = await client.reply("PUT")
    assert reply.status == 401
    assert await client.rest() == b""


async def test_a_request_is_judged_by_its_own_method(closed: World) -> None:
    for claim in ("X-HTTP-Method-Override: GET", "X-Method-Override: GET", "X-Original-URL: /paper/a"):
        assert (await closed.get("/images/app/at/1", "reader", "DELETE", f"{claim}\r\n")).status == 403
    for claim in ("X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1", "Forwarded: for=127.0.0.1"):
        assert (await closed.get("/metrics", "", more=f"{claim}\r\n")).status == 401


async def test_the_rule_can_change_while_we_run(closed: World) -> None:
    closed.rig.server.admit(AccessRules())
    assert (await closed.get("/paper/a")).status == 200
    closed.rig.server.admit(CLOSED)
    assert (await closed.get("/paper/a")).status == 401


async def test_errors_under_v2_speak_the_registrys_language(closed: World) -> None:
    reply = await closed.get("/v2/token", "forged")
    assert json.loads(reply.body)["errors"][0]["code"] == "UNAUTHORIZED"
