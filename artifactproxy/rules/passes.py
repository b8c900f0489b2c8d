"""Passes by which the processes of one cluster know each other: a keyed digest over what is asked.

HMAC-SHA256 (RFC 2104) over a version, the method, the subject and a moment, so that a pass serves for
one thing and for two minutes at most, with clocks that differ by up to one. Who can read the
traffic can use a pass meanwhile; TLS between the replicas is what helps against that.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

HEADER: Final = "X-Peer-Pass"
LIFE: Final = 60.0  # seconds
_VERSION: Final = "v1"
_PASS: Final = re.compile(r"\Av1 (0|[1-9][0-9]{0,11}) ([0-9a-f]{64})\Z")


def seal(secret: str, method: str, subject: str, now: float) -> str:
    """A pass for `method` on `subject` (no line breaks in either) until `LIFE` seconds from `now`."""
    expires = int(now + LIFE)
    return f"{_VERSION} {expires} {_mac(secret, method, subject, expires)}"


def holds(secret: str, text: str, method: str, subject: str, now: float) -> bool:
    """Whether `text` is such a pass, made under this secret within `LIFE` seconds of `now` by either
    clock. Nothing holds under an empty secret."""
    found = _PASS.match(text)
    if found is None or not secret:
        return False
    expires = int(found[1])
    right = hmac.compare_digest(found[2], _mac(secret, method, subject, expires))
    return right and abs(expires - LIFE - now) <= LIFE


def _mac(secret: str, method: str, subject: str, expires: int) -> str:
    said = "\n".join((_VERSION, method, subject, str(expires)))
    key, message = (text.encode("utf-8", "surrogatepass") for text in (secret, said))
    return hmac.new(key, message, hashlib.sha256).hexdigest()
