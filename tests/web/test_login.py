"""`/v2/` and `/v2/token`: how clients of container registries log in."""

from __future__ import annotations

import base64
import json
import re
from typing import Any
from urllib.parse import urlencode

import pytest

from artifactproxy.engine.answer import Bytes
from artifactproxy.engine.mounts import Mount
from artifactproxy.model import Right
from artifactproxy.providers._base import Site
from artifactproxy.rules.credentials import NOISE_BYTES, TICKET_SECONDS, mint
from artifactproxy.web.access import AccessRules
from tests.web.test_gate import CLOSED, Images, World, opened


@pytest.fixture
async def closed(rigs) -> World:
    return await opened(rigs, CLOSED)


def basic(token: str) -> str:
    return f"Authorization: Basic {base64.b64encode(f'me:{token}'.encode()).decode()}\r\n"


def bearer(ticket: str) -> str:
    return f"Authorization: Bearer {ticket}\r\n"


async def ticket(world: World, caller: str, scope: str = "") -> dict[str, Any]:
    query = urlencode({"service": "x", "scope": scope}) if scope else "service=x"
    reply = await world.rig.get(f"/v2/token?{query}", basic(world.tokens[caller]) if caller else "")
    assert reply.status == 200, reply
    assert reply.headers["cache-control"] == "no-store"
    return dict(json.loads(reply.body))


async def post(world: World, headers: str = "", **form: str) -> Any:
    body = urlencode(form)
    fields = f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n{headers}"
    client = await world.rig.connect()
    await client.ask("/v2/token", f"{fields}Connection: close\r\n", "POST")
    await client.send(body.encode())
    return await client.reply("POST")


async def test_the_ping_sends_those_without_a_ticket_for_one(closed: World) -> None:
    for target in ("/v2/", "/v2"):
        reply = await closed.rig.get(target)
        assert reply.status == 401
        port = closed.rig.address[1]
        wanted = f'Bearer realm="http://127.0.0.1:{port}/v2/token",service="127.0.0.1:{port}"'
        assert reply.headers["www-authenticate"] == wanted
        told = await closed.rig.get(target, method="HEAD")
        assert (told.status, told.headers["www-authenticate"]) == (401, wanted)


async def test_with_a_token_or_a_ticket_the_ping_is_answered(closed: World) -> None:
    for shown in (
        basic(closed.tokens["team"]),
        bearer(closed.tokens["team"]),
        bearer((await ticket(closed, "team"))["token"]),
    ):
        reply = await closed.rig.get("/v2/", shown)
        assert (reply.status, reply.body) == (200, b"{}\n")
        assert reply.headers["docker-distribution-api-version"] == "registry/2.0"
    for wrong in ("revoked", "forged"):
        assert (await closed.rig.get("/v2/", basic(closed.tokens[wrong]))).status == 401


async def test_a_ticket_is_short_lived_and_no_more_than_asked_for(closed: World) -> None:
    told = await ticket(closed, "publisher")
    assert told["token"] == told["access_token"]
    assert told["expires_in"] == TICKET_SECONDS
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", told["issued_at"])
    assert "refresh_token" not in told
    scopes = {
        "": Right.READ,
        "repository:images/app:pull": Right.READ,
        "repository:images/app:pull,push": Right.PUSH,
        "repository:images/app:delete": Right.DELETE,
        "repository:images/app:*": Right.ADMIN,
        "registry:catalog:*": Right.ADMIN,
        "nonsense": Right.READ,
        "repository:a:pull repository:b:pull,push": Right.PUSH,
    }
    for scope, most in scopes.items():
        given = (await ticket(closed, "publisher", scope))["token"]
        assert (await closed.keys.caller_of(given)).most is most, scope


async def test_a_ticket_does_what_its_token_may_and_it_was_given_for(closed: World) -> None:
    pull = bearer((await ticket(closed, "publisher", "repository:images/app:pull"))["token"])
    push = bearer((await ticket(closed, "publisher", "repository:images/app:pull,push"))["token"])
    whole = bearer((await ticket(closed, "publisher", "repository:images/app:*"))["token"])
    assert (await closed.rig.get("/images/app/at/1", pull)).status == 200
    narrow = await closed.rig.get("/images/app/at/1", pull, "PUT")
    assert narrow.status == 401  # there is another ticket to be had
    assert (await closed.rig.get("/images/app/at/1", push, "PUT")).status == 405  # past the gate
    assert (await closed.rig.get("/images/app/at/1", whole, "DELETE")).status == 403
    assert (await closed.rig.get("/paper/a", whole)).status == 404
    await closed.desk.revoke("publisher")
    assert (await closed.rig.get("/images/app/at/1", pull)).status == 401


