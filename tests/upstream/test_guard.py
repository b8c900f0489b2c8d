"""Who may be connected to: reliability.md 3.3 part B, by text, by address and on the wire."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_network

import pytest

from artifactproxy.errors import UpstreamBlocked, UpstreamUnreachable
from artifactproxy.upstream import guard
from artifactproxy.upstream.guard import GuardedResolver, judge_url, next_hop, origin_of, refused
from tests.chaos import Chaos
from tests.chaos.behaviours import ok, redirect
from tests.upstream.tools import LOOPBACK, Recorder, client, fetch, refusal

INTERNAL = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.255.0.1 169.254.169.254
172.16.0.1 172.31.255.255 192.168.1.1 224.0.0.1 239.255.255.255 255.255.255.255
:: ::1 fc00::1 fd00::1 fe80::1 fe80::1%eth0 febf::1 ff02::1 fec0::1
::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::127.0.0.1
64:ff9b::7f00:1 64:ff9b::a00:1 64:ff9b:1::1 64:ff9b:1:7f00:0:100:: 2002:7f00:1:: 2002:a00:1::1 2002:a9fe:a9fe::
""".split()
PUBLIC = """
203.0.113.5 198.51.100.7 192.0.2.1 1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 172.15.255.255
172.32.0.0 198.18.0.1 223.255.255.255 2606:4700::1111 2001:db8::1 ::ffff:203.0.113.5 64:ff9b::cb00:7105
2002:cb00:7105::
""".split()


@pytest.mark.parametrize("address", INTERNAL)
def test_internal_addresses_are_refused(address):
    assert refused(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_not(address):
    assert not refused(ip_address(address))


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "2002:a01:203::"])
def test_allow_private_covers_every_spelling(address):
    assert not refused(ip_address(address), (ip_network("10.1.0.0/16"),))
    assert refused(ip_address(address), (ip_network("10.2.0.0/16"),))


# Corpus B: the URL and the code of its refusal.
REFUSED_URLS = {
    "B01": ("http://127.0.0.1/", "blocked_address"),
    "B02": ("http://localhost/", "blocked_address"),
    "B02 dot": ("http://localhost./", "blocked_address"),
    "B02 sub": ("http://a.LOCALHOST/", "blocked_address"),
    "B03": ("http://169.254.169.254/latest/meta-data/", "blocked_address"),
    "B04": ("http://[::1]/", "blocked_address"),
    "B05": ("http://[::ffff:127.0.0.1]/", "blocked_address"),
    "B05 hex": ("http://[::ffff:7f00:1]/", "blocked_address"),
    "B06": ("http://0x7f000001/", "blocked_address"),
    "B07": ("http://2130706433/", "blocked_address"),
    "B08": ("http://0177.0.0.1/", "blocked_address"),
    "B09": ("http://127.1/", "blocked_address"),
    "B09 mixed": ("http://0x7f.1/", "blocked_address"),
    "B09 dot": ("http://127.0.0.1./", "blocked_address"),
    "B10": ("http://0/", "blocked_address"),
    "B11": ("http://100.64.0.1/", "blocked_address"),
    "B12": ("http://[64:ff9b::7f00:1]/", "blocked_address"),
    "B13": ("http://[2002:7f00:1::]/", "blocked_address"),
    "B14 ula": ("http://[fd00::1]/", "blocked_address"),
    "B14 zone": ("http://[fe80::1%25eth0]/", "blocked_address"),
    "B17": ("http://good.example@127.0.0.1/", "bad_location"),
    "B17 password": ("http://user:secret@good.example/", "bad_location"),
    "B18 backslash": ("http://good.example\\@127.0.0.1/", "bad_location"),
    "B18 fragment": ("http://127.0.0.1#@good.example/", "blocked_address"),
    "B19 file": ("file:///etc/passwd", "downgrade"),
    "B19 gopher": ("gopher://good.example/", "downgrade"),
    "B19 ftp": ("ftp://good.example/", "downgrade"),
    "B19 data": ("data:text/plain,x", "downgrade"),
    "B19 unix": ("unix:/run/docker.sock", "downgrade"),
    "B19 javascript": ("javascript:alert(1)", "downgrade"),
    "B21 ssh": ("http://good.example:22/", "blocked_address"),
    "B21 redis": ("http://good.example:6379/", "blocked_address"),
    "B21 postgres": ("http://good.example:5432/", "blocked_address"),
    "B23 lf": ("http://good.example/a\nb", "bad_location"),
    "B23 cr": ("http://good.example/a\rb", "bad_location"),
    "B23 nul": ("http://good.example/a\x00b", "bad_location"),
    "B23 space": ("http://good.example/a b", "bad_location"),
    "port 0": ("http://good.example:0/", "bad_location"),
    "port 70000": ("http://good.example:70000/", "bad_location"),
    "port text": ("http://good.example:http/", "bad_location"),
    "no host": ("http:///path", "bad_location"),
    "relative": ("//good.example/", "downgrade"),
    "escaped host": ("http://127%2e0.0.1/", "bad_location"),
    "open bracket": ("http://[::1/", "bad_location"),
    "wide dots": ("http://127。0。0。1/", "bad_location"),
}


