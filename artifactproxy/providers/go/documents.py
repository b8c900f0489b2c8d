"""What upstream's documents say: `.info` files, and answers of a checksum database.

References: the Go modules reference (GOPROXY protocol, checksum database), the documentation of
`golang.org/x/mod/sumdb/note` for signed notes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from artifactproxy.errors import UpstreamBroken
from artifactproxy.providers.go import names
from artifactproxy.rules.gosum import parse_h1

_NOTE = re.compile(
    r"go\.sum database tree\n(?:0|[1-9][0-9]{0,18})\n[A-Za-z0-9+/]{43}=\n(?:[^\n]+\n)*"
    r"\n(?:\u2014 [^\s+]+ [A-Za-z0-9+/]+={0,2}\n)+"
)
_RECORD_ID = re.compile(r"0|[1-9][0-9]{0,18}")
_LONGEST_TIME = 64


@dataclass(frozen=True, slots=True)
class Info:
    """A version that upstream names, and when its commit was made (POSIX seconds)."""

    version: str
    time: float | None


@dataclass(frozen=True, slots=True)
class Sums:
    """Hex checksums of a module zip and of its go.mod."""

    zip: str
    mod: str


def read_info(body: bytes) -> Info:
    """Raises `UpstreamBroken` unless it is a JSON object that names a canonical version."""
    try:
        facts = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _broken("a description of a version that is not JSON") from error
    version = facts.get("Version") if isinstance(facts, dict) else None
    if not isinstance(version, str) or not names.is_canonical(version):
        raise _broken("a description of a version without a valid version")
    return Info(version, _posix(facts.get("Time")))


def _posix(text: object) -> float | None:
    """POSIX seconds of an RFC 3339 time; None for anything else and for Go's zero time."""
    if not isinstance(text, str) or len(text) > _LONGEST_TIME:
        return None
    try:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return moment.timestamp() if moment.year > 1 else None
    except (ValueError, OverflowError):
        return None


def read_lookup(body: bytes, module: str, version: str) -> Sums:
    """The record that a checksum database keeps of one version, after its form was checked.

    The signature is not: that is the client's business, which knows the key. Raises
    `UpstreamBroken` if it is no such answer or one about something else.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _broken("a checksum record that is not text") from error
    record, blank, note = text.partition("\n\n")
    number, *lines = record.split("\n")
    if not blank or not _RECORD_ID.fullmatch(number) or len(lines) != 2 or not _NOTE.fullmatch(note):
        raise _broken("something that is no checksum record")
    return Sums(_sum(lines[0], f"{module} {version}"), _sum(lines[1], f"{module} {version}/go.mod"))


def _sum(line: str, named: str) -> str:
    start, _, text = line.rpartition(" ")
    found = parse_h1(text)
    if start != named or found is None:
        raise _broken("a checksum record of something else")
    return found


def check_tree(body: bytes) -> None:
    """Raises `UpstreamBroken` unless it has the form of a signed tree head."""
    try:
        good = _NOTE.fullmatch(body.decode("utf-8")) is not None
    except UnicodeDecodeError:
        good = False
    if not good:
        raise _broken("something that is no signed tree head")


def _broken(what: str) -> UpstreamBroken:
    return UpstreamBroken(f"upstream sent {what}", code="bad_index")
