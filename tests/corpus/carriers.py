"""The ways in which a hostile upstream names an address, and what the program makes of it.

Each takes the world, the URL and a name of its own; it returns the answer to the request that would
have gone there, or None if the entry that named it was left out of the document.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from html import escape
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from tests.chaos import Chaos, Exchange
from tests.chaos.behaviours import raw, status
from tests.corpus.world import World
from tests.house_proxy import Got

SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"
Carrier = Callable[[World, str, str], Awaitable[Got | None]]


class Links(HTMLParser):
    """Every element with its attributes, and the targets of the links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.hrefs: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.hrefs += [value or "" for name, value in attrs if tag == "a" and name == "href"]


def _moved(url: str) -> bytes:
    location = url.encode("utf-8", "surrogateescape")
    return b"HTTP/1.1 302 Found\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % location


def _redirect(remote: str, path: str, at: str, method: str = "GET", *, secure: bool = False) -> Carrier:
    """A redirect in answer to `path` of `remote`, which upstream has at `at`."""

    async def play(world: World, url: str, name: str) -> Got:
        upstream = world.secure if secure else world.chaos
        upstream.script(at.format(name=name), raw(_moved(url)))
        return await world.get(f"/{remote}/{path.format(name=name)}", method)

    return play


# --- documents ------------------------------------------------------------------------------


def _json_page(name: str, url: str) -> tuple[bytes, str]:
    entry = {"filename": f"{name}-1.0.tar.gz", "url": url, "hashes": {"sha256": "0" * 64}}
    page = {"meta": {"api-version": "1.0"}, "name": name, "files": [entry]}
    return json.dumps(page).encode(), SIMPLE_JSON


def _html_page(name: str, url: str) -> tuple[bytes, str]:
    anchor = f'<a href="{escape(url)}#sha256={"0" * 64}">{name}-1.0.tar.gz</a>'
    return f"<html><h1>Links for {name}</h1>{anchor}</html>".encode(), "text/html"


def _based_page(name: str, url: str) -> tuple[bytes, str]:
    """A relative link below a hostile `<base>`."""
    base, _, file = url.rpartition("/")
    anchor = f'<a href="{escape(file)}#sha256={"0" * 64}">{name}-1.0.tar.gz</a>'
    head = f'<head><base href="{escape(base)}/"></head>'
    return f"<html>{head}<h1>Links for {name}</h1>{anchor}</html>".encode(), "text/html"


def _page(make: Callable[[str, str], tuple[bytes, str]], remote: str = "pypi") -> Carrier:
    """A project page in one form; the client reads it in the other one."""

    async def play(world: World, url: str, name: str) -> Got | None:
        body, media_type = make(name, url)
        _upstream(world, remote).script(f"/simple/{name}/", status(200, body, Content_Type=media_type))
        page = f"{world.proxy.base}/{remote}/simple/{name}/"
        if media_type == SIMPLE_JSON:
            got = await world.get(f"/{remote}/simple/{name}/", Accept="text/html")
            links = Links((got.body or b"").decode()).hrefs
        else:
            got = await world.get(f"/{remote}/simple/{name}/", Accept=SIMPLE_JSON)
            links = [file["url"] for file in json.loads(got.body or b"")["files"]]
        assert got.status == 200
        return await _follow(world, [urljoin(page, link) for link in links], f"/{remote}/packages/")

    return play


async def _legacy(world: World, url: str, name: str) -> Got | None:
    entry = {"filename": f"{name}-1.0.tar.gz", "url": url, "digests": {"sha256": "0" * 64}}
    document = {"info": {"name": name, "version": "1.0"}, "urls": [entry], "releases": {"1.0": [entry]}}
    world.chaos.script(
        f"/pypi/{name}/json", status(200, json.dumps(document).encode(), Content_Type="application/json")
    )
    got = await world.get(f"/pypi/pypi/{name}/json")
    assert got.status == 200
    shown = json.loads(got.body or b"")
    links = {file["url"] for files in (shown["urls"], *shown["releases"].values()) for file in files}
    return await _follow(world, list(links), "/pypi/packages/")