async def test_no_ticket_for_a_nobody_a_ticket_or_what_does_not_count(closed: World) -> None:
    given = (await ticket(closed, "reader"))["token"]
    for shown in (
        "",
        bearer(given),
        basic(given),
        basic(closed.tokens["revoked"]),
        basic("wrong"),
        "Authorization: x\r\n",
    ):
        reply = await closed.rig.get("/v2/token?service=x", shown)
        assert reply.status == 401, shown
        assert reply.headers["www-authenticate"] == 'Basic realm="artifactproxy"'
        assert json.loads(reply.body)["errors"][0]["code"] == "UNAUTHORIZED"
        assert b"apxt_" not in reply.body


async def test_a_form_is_as_good_as_a_password(closed: World) -> None:
    token = closed.tokens["publisher"]
    form = {"service": "x", "client_id": "docker", "scope": "repository:images/app:pull,push"}
    told = json.loads((await post(closed, grant_type="password", username="me", password=token, **form)).body)
    assert (await closed.keys.caller_of(told["access_token"])).most is Right.PUSH
    assert told["scope"] == form["scope"]
    assert "refresh_token" not in told
    kept = json.loads(
        (
            await post(
                closed, grant_type="password", username="me", password=token, access_type="offline", **form
            )
        ).body
    )
    again = await post(closed, grant_type="refresh_token", refresh_token=kept["refresh_token"], **form)
    assert (await closed.keys.caller_of(json.loads(again.body)["access_token"])).name == "publisher"
    await closed.desk.revoke("publisher")
    ended = await post(closed, grant_type="refresh_token", refresh_token=kept["refresh_token"], **form)
    assert ended.status == 401


async def test_what_stands_for_the_user_from_now_on_is_given_when_asked_for(closed: World) -> None:
    shown = basic(closed.tokens["team"])
    reply = await closed.rig.get("/v2/token?service=x&offline_token=true&account=me", shown)
    assert json.loads(reply.body)["refresh_token"] == closed.tokens["team"]


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({}, 401),
        ({"grant_type": "client_credentials"}, 400),
        ({"grant_type": "password"}, 400),
        ({"grant_type": "password", "password": ""}, 400),
        ({"grant_type": "password", "password": "wrong"}, 401),
        ({"grant_type": "refresh_token", "password": "x"}, 400),
        ({"grant_type": "password", "password": "x" * 5000}, 401),
        ({str(number): "x" for number in range(101)}, 400),
    ],
)
async def test_forms_that_are_none(closed: World, form: dict[str, str], status: int) -> None:
    reply = await post(closed, **form)
    assert reply.status == status
    assert "errors" in json.loads(reply.body)


async def test_other_methods_and_addresses_are_refused(closed: World) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        reply = await closed.rig.get("/v2/token", method=method)
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD, POST")
    for target in ("/v2/tokens", "/v2/token/", "/v2/token/x", "/v2//token"):
        reply = await closed.rig.get(target, basic(closed.tokens["admin"]))
        assert reply.status in (400, 404), target
    assert (await closed.rig.get("/v2/", method="POST")).status == 405


