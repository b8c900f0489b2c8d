"""What a provider is: a pure reading of paths and documents. It cannot fetch, store, lock or log.

A provider is made per repository from its upstream addresses and options; it is one file in this
folder that defines `PROVIDER`, and one table of cases in `tests/providers/tables/`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO, ClassVar
from urllib.parse import urlsplit

from artifactproxy.errors import Fault
from artifactproxy.model import Ask, Operation, Promise, Rendered, Reply, Right, Route, View


@dataclass(frozen=True, slots=True)
class Site:
    """Where one repository reads from: upstream base URLs, each ending in `/`, in order of
    preference; further hosts (`host`, `host:port` or `scheme://host[:port]`) its documents may
    point at without a digest; the administrator's path rules; and tags of images that are not given
    out."""

    repo: str
    upstreams: tuple[str, ...]
    file_hosts: tuple[str, ...] = ()
    immutable: tuple[str, ...] = ()
    mutable: tuple[str, ...] = ()
    refuse: tuple[str, ...] = ()
    deny_tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """The body of an error in the client's own language. `reason` goes into the status line."""

    body: bytes
    media_type: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ClientSetup:
    """Ready-to-use text for one client; `{base}` stands for the repository's address, `{repo}` for its
    name, `{origin}` for scheme, host and port, `{authority}` for host and port, `{host}` for the host
    name alone. `insecure` is added where the
    base is plain http off loopback, and with `insecure_at_home` also there, `login` where reading needs a
    token. `command` is the one line printed at start."""

    client: str
    text: str
    insecure: str = ""
    command: str = ""
    insecure_at_home: bool = False
    login: str = ""


class Provider:
    """`classify` is required; the rest has defaults for ecosystems that need none of it."""

    name: ClassVar[str]
    revision: ClassVar[int] = 1
    """Raise it when `render` writes other bytes for the same input."""
    methods: ClassVar[frozenset[str]] = frozenset({"GET", "HEAD"})
    """What `classify` is asked about; a POST becomes a route of kind PASS."""
    clients: tuple[ClientSetup, ...] = ()
    """An instance may know better what its own clients need."""

    def __init__(self, site: Site) -> None:
        self.site = site

    @classmethod
    def public_upstream(cls, origin_of: PublicOrigins) -> str | None:
        """The ecosystem's public registry, or None if it has none (then nothing is mounted by
        default). Host names come from `origin_of`, never from this repository."""
        del origin_of
        return None

    def operation(self, ask: Ask) -> Operation:
        """What this request would do, for the judgement whether its caller may; asked before `classify`,
        for any of `methods`, and never raises. What is relayed (a search, an audit) is read."""
        return Operation(Right.READ, ask.repo)

    @classmethod
    def default_mounts(cls, origin_of: PublicOrigins) -> dict[str, str]:
        """Repository names and their upstreams, which are mounted where no remote is configured: by
        default the public registry under the ecosystem's own name."""
        public = cls.public_upstream(origin_of)
        return {cls.name: public} if public else {}

    @classmethod
    def reached_at(cls, upstream: str) -> str:
        """Where an upstream really answers, whose configured address is only how people call it."""
        return upstream

    def classify(self, ask: Ask) -> Route | Reply:
        """Raises `BadPath`, `NotServed`, `MethodRefused` or `Blocked`, nothing else."""
        raise NotImplementedError

    def pointed(self, route: Route, digest: str) -> Route | None:
        """The document that a route with a `pointer` means while upstream names this digest; None if
        it is no digest."""
        del route, digest
        return None

    def learn(self, route: Route, body: bytes, url: str) -> Iterable[Promise]:
        """What this index body, fetched from `url`, promises. Raises `UpstreamBroken` if the body
        is not what this route must be; such a body never replaces a good one."""
        del route, body, url
        return ()

    def render(self, route: Route, body: bytes, base: str, view: View, url: str) -> Rendered:
        """The document as the client at `base` must see it; `url` is where the body came from."""
        del route, base, view, url
        return Rendered(body)

    def derive(self, route: Route, source: BinaryIO) -> bytes | None:
        """Make the document of `route` out of the artifact it is derived from, if possible."""
        del route, source
        return None

    def problem(self, fault: Fault, ask: Ask) -> Page:
        """The error as this ecosystem's clients show it best; never a cause or a credential."""
        del ask
        return problem_details(fault)


def problem_details(fault: Fault) -> Page:
    """RFC 9457, for clients without a dialect of their own."""
    facts = {"type": "about:blank", "status": fault.status, "code": fault.code, "detail": fault.detail}
    return Page(json_text(facts), "application/problem+json")


def json_text(value: object) -> bytes:
    """A line of JSON that is no markup either, should somebody take it for a page."""
    text = json.dumps(value)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text.encode() + b"\n"


class PublicOrigins:
    """Where the public registries live, asked at run time from the package-URL library.

    A class rather than functions so that tests can hand in their own.
    """

    def repository(self, purl: str) -> str:
        """Scheme and host of the project page of this package URL, with a trailing slash."""
        from packageurl.contrib import purl2url

        return _origin(purl2url.get_repo_url(purl))  # type: ignore[no-untyped-call]

    def download(self, purl: str) -> str:
        """The whole download URL of this package URL."""
        from packageurl.contrib import purl2url

        return str(purl2url.get_download_url(purl) or "")  # type: ignore[no-untyped-call]


def _origin(url: str | None) -> str:
    parts = urlsplit(str(url or ""))
    return f"{parts.scheme}://{parts.netloc}/"
