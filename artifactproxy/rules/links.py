"""`Link` headers that name the next page of a list (RFC 8288, OCI distribution specification 1.1)."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

_LINK: Final = re.compile(
    r"\s*<([^<>\s]{1,4096})>((?:\s*;\s*[A-Za-z*]+(?:=(?:\"[^\"]*\"|[^\s\",;]+))?)*)\s*(?:,|$)"
)
_NEXT: Final = re.compile(r";\s*rel\s*=\s*(?:\"([^\"]*)\"|([^\s\",;]+))", re.IGNORECASE)
_QUERY: Final = re.compile(r"[A-Za-z0-9._~!$'()*+,;:@/?%&=-]{1,2048}")


def next_query(link: str) -> str:
    """The query of the target whose relation is `next`, "" if there is none that can be kept. Only the
    query counts: where the list lies is known, and is not for upstream to say."""
    at = 0
    while found := _LINK.match(link, at):
        rel = _NEXT.search(found[2])
        if rel is not None and "next" in (rel[1] or rel[2] or "").lower().split():
            return _query(found[1])
        at = found.end()
    return ""


def _query(target: str) -> str:
    try:
        query = urlsplit(target).query
    except ValueError:
        return ""
    return query if _QUERY.fullmatch(query) else ""


def next_link(address: str, query: str) -> str:
    """The header's value for a list at `address`."""
    return f'<{address}?{query}>; rel="next"'
