"""Registries that want a token before they answer, and what is shown to whom."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import redirect, status
from tests.chaos.server import Behaviour, Exchange
from tests.engine.images import NAME, Image, asked, digest, document, publish, registry_proxy, until, wanting

TAG = f"/v2/hub/{NAME}/manifests/v1"
BASIC = "Basic " + base64.b64encode(b"robot:s3cret").decode()
AUTH = ("auth: {basic: {user: robot, password: {file: %s}}}",)


def challenge(realm: str, name: str = NAME) -> str:
    return f'Bearer realm="{realm}/token",service="here",scope="repository:{name}:pull"'


def gives(*tokens: str, seconds: int = 300) -> list[Behaviour]:
    return [
        status(
            200, json.dumps({"token": token, "expires_in": seconds}).encode(), Content_Type="application/json"
        )
        for token in tokens
    ]


def guarded(chaos: Chaos, image: Image, token: str, realm: str, name: str = NAME) -> None:
    """Everything of the image, for who brings the token."""
    publish(chaos, image, "v1", name=name)
    for script in [path for path in chaos._scripts if path.startswith(f"/v2/{name}/")]:
        known = chaos._scripts[script].behaviours[0]
        chaos.script(script, wanting(f"Bearer {token}", known, challenge(realm, name)))


@pytest.fixture
async def issuer() -> AsyncIterator[Chaos]:
    async with Chaos() as server:
        yield server


@pytest.fixture
def password(tmp_path: Path) -> str:
    path = tmp_path / "password"
    path.write_text("s3cret\n")
    return AUTH[0] % path


async def test_a16_a_token_is_asked_for_once_and_used_from_then_on(tmp_path: Path, chaos: Chaos) -> None:
    image = Image()
    guarded(chaos, image, "one", chaos.origin)
    chaos.script("/token", *gives("one"))
    async with registry_proxy(tmp_path, chaos) as proxy:
        paths = [
            TAG,
            f"/v2/hub/{NAME}/blobs/{digest(image.layer)}",
            f"/v2/hub/{NAME}/blobs/{digest(image.config)}",
        ]
        bodies = [(await proxy.get(path)).body for path in paths]
        assert bodies == [image.manifest, image.layer, image.config]
    assert chaos.hits("/token") == 1
    asked_for = chaos.last("/token")
    assert asked_for.target == f"/token?service=here&scope=repository:{NAME}:pull"
    assert "authorization" not in asked_for.headers
    assert asked(chaos, "manifests/v1") == ["HEAD", "HEAD"]  # the 401, and the answer
    assert asked(chaos, f"blobs/{digest(image.layer)}") == ["GET"]


async def test_many_who_want_one_token_ask_for_it_once(tmp_path: Path, chaos: Chaos) -> None:
    images = [Image(str(number), size=1000) for number in range(20)]
    for image in images:
        guarded(chaos, image, "one", chaos.origin)
    chaos.script("/token", *gives("one"))
    async with registry_proxy(tmp_path, chaos) as proxy:
        paths = [f"/v2/hub/{NAME}/blobs/{digest(image.layer)}" for image in images]
        answers = await asyncio.gather(*(proxy.get(path) for path in paths))
        assert [got.body for got in answers] == [image.layer for image in images]
    assert chaos.hits("/token") == 1


async def test_who_was_refused_while_others_got_the_token_uses_theirs(tmp_path: Path, chaos: Chaos) -> None:
    """The slower 401 is of a request that went out before there was a token."""
    quick, late = Image("a", size=1000), Image("b", size=1000)
    for image in (quick, late):
        guarded(chaos, image, "one", chaos.origin)
    chaos.script("/token", *gives("one", "one"))
    path = f"/v2/{NAME}/blobs/{digest(late.layer)}"
    admitted, held = chaos._scripts[path].behaviours[0], asyncio.Event()

    async def waits(exchange: Exchange) -> None:
        await held.wait()
        await admitted(exchange)

    chaos.script(path, waits)
    async with registry_proxy(tmp_path, chaos) as proxy:
        slow = asyncio.create_task(proxy.get(f"/v2/hub/{NAME}/blobs/{digest(late.layer)}"))
        await until(lambda: chaos.hits(path))
        assert (await proxy.get(f"/v2/hub/{NAME}/blobs/{digest(quick.layer)}")).body == quick.layer
        held.set()
        assert (await slow).body == late.layer
    assert chaos.hits("/token") == 1


async def test_a_refused_token_is_renewed_once(tmp_path: Path, chaos: Chaos) -> None:
    first, second, third = Image("a"), Image("b"), Image("c")
    guarded(chaos, first, "one", chaos.origin)
    chaos.script("/token", *gives("one", "two", "two"))
    async with registry_proxy(tmp_path, chaos) as proxy:
        assert (await proxy.get(TAG)).body == first.manifest
        guarded(chaos, second, "two", chaos.origin)
        assert (await proxy.get(f"/v2/hub/{NAME}/manifests/{second.digest}")).body == second.manifest
        assert chaos.hits("/token") == 2
        guarded(chaos, third, "never", chaos.origin)
        got = await proxy.get(f"/v2/hub/{NAME}/manifests/{third.digest}")
        assert (got.status, json.loads(got.body or b"")["errors"][0]["code"]) == (403, "DENIED")
        assert chaos.hits("/token") == 3
        assert len(asked(chaos, f"manifests/{third.digest}")) == 1  # the same token again helps nobody


async def test_each_name_has_a_token_of_its_own(tmp_path: Path, chaos: Chaos) -> None:
    one, other = Image("a"), Image("b")
    guarded(chaos, one, "one", chaos.origin)
    guarded(chaos, other, "two", chaos.origin, name="other/app")
    chaos.script("/token", *gives("one", "two"))
    async with registry_proxy(tmp_path, chaos) as proxy:
        assert (await proxy.get(TAG)).body == one.manifest
        assert (await proxy.get("/v2/hub/other/app/manifests/v1")).body == other.manifest
    shown = {seen.path: seen.headers.get("authorization") for seen in chaos.requests}
    assert shown[f"/v2/{NAME}/manifests/{one.digest}"] == "Bearer one"
    assert shown[f"/v2/other/app/manifests/{other.digest}"] == "Bearer two"


async def test_a_password_is_for_the_token_server(tmp_path: Path, chaos: Chaos, password: str) -> None:
    image = Image()
    guarded(chaos, image, "one", chaos.origin)
    chaos.script("/token", wanting(BASIC, gives("one")[0], "Basic realm=x"))
    async with registry_proxy(tmp_path, chaos, password) as proxy:
        got = await proxy.get(TAG)
        assert got.body == image.manifest
        assert got.headers["Cache-Control"].startswith("private")
    assert {seen.headers.get("authorization") for seen in chaos.requests if seen.path != "/token"} == {
        None,
        "Bearer one",
    }


async def test_an_upstream_that_wants_the_password_itself(
    tmp_path: Path, chaos: Chaos, password: str
) -> None:
    image = Image()
    publish(chaos, image, "v1")
    for path in [path for path in chaos._scripts if path.startswith("/v2/")]:
        chaos.script(path, wanting(BASIC, chaos._scripts[path].behaviours[0], 'Basic realm="registry"'))
    async with registry_proxy(tmp_path, chaos, password) as proxy:
        assert (await proxy.get(TAG)).body == image.manifest
        assert (await proxy.get(f"/v2/hub/{NAME}/blobs/{digest(image.layer)}")).body == image.layer


async def test_a_token_server_elsewhere_is_asked_only_if_it_is_listed(
    tmp_path: Path, chaos: Chaos, issuer: Chaos, password: str
) -> None:
    image = Image()
    guarded(chaos, image, "one", issuer.origin)
    issuer.script("/token", *gives("one"))
    async with registry_proxy(tmp_path / "not", chaos, password, "allow_private: [127.0.0.0/8]") as proxy:
        got = await proxy.get(TAG)
        assert (got.status, got.error) == (502, "token_realm")
        assert b"file_hosts" in (got.body or b"")
    assert issuer.requests == []
    listed = (password, "allow_private: [127.0.0.0/8]", f"file_hosts: [{issuer.origin!r}]")
    async with registry_proxy(tmp_path / "listed", chaos, *listed) as proxy:
        assert (await proxy.get(TAG)).body == image.manifest
    assert issuer.last("/token").headers["authorization"] == BASIC


async def test_a_listed_token_server_at_a_private_address_needs_that_too(
    tmp_path: Path, chaos: Chaos, issuer: Chaos
) -> None:
    guarded(chaos, Image(), "one", issuer.origin)
    async with registry_proxy(tmp_path, chaos, f"file_hosts: [{issuer.origin!r}]") as proxy:
        got = await proxy.get(TAG)
        assert (got.status, got.error) == (502, "blocked_address")
    assert issuer.requests == []


async def test_a_token_never_follows_a_blob_to_another_host(
    tmp_path: Path, chaos: Chaos, issuer: Chaos
) -> None:
    image = Image()
    guarded(chaos, image, "one", chaos.origin)
    chaos.script("/token", *gives("one"))
    blob = f"/v2/{NAME}/blobs/{digest(image.layer)}"
    moved = redirect(f"{issuer.origin}/signed?x=y", 307)
    chaos.script(blob, wanting("Bearer one", moved, challenge(chaos.origin)))
    issuer.script("/signed", status(200, image.layer))
    async with registry_proxy(tmp_path, chaos, "allow_private: [127.0.0.0/8]") as proxy:
        assert (await proxy.get(f"/v2/hub/{NAME}/blobs/{digest(image.layer)}")).body == image.layer
    assert "authorization" not in issuer.last("/signed").headers


@pytest.mark.parametrize(
    ("answer", "status_", "error"),
    [
        (status(200, b"no token"), 502, "no_token"),
        (status(500), 502, "no_token"),
        (status(401), 403, "upstream_forbidden"),
        (status(403), 403, "upstream_forbidden"),
        (status(200, b'{"token": "' + b"x" * 300_000 + b'"}'), 502, "too_large"),
    ],
)
async def test_a_token_server_that_gives_none(
    tmp_path: Path, chaos: Chaos, answer: Behaviour, status_: int, error: str
) -> None:
    guarded(chaos, Image(), "one", chaos.origin)
    chaos.script("/token", answer)
    async with registry_proxy(tmp_path, chaos) as proxy:
        got = await proxy.get(TAG)
        assert (got.status, got.error) == (status_, error)
        assert proxy.blobs() == []


async def test_a_wrong_password_is_our_trouble(tmp_path: Path, chaos: Chaos, password: str) -> None:
    guarded(chaos, Image(), "one", chaos.origin)
    chaos.script("/token", status(401))
    async with registry_proxy(tmp_path, chaos, password) as proxy:
        got = await proxy.get(TAG)
        assert (got.status, got.error) == (502, "upstream_denied")
        assert b"s3cret" not in (got.body or b"")
        await proxy.settled()
        assert "s3cret" not in proxy.log.read_text()


async def test_a_client_s_own_token_goes_nowhere(tmp_path: Path, chaos: Chaos) -> None:
    image = Image()
    publish(chaos, image, "v1")
    async with registry_proxy(tmp_path, chaos) as proxy:
        assert (await proxy.get(TAG, Authorization="Bearer mine")).body == image.manifest
    assert all("authorization" not in seen.headers for seen in chaos.requests)


async def test_a_token_ends_before_its_life_does(tmp_path: Path, chaos: Chaos) -> None:
    """The token server says 1 s; tokens count as good for a minute at least, as the protocol has it."""
    image, tokens = Image(), iter(["one", "two"])
    guarded(chaos, image, "one", chaos.origin)

    async def give(exchange: Exchange) -> None:
        await gives(next(tokens), seconds=1)[0](exchange)

    chaos.script("/token", give)
    async with registry_proxy(tmp_path, chaos) as proxy:
        assert (await proxy.get(TAG)).status == 200
        assert (await proxy.get(f"/v2/hub/{NAME}/blobs/{digest(image.layer)}")).status == 200
    assert chaos.hits("/token") == 1


async def test_what_was_refused_without_a_token_is_no_absence(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script(f"/v2/{NAME}/manifests/v1", status(401, Www_Authenticate="Negotiate"))
    async with registry_proxy(tmp_path, chaos) as proxy:
        got = await proxy.get(TAG)
        assert (got.status, got.error) == (403, "upstream_forbidden")
        chaos.script(f"/v2/{NAME}/manifests/v1", document(Image().manifest))
        chaos.script(f"/v2/{NAME}/manifests/{Image().digest}", document(Image().manifest))
        assert (await proxy.get(TAG)).status == 200
