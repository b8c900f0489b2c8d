"""A configuration read again comes into force as a whole, or the old one stays and says why."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from artifactproxy.config import load
from artifactproxy.reload import compare
from tests.chaos import Chaos
from tests.chaos.behaviours import ok, slow
from tests.faults.machine import Running, command, metric, program, told, until
from tests.house_proxy import check_store, configuration
from tests.workers.family import answerers, family, replaced, workers_of

BIG = 200_000

Break = Callable[[Path], None]


def text(content: str) -> Break:
    """The file, with this behind what was good."""

    def act(path: Path) -> None:
        path.write_text(path.read_text() + content)

    return act


def whole(content: str | bytes) -> Break:
    def act(path: Path) -> None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return act


def swapped(old: str, new: str) -> Break:
    def act(path: Path) -> None:
        before = path.read_text()
        assert old in before
        path.write_text(before.replace(old, new, 1))

    return act


def remote(line: str) -> Break:
    """One more key of a remote of its own."""
    return text(f"  more:\n    provider: generic\n    upstream: http://127.0.0.1:9/\n    {line}\n")


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


def huge(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"#")
        file.truncate(100 * 2**20)


def long(path: Path) -> None:
    path.write_text(path.read_text() + "# padding\n" * 200_000)


def no_ca(path: Path) -> None:
    (path.parent / "ca.pem").write_text("no certificate")
    remote(f"egress: {{ca: {path.parent / 'ca.pem'}}}")(path)


def folder_for_ca(path: Path) -> None:
    remote(f"egress: {{ca: {path.parent}}}")(path)


def bombs(path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in ("ab", "bc", "cd", "de", "ef")]
    path.write_text("\n".join(lines))


BAD: dict[str, tuple[Break, str]] = {
    "a tab": (text("\tlimits: {}\n"), "not valid YAML"),
    "an open bracket": (text("allowed_hosts: [a.example\n"), "not valid YAML"),
    "an open quote": (text('public_url: "https://a.example\n'), "not valid YAML"),
    "no colon": (text("just words\n"), "not valid YAML"),
    "two documents": (text("---\nlisten: 127.0.0.1:1\n"), "not valid YAML"),
    "a tag": (text("oci_default: !!python/object:os.system x\n"), "tags such as"),
    "a merge key": (text("limits: {<<: {}}\n"), "merge keys"),
    "a bomb": (bombs, "aliases stand for too many"),
    "nested too deeply": (whole("a: " + "[" * 500 + "]" * 500), "nested too deeply"),
    "a list": (whole("- listen: 127.0.0.1:0\n"), "must be a mapping"),
    "a word": (whole("hello"), "must be a mapping"),
    "a NUL": (whole(b"listen: 127.0.0.1:0\0\n"), "YAML"),
    "an escape": (whole(b"listen: \x1b[31m\n"), "YAML"),
    "not UTF-8": (whole(b"public_url: https://\xff\xfe.example\n"), "not UTF-8"),
    "UTF-16": (whole("listen: 127.0.0.1:0\n".encode("utf-16")), "not UTF-8"),
    "binary": (whole(bytes(range(256)) * 64), "not UTF-8"),
    "an unknown key": (text("pulbic_url: https://a.example\n"), "public_url"),
    "an unknown key of a remote": (remote("tll: 5m"), "ttl"),
    "an unknown limit": (text("limits: {conections: 5}\n"), "connections"),
    "a key twice": (text("log: {}\n"), "written twice"),
    "a remote twice": (remote("ttl: 5m\n  more:\n    provider: generic"), "written twice"),
    "a number for a text": (text("public_url: 5\n"), "public_url"),
    "a text for a number": (text("limits: {connections: many}\n"), "connections"),
    "a mapping for a list": (text("allowed_hosts: {a: b}\n"), "allowed_hosts"),
    "yes for true": (remote("offline: yes"), "offline"),
    "a bad duration": (remote("ttl: 5 parsecs"), "ttl"),
    "a bad size": (text("data_limit: -5GB\n"), "data_limit"),
    "a bad address": (text("public_url: ftp://a.example\n"), "public_url"),
    "a bad network": (text("trusted_proxies: [10.0.0.0/99]\n"), "trusted_proxies"),
    "a bad host": (text("allowed_hosts: ['a b']\n"), "allowed_hosts"),
    "a bad level": (swapped("log: {", "log: {level: loud, "), "level"),
    "no workers": (text("workers: 0\n"), "workers"),
    "an unknown provider": (text("  more: {provider: cobol, upstream: http://a.example/}\n"), "cobol"),
    "no provider": (text("  more: {upstream: http://a.example/}\n"), "provider"),
    "a reserved name": (text("  metrics: {provider: generic, upstream: http://a.example/}\n"), "reserved"),
    "a bad name": (
        text("  Big_Name!: {provider: generic, upstream: http://a.example/}\n"),
        "repository name",
    ),
    "no upstream": (text("  more: {provider: generic}\n"), "no public registry"),
    "a later feature": (text("virtuals: {all: {provider: pypi}}\n"), "not available"),
    "an unset secret": (remote("auth: {bearer: {env: SURELY_NOT_SET}}"), "SURELY_NOT_SET"),
    "a secret without its file": (remote("auth: {bearer: {file: /nowhere/token}}"), "/nowhere/token"),
    "a CA that is not there": (remote("egress: {ca: /nowhere/ca.pem}"), "/nowhere/ca.pem"),
    "a CA without certificates": (no_ca, "no certificates"),
    "a folder for a CA": (folder_for_ca, "there is no file"),
    "a bad proxy": (remote("egress: {proxy: 'gopher://p.example'}"), "proxy"),
    "no oci remote": (text("oci_default: files\n"), "oci_default"),
    "a certificate that is not there": (text("tls: {cert: /nowhere/c.pem, key: /nowhere/k.pem}\n"), "c.pem"),
    "removed": (Path.unlink, "no such file"),
    "a dangling link": (dangling, "no such file"),
    "a loop of links": (loop, "cannot be read"),
    "a folder": (directory, "not an ordinary file"),
    "a pipe": (pipe, "not an ordinary file"),
    "without end": (endless, "not an ordinary file"),
    "100 MB": (huge, "longer than"),
    "too long": (long, "longer than"),
}


def settled(folder: Path, chaos: Chaos, top: str = "") -> str:
    """A good configuration; behind its remotes there is room for one more, and for other keys."""
    configuration(folder, chaos.origin, top=top)
    path = folder / "config.yaml"
    path.write_text(path.read_text().rstrip() + "\n")
    return path.read_text()


async def reload(folder: Path) -> tuple[int, dict[str, list[str]]]:
    code, said = await command(folder, "reload", "--json")
    return code, json.loads(said)


async def broken(proxy: Running, good: str, how: Break, why: str) -> None:
    """The command says why and fails; everything is served as before."""
    path = proxy.folder / "config.yaml"
    before = await metric(proxy, "config_reload_total", result="rejected")
    how(path)
    code, said = await command(proxy.folder, "reload", "--data", str(proxy.data))
    assert code == 2, said
    assert why in said
    assert "Traceback" not in said
    assert await metric(proxy, "config_reload_total", result="rejected") == before + 1
    assert (await proxy.get("/files/f.bin")).status == 200
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.write_text(good)


async def _all_broken(proxy: Running, good: str, names: list[str]) -> None:
    for name in names:
        try:
            await broken(proxy, good, *BAD[name])
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error

    def refused() -> list[dict[str, object]]:
        return [line for line in proxy.log_lines() if line.get("warning") == "config_reload"]

    await until(lambda: len(refused()) == len(names))
    assert all(line["result"] == "rejected" and line["reasons"] for line in refused())
    assert await reload(proxy.folder) == (0, {"result": "accepted", "changed": [], "needs_restart": []})
    assert await metric(proxy, "config_reload_total", result="accepted") == 1


async def test_n03_a_bad_file_changes_nothing_and_is_told(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=BIG)
    good = settled(tmp_path, chaos)
    assert len(BAD) >= 40
    async with program(tmp_path) as proxy:
        await _all_broken(proxy, good, list(BAD))
        assert await proxy.stop() == 0
    check_store(proxy.data)


async def test_n03_nor_does_it_with_several_workers(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=BIG)
    good = settled(tmp_path, chaos, "workers: 2")
    async with program(tmp_path) as proxy:
        await _all_broken(proxy, good, ["an open quote", "an unknown key", "removed", "a pipe", "100 MB"])
        assert await proxy.stop() == 0
    check_store(proxy.data)


async def test_n03_the_instance_is_found_by_what_can_be_read(tmp_path: Path, chaos: Chaos) -> None:
    good = settled(tmp_path, chaos)
    async with program(tmp_path) as proxy:
        text("pulbic_url: https://a.example\n")(tmp_path / "config.yaml")
        code, said = await command(tmp_path, "reload", "--json")
        assert code == 2
        assert json.loads(said)["result"] == "rejected"
        assert "public_url" in json.loads(said)["reasons"][0]
        (tmp_path / "config.yaml").write_text(good)
        assert await proxy.stop() == 0
    code, said = await command(tmp_path, "reload")
    assert code == 1
    assert "no instance is running" in said


async def test_n03_an_empty_file_is_a_configuration(tmp_path: Path, chaos: Chaos) -> None:
    settled(tmp_path, chaos)
    chaos.script("/f.bin", ok(), size=BIG)
    async with program(tmp_path) as proxy:
        (tmp_path / "config.yaml").write_text("")
        code, said = await command(tmp_path, "reload", "--json", "--data", str(proxy.data))
        assert code == 0, said
        told_ = json.loads(said)
        assert {"listen", "data", "log.file"} <= set(told_["needs_restart"])
        assert "remotes.files" in told_["changed"]
        assert (await proxy.get("/files/f.bin")).status == 404
        assert await proxy.stop() == 0


# --- what comes into force ------------------------------------------------------------------


@asynccontextmanager
async def running(folder: Path, chaos: Chaos, workers: int, top: str = "") -> AsyncIterator[Running]:
    async with family(folder, chaos, workers=workers, top=top) as proxy:
        await answerers(proxy, workers)
        yield proxy


async def everywhere(proxy: Running, path: str, status: int, **headers: str) -> None:
    """Every worker answers like this; each is asked many times over connections of their own."""
    for got in await asyncio.gather(*(proxy.get(path, **headers) for _ in range(30))):
        assert got.status == status, (path, got.status, got.body)


@pytest.mark.parametrize("workers", [1, 3])
async def test_remotes_come_change_and_go(tmp_path: Path, chaos: Chaos, workers: int) -> None:
    chaos.script("/f.bin", ok(), size=BIG)
    chaos.script("/deep/f.bin", ok(), size=BIG)
    async with running(tmp_path, chaos, workers) as proxy:
        await everywhere(proxy, "/more/f.bin", 404)
        path = tmp_path / "config.yaml"
        good = path.read_text()
        path.write_text(good + f"  more:\n    provider: generic\n    upstream: {chaos.origin}/\n")
        assert await reload(tmp_path) == (
            0,
            {"result": "accepted", "changed": ["remotes.more"], "needs_restart": []},
        )
        await everywhere(proxy, "/more/f.bin", 200)
        assert await metric(proxy, "requests_total", repo="more") == 30
        path.write_text(good + f"  more:\n    provider: generic\n    upstream: {chaos.origin}/deep/\n")
        os.kill(proxy.pid, signal.SIGHUP)
        await told(
            proxy, lambda line: line.get("event") == "config_reload" and line["changed"] == "remotes.more"
        )
        code, _ = await command(tmp_path, "purge", "--repo", "more", "--all")
        assert code == 0
        while await metric(proxy, "config_reload_total", result="accepted") < 2:
            await asyncio.sleep(0.02)
        await everywhere(proxy, "/more/f.bin", 200)
        assert chaos.hits("/deep/f.bin") >= 1
        path.write_text(good)
        assert (await reload(tmp_path))[0] == 0
        await everywhere(proxy, "/more/f.bin", 404)
        assert await proxy.stop() == 0
    check_store(proxy.data, but="I18")  # rows of a repository that is gone


@pytest.mark.parametrize("workers", [1, 3])
async def test_who_may_ask_and_how_we_are_called(tmp_path: Path, chaos: Chaos, workers: int) -> None:
    async with running(tmp_path, chaos, workers) as proxy:
        path = tmp_path / "config.yaml"
        good = path.read_text()
        await everywhere(proxy, "/setup", 200, Host="other.example:80")
        path.write_text(good + "public_url: https://cache.example\nallowed_hosts: [127.0.0.1]\n")
        _, said = await reload(tmp_path)
        assert sorted(said["changed"]) == ["allowed_hosts", "public_url"]
        await everywhere(proxy, "/setup", 421, Host="other.example:80")
        for got in await asyncio.gather(*(proxy.get("/") for _ in range(20))):
            assert b"https://cache.example/files/" in (got.body or b"")
        path.write_text(good)
        assert (await reload(tmp_path))[0] == 0
        await everywhere(proxy, "/setup", 200, Host="other.example:80")
        assert await proxy.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_needs_a_restart_is_named_and_the_rest_applies(
    tmp_path: Path, chaos: Chaos, workers: int
) -> None:
    async with running(tmp_path, chaos, workers) as proxy:
        path = tmp_path / "config.yaml"
        path.write_text(
            path.read_text().replace("listen: 127.0.0.1:0", "listen: 127.0.0.1:1")
            + "limits: {connections: 17, drain: 11s}\npublic_url: https://cache.example\n"
        )
        for _ in range(2):  # it stays due
            code, said = await reload(tmp_path)
            assert code == 0
            assert said["needs_restart"] == ["listen", "limits.connections"]
        assert b"https://cache.example" in ((await proxy.get("/setup")).body or b"")
        assert await proxy.stop() == 0


async def test_the_level_of_the_log_follows(tmp_path: Path, chaos: Chaos) -> None:
    async with running(tmp_path, chaos, 1) as proxy:
        path = tmp_path / "config.yaml"
        good = path.read_text()
        path.write_text(good.replace("log: {", "log: {level: warning, "))
        assert (await reload(tmp_path))[1]["changed"] == ["log.level"]
        await proxy.get("/files/quiet")
        path.write_text(good)
        assert (await reload(tmp_path))[1]["changed"] == ["log.level"]
        await proxy.get("/files/loud")
        await told(proxy, lambda line: line.get("path") == "loud" and line.get("event") == "request")
        assert not any(
            line.get("path") == "quiet" for line in proxy.log_lines() if line["event"] == "request"
        )
        assert await proxy.stop() == 0


async def test_a_worker_that_is_started_later_has_the_new_configuration(tmp_path: Path, chaos: Chaos) -> None:
    chaos.script("/f.bin", ok(), size=BIG)
    async with running(tmp_path, chaos, 2) as proxy:
        path = tmp_path / "config.yaml"
        path.write_text(path.read_text() + f"  more:\n    provider: generic\n    upstream: {chaos.origin}/\n")
        assert (await reload(tmp_path))[0] == 0
        for victim in workers_of(proxy):
            os.kill(victim, signal.SIGKILL)
            await replaced(proxy, victim, workers=2)
        await everywhere(proxy, "/more/f.bin", 200)
        assert await proxy.stop() == 0


@pytest.mark.parametrize("workers", [1, 3])
async def test_no_request_fails_while_it_is_reloaded(tmp_path: Path, chaos: Chaos, workers: int) -> None:
    warm = chaos.script("/warm.bin", ok(), size=BIG)
    cold = [chaos.script(f"/cold{n}.bin", slow(300_000), size=BIG) for n in range(6)]
    async with running(tmp_path, chaos, workers) as proxy:
        path = tmp_path / "config.yaml"
        good = path.read_text()
        ended = asyncio.Event()
        answers = 0

        async def client() -> None:
            nonlocal answers
            while not ended.is_set():
                got = await proxy.get("/files/warm.bin")
                assert (got.status, got.body) == (200, warm.bytes())
                answers += 1

        clients = [asyncio.create_task(client()) for _ in range(6)]
        slow_ones = [asyncio.create_task(proxy.get(f"/files/cold{n}.bin")) for n in range(6)]
        for number in range(6):
            path.write_text(good + f"  more{number}:\n    provider: generic\n    upstream: {chaos.origin}/\n")
            assert (await reload(tmp_path))[0] == 0
        ended.set()
        await asyncio.gather(*clients)
        for got, body in zip(await asyncio.gather(*slow_ones), cold, strict=True):
            assert (got.status, got.body) == (200, body.bytes())
        assert answers > 20
        assert await proxy.stop() == 0
    check_store(proxy.data)


# --- as a function --------------------------------------------------------------------------


def test_a_comparison_takes_what_it_may_and_keeps_the_rest(tmp_path: Path) -> None:
    def read(content: str) -> object:
        path = tmp_path / "c.yaml"
        path.write_text(content)
        return load(path, env={}, flags={})

    old = read("store: {kind: s3, bucket: b, uploads: 3}\nlimits: {drain: 5s}\nlog: {file: /a}\n")
    new = read(
        "store: {kind: s3, bucket: c, uploads: 4}\nlimits: {drain: 6s, temp_bytes: 5}\n"
        "log: {file: /b, level: error}\nworkers: 7\n"
    )
    change = compare(old, new)  # type: ignore[arg-type]
    assert change.changed == ("log.level", "store.uploads", "limits.drain")
    assert change.restart == ("workers", "log.file", "store", "limits.temp_bytes")
    config = change.config
    assert (config.workers, config.log.level, str(config.log.file)) == (1, "error", "/a")
    assert config.store is not None
    assert (config.store.options.bucket, config.store.options.uploads) == ("b", 4)
    assert (config.limits.drain, config.limits.temp_bytes) == (6.0, old.limits.temp_bytes)  # type: ignore[attr-defined]
    assert compare(config, config).restart == ()
