"""How a repository that takes pushes is configured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Local:
    """With `immutable_tags` a tag names one manifest until it is deleted; without `deletes` nothing is."""

    name: str
    immutable_tags: bool = False
    deletes: bool = True
