"""The whole program: tokens made beside a server or without one, and what becomes of them in all processes."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from artifactproxy.rules.credentials import token_id
from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.faults.machine import Running, command, program
from tests.house_proxy import configuration
from tests.workers.family import answerers, family

CLOSED = "access: {read: token}\n"


async def create(folder: Path, name: str, *scopes: str, more: tuple[str, ...] = ()) -> str:
    words = [word for scope in scopes for word in ("--scope", scope)]
    code, said = await command(folder, "token", "create", name, *words, *more, "--json")
    assert code == 0, said
    made = json.loads(said)
    assert list(made) == ["name", "token", "scopes", "expires"]
    assert (made["name"], made["scopes"]) == (name, list(scopes))
    return str(made["token"])


def shown(token: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'me:{token}'.encode()).decode()}"}


async def everywhere(proxy: Running, token: str, status: int) -> None:
    """However many workers there are, every one of them says so."""
    answers = await asyncio.gather(*(proxy.get("/files/a.bin", **shown(token)) for _ in range(30)))
    assert {got.status for got in answers} == {status}


async def test_without_a_server(tmp_path: Path) -> None:
    configuration(tmp_path, "http://127.0.0.1:9", top=CLOSED)
    token = await create(tmp_path, "ci", "read", "push:images/*", more=("--expires", "90d"))
    assert token_id(token)
    code, said = await command(tmp_path, "token", "list", "--json")
    (row,) = json.loads(said)
    assert (code, row["name"], row["state"], row["scopes"]) == (
        0,
        "ci",
        "in force",
        ["read", "push:images/*"],
    )
    assert row["expires"] > row["created"]
    assert token not in said
    code, said = await command(tmp_path, "token", "create", "ci", "--scope", "read")
    assert (code, said) == (
        1,
        "artifactproxy: there is a token ci already: revoke it first, or choose another name\n",
    )
    assert (await command(tmp_path, "token", "revoke", "ci"))[0] == 0
    code, said = await command(tmp_path, "token", "revoke", "ci")
    assert (code, said.startswith("artifactproxy: there is no token ci")) == (1, True)
    code, said = await command(tmp_path, "token", "list")
    assert said.split("\t")[:2] == ["ci", "revoked"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("create", "ci"), "Missing option '--scope'"),
        (("create", "ci", "--scope", "own"), "write read, push or admin"),
        (("create", "ci", "--scope", "push:Team"), "REPOSITORY/IMAGE"),
        (("create", "ci", "--scope", "read", "--expires", "soon"), "--expires"),
        (("revoke",), "Missing argument 'NAME'"),
        (("borrow", "ci"), "No such command"),
    ],
)
async def test_usage_errors_exit_2_and_say_what_is_right(
    tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    configuration(tmp_path, "http://127.0.0.1:9")
    code, said = await command(tmp_path, "token", *words)
    assert code == 2
    assert sentence in said


@pytest.mark.parametrize(
    "words",
    [("create", "10.0.0.5", "--scope", "read"), ("create", "ci", "--scope", "read", "--expires", "0s")],
)
async def test_what_the_tokens_themselves_refuse_is_one_sentence(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    configuration(tmp_path, "http://127.0.0.1:9")
    code, said = await command(tmp_path, "token", *words)
    assert code == 1
    assert said.count("\n") == 1
    assert said.startswith("artifactproxy: a token")


@pytest.mark.parametrize("workers", [1, 3])
async def test_beside_a_server_in_every_process(tmp_path: Path, chaos: Chaos, workers: int) -> None:
    chaos.script("/a.bin", ok(), size=5000)
    configuration(tmp_path, chaos.origin, top=CLOSED)
    early = await create(tmp_path, "early", "read")
    async with family(tmp_path, chaos, workers=workers, top=CLOSED) as proxy:
        await answerers(proxy, workers)
        await everywhere(proxy, early, 200)
        token = await create(tmp_path, "ci", "read:files")
        await everywhere(proxy, token, 200)
        code, _ = await command(tmp_path, "token", "revoke", "ci")
        assert code == 0
        if workers > 1:
            await asyncio.sleep(1)
        await everywhere(proxy, token, 401)
        await everywhere(proxy, early, 200)
        code, said = await command(tmp_path, "token", "list", "--json")
        used = {row["name"]: bool(row["used"]) for row in json.loads(said)}
        assert used == {"early": True, "ci": True}
        assert await proxy.stop() == 0
    code, said = await command(tmp_path, "token", "list", "--json")
    assert [row["state"] for row in json.loads(said)] == ["revoked", "in force"]


@pytest.mark.parametrize("workers", [1, 3])
async def test_reading_is_closed_and_opened_while_it_runs(tmp_path: Path, chaos: Chaos, workers: int) -> None:
    chaos.script("/a.bin", ok(), size=5000)
    configuration(tmp_path, chaos.origin)
    path = tmp_path / "config.yaml"
    async with family(tmp_path, chaos, workers=workers) as proxy:
        await answerers(proxy, workers)
        token = await create(tmp_path, "ci", "read")
        good = path.read_text()
        await everywhere(proxy, "none", 200)
        got = await proxy.get("/files/a.bin")
        assert got.headers["Cache-Control"].startswith("public")
        path.write_text(good + CLOSED)
        code, said = await command(tmp_path, "reload", "--json")
        assert (code, "access.read" in json.loads(said)["changed"]) == (0, True)
        await everywhere(proxy, "none", 401)
        await everywhere(proxy, token, 200)
        got = await proxy.get("/files/a.bin", **shown(token))
        assert got.headers["Cache-Control"] == "private, max-age=31536000, immutable"
        path.write_text(good)
        assert (await command(tmp_path, "reload"))[0] == 0
        await everywhere(proxy, "none", 200)
        assert await proxy.stop() == 0


async def test_a_planted_token_turns_up_nowhere(tmp_path: Path, chaos: Chaos) -> None:
    """G09: in no log, page, metric, file or list, and not at upstream."""
    chaos.script("/a.bin", ok(), size=5000)
    configuration(tmp_path, chaos.origin, top=CLOSED)
    async with program(tmp_path) as proxy:
        token = await create(tmp_path, "canary", "read")
        secret = token[15:].encode()
        pages = [
            await proxy.get(path, **shown(shown_))
            for path in (
                "/files/a.bin",
                "/files/none",
                "/metrics",
                "/",
                "/setup/curl",
                "/v2/",
                "/v2/token",
                "/readyz",
            )
            for shown_ in (token, token[:-1] + ("0" if token[-1] != "0" else "1"))
        ]
        await proxy.get("/files/a.bin", Authorization=f"Bearer {token}")
        for words in (("token", "list"), ("check",), ("stats",), ("explain", "/files/a.bin")):
            assert secret.decode() not in (await command(tmp_path, *words))[1]
        await command(tmp_path, "token", "revoke", "canary")
        refused = await proxy.get("/files/a.bin", **shown(token))
        assert refused.status == 401
        assert await proxy.stop() == 0
        said = await proxy.process.stderr.read() if proxy.process.stderr else b""
    for got in (*pages, refused):
        assert secret not in (got.body or b"")
        assert secret.decode() not in repr(got.headers)
    assert secret not in said
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"index.sqlite3", "log"} <= {path.name for path in files}
    assert [path for path in files if secret in path.read_bytes()] == []
    assert [seen for seen in chaos.requests if secret in seen.raw or b"uthorization" in seen.raw] == []


async def test_the_ledger_and_the_log_tell_whose_token_it_was(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/a.bin", ok(), size=5000)
    configuration(tmp_path, chaos.origin, top=CLOSED)
    async with program(tmp_path) as proxy:
        token = await create(tmp_path, "ci", "read")
        for _ in range(3):
            assert (await proxy.get("/files/a.bin", **shown(token))).status == 200
        assert await proxy.stop() == 0
        lines = [
            line for line in proxy.log_lines() if line["event"] == "request" and line.get("path") == "a.bin"
        ]
        assert {(line["caller"], line["address"]) for line in lines} == {("ci", "127.0.0.1")}
    index = sqlite3.connect(tmp_path / "data" / "index.sqlite3")
    assert {row[0] for row in index.execute("SELECT caller FROM uses")} == {"ci"}
    index.close()


async def test_the_index_that_holds_fingerprints_is_for_its_owner_only(tmp_path: Path) -> None:
    configuration(tmp_path, "http://127.0.0.1:9")
    await create(tmp_path, "ci", "read")
    for name in os.listdir(tmp_path / "data"):
        if name.startswith("index.sqlite3"):
            assert stat.S_IMODE((tmp_path / "data" / name).stat().st_mode) == 0o600


async def test_a_backup_keeps_tokens(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/a.bin", ok(), size=5000)
    configuration(tmp_path, chaos.origin, top=CLOSED)
    async with program(tmp_path) as proxy:
        token = await create(tmp_path, "ci", "read")
        assert (await command(tmp_path, "backup", str(tmp_path / "b.tar")))[0] == 0
        assert await proxy.stop() == 0
    (tmp_path / "data").rename(tmp_path / "old")
    assert (await command(tmp_path, "restore", str(tmp_path / "b.tar")))[0] == 0
    async with program(tmp_path) as proxy:
        assert (await proxy.get("/files/a.bin", **shown(token))).status == 200
        assert (await proxy.get("/files/a.bin")).status == 401
        assert await proxy.stop() == 0
