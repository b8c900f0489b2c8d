"""What a server wants to know before it answers: `WWW-Authenticate`, and the tokens that satisfy it.

References: RFC 9110 section 11.6.1 (challenges), RFC 6750 (bearer tokens), the token authentication of
the docker registry ("Token Authentication Specification"), which all registries speak.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urlsplit

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  # RFC 9110 5.6.2, no secret
_SCHEME: Final = re.compile(rf"[\s,]*({_TOKEN})(?=\s|,|\Z)(?!\s*=)\s*")
_PARAMETER: Final = re.compile(rf"[\s,]*({_TOKEN})\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|({_TOKEN}))")
_OPAQUE: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=\s|,|\Z)\s*")
_BEARER: Final = re.compile(r"[\x21-\x7e]{1,65536}")
_LONGEST: Final = 8192
_USUAL_LIFE: Final = 60.0
_LONGEST_LIFE: Final = 86_400.0
_USED_SHARE: Final = 0.85  # of a token's life: it must still hold when it arrives


@dataclass(frozen=True, slots=True)
class Challenge:
    """`scheme` and the names of parameters are lower-case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grant:
    """A token and the seconds for which it may be used."""

    token: str = field(repr=False)
    seconds: float


def challenges(text: str) -> list[Challenge]:
    """Every challenge of a header; what stands behind something that cannot be read is not read."""
    found: list[Challenge] = []
    at, text = 0, text[:_LONGEST]
    while scheme := _SCHEME.match(text, at):
        at = scheme.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(text, at):
            at = parameter.end()
            quoted = parameter[2]
            value = parameter[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters.setdefault(parameter[1].lower(), value)
        if not parameters and (opaque := _OPAQUE.match(text, at)):
            at = opaque.end()
        found.append(Challenge(scheme[1].lower(), parameters))
    return found


def token_url(challenge: Challenge) -> str:
    """Where a token for this challenge is asked for, "" if it names no place that can be asked."""
    realm = challenge.parameters.get("realm", "")
    try:
        parts = urlsplit(realm)
    except ValueError:
        return ""
    bad = not realm.isascii() or not realm.isprintable() or set(realm) & set(' "<>\\')
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or bad:
        return ""
    query = "&".join(filter(None, (parts.query, *_asked(challenge.parameters))))
    return f"{parts.scheme}://{parts.netloc}{parts.path or '/'}" + (f"?{query}" if query else "")


def _asked(parameters: Mapping[str, str]) -> Iterator[str]:
    if service := parameters.get("service", ""):
        yield f"service={quote(service, safe='')}"
    for scope in parameters.get("scope", "").split():
        yield f"scope={quote(scope, safe=':,/')}"


def grant_of(body: bytes) -> Grant | None:
    """What a token server gave; None if that is no token."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    token = said.get("token") or said.get("access_token")
    if not isinstance(token, str) or not _BEARER.fullmatch(token):
        return None
    life = said.get("expires_in")
    seconds = float(life) if isinstance(life, int) and not isinstance(life, bool) else _USUAL_LIFE
    return Grant(token, min(max(seconds, _USUAL_LIFE), _LONGEST_LIFE) * _USED_SHARE)


def may_give(realm: str, upstream: str) -> bool:
    """Whether a token server (`scheme://host:port`) may be believed in for an upstream that is no part
    of it: over https, and on a host in the domain in which the upstream's own host is."""
    asked, known = urlsplit(realm), urlsplit(upstream)
    if asked.scheme != "https" or known.scheme != "https" or asked.port not in (None, 443):
        return False
    domain = (known.hostname or "").partition(".")[2]
    host = asked.hostname or ""
    if "." not in domain or domain.replace(".", "").isdigit() or ":" in domain:
        return False
    return host == domain or host.endswith(f".{domain}")