@pytest.mark.parametrize("name", REFUSED_URLS)
def test_refused_urls(name):
    url, code = REFUSED_URLS[name]
    with pytest.raises(UpstreamBlocked) as caught:
        judge_url(url, ("https://good.example:443",))
    assert caught.value.code == code
    assert "secret" not in caught.value.detail


@pytest.mark.parametrize(
    "url",
    [
        "http://good.example/",
        "https://good.example:8443/a%2Fb?sig=%2B",
        "http://203.0.113.5/",
        "http://[2001:db8::1]:8080/x",
        "http://xn--bcher-kva.example/",
        "https://a_b.example/",
        "http://localhost.example/",
    ],
)
def test_ordinary_urls_pass(url):
    judge_url(url, ())


def test_a_configured_origin_is_exact():
    origins = ("http://127.0.0.1:6379",)
    judge_url("http://127.0.0.1:6379/x", origins)
    for near in ("https://127.0.0.1:6379/x", "http://127.0.0.1:6380/x", "http://127.0.0.2:6379/x"):
        with pytest.raises(UpstreamBlocked):
            judge_url(near, origins)


def test_origins_are_normal():
    assert origin_of("HTTPS://Good.Example/x") == "https://good.example:443"
    assert origin_of("http://[::1]:80") == "http://[::1]:80"


def test_what_is_reached_over_https_is_not_led_to_plain_http():
    secure, mixed = ("https://a.example:443",), ("https://a.example:443", "http://b.example:80")
    for url in ("http://a.example/x", "http://c.example/x", "HTTP://c.example:443/x"):
        with pytest.raises(UpstreamBlocked) as caught:
            guard.judge_scheme(url, secure, ())
        assert caught.value.code == "downgrade"
        guard.judge_scheme(url, mixed, ())
    guard.judge_scheme("https://c.example/x", secure, ())
    guard.judge_scheme("http://c.example/x", secure, ("http://c.example:80",))
    with pytest.raises(UpstreamBlocked):
        guard.judge_scheme("http://c.example:8080/x", secure, ("http://c.example:80",))


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/b", "https://a.example/b"),
        ("c?sig=a%2Bb%2f~", "https://a.example/x/c?sig=a%2Bb%2f~"),
        ("//b.example/y", "https://b.example/y"),
        ("https://b.example/y#frag", "https://b.example/y"),
        ("../z", "https://a.example/z"),
        ("?q=1", "https://a.example/x/y?q=1"),
        ("/caf\u00e9", "https://a.example/caf%C3%A9"),
        ("/\udcff", "https://a.example/%FF"),
    ],
)
def test_next_hop(location, target):
    assert next_hop("https://a.example/x/y", location) == target


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://a.example/x/y", "downgrade"),
        ("ftp://a.example/", "downgrade"),
        ("/a b", "bad_location"),
        ("/a\x00", "bad_location"),
        ("\\\\b.example/", "bad_location"),
        ("https://[::1", "bad_location"),
        ("", "bad_location"),
    ],
)
def test_next_hop_refuses(location, code):
    with pytest.raises(UpstreamBlocked) as caught:
        next_hop("https://a.example/x/y", location)
    assert caught.value.code == code


