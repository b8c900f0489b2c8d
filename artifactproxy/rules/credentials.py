"""What a caller shows: the `Authorization` field, tokens and short-lived tickets, read and compared.

A token is `apx_`, 11 characters that name it, 33 that are secret (192 random bits), and 6 of a
checksum (CRC-32 of all before), digits and letters throughout. So a leaked one is told from anything
else without asking anybody, and is one word for a double click, a shell, a URL and a netrc.
Only its SHA-256 is kept: of a secret with so many bits no slow hash is needed.

A ticket is what the token endpoint of a container registry gives for a token: who it was, how much of
it may be used, and until when, under HMAC-SHA256 (RFC 2104). It holds for nothing that the
token itself does not hold for at that moment.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import zlib
from dataclasses import dataclass
from typing import Final

from artifactproxy.model import Right

NOISE_BYTES: Final = 32
TICKET_SECONDS: Final = 300
"""How long a ticket holds. Clients take less than 60 s for 60."""
HEADER_MAX: Final = 4096  # characters of an Authorization field that are looked at

_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_BYTES: Final = 8
_TOKEN: Final = re.compile(r"\Aapx_(?P<id>[0-9A-Za-z]{11})[0-9A-Za-z]{33}(?P<sum>[0-9A-Za-z]{6})\Z")
_TICKET: Final = re.compile(
    r"\Aapxt_(?P<id>[0-9A-Za-z]{11}|-)_(?P<most>[1-4])_(?P<until>[0-9]{1,12})_(?P<mac>[0-9a-f]{64})\Z"
)
_SHOWN: Final = re.compile(
    r"apx_([0-9A-Za-z]{11})[0-9A-Za-z]{39}|(apxt_[0-9A-Za-z-]{1,11}_[1-4]_[0-9]{1,12})_[0-9a-f]{64}"
)
_NOBODY: Final = "-"


@dataclass(frozen=True, slots=True)
class Ticket:
    """`id` is that of the token, "" of a ticket for nobody; `most` the highest right it serves for."""

    id: str
    most: Right


def secret_in(field: str) -> str | None:
    """The password or token of an `Authorization` field (RFC 7617, RFC 6750); the user name of Basic is
    of no account. None if there is no such thing in it."""
    if len(field) > HEADER_MAX:
        return None
    scheme, _, rest = field.strip().partition(" ")
    rest = rest.strip()
    if scheme.lower() == "bearer":
        return rest or None
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(rest, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    return text.partition(":")[2] or None


def mint(noise: bytes) -> str:
    """A token out of `NOISE_BYTES` bytes that nobody can guess."""
    if len(noise) != NOISE_BYTES:
        raise ValueError("not as many random bytes as a token needs")
    body = f"apx_{_digits(noise[:_ID_BYTES], 11)}{_digits(noise[_ID_BYTES:], 33)}"
    return body + _checksum(body)


def token_id(text: str) -> str:
    """The public part of a token; "" for what is no token, or one with a mistake in it."""
    found = _TOKEN.match(text)
    if found is None or _checksum(text[:-6]) != found["sum"]:
        return ""
    return found["id"]


def masked(text: str) -> str:
    """`text` with what is secret of tokens and tickets in it left out: which one it was can be told."""
    if "apx" not in text:
        return text
    return _SHOWN.sub(lambda found: f"apx_{found[1]}..." if found[1] else f"{found[2]}_...", text)


def fingerprint(token: str) -> str:
    """What is kept of a token, and compared in constant time: 64 hex digits."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def is_ticket(text: str) -> bool:
    return _TICKET.match(text) is not None


def seal_ticket(key: bytes, held: Ticket, until: float) -> str:
    """A ticket until `until`, POSIX seconds, under this key."""
    said = f"apxt_{held.id or _NOBODY}_{held.most:d}_{int(until)}"
    return f"{said}_{_mac(key, said)}"


def open_ticket(key: bytes, text: str, now: float) -> Ticket | None:
    """None for one that is over, lasts longer than ours do, or was not sealed with this key."""
    found = _TICKET.match(text)
    if found is None or not hmac.compare_digest(found["mac"], _mac(key, text[: -len(found["mac"]) - 1])):
        return None
    if not 0 <= int(found["until"]) - now <= 2 * TICKET_SECONDS:
        return None
    return Ticket("" if found["id"] == _NOBODY else found["id"], Right(int(found["most"])))


def _mac(key: bytes, said: str) -> str:
    return hmac.new(key, said.encode("ascii"), hashlib.sha256).hexdigest()


def _checksum(body: str) -> str:
    return _digits(zlib.crc32(body.encode("ascii")).to_bytes(4, "big"), 6)


def _digits(raw: bytes, length: int) -> str:
    """A number in base 62, with leading zeros."""
    number = int.from_bytes(raw, "big")
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
