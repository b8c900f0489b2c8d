"""What goes wrong, when: rules of an operation, a key pattern, which of the requests, and an action."""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from .replies import Reply, error_reply

Then = Literal["", "stall", "reset", "cut"]


@dataclass(frozen=True, slots=True)
class Action:
    """What happens to one request: it waits `seconds`; its body is read for `after` bytes and `then`
    follows (a request without a body: that many bytes of the answer's); `reply` is sent instead of
    executing it, or, if `executed`, after; headers in `ignored` are not seen; `alter` changes the answer."""

    seconds: float = 0.0
    after: int | None = None
    then: Then = ""
    reply: Callable[[], Reply] | None = None
    executed: bool = False
    ignored: frozenset[str] = frozenset()
    alter: Callable[[Reply], None] | None = None


def refuse(status: int, code: str = "", **headers: str) -> Action:
    """This answer, and nothing is done: `refuse(503, "SlowDown", Retry_After="1")`."""
    return Action(reply=lambda: error_reply(status, code or "InternalError", headers=_fields(headers)))


def delay(seconds: float) -> Action:
    """Done as asked, but late."""
    return Action(seconds=seconds)


def stall(after: int | None = None) -> Action:
    """Silence after so many bytes of the body; None: at once. Nothing is done."""
    return Action(after=after, then="stall")


def reset(after: int | None = None) -> Action:
    """RST after so many bytes of the body; None: at once. Nothing is done."""
    return Action(after=after, then="reset")


def cut(after: int) -> Action:
    """The answer's body ends (FIN) after so many bytes, although its head announced more."""
    return Action(after=after, then="cut")


def executed_then(status: int = 500, code: str = "InternalError") -> Action:
    """Done as asked, and the answer says that it failed."""
    return Action(reply=lambda: error_reply(status, code), executed=True)


def executed_then_hang() -> Action:
    return Action(then="stall", executed=True)


def executed_then_reset() -> Action:
    return Action(then="reset", executed=True)


def error_in_200(code: str = "InternalError", *, executed: bool = False) -> Action:
    """Status 200, and the body says that it failed: what Complete and Copy may answer."""
    return Action(reply=lambda: error_reply(200, code), executed=executed)


def ignore(*headers: str) -> Action:
    """As a store that does not know these headers: `ignore("Range")`, `ignore("If-None-Match")`."""
    return Action(ignored=frozenset(name.lower() for name in headers))


def wrong_etag() -> Action:
    def alter(reply: Reply) -> None:
        reply.headers["ETag"] = '"00000000000000000000000000000000"'

    return Action(alter=alter)


def flip(at: int = 0) -> Action:
    """One bit of the answer's byte `at` is turned over."""

    def alter(reply: Reply) -> None:
        body = bytearray(reply.body)
        body[at] ^= 1
        reply.body = bytes(body)

    return Action(alter=alter)


def garbage(body: bytes = b"<html>not what you asked for", content_type: str = "text/html") -> Action:
    """Status 200 and these bytes; nothing is done."""
    return Action(reply=lambda: Reply(200, {"Content-Type": content_type}, body))


def _fields(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(slots=True)
class Rule:
    """`op`: the name of the S3 operation or a pattern of it; `nth`: which of the requests that match,
    from 0 (None: all of them); `share`: the probability that one of these is hit."""

    op: str
    action: Action
    key: str = "*"
    nth: Container[int] | None = None
    share: float = 1.0
    seen: int = 0
    hits: int = 0
    random: random.Random = field(default_factory=lambda: random.Random(0))

    def meets(self, op: str, key: str) -> bool:
        if not (fnmatchcase(op, self.op) and fnmatchcase(key, self.key)):
            return False
        number, self.seen = self.seen, self.seen + 1
        if (self.nth is not None and number not in self.nth) or self.random.random() >= self.share:
            return False
        self.hits += 1
        return True
