"""Attacks that are too long to write down. Each recipe gives the bytes of the whole case."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable

Recipe = Callable[..., str]


def pipelined(*, bad: str, count: int = 1000, bad_at: int = 0) -> str:
    """`count` requests at once; from `bad_at` on every second one is malformed."""
    good = "GET /files/good.bin HTTP/1.1\r\nHost: {host}\r\n\r\n"
    return "".join(bad if n >= bad_at and (n - bad_at) % 2 == 0 else good for n in range(count))


def long_target(*, before: str, unit: str, count: int, after: str = "") -> str:
    return f"GET {before}{unit * count}{after} HTTP/1.1\r\nHost: {{host}}\r\n\r\n"


def numbered_target(*, before: str, unit: str, count: int) -> str:
    """`unit` holds `#`, which is the number."""
    units = "".join(unit.replace("#", str(n)) for n in range(count))
    return f"GET {before}{units} HTTP/1.1\r\nHost: {{host}}\r\n\r\n"


def many_fields(*, line: str, field: str, count: int) -> str:
    """A request with `count` header fields; `#` in `field` is the number."""
    fields = "".join(field.replace("#", str(n)) + "\r\n" for n in range(count))
    return f"{line}\r\nHost: {{host}}\r\n{fields}\r\n"


def long_field(*, line: str, field: str, unit: str, count: int) -> str:
    """One header field that ends with `count` times `unit`."""
    return f"{line}\r\nHost: {{host}}\r\n{field}{unit * count}\r\n\r\n"


def chunked(
    *, extension: str = "", trailer: str = "", count: int = 1, times: int = 1, start: str = "{post}"
) -> str:
    """A chunked body of `{}`; the extension `times` over, the trailer line `count` times (`#`: its number)."""
    trailers = "".join(trailer.replace("#", str(n)) + "\r\n" for n in range(count)) if trailer else ""
    return f"{start}Transfer-Encoding: chunked\r\n\r\n2{extension * times}\r\n{{}}\r\n0\r\n{trailers}\r\n"


def long_method(*, letter: str = "A", size: int = 8192) -> str:
    return f"{letter * size} /files/good.bin HTTP/1.1\r\nHost: {{host}}\r\n\r\n"


def manifest(
    *,
    before: str,
    unit: str,
    count: int,
    after: str = "",
    name: str = "images/team/app",
    chunked: bool = False,
) -> str:
    """A manifest is pushed that holds `unit` `count` times over, between commas where it ends with one."""
    body = f"{before}{(unit * count).rstrip(',')}{after}"
    head = f"PUT /v2/{name}/manifests/bomb HTTP/1.1\r\nHost: {{host}}\r\nAuthorization: Bearer {{token:pusher}}\r\n"
    head += "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n"
    if chunked:
        return f"{head}Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n{body}\r\n0\r\n\r\n"
    return f"{head}Content-Length: {{length}}\r\n\r\n{body}"


def tls_hello(*, name: str = "cache.example", after: str = "") -> str:
    """What a TLS client says first."""
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read().decode("latin-1") + after


RECIPES: dict[str, Recipe] = {
    recipe.__name__: recipe
    for recipe in (
        pipelined,
        long_target,
        numbered_target,
        many_fields,
        long_field,
        chunked,
        long_method,
        manifest,
        tls_hello,
    )
}
