"""Recipes of part F: what a hostile publisher makes us store and hand out, and what a browser may do with it.

A recipe takes the world and a name of its own and returns every answer that a client got.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urljoin, urlsplit

from tests.chaos.behaviours import raw, status
from tests.corpus.carriers import SIMPLE_JSON, Links
from tests.corpus.world import World
from tests.house_proxy import Got

Recipe = Callable[..., Awaitable[list[Got]]]

OURS = frozenset(
    """accept-ranges age allow cache-control cache-status connection content-disposition content-encoding
    content-length content-range content-security-policy content-type cross-origin-resource-policy date etag
    last-modified location repr-digest retry-after server transfer-encoding vary via x-artifact-source
    x-checksum-sha256 x-content-type-options x-proxy-error x-request-id""".split()
)
"""Every header field that this program ever sends."""

_ACTIVE = re.compile(
    r"text/html|image/svg|xhtml|xml|javascript|ecmascript|css|pdf|flash|multipart", re.IGNORECASE
)
_ATTACHED = re.compile(r"attachment(?:; filename\*=UTF-8''[!#$&+.^_`|~0-9A-Za-z%-]+)?")
_ELEMENTS: dict[str, set[str]] = {
    "html": set(),
    "head": set(),
    "meta": {"charset", "name", "content"},
    "title": set(),
    "body": set(),
    "h1": set(),
    "br": set(),
    "a": {
        *("href", "data-requires-python", "data-core-metadata", "data-dist-info-metadata", "data-yanked"),
        *("data-gpg-sig", "data-upload-time", "data-provenance"),
    },
}
"""What our own pages consist of."""


def harmless(got: Got, url: str) -> None:
    """Nothing that a browser makes of this answer runs on our origin."""
    names = {name.lower() for name in got.headers}
    assert names <= OURS, names - OURS
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    policy = got.headers["Content-Security-Policy"]
    assert "sandbox" in policy and "default-src 'none'" in policy and "allow" not in policy
    assert got.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert all(value.isprintable() for value in got.headers.values())
    disposition = got.headers.get("Content-Disposition", "")
    assert not disposition or _ATTACHED.fullmatch(disposition), disposition
    media_type = got.headers.get("Content-Type", "")
    if got.body and _ACTIVE.search(media_type):
        assert disposition or our_page(got.body.decode(), url), media_type


def our_page(text: str, url: str) -> bool:
    """Whether a page holds only what we write, and no link that leads out of its repository."""
    page = Links(text)
    repository = "/".join(urlsplit(url).path.split("/")[:2]) + "/"
    for element, attributes in page.elements:
        assert set(attributes) <= _ELEMENTS[element], (element, attributes)
    for href in page.hrefs:
        target = urlsplit(urljoin(url, href))
        assert (target.scheme, target.netloc) == urlsplit(url)[:2], href
        assert target.path.startswith(repository), href
    return True


# --- files ----------------------------------------------------------------------------------


async def file(
    world: World, name: str, *, path: str, body: str, media_type: str = "", method: str = "GET"
) -> list[Got]:
    """A file under this path, with the type that upstream gives it: arriving, held, in part, unchanged."""
    headers = {"Content_Type": media_type} if media_type else {}
    world.chaos.script(f"/{name}/{path}", status(200, body.encode(), ETag='"1"', **headers))
    at = f"/files/{name}/{path}"
    first = await world.get(at, method)
    if first.status != 200:
        return [first]
    await world.proxy.settled()
    held = await world.get(at)
    assert held.body == body.encode()
    part = await world.get(at, Range="bytes=0-3")
    unchanged = await world.get(at, If_None_Match=held.headers["ETag"])
    assert (part.status, unchanged.status) == (206, 304)
    return [first, held, part, unchanged]


async def distribution(world: World, name: str, *, suffix: str, body: str, media_type: str) -> list[Got]:
    """A page instead of a package, or of what lies beside one."""
    file = f"{name}-1.0{suffix}"
    page = {"meta": {"api-version": "1.0"}, "name": name, "files": [{"filename": f"{name}-1.0.tar.gz"}]}
    page["files"][0] |= {
        "url": f"/{name}/{name}-1.0.tar.gz",
        "hashes": {},
        "core-metadata": True,
        "gpg-sig": True,
    }
    world.chaos.script(f"/simple/{name}/", status(200, json.dumps(page).encode(), Content_Type=SIMPLE_JSON))
    world.chaos.script(f"/{name}/{file}", status(200, body.encode(), Content_Type=media_type))
    return [await world.get(f"/pypi/packages/127.0.0.1:{world.chaos.port}/{name}/{file}")]


# --- documents ------------------------------------------------------------------------------


async def project(world: World, name: str, **hostile: Any) -> list[Got]:
    """A project page whose fields hold markup; as JSON from upstream, read in both forms."""
    top = {
        key: hostile.pop(key) for key in ("meta", "project-status", "alternate-locations") if key in hostile
    }
    entry = {"filename": f"{name}-1.0.tar.gz", "url": f"/{name}-1.0.tar.gz", "hashes": {}} | hostile
    page = {"meta": {"api-version": "1.1"}, "name": name, "files": [entry], "versions": ["1.0"]} | top
    world.chaos.script(f"/simple/{name}/", status(200, json.dumps(page).encode(), Content_Type=SIMPLE_JSON))
    return await _both_forms(world, name)


async def page(world: World, name: str, *, markup: str) -> list[Got]:
    """A project page as HTML."""
    text = f"<!DOCTYPE html><html><h1>Links for {name}</h1>{markup}</html>".replace("{name}", name)
    world.chaos.script(f"/simple/{name}/", status(200, text.encode(), Content_Type="text/html"))
    return await _both_forms(world, name)


async def _both_forms(world: World, name: str) -> list[Got]:
    forms = ("text/html", "application/vnd.pypi.simple.v1+html", SIMPLE_JSON)
    got = [await world.get(f"/pypi/simple/{name}/", Accept=form) for form in forms]
    assert [one.status for one in got] == [200, 200, 200]
    return got


async def listing(world: World, name: str, *, body: str, media_type: str) -> list[Got]:
    """The list of all projects. It has one address, so what an earlier case left is forgotten."""
    await world.proxy.engine.purge("pypi", path="simple/")
    world.chaos.script(
        "/simple/", status(200, body.replace("{name}", name).encode(), Content_Type=media_type)
    )
    got = [await world.get("/pypi/simple/", Accept=form) for form in ("text/html", SIMPLE_JSON)]
    assert [one.status for one in got] == [200, 200]
    return got


async def package(world: World, name: str, **hostile: Any) -> list[Got]:
    """A package document of npm with these fields, in both forms, and one version of it."""
    version = {
        "name": name,
        "version": "1.0.0",
        "dist": {"tarball": f"{world.chaos.origin}/npm/{name}/-/{name}-1.0.0.tgz"},
    }
    version |= hostile
    document = {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}} | hostile
    for path, body in ((name, document), (f"{name}/1.0.0", version)):
        world.chaos.script(
            f"/npm/{path}", status(200, json.dumps(body).encode(), Content_Type="application/json")
        )
    short = "application/vnd.npm.install-v1+json"
    got = [await world.get(f"/npm/{name}"), await world.get(f"/npm/{name}", Accept=short)]
    return [*got, await world.get(f"/npm/{name}/1.0.0")]


# --- headers and errors ---------------------------------------------------------------------


async def header(world: World, name: str, *, line: str, at: str) -> list[Got]:
    """A header field of upstream's, with each kind of answer."""
    where = {
        "file": (f"/files/{name}/f.bin", f"/{name}/f.bin", 200, b"bytes", ""),
        "page": (f"/pypi/simple/{name}/", f"/simple/{name}/", 200, _PAGE, "text/html"),
        "packument": (f"/npm/{name}", f"/npm/{name}", 200, _packument(name), "application/json"),
        "list": (
            f"/go/{name}.example/m/@v/list",
            f"/go/{name}.example/m/@v/list",
            200,
            b"v1.0.0\n",
            "text/plain",
        ),
        "relay": (f"/npm/-/v1/search?text={name}", "/npm/-/v1/search", 200, b"{}", "application/json"),
        "absent": (f"/files/{name}/f.bin", f"/{name}/f.bin", 404, b"no", "text/html"),
        "error": (f"/files/{name}/f.bin", f"/{name}/f.bin", 500, b"no", "text/html"),
        "denied": (f"/files/{name}/f.bin", f"/{name}/f.bin", 403, b"no", "text/html"),
        "busy": (f"/files/{name}/f.bin", f"/{name}/f.bin", 429, b"no", "text/html"),
    }
    ours, theirs, code, body, media_type = where[at]
    fields = [line, f"Content-Length: {len(body)}", *([f"Content-Type: {media_type}"] if media_type else [])]
    head = f"HTTP/1.1 {code} X\r\n" + "".join(f"{field}\r\n" for field in fields) + "\r\n"
    world.chaos.script(theirs, raw(head.encode("utf-8", "surrogateescape") + body))
    got = [await world.get(ours)]
    await world.proxy.settled()
    got.append(await world.get(ours))
    world.proxy.engine._parts.upstream.recover(world.chaos.origin)
    return got


_PAGE = b'<html><h1>Links for it</h1><a href="it-1.0.tar.gz">it-1.0.tar.gz</a></html>'


def _packument(name: str) -> bytes:
    return json.dumps({"name": name, "versions": {}, "dist-tags": {}}).encode()


async def error(world: World, name: str, *, path: str, body: str = "", code: int = 404) -> list[Got]:
    """A path with markup in it, of which upstream has only an error page with more."""
    del name
    for upstream in (path.partition("/")[2], path):
        page = status(code, body.encode(), Content_Type="text/html")
        world.chaos.script("/" + upstream.partition("?")[0], page)
    return [await world.get("/" + path), await world.get("/" + path, "HEAD")]


async def visit(world: World, name: str, *, path: str, headers: dict[str, str] | None = None) -> list[Got]:
    """A request as it stands, also with what no client library would send."""
    del name
    if not headers:
        return [await world.get(path)]
    fields = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}Connection: close\r\n\r\n"
    return [await world.send(path, head.encode("latin-1"))]


RECIPES: dict[str, Recipe] = {
    recipe.__name__: recipe
    for recipe in (file, distribution, project, page, listing, package, header, error, visit)
}
