"""Images are judged by their full names, whichever of their addresses is used, through the whole program."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import status
from tests.faults.machine import Running, program
from tests.house_proxy import configuration
from tests.tokens.test_program import CLOSED, create, shown

TAGS = json.dumps({"name": "team/app", "tags": ["v1"]}).encode()


@pytest.fixture
async def proxy(tmp_path: Path, chaos: Chaos) -> AsyncIterator[tuple[Running, dict[str, str]]]:
    for name in ("team/app", "other/app", "team/web/front"):
        chaos.script(f"/v2/{name}/tags/list", status(200, TAGS, Content_Type="application/json"))
    images = f"images:\n  provider: oci\n  upstream: {chaos.origin}/\n"
    configuration(tmp_path, chaos.origin, top=f"{CLOSED}oci_default: images\n", remotes=images)
    scopes = {"team": "read:images/team/*", "all": "read:images", "files": "read:files"}
    tokens = {name: await create(tmp_path, name, scope) for name, scope in scopes.items()}
    async with program(tmp_path) as running:
        yield running, tokens
        assert await running.stop() == 0


FORMS = [
    "/v2/images/{}/tags/list",
    "/images/v2/{}/tags/list",
    "/v2/{}/tags/list",
    "/repository/images/v2/{}/tags/list",
    "/artifactory/api/oci/images/v2/{}/tags/list",
    "/api/v1/remote/images/v2/{}/tags/list",
]


async def test_by_every_address_the_same(proxy: tuple[Running, dict[str, str]]) -> None:
    running, tokens = proxy
    for form in FORMS:
        for name, allowed in {
            "team/app": {"team", "all"},
            "team/web/front": {"team", "all"},
            "other/app": {"all"},
            "team": set(),
        }.items():
            for caller, token in tokens.items():
                got = await running.get(form.format(name), **shown(token))
                if caller in allowed:
                    assert got.status == 200, (form, name, caller, got)
                elif caller != "all":
                    assert got.status == 404, (form, name, caller, got)
                    assert got.headers["X-Proxy-Error"] in ("not_served", "name_unknown")
            got = await running.get(form.format(name))
            assert got.status == 401, (form, name)
    assert {
        row["caller"] for row in running.log_lines() if row["event"] == "request" and row["status"] == 200
    } == {
        "team",
        "all",
    }


async def test_a_nobody_is_told_the_same_of_what_is_there_and_what_is_not(
    proxy: tuple[Running, dict[str, str]],
) -> None:
    running, _ = proxy
    for target in (
        "/v2/images/team/app/tags/list",
        "/v2/nowhere/team/app/tags/list",
        "/v2/team/app/tags/list?ns=nowhere.example",
        "/v2/images/team/app/manifests/sha256:0",
        "/v2/_catalog",
    ):
        got = await running.get(target)
        assert got.status == 401, target
        assert got.headers["WWW-Authenticate"].startswith("Bearer realm="), target
        assert json.loads(got.body or b"")["errors"][0]["code"] == "UNAUTHORIZED"
    for target in ("/images/team", "/nowhere/team", "/files/v2/x"):
        assert (await running.get(target)).status == 401, target


async def test_a_ticket_is_as_good_as_its_token(proxy: tuple[Running, dict[str, str]]) -> None:
    running, tokens = proxy
    got = await running.get(
        "/v2/token?service=x&scope=repository:images/team/app:pull", **shown(tokens["team"])
    )
    ticket = {"Authorization": f"Bearer {json.loads(got.body or b'')['token']}"}
    assert (await running.get("/v2/", **ticket)).status == 200
    assert (await running.get("/v2/images/team/app/tags/list", **ticket)).status == 200
    assert (await running.get("/v2/images/other/app/tags/list", **ticket)).status == 404
