"""U32: a captive portal (200 and a web page) under every kind of path."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import io
import json
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.chaos.behaviours import cut, portal, raw, status
from tests.chaos.server import Behaviour
from tests.faults.watch import AGAIN, KEPT, Watch, watched
from tests.house_proxy import Got

HTML = b"<!DOCTYPE html><html><title>Please log in</title></html>"
LIMITS = "limits: {first_byte: 600ms, idle: 400ms, min_rate: 0, retry_base: 1ms, breaker_failures: 1000}"
ALWAYS = "min_revalidate: 0s"

TARBALL = gzip.compress(b"a tarball" * 100, mtime=0)
INTEGRITY = "sha512-" + base64.b64encode(hashlib.sha512(TARBALL).digest()).decode()
MOD = b"module soup.example/pot\n"


@functools.cache  # one made a second later may have other dates in it
def module_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("soup.example/pot@v1.2.0/go.mod", MOD)
    return out.getvalue()


@dataclass(frozen=True)
class Place:
    """A path at the proxy, where upstream keeps it, its right answer, and what a portal is told to be."""

    path: str
    upstream: str
    body: bytes
    media_type: str = "application/octet-stream"
    mutable: bool = False
    beside: str = ""  # the index that promises it


def packument(origin: str) -> bytes:
    dist = {"tarball": f"{origin}/npm/pot/-/pot-1.0.0.tgz", "integrity": INTEGRITY}
    version = {"name": "pot", "version": "1.0.0", "dist": dist}
    document = {"name": "pot", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    return json.dumps(document).encode()


def project(origin: str) -> bytes:
    sha256 = hashlib.sha256(TARBALL).hexdigest()
    entry = {"filename": "pot-1.0.tar.gz", "url": f"{origin}/f/pot-1.0.tar.gz", "hashes": {"sha256": sha256}}
    return json.dumps({"meta": {"api-version": "1.1"}, "name": "pot", "files": [entry]}).encode()


def places(origin: str) -> dict[str, Place]:
    host = origin.partition("://")[2]
    at, info = "soup.example/pot/@v", b'{"Version":"v1.2.0","Time":"2026-01-02T03:04:05Z"}'
    json_page = "application/vnd.pypi.simple.v1+json"
    return {
        "pypi index": Place("/pypi/simple/pot/", "/simple/pot/", project(origin), json_page, mutable=True),
        "pypi file": Place(
            f"/pypi/packages/{host}/f/pot-1.0.tar.gz", "/f/pot-1.0.tar.gz", TARBALL, beside="pypi index"
        ),
        "npm packument": Place("/npm/pot", "/npm/pot", packument(origin), "application/json", mutable=True),
        "npm tarball": Place(
            "/npm/pot/-/pot-1.0.0.tgz", "/npm/pot/-/pot-1.0.0.tgz", TARBALL, beside="npm packument"
        ),
        "go list": Place(f"/go/{at}/list", f"/go/{at}/list", b"v1.2.0\n", "text/plain", mutable=True),
        "go latest": Place(
            "/go/soup.example/pot/@latest",
            "/go/soup.example/pot/@latest",
            info,
            "application/json",
            mutable=True,
        ),
        "go info": Place(
            f"/go/{at}/v1.2.0.info", f"/go/{at}/v1.2.0.info", info, "application/json", mutable=True
        ),
        "go mod": Place(f"/go/{at}/v1.2.0.mod", f"/go/{at}/v1.2.0.mod", MOD, "text/plain"),
        "go zip": Place(f"/go/{at}/v1.2.0.zip", f"/go/{at}/v1.2.0.zip", module_zip(), "application/zip"),
        "generic archive": Place("/files/x/pot-1.0.tar.gz", "/x/pot-1.0.tar.gz", TARBALL),
        "generic document": Place("/files/x/pot.json", "/x/pot.json", b"{}", mutable=True),
        "generic checksum": Place("/files/x/pot.sha256", "/x/pot.sha256", b"00", mutable=True),
        "generic latest": Place("/files/latest/pot.zip", "/latest/pot.zip", module_zip(), mutable=True),
    }


KINDS = list(places("http://x.example"))
PORTALS: dict[str, Behaviour] = {
    "web page": portal(),
    "page under another type": status(200, HTML, Content_Type="application/octet-stream"),
    "page in chunks": raw(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(HTML), HTML),
        close=False,
    ),
    "page after blanks": status(200, b"\xef\xbb\xbf \r\n" + HTML.lower(), Content_Type="text/plain"),
}


@pytest.fixture
async def watch(tmp_path: Path, chaos: Chaos) -> AsyncIterator[Watch]:
    remotes = (
        f"npm:\n  provider: npm\n  upstream: {chaos.origin}/npm/\n  {ALWAYS}\n  {LIMITS}\n"
        f"go:\n  provider: go\n  upstream: {chaos.origin}/go/\n  {ALWAYS}\n"
    )
    async with watched(tmp_path, chaos, remotes=remotes) as running:
        yield running


def honest(watch: Watch, kind: str) -> Place:
    """Everything of this kind is right, also the index that promises it."""
    found = places(watch.chaos.origin)
    place = found[kind]
    for each in filter(None, (place, found.get(place.beside))):
        watch.chaos.script(each.upstream, status(200, each.body, Content_Type=each.media_type))
    return place


async def fetched(watch: Watch, place: Place, **headers: str) -> Got:
    await watch.proxy.settled()
    got = await watch.proxy.get(place.path, **headers)
    assert got.status == 200, (got.status, got.error, got.body)
    if "pot-1.0.0" not in place.path and not place.mutable:
        assert got.body == place.body
    assert b"log in" not in (got.body or b"").lower()
    return got


@pytest.mark.parametrize("kind", KINDS)
async def test_u32_a_portal_is_never_taken_for_the_document(watch: Watch, kind: str) -> None:
    place = honest(watch, kind)
    for behaviour in PORTALS.values():
        watch.chaos.script(place.upstream, behaviour)
        await watch.proxy.settled()
        held = watch.proxy.blobs()
        got = await watch.proxy.get(place.path)
        assert got.status == 502, (got.status, got.body)
        assert got.error in ("unexpected_html", "bad_index", "digest", "size", "too_large", "overlong")
        assert b"log in" not in (got.body or b"").lower()
        await watch.told(place.path, got.error)
        new = [blob.read_bytes() for blob in watch.proxy.blobs() if blob not in held]
        assert not any(b"log in" in body.lower() for body in new)
    trouble = await watch.grown("upstream_errors_total") + await watch.grown("integrity_failures_total")
    assert trouble >= len(PORTALS)
    await watch.is_kept()
    place = honest(watch, kind)
    await fetched(watch, place)
    assert (await fetched(watch, place)).source == "cache"


@pytest.mark.parametrize("kind", KINDS)
async def test_u32_a_good_entry_outlives_the_portal(watch: Watch, kind: str) -> None:
    place = honest(watch, kind)
    first = await fetched(watch, place)
    await watch.proxy.settled()
    held = watch.proxy.blobs()
    for behaviour in PORTALS.values():
        watch.chaos.script(place.upstream, behaviour)
        got = await fetched(watch, place, **AGAIN)
        assert (got.source, got.body) == ("cache", first.body)
        assert ("stale-if-error" in got.headers["Cache-Status"]) == place.mutable
        await watch.proxy.settled()
        assert watch.proxy.blobs() == held
    honest(watch, kind)
    assert (await fetched(watch, place, **AGAIN)).body == first.body


async def test_u32_a_portal_in_the_middle_of_a_file_is_not_its_rest(watch: Watch) -> None:
    """The body broke off, nobody has a byte yet, and the portal answers the request for the rest."""
    watch.chaos.script("/f.tar.gz", cut(0.5), portal(), size=20_000)
    await watch.refused("/files/f.tar.gz", 502, "unexpected_html")
    await watch.is_kept()
    await watch.next_is_right("/files/g.tar.gz")


async def test_u32_a_portal_is_no_head_of_a_promised_file(watch: Watch) -> None:
    """A digest that is promised judges bytes, and a HEAD brings none; its size is not promised here."""
    place = honest(watch, "npm tarball")
    assert (await watch.proxy.get(places(watch.chaos.origin)[place.beside].path)).status == 200
    watch.chaos.script(place.upstream, portal())
    got = await watch.proxy.get(place.path, "HEAD")
    assert (got.status, got.error) == (502, "unexpected_html")
    place = honest(watch, "npm tarball")
    got = await watch.proxy.get(place.path, "HEAD")
    assert (got.status, got.headers["Content-Length"]) == (200, str(len(TARBALL)))


async def test_u32_pages_that_are_meant_to_be_pages_pass(watch: Watch) -> None:
    watch.chaos.script("/docs/index.html", status(200, HTML, Content_Type="text/html"))
    watch.chaos.script("/docs/", status(200, HTML, Content_Type="text/html"))
    for path in ("/files/docs/index.html", "/files/docs/"):
        assert (await watch.proxy.get(path)).body == HTML
    assert KEPT
