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
        transport: command                # likewise
    expect: {status: [400], code: bad_path, close: true}
    must_not: [store, ask_upstream, run_second, echo]
    see: RFC 9112 section 6.3
    over: {by: [location, html]}      # a family: every case counts once for each; a case with a
                                      # list of its own under that key counts once for each of those
    each: {dots: [.., "%2e%2e"]}      # words: a case with `{dots}` in it counts once for each of its values; a
                                      # case may have an `each` of its own, which adds to the entry's
                                      # (in `expect`, `python: {...}` holds for that parser only)
    site: public                      # the configuration it is played against, where not the usual one
    nginx: {status: [400, 404]}       # expected otherwise behind nginx; `silent`: it answers with no HTTP/1.1

`{host}` is filled in when it is played. In YAML double quotes `\\xff` is the byte 0xFF.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import yaml

CORPUS = Path(__file__).parent
TRANSPORTS = frozenset({"raw", "upstream", "command", "crowd"})
"""raw: bytes on our listener; upstream: what a hostile upstream answers; command: what an admin configures or
types; crowd: many or expensive requests, made by a recipe."""
_FIELDS = frozenset(
    {"id", "title", "transport", "cases", "expect", "must_not", "see", "over", "each", "site", "nginx"}
)


@dataclass(frozen=True)
class Case:
    """One attack: `given` is what the file says of it, `expect` what must come of it."""

    entry: Entry
    number: int
    given: dict[str, Any]
    expect: dict[str, Any]
    transport: str

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
    return [entry for entry in found if transport in ("", *(case.transport for case in entry.cases))]


def cases(parts: str = "ABCDEFG", transport: str = "") -> list[Case]:
    """Those that this transport plays."""
    every = [case for entry in entries(parts, transport) for case in entry.cases]
    return [case for case in every if transport in ("", case.transport)]


def _read(path: Path) -> Entry:
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    unknown = set(raw) - _FIELDS
    if unknown or raw["id"] != path.stem or raw["transport"] not in TRANSPORTS:
        raise ValueError(f"{path}: {unknown or 'wrong id or transport'}")
    entry = Entry(
        raw["id"], raw["title"], raw["transport"], tuple(raw.get("must_not", ())), raw.get("see", "")
    )
    shared = {key: raw[key] for key in ("site", "nginx") if key in raw}
    over = _expanded(raw["cases"], raw.get("over", {}))
    spelled = (each for case in over for each in _spelled({**shared, **case}, raw.get("each", {})))
    for number, given in enumerate(spelled, 1):
        expect = given.pop("expect", None) or raw.get("expect") or {}
        transport = given.pop("transport", entry.transport)
        if transport not in TRANSPORTS:
            raise ValueError(f"{path}: case {number} has a wrong transport")
        entry.cases.append(Case(entry, number, given, expect, transport))
    return entry


def _expanded(cases: list[dict[str, Any]], over: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Each case once for every combination of what `over` or the case itself lists under its keys."""
    for case in cases:
        lists = [case.get(key, values) for key, values in over.items()]
        for chosen in product(*(each if isinstance(each, list) else [each] for each in lists)):
            yield {**case, **dict(zip(over, chosen, strict=True))}


def _spelled(case: dict[str, Any], shared: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    """The case once for each combination of the values of the words that occur in its texts."""
    own = case.pop("each", {})
    used = {word: values for word, values in {**shared, **own}.items() if f"{{{word}}}" in str(case)}
    for chosen in product(*used.values()):
        yield _replaced(case, dict(zip(used, chosen, strict=True)))


def _replaced(value: Any, words: dict[str, str]) -> Any:
    if isinstance(value, str):
        for word, text in words.items():
            value = value.replace(f"{{{word}}}", text)
        return value
    if isinstance(value, dict):
        return {key: _replaced(inner, words) for key, inner in value.items()}
    return [_replaced(inner, words) for inner in value] if isinstance(value, list) else value
