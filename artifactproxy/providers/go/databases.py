"""Which checksum databases one repository may speak to, and where they are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from artifactproxy.errors import NotServed

_NAME = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::[0-9]{1,5})?")
_SHARED = re.compile(r"(?:ac|co|com|edu|go|gob|gov|mil|ne|net|nom|or|org)\.[a-z]{2}")
"""Domains of registrars: who shares only these has nothing in common."""


class Databases:
    """A name is allowed if its parent domain is that of an upstream's host, or if it is listed.

    The parent of `proxy.golang.example` is `golang.example`; a parent of one label, or one that a
    country shares out, connects nobody. `teacher` is the database whose answers promise files:
    the listed one that starts with `sum.`, else that name below the first upstream's parent.
    """

    def __init__(self, upstreams: Iterable[str], file_hosts: Iterable[str]) -> None:
        self._listed: dict[str, str] = {}
        for entry in file_hosts:
            url = entry if "://" in entry else f"https://{entry}"
            self._listed.setdefault(urlsplit(url).netloc.lower(), url.rstrip("/"))
        parents = [_parent(urlsplit(url).hostname or "") for url in upstreams]
        self._parents = frozenset(filter(None, parents))
        own = f"sum.{parents[0]}" if parents and parents[0] else ""
        self.teacher = next((name for name in self._listed if name.startswith("sum.")), own)

    def address(self, name: str) -> str:
        """Where the database itself is, without a trailing slash. Raises `NotServed`."""
        if name in self._listed:
            return self._listed[name]
        if _NAME.fullmatch(name) and ":" not in name and _parent(name) in self._parents:
            return f"https://{name}"
        raise NotServed(
            "this repository does not speak to that checksum database; add it to file_hosts if it should"
        )


def _parent(host: str) -> str:
    """The domain that a host lies in, "" if sharing it says nothing."""
    host = host.lower()
    try:
        ip_address(host)
    except ValueError:
        parent = host.partition(".")[2]
        good = "." in parent and _NAME.fullmatch(host) and ".." not in host
        return parent if good and not _SHARED.fullmatch(parent) else ""
    return ""
