"""What is to be fetched: an address of the configured proxy, or any other.

A path is always of the proxy. A URL is, where it begins with `public_url` or names the address that the
configuration listens on; every other URL is taken as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import quote, unquote, urlsplit

from artifactproxy.config import Config
from artifactproxy.model import Ask
from artifactproxy.targets import ask_of
from artifactproxy.upstream.auth import Basic

_PATH = "/:@!$&'()*+,;=~%"  # what may stand in a path, escapes included (RFC 3986 3.3)
_QUERY = _PATH + "?"


@dataclass(frozen=True, slots=True)
class Ours:
    """`text` is how it was written; `ask` the request it stands for. A URL may also be asked of whoever
    answers there."""

    text: str
    ask: Ask

    @property
    def is_url(self) -> bool:
        return "://" in self.text

    @property
    def shown(self) -> str:
        return self.text

    @property
    def filename(self) -> str:
        return _filename(self.ask.path)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """`url` without user and password, which are in `credential`."""

    url: str
    credential: Basic | None = None

    @property
    def shown(self) -> str:
        """A query may hold a signature."""
        return self.url.partition("?")[0]

    @property
    def filename(self) -> str:
        return _filename(urlsplit(self.url).path)


def named(text: str, config: Config) -> Ours | Elsewhere:
    """Raises ValueError with the sentence for the user, `BadPath` and `NotServed` for an address of ours."""
    if "://" in text and not _is_ours(text, config):
        return elsewhere(text)
    return Ours(text, ask_of(text, config.public_url))


def elsewhere(text: str) -> Elsewhere:
    """Raises ValueError. What a browser would escape is escaped; what is escaped already stays."""
    parts = urlsplit(text)
    if parts.scheme.lower() not in ("http", "https"):
        raise ValueError(f"{text}: only http and https can be fetched, not {parts.scheme}")
    host, port = parts.hostname, parts.port  # which raises ValueError for a bad port
    if not host:
        raise ValueError(f"{text} names no host")
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    place = f"[{host}]" if ":" in host else host
    if port is not None:
        place += f":{port}"
    query = f"?{quote(parts.query, safe=_QUERY)}" if parts.query else ""
    url = f"{parts.scheme.lower()}://{place}{quote(parts.path or '/', safe=_PATH)}{query}"
    if parts.username is None:
        return Elsewhere(url)
    return Elsewhere(url, Basic(unquote(parts.username), unquote(parts.password or "")))


def _is_ours(text: str, config: Config) -> bool:
    if config.public_url and f"{text}/".startswith(f"{config.public_url}/"):
        return True
    parts, listen = urlsplit(text), config.listen
    if parts.username is not None or parts.scheme != ("https" if config.tls else "http"):
        return False
    if (parts.port or {"http": 80, "https": 443}[parts.scheme]) != listen.port:
        return False
    everywhere = listen.host in ("0.0.0.0", "::")  # noqa: S104  compared, not bound
    if _is_loopback(parts.hostname or ""):
        return everywhere or _is_loopback(listen.host)
    return parts.hostname == listen.host


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _filename(path: str) -> str:
    """The last segment, "" where it is no name for a file. What upstream would like it to be called does
    not count: it does not know what else lies in this folder."""
    name = unquote(path.rpartition("/")[2])
    return name if name not in (".", "..") and "/" not in name and name.isprintable() else ""