def _manifest(name: str, url: str) -> dict[str, Any]:
    return {"name": name, "version": "1.0.0", "dist": {"tarball": url, "shasum": "0" * 40}}


def _packument(remote: str = "npm") -> Carrier:
    async def play(world: World, url: str, name: str) -> Got | None:
        document = {
            "name": name,
            "dist-tags": {"latest": "1.0.0"},
            "versions": {"1.0.0": _manifest(name, url)},
        }
        _upstream(world, remote).script(
            f"/npm/{name}", status(200, json.dumps(document).encode(), Content_Type="application/json")
        )
        got = await world.get(f"/{remote}/{name}")
        assert got.status == 200
        versions = json.loads(got.body or b"")["versions"].values()
        return await _follow(world, [v["dist"]["tarball"] for v in versions], f"/{remote}/{name}/-/")

    return play


async def _one_version(world: World, url: str, name: str) -> Got | None:
    document = json.dumps(_manifest(name, url)).encode()
    world.chaos.script(f"/npm/{name}/1.0.0", status(200, document, Content_Type="application/json"))
    got = await world.get(f"/npm/{name}/1.0.0")
    if got.status == 502:
        return None
    return await _follow(world, [json.loads(got.body or b"")["dist"]["tarball"]], f"/npm/{name}/-/")


async def _follow(world: World, links: list[str], prefix: str) -> Got | None:
    """Ask for the one link that a document of ours holds; it must be one of ours."""
    await world.proxy.settled()
    world.mark()
    if not links:
        return None
    assert len(links) == 1
    assert links[0].startswith(world.proxy.base + prefix), links
    return await world.get(links[0].removeprefix(world.proxy.base))


def _upstream(world: World, remote: str) -> Chaos:
    return world.secure if remote.startswith("safe") else world.chaos


# --- what is named without being asked for --------------------------------------------------


def _beside(code: int, header: str, value: str) -> Carrier:
    """An address in a header that means nothing to a cache."""

    async def play(world: World, url: str, name: str) -> Got:
        line = f"{header}: {value.format(url=url)}".encode("utf-8", "surrogateescape")
        head = b"HTTP/1.1 %d X\r\n%b\r\nContent-Length: 4\r\n\r\nbody" % (code, line)
        world.chaos.script(f"/{name}/f.bin", raw(head))
        got = await world.get(f"/files/{name}/f.bin")
        assert url not in json.dumps(list(got.headers.items()))
        return got

    return play


async def _listed(world: World, url: str, name: str) -> Got:
    """Addresses in a project page that are for people to read (PEP 708, PEP 740)."""
    entry = {"filename": f"{name}-1.0.tar.gz", "url": "1.0.tar.gz", "provenance": url}
    page = {
        "meta": {"api-version": "1.1", "tracks": [url]},
        "name": name,
        "files": [entry],
        "alternate-locations": [url],
    }
    world.chaos.script(
        f"/simple/{name}/", status(200, json.dumps(page).encode(), Content_Type=SIMPLE_JSON, Link=f"<{url}>")
    )
    return await world.get(f"/pypi/simple/{name}/")


async def _origin(world: World, url: str, name: str) -> Got:
    """Where a Go module is developed, in its description."""
    info = {"Version": "v1.0.0", "Time": "2024-01-02T03:04:05Z", "Origin": {"VCS": "git", "URL": url}}
    world.chaos.script(
        f"/go/{name}.example/m/@v/v1.0.0.info",
        status(200, json.dumps(info).encode(), Content_Type="application/json"),
    )
    return await world.get(f"/go/{name}.example/m/@v/v1.0.0.info")


# --- redirects that lead nowhere ------------------------------------------------------------


async def _chain(world: World, url: str, name: str) -> Got:
    """As many hops as the URL says, then a file."""
    hops = int(url)
    for hop in range(hops):
        world.chaos.script(f"/{name}/{hop}.bin", raw(_moved(f"/{name}/{hop + 1}.bin")))
    world.chaos.script(f"/{name}/{hops}.bin", status(200, b"the end"))
    return await world.get(f"/files/{name}/0.bin")


