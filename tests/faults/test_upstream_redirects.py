"""U18 to U21: where an upstream may send us, and what goes along."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from artifactproxy.upstream import guard
from tests.chaos import Chaos, Exchange
from tests.chaos.behaviours import ok, redirect
from tests.chaos.certs import Authority
from tests.faults.watch import BIG, INDEX, Watch, watched

LOOPBACK_ALLOWED = "allow_private: [127.0.0.2/32]"


def to_next(prefix: str) -> Callable[[Exchange], str]:
    """Every answer sends to a query that is longer by one."""
    return lambda exchange: f"{prefix}?n={len(exchange.seen.target)}{'x' * len(exchange.seen.target)}"


@pytest.mark.parametrize(
    ("shape", "code"),
    [("itself", 302), ("a-b-a", 301), ("growing query", 307), ("six hops", 308), ("itself", 303)],
)
async def test_u18_redirects_without_end(watch: Watch, shape: str, code: int) -> None:
    chaos = watch.chaos
    for start in ("/f.bin", INDEX):
        if shape == "itself":
            chaos.script(start, redirect(start, code))
        elif shape == "a-b-a":
            chaos.script(start, redirect("/b", code))
            chaos.script("/b", redirect(start, code))
        elif shape == "growing query":
            chaos.script(start, redirect(to_next(start), code))
        else:
            chaos.script(start, redirect("/hop1", code))
            for hop in range(1, 7):
                chaos.script(f"/hop{hop}", redirect(f"/hop{hop + 1}", code))
            chaos.script("/hop7", ok())
    sent = len(chaos.requests)
    await watch.refused("/files/f.bin", 502, "redirects")
    assert len(chaos.requests) - sent <= 6
    assert (await watch.warned("upstream_blocked"))["remote"] == "files"
    await watch.is_kept()
    await watch.is_stale()
    await watch.next_is_right()


INTERNAL = [
    *("127.0.0.1", "127.1", "0177.0.0.1", "2130706433", "0x7f000001", "127.0.0.53", "0.0.0.0", "localhost"),
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "169.254.169.254"),
    *("224.0.0.1", "255.255.255.255", "x.localhost", "127.0.0.1."),
    *("[::1]", "[::]", "[fc00::1]", "[fd00:ec2::254]", "[fe80::1]", "[ff02::1]", "[fec0::1]"),
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::1]"),
    *("[2002:7f00:1::]", "[2002:a9fe:a9fe::1]", "[64:ff9b::a9fe:a9fe]"),
]


async def test_u19_no_packet_goes_to_an_internal_address(watch: Watch) -> None:
    """Loopback in every spelling is a listener that must stay alone; the others are refused by name."""
    async with Chaos() as inner:
        inner.script("/secret", ok())
        for number, host in enumerate(INTERNAL):
            path = f"/i{number}.bin"
            watch.chaos.script(path, redirect(f"http://{host}:{inner.port}/secret"))
            await watch.refused(f"/files{path}", 502, "blocked_address")
            assert inner.connections == 0, host
        line = await watch.warned("upstream_blocked")
        assert "secret" not in str(line)
    assert await watch.errors("blocked_address") == len(INTERNAL)
    await watch.is_kept()
    await watch.next_is_right()


async def test_u19_ports_of_other_services_are_refused(watch: Watch) -> None:
    for number, port in enumerate((22, 25, 6379, 5432, 11211, 2375)):
        path = f"/p{number}.bin"
        watch.chaos.script(path, redirect(f"http://files.example:{port}/x"))
        await watch.refused(f"/files{path}", 502, "blocked_address")
    await watch.next_is_right()


class Rebinding:
    """A name whose address changes with every look-up."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int, family: int) -> list[str]:
        del port, family
        if not host.endswith(".rebind.example"):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        self.asked += 1
        return [self.answers[(self.asked - 1) % len(self.answers)]]