async def test_tickets_are_not_given_by_a_name_that_could_be_anybodys(closed: World) -> None:
    shown = basic(closed.tokens["reader"]).encode()
    rest = b" HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n"
    got = await closed.rig.raw(b"GET /v2/token" + rest + shown + b"\r\n")
    assert got.startswith(b"HTTP/1.1 421 ")
    ping = await closed.rig.raw(b"GET /v2/" + rest + b"\r\n")
    assert ping.startswith(b"HTTP/1.1 401 ")
    assert b'WWW-Authenticate: Basic realm="artifactproxy"\r\n' in ping
    assert (await closed.rig.raw(b"GET /v2/" + rest + shown + b"\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_the_realm_is_the_address_that_clients_know(rigs) -> None:
    world = await opened(rigs, AccessRules("https://cache.example", open_reading=False))
    got = await world.rig.raw(b"GET /v2/ HTTP/1.1\r\nHost: cache.example\r\nConnection: close\r\n\r\n")
    assert b'realm="https://cache.example/v2/token",service="cache.example"' in got


async def test_where_reading_is_open_a_nobody_logs_in_for_reading(rigs) -> None:
    world = await opened(rigs, AccessRules())
    # One repository takes pushes here: who would push must be asked for a token now.
    assert (await world.rig.get("/v2/")).status == 401
    given = await ticket(world, "", "repository:images/app:pull,push")
    shown = bearer(given["token"])
    assert (await world.rig.get("/v2/", shown)).status == 200
    assert (await world.rig.get("/images/app/at/1", shown)).status == 200
    assert (await world.rig.get("/images/app/at/1", shown, "PUT")).status == 401
    assert (await world.rig.get("/v2/", basic("wrong"))).status == 401
    world.rig.server.admit(CLOSED)
    assert (await world.rig.get("/images/app/at/1", shown)).status == 401


async def test_where_reading_is_open_and_nothing_is_pushed_nobody_is_asked(rigs) -> None:
    world = await opened(rigs, AccessRules())
    world.rig.engine.more["images"] = Mount("images", ReadOnly(Site("images", ())))
    assert (await world.rig.get("/v2/")).status == 200


class ReadOnly(Images):
    methods = frozenset({"GET", "HEAD"})


async def test_without_tokens_there_is_no_login(rigs) -> None:
    rig = await rigs()
    assert (await rig.get("/v2/token")).status == 404
    assert (await rig.get("/v2/")).status == 200


async def test_a_nobody_learns_of_no_repository(closed: World) -> None:
    for target in ("/v2/zzz/app/manifests/latest", "/v2/zzz/a/b/blobs/sha256:0", "/v2/_catalog", "/v2/zzz"):
        reply = await closed.rig.get(target)
        assert reply.status == 401, target
        assert reply.headers["www-authenticate"].startswith("Bearer realm=")
    named = (await closed.rig.get("/v2/zzz/a/b/manifests/latest")).headers["www-authenticate"]
    assert named.endswith(',scope="repository:zzz/a/b:pull"')
    reply = await closed.get("/v2/zzz/app/manifests/latest", "admin")
    assert (reply.status, json.loads(reply.body)["errors"][0]["code"]) == (404, "NAME_UNKNOWN")


# --- failed logins --------------------------------------------------------------------------


async def standing(rigs: Any, access: AccessRules) -> World:
    """Five failures are borne, in a minute that does not pass."""
    world = await opened(rigs, access, failed_logins=5)
    world.rig.server._gate._clock = lambda: 0.0
    return world


async def test_e14_failed_logins_of_one_address_are_bounded(rigs) -> None:
    """Each is told so, at once and without a look into the index; who was right before goes on."""
    world = await standing(rigs, CLOSED)
    good, wrong = basic(world.tokens["reader"]), basic(mint(b"\1" * NOISE_BYTES))
    world.rig.engine.give("paper/a", lambda: Bytes(b"content"))
    assert (await world.rig.get("/paper/a", good)).status == 200
    for path in ("/paper/a", "/v2/", "/v2/token?service=x", "/setup", "/metrics"):
        assert (await world.rig.get(path, wrong)).status == 401, path
    looked_up = list(world.shelf.asked)
    for path in ("/paper/a", "/v2/", "/v2/token?service=x", "/setup", "/metrics", "/nothing/v2/x/tags/list"):
        for n in range(4):
            reply = await world.rig.get(path, basic(mint(bytes([n + 2]) * NOISE_BYTES)))
            assert (reply.status, reply.headers["x-proxy-error"]) == (429, "logins"), path
            assert 1 <= int(reply.headers["retry-after"]) <= 12
    form = {"grant_type": "password", "password": mint(b"\7" * NOISE_BYTES)}
    body = urlencode(form).encode()
    client = await world.rig.connect()
    fields = "Content-Type: application/x-www-form-urlencoded\r\nConnection: close\r\n"
    await client.ask("/v2/token", f"{fields}Content-Length: {len(body)}\r\n", "POST")
    await client.send(body)
    assert (await client.reply("POST")).status == 429
    assert world.shelf.asked == looked_up
    assert (await world.rig.get("/paper/a", good)).status == 200
    assert (await world.rig.get("/paper/a")).status == 401, "who shows nothing is not held back"
    unseen = await world.rig.get("/paper/a", basic(world.tokens["admin"]))
    assert unseen.status == 429, "nobody can tell yet that it is right"


async def test_e14_what_fails_where_it_does_not_matter_does_not_count(rigs) -> None:
    """Clients that send a password for another server along go on reading what is open."""
    world = await standing(rigs, AccessRules())
    wrong = basic(mint(b"\1" * NOISE_BYTES))
    world.rig.engine.give("paper/a", lambda: Bytes(b"content"))
    for _ in range(20):
        assert (await world.rig.get("/paper/a", wrong)).status == 200
    assert (await world.rig.get("/v2/", basic(world.tokens["admin"]))).status == 200
    for _ in range(6):
        last = await world.rig.get("/v2/", wrong)
    assert last.status == 429
    assert (await world.rig.get("/paper/a", wrong)).status == 200