class Names:
    """A resolver whose answers are scripted, one list for each look-up of a name."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): list(lists) for name, lists in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int, family: int) -> list[str]:
        self.asked.append(host)
        lists = self.answers.get(host)
        if not lists:
            raise OSError("no such name")
        return lists.pop(0) if len(lists) > 1 else lists[0]


async def test_b15_only_the_public_addresses_of_a_name_are_handed_on():
    names = Names(mixed_example=[["10.0.0.1", "203.0.113.5", "fd00::1", "2001:db8::5"]])
    found = await GuardedResolver(guarded=True, lookup=names).resolve("mixed.example", 80)
    assert [entry["host"] for entry in found] == ["203.0.113.5", "2001:db8::5"]


async def test_a_name_with_internal_addresses_only_is_refused():
    names = Names(inner_example=[["10.0.0.1", "::1"]])
    with pytest.raises(UpstreamBlocked) as caught:
        await GuardedResolver(guarded=True, lookup=names).resolve("inner.example", 80)
    assert caught.value.code == "blocked_address"
    assert "10.0.0.1" not in caught.value.detail
    open_one = await GuardedResolver(guarded=False, lookup=names).resolve("inner.example", 80)
    assert len(open_one) == 2


async def test_the_system_resolver_is_guarded_too():
    with pytest.raises(UpstreamBlocked):
        await GuardedResolver(guarded=True).resolve("localhost", 80)


async def test_u02_a_failed_look_up_is_remembered_for_a_moment(monkeypatch):
    names = Names()
    resolver = GuardedResolver(guarded=True, lookup=names)
    for _ in range(3):
        with pytest.raises(OSError, match="no such name"):
            await resolver.resolve("gone.example", 80)
    assert names.asked == ["gone.example"]
    monkeypatch.setattr(guard, "DNS_MEMORY", 0.01)
    names.answers["gone.example"] = [["203.0.113.5"]]
    fresh = GuardedResolver(guarded=True, lookup=Names())
    with pytest.raises(OSError, match="no such name"):
        await fresh.resolve("gone.example", 80)
    fresh._lookup = names
    await asyncio.sleep(0.02)
    assert len(await fresh.resolve("gone.example", 80)) == 1


@pytest.mark.parametrize("first", ["judged", "refused"])
async def test_b16_rebinding_gains_nothing(chaos, first):
    """A name alternates between an address that is allowed and one that is not: whichever answer
    comes when, only the judged address is connected to. (Both are on loopback, as tests are.)"""
    async with Chaos() as inner, Chaos(host="127.0.0.2") as fine:
        await fine.stop()
        await fine.start(inner.port)
        body = fine.script("/x", ok())
        answers = [["127.0.0.2"], ["127.0.0.1"]] * 3
        names = Names(rebind_example=answers if first == "judged" else answers[1:])
        chaos.script("/a", redirect(f"http://rebind.example:{inner.port}/x"))
        got = []
        async with client(chaos.origin, lookup=names, allow_private=(ip_network("127.0.0.2/32"),)) as up:
            for _ in range(4):
                try:
                    got.append((await fetch(up, chaos.url("/a")))[1])
                except UpstreamBlocked as fault:
                    assert fault.code == "blocked_address"
        assert got
        assert set(got) == {body.bytes()}
        assert inner.connections == 0


async def test_an_allowed_name_connects_to_the_judged_address(chaos):
    async with Chaos() as inner:
        body = inner.script("/x", ok())
        names = Names(files_example=[["10.9.9.9", "127.0.0.1"]])
        chaos.script("/a", redirect(f"http://files.example:{inner.port}/x"))
        async with client(chaos.origin, lookup=names, allow_private=LOOPBACK) as up:
            head, got = await fetch(up, chaos.url("/a"))
        assert got == body.bytes()
        assert head.url == f"http://files.example:{inner.port}/x"
        assert inner.last("/x").headers["host"] == f"files.example:{inner.port}"


async def test_u02_an_unknown_name(chaos):
    async with client("http://gone.example", lookup=Names()) as up:
        fault = await refusal(up, "http://gone.example/x", UpstreamUnreachable, "upstream_dns")
    assert "gone.example" in fault.detail


async def test_a_blocked_address_is_reported(chaos):
    seen = Recorder()
    async with client(chaos.origin, observer=seen) as up:
        await refusal(up, "http://127.0.0.1:9/x?sig=1", UpstreamBlocked, "blocked_address")
    assert seen.warnings[0][0] == "upstream_blocked"
    assert "sig" not in str(seen.warnings)
    assert seen.counts == {"upstream_errors:blocked_address": 1}