@pytest.mark.parametrize("first", ["allowed", "refused"])
async def test_u19_a_name_that_changes_its_address_gains_nothing(
    tmp_path: Path, chaos: Chaos, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """What is judged is the very address that is connected to."""
    answers = ["127.0.0.2", "127.0.0.1"] if first == "allowed" else ["127.0.0.1", "127.0.0.2"]
    names = Rebinding(*answers)
    monkeypatch.setattr(guard, "getaddrinfo", names)
    async with Chaos() as inner, Chaos(host="127.0.0.2") as fine:
        await fine.stop()
        await fine.start(inner.port)
        async with watched(tmp_path, chaos, remote=LOOPBACK_ALLOWED) as watch:
            for number in range(6):
                path = f"/r{number}.bin"
                chaos.script(path, redirect(f"http://r{number}.rebind.example:{inner.port}{path}"))
                body = fine.script(path, ok(Connection="close"), size=1000)
                got = await watch.proxy.get(f"/files{path}")
                assert (got.status, got.body) == (200, body.bytes()) or got.error == "blocked_address"
            assert inner.connections == 0
            assert names.asked == 6
            assert await watch.errors("blocked_address") == 3


SECRETS = {
    "Authorization": "Bearer of-the-client",
    "Cookie": "session=of-the-client",
    "Proxy-Authorization": "Basic b2Y=",
    "X-JFrog-Art-Api": "of-the-client",
    "Private-Token": "of-the-client",
    "X-Forwarded-For": "192.0.2.1",
    "Referer": "http://of-the-client.example/",
    "X-Secret": "of-the-client",
}
CROSSES = {
    *("host", "accept", "accept-encoding", "user-agent", "via", "connection"),
    *("range", "if-range", "if-none-match", "if-modified-since"),
}


async def test_u20_no_secret_follows_a_redirect(tmp_path: Path, chaos: Chaos) -> None:
    (tmp_path / "token").write_text("hunter2")
    remote = f"{LOOPBACK_ALLOWED}\nauth: {{bearer: {{file: {tmp_path / 'token'}}}}}"
    async with Chaos(host="127.0.0.2") as recorder, watched(tmp_path, chaos, remote=remote) as watch:
        body = recorder.script("/elsewhere", ok(), size=BIG)
        recorder.script("/elsewhere.json", ok(), size=100)
        chaos.script("/f.bin", redirect(recorder.url("/elsewhere")))
        chaos.script("/f.json", redirect(recorder.url("/elsewhere.json")))
        asked = {name.replace("-", "_"): value for name, value in SECRETS.items()}
        got = await watch.proxy.get("/files/f.bin", **asked)
        assert (got.status, got.body) == (200, body.bytes())
        await watch.proxy.get("/files/f.json", **asked)
        await watch.proxy.get("/files/f.json", **asked, Cache_Control="no-cache")
        assert chaos.last("/f.bin").headers["authorization"] == "Bearer hunter2"
        assert len(recorder.requests) >= 2
        for seen in recorder.requests:
            assert set(seen.headers) <= CROSSES
            assert b"hunter2" not in seen.raw
            assert b"of-the-client" not in seen.raw
            assert str(chaos.port) not in seen.raw.decode("latin-1")
        for seen in chaos.requests:
            assert b"of-the-client" not in seen.raw
        await watch.next_is_right("/files/g.bin")


async def test_u20_another_host_must_resolve_to_an_allowed_address(watch: Watch) -> None:
    async with Chaos(host="127.0.0.2") as other:
        other.script("/x", ok())
        watch.chaos.script("/f.bin", redirect(other.url("/x")))
        await watch.refused("/files/f.bin", 502, "blocked_address")
        assert other.connections == 0
    await watch.next_is_right()


NO_WAY = ["ftp://files.example/x", "file:///etc/passwd", "gopher://files.example/", "javascript:alert(1)"]


@pytest.mark.parametrize("location", [*NO_WAY, "data:text/plain,x", "unix:/run/x.sock"])
async def test_u21_only_http_and_https_are_followed(watch: Watch, location: str) -> None:
    watch.chaos.script("/f.bin", redirect(location))
    watch.chaos.script(INDEX, redirect(location))
    await watch.refused("/files/f.bin", 502, "downgrade")
    await watch.is_stale()
    await watch.next_is_right()


async def test_u21_from_https_nothing_goes_to_http(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    context = authority.server("localhost", "IP:127.0.0.1")
    async with Chaos() as plain, Chaos(tls=context) as chaos:
        plain.script("/x", ok())
        remote = f"egress: {{ca: {authority.pem}}}\nallow_private: [127.0.0.0/8]"
        async with watched(tmp_path / "p", chaos, remote=remote) as watch:
            chaos.script("/f.bin", redirect(plain.url("/x")))
            chaos.script(INDEX, redirect(plain.url("/x")))
            await watch.refused("/files/f.bin", 502, "downgrade")
            await watch.is_stale()
            await watch.is_kept()
            assert plain.connections == 0
            await watch.next_is_right()
