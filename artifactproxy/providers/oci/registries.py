"""Where registries are, how their API is addressed, and what of a query is asked on.

The hosts of the four registries that are mounted by default are public knowledge of this ecosystem:
they stand in the names of its images.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlsplit

from artifactproxy.errors import BadPath
from artifactproxy.rules.oci.addresses import named
from artifactproxy.rules.paths import decode_segment

PUBLIC: Final = {
    "docker.io": "https://registry-1.docker.io/",
    "ghcr.io": "https://ghcr.io/",
    "quay.io": "https://quay.io/",
    "registry.k8s.io": "https://registry.k8s.io/",
}
"""Name of the repository, which is the registry's name in references to its images, and its API."""

# What is said to us, or is a parameter of something else.
_NOT_ASKED_ON: Final = frozenset({"ns", "digest", "mount", "from", "artifactType"})
_PAGE_MAX: Final = 1024
_FILTER: Final = "artifactType"


def host_of(url: str) -> str:
    """The registry as references to its images name it: host and port."""
    return named(urlsplit(url).netloc.rpartition("@")[2])


def is_docker_hub(url: str) -> bool:
    return host_of(url) == "docker.io"


def api_of(upstream: str) -> str:
    """The address of the API, ending in `/v2/` or in what stands behind it; `upstream` ends in `/`."""
    if is_docker_hub(upstream):
        return f"{PUBLIC['docker.io']}v2/"
    return upstream if "/v2/" in urlsplit(upstream).path else f"{upstream}v2/"


def page_query(query: str) -> str:
    """The page that a client asks for, in one spelling. Of a judged query.

    Registries name a place in a list by parameters of their own, and hand out links with them: one that
    were dropped would lead to the first page again, for ever. Raises `BadPath` for a longer one than any.
    """
    found: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, _, value = pair.partition("=")
        found.setdefault(decode_segment(name), decode_segment(value))
    names = sorted(found.keys() - _NOT_ASKED_ON - {""}, key=lambda name: (name != "n", name != "last", name))
    page = "&".join(
        f"{quote(name, safe='')}={quote(found[name], safe=':=')}" for name in names if found[name]
    )
    if len(page) > _PAGE_MAX:
        raise BadPath("no page of a list is named by so much")
    return page


def with_filter(page: str, only: str) -> str:
    """The query under which a filtered list is kept."""
    filtered = f"{_FILTER}={quote(only, safe='/')}" if only else ""
    return "&".join(filter(None, (filtered, page)))


def filter_of(path: str) -> str:
    """The artifact type in the query of a kept list's path."""
    query = path.partition("?")[2]
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if name == _FILTER:
            return decode_segment(value)
    return ""
