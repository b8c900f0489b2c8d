"""The words of the checker: what was looked at, what was found, what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from artifactproxy.model import ArtifactKey

Refetch = Callable[[ArtifactKey], Awaitable[bool]]
"""Fetch a cached file again, demanding the digest that is known of it; True if it is held now."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One breach. `invariant` is its number (`I01`), `kind` a stable slug, `subject` what it is
    about (`repo/path`, a digest, a file name), `detail` a sentence without secrets. A `note` is
    told and breaks nothing."""

    invariant: str
    kind: str
    subject: str
    detail: str
    repaired: bool | None = None
    """None: no repair was tried."""
    note: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {
            "invariant": self.invariant,
            "kind": self.kind,
            "subject": self.subject,
            "detail": self.detail,
            "repaired": self.repaired,
            "note": self.note,
        }


@dataclass(slots=True)
class Tally:
    """How much was checked, by name of what (`rows`, `blobs`, `bytes`), so that "nothing found" is
    never "nothing looked at"; and what was found. Notes are counted apart."""

    checked: Counter[str] = field(default_factory=Counter)
    found: int = 0
    repaired: int = 0
    notes: int = 0

    def add(self, finding: Finding) -> None:
        if finding.note:
            self.notes += 1
            return
        self.found += 1
        self.repaired += finding.repaired is True

    @property
    def code(self) -> int:
        """The exit code: 0 clean, 1 found and all repaired, 3 found and not all repaired."""
        return exit_code(self.found, self.repaired)

    def as_dict(self) -> dict[str, Any]:
        return {
            "checked": dict(self.checked),
            "found": self.found,
            "repaired": self.repaired,
            "notes": self.notes,
        }


def exit_code(found: int, repaired: int) -> int:
    return 0 if not found else 1 if repaired == found else 3