async def _circle(world: World, url: str, name: str) -> Got:
    """A redirect to itself, by way of as many others as the URL says."""
    steps = int(url)
    for step in range(steps):
        world.chaos.script(f"/{name}/{step}.bin", raw(_moved(f"/{name}/{(step + 1) % steps}.bin")))
    return await world.get(f"/files/{name}/0.bin")


async def _endless(world: World, url: str, name: str) -> Got:
    """A Location of as many bytes as the URL says."""

    async def behave(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 302 Found\r\nLocation: /")
        for _ in range(int(url) // 10_000):
            await exchange.send(b"a" * 10_000)
        await exchange.send(b"\r\nContent-Length: 0\r\n\r\n")

    world.chaos.script(f"/{name}/f.bin", behave)
    return await world.get(f"/files/{name}/f.bin")


async def _round(world: World, url: str, name: str) -> Got:
    """The upstream asks us for what we ask it for, as a proxy in front of us would."""
    inner: list[Got] = []

    async def behave(exchange: Exchange) -> None:
        via = exchange.seen.headers["via"]
        inner.append(await world.get(f"/{url.format(name=name)}", Via=f"1.1 between, {via}"))
        await exchange.head(inner[0].status, {"Content-Length": "0"})

    world.chaos.script(f"/{name}/f.bin", behave)
    got = await world.get(f"/files/{name}/f.bin")
    assert [(answer.status, answer.error) for answer in inner] == [(508, "loop")]
    return got


# --- what a client names --------------------------------------------------------------------


async def _pypi_path(world: World, url: str, name: str) -> Got:
    return await world.get(f"/pypi/packages/{_segment(url)}/{name}-1.0.tar.gz")


async def _npm_path(world: World, url: str, name: str) -> Got:
    return await world.get(f"/npm/{name}/-/{_segment(url)}/{name}-1.0.0.tgz")


async def _sumdb(world: World, url: str, name: str) -> Got:
    return await world.get(f"/go/sumdb/{_segment(url)}/lookup/{name}.example/m@v1.0.0")


async def _target(world: World, url: str, name: str) -> Got:
    return await world.get(f"/files/{name}/{quote(url, safe='')}")


def _segment(url: str) -> str:
    return quote(urlsplit(url).netloc, safe="")


CARRIERS: dict[str, Carrier] = {
    "location": _redirect("files", "{name}/f.bin", "/{name}/f.bin"),
    "head_location": _redirect("files", "{name}/f.bin", "/{name}/f.bin", "HEAD"),
    "index_location": _redirect("pypi", "simple/{name}/", "/simple/{name}/"),
    "npm_location": _redirect("npm", "{name}", "/npm/{name}"),
    "go_location": _redirect("go", "{name}.example/m/@v/list", "/go/{name}.example/m/@v/list"),
    "safe_location": _redirect("safe", "{name}/f.bin", "/{name}/f.bin", secure=True),
    "safe_index_location": _redirect("safepypi", "simple/{name}/", "/simple/{name}/", secure=True),
    "html": _page(_html_page),
    "json": _page(_json_page),
    "base": _page(_based_page),
    "legacy": _legacy,
    "packument": _packument(),
    "manifest": _one_version,
    "safe_html": _page(_html_page, "safepypi"),
    "safe_json": _page(_json_page, "safepypi"),
    "safe_packument": _packument("safenpm"),
    "realm": _beside(401, "WWW-Authenticate", 'Bearer realm="{url}",service="s"'),
    "proxy_realm": _beside(407, "Proxy-Authenticate", 'Basic realm="{url}"'),
    "link": _beside(200, "Link", '<{url}>; rel="next"'),
    "refresh": _beside(200, "Refresh", "0; url={url}"),
    "content_location": _beside(200, "Content-Location", "{url}"),
    "alt_svc": _beside(200, "Alt-Svc", 'h2="{url}"'),
    "location_of_200": _beside(200, "Location", "{url}"),
    "location_of_300": _beside(300, "Location", "{url}"),
    "listed": _listed,
    "origin": _origin,
    "chain": _chain,
    "circle": _circle,
    "endless": _endless,
    "round": _round,
    "pypi_path": _pypi_path,
    "npm_path": _npm_path,
    "sumdb": _sumdb,
    "target": _target,
}
