"""The vocabulary of the tables in `tables/`: one module per provider, named like it.

A table defines `SITE`, `CASES`, and where documents are read `SAMPLES` and `links`; `ALSO_ALLOWED`
are origins that its provider may go to without their being listed in `SITE`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artifactproxy.errors import Fault
from artifactproxy.model import Kind

SAMPLES = Path(__file__).parent / "samples"

ARTIFACT, INDEX, PASS = Kind.ARTIFACT, Kind.INDEX, Kind.PASS


@dataclass(frozen=True)
class Case:
    """`expect` is the kind of the route, the status of a reply, or the class of a fault; `fields`
    are compared with attributes of the `Route` or `Reply`."""

    description: str
    path: str
    expect: Kind | int | type[Fault]
    source: str | None = None
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)


def case(description: str, path: str, expect: Any, source: str | None = None, **more: Any) -> Case:
    query, headers = more.pop("query", ""), more.pop("headers", {})
    return Case(description, path, expect, source, query, headers, more)


@dataclass(frozen=True)
class Sample:
    """A document at `path`, fetched from `url`; golden files share the stem `name`:
    `<name>.in`, `<rendered>` as this client sees it, and `<name>.promises`."""

    name: str
    path: str
    url: str
    rendered: str
    accept: str = ""
    base: str = "https://proxy.example/prefix/repo"
    hidden: frozenset[str] = frozenset()
