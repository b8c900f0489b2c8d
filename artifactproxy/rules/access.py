"""Who may do what: scopes of tokens against operations. Everything that is not granted is denied.

A scope is written `read`, `push` or `admin`, with `:PATTERN` for less than everything. The part of a
pattern before its first `/` is for the name of the repository, what follows it for the name of the
image inside it; without a `/` it covers all images. `*` stands for any text, in the name of an image
also across its slashes.

    read                 everything that this instance has
    push:images          any image of the repository `images`
    push:images/team/*   images/team/app, images/team/web/front
    admin:corp-*         repositories whose names begin so

Push includes reading, admin includes all: deleting too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

from artifactproxy.model import Operation, Right, Scope

GRANTED: Final = {"read": Right.READ, "push": Right.PUSH, "admin": Right.ADMIN}
EVERYBODY: Final = (Scope(Right.READ),)
"""What a caller without a token may do where reading is open."""

_WORDS: Final = {right: word for word, right in GRANTED.items()}
# No `?` and no `[`: what a pattern may hold is what names may hold, and `*`.
_PATTERN: Final = re.compile(r"\A[a-z0-9._*-]{1,64}(?:/[a-z0-9._*/-]{1,255})?\Z")


def parse_scope(text: str) -> Scope:
    """Raises ValueError with a sentence that says what is wrong and what is right."""
    word, colon, pattern = text.partition(":")
    right = GRANTED.get(word)
    if right is None:
        raise ValueError(
            f"{text!r} is no scope; write read, push or admin, with :PATTERN for some names only"
        )
    if not colon:
        return Scope(right)
    if not _PATTERN.match(pattern):
        raise ValueError(
            f"{pattern!r} is no pattern: it is REPOSITORY or REPOSITORY/IMAGE, in lower case, and * stands for any text"
        )
    return Scope(right, pattern)


def scope_text(scope: Scope) -> str:
    """As it is written; reading it gives the same scope."""
    word = _WORDS[scope.right]
    return word if scope.pattern == "*" else f"{word}:{scope.pattern}"


def may(scopes: Iterable[Scope], operation: Operation) -> bool:
    """Whether one of these scopes covers this operation."""
    right, repo, name = operation.right, operation.repo, operation.name
    for scope in scopes:  # noqa: SIM110  (asked for every request: half the time of any())
        if scope.right >= right and _covers(scope.pattern, repo, name):
            return True
    return False


def may_see(scopes: Iterable[Scope], repo: str) -> bool:
    """Whether anything in this repository may be read: then that it exists is no secret."""
    return any(_covers_some(scope.pattern, repo) for scope in scopes)


def lowered(scopes: tuple[Scope, ...], most: Right) -> tuple[Scope, ...]:
    """The same scopes with no right above `most`."""
    if most is Right.ADMIN:
        return scopes
    return tuple(Scope(min(scope.right, most), scope.pattern) for scope in scopes)


@lru_cache(maxsize=4096)
def _covers(pattern: str, repo: str, name: str) -> bool:
    if pattern == "*":
        return True
    repos, slash, names = pattern.partition("/")
    if not repo or not fnmatchcase(repo, repos):
        return False
    return not slash or (bool(name) and fnmatchcase(name, names))


@lru_cache(maxsize=4096)
def _covers_some(pattern: str, repo: str) -> bool:
    return fnmatchcase(repo, pattern.partition("/")[0])
