"""Reading the corpus. An entry is `tests/corpus/<part>/<id>.yaml`:

    id: D06
    title: Content-Length that is no number
    transport: raw            # see TRANSPORTS
    cases:                    # each counts by itself
      - request: "POST /files/a HTTP/1.1\\r\\nHost: {host}\\r\\nContent-Length: +5\\r\\n\\r\\nhello"
      - target: /files/%00    # raw: a GET for this target is built around it
      - recipe: pipelined     # what would be too long to write down, built by a named function
        with: {count: 1000}
        expect: {status: [400, 200]}      # instead of the entry's
    expect: {status: [400], code: bad_path, close: true}
    must_not: [store, ask_upstream, run_second, echo]
    see: RFC 9112 section 6.3

`{host}` is filled in when it is played. In YAML double quotes `\\xff` is the byte 0xFF.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CORPUS = Path(__file__).parent
TRANSPORTS = frozenset({"raw", "upstream", "command"})
"""raw: bytes on our listener; upstream: what a hostile upstream answers; command: what an admin configures."""
_FIELDS = frozenset({"id", "title", "transport", "cases", "expect", "must_not", "see"})


@dataclass(frozen=True)
class Case:
    """One attack: `given` is what the file says of it, `expect` what must come of it."""

    entry: Entry
    number: int
    given: dict[str, Any]
    expect: dict[str, Any]

    @property
    def id(self) -> str:
        return f"{self.entry.id}-{self.number}"


@dataclass(frozen=True)
class Entry:
    id: str
    title: str
    transport: str
    must_not: tuple[str, ...]
    see: str
    cases: list[Case] = field(default_factory=list, compare=False, hash=False)


def entries(parts: str = "ABCDEFG", transport: str = "") -> list[Entry]:
    """In order of their ids. Raises ValueError for a file that is not an entry."""
    found = [_read(path) for part in parts for path in sorted((CORPUS / part).glob("*.yaml"))]
    return [entry for entry in found if transport in ("", entry.transport)]


def cases(parts: str = "ABCDEFG", transport: str = "") -> list[Case]:
    return [case for entry in entries(parts, transport) for case in entry.cases]


def _read(path: Path) -> Entry:
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    unknown = set(raw) - _FIELDS
    if unknown or raw["id"] != path.stem or raw["transport"] not in TRANSPORTS:
        raise ValueError(f"{path}: {unknown or 'wrong id or transport'}")
    entry = Entry(
        raw["id"], raw["title"], raw["transport"], tuple(raw.get("must_not", ())), raw.get("see", "")
    )
    for number, given in enumerate(raw["cases"], 1):
        expect = given.pop("expect", None) or raw.get("expect") or {}
        entry.cases.append(Case(entry, number, given, expect))
    return entry
