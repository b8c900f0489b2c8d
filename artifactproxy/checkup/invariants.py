"""What must be true of a row, as pure judgements. Numbers as in `docs/checkup.md`.

Nothing here looks at the medium: a row is judged against the promise, the blob's row and the
configuration that stand beside it, and against `now`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from artifactproxy.checkup.findings import Finding
from artifactproxy.errors import Fault
from artifactproxy.model import ArtifactKey, Ask, BlobRef, CacheEntry, Kind, Promise, Route
from artifactproxy.ports.checkup import BlobRow, Held
from artifactproxy.providers._base import Provider

AHEAD = 300.0  # seconds that a clock may have been set back
TTL_MAX = 10 * 365 * 86400.0

_SHA256 = re.compile(r"[0-9a-f]{64}")
_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")
_SIGNED = re.compile(
    r"[?&](?:x-(?:amz|goog|oss)-(?:signature|credential|security-token)|signature|sig|access_token|token)=",
    re.IGNORECASE,
)
_TIMES = ("fetched_at", "checked_at", "first_seen", "last_used")


@dataclass(frozen=True, slots=True)
class Known:
    """What rows are judged against. `provider_of` is None where no configuration is at hand;
    `last_generation` is the largest number that was given."""

    now: float
    last_generation: int
    provider_of: Callable[[str], Provider | None] | None = None


def named(key: ArtifactKey) -> str:
    """A key as people write it."""
    return f"{key.repo}/{key.path}" + (f" ({key.variant})" if key.variant else "")


def judge_row(held: Held, known: Known) -> Iterator[Finding]:
    """What is wrong with a row by itself; whether its blob is there is asked elsewhere."""
    entry, subject = held.entry, named(held.entry.key)
    shape = misshapen(entry)
    if shape:
        yield Finding("I23", "row", subject, shape)
        return
    if entry.generation > known.last_generation:
        yield Finding(
            "I16",
            "generation",
            subject,
            f"generation {entry.generation} was never given: the last is {known.last_generation}",
        )
    wrong = misdated(entry, known.now)
    if wrong:
        yield Finding("I17", wrong[0], subject, wrong[1])
    if tells_secret(entry.source, signed=True):
        yield Finding("I20", "credential", subject, "the address it came from holds a credential")
    if entry.ref is not None:
        yield from _judge_blob_row(entry.ref, held.blob, subject)
        yield from _judge_promise(entry, held.promise, subject)
    yield from _judge_name(entry.key, known, subject)


def judge_promise(promise: Promise) -> Iterator[Finding]:
    subject = named(promise.key)
    for field in fields(promise):
        if field.type == "str" and not isinstance(getattr(promise, field.name), str):
            yield Finding("I23", "promise", subject, f"its {field.name} is no text")
            return
    if tells_secret(promise.url, signed=False):
        yield Finding("I20", "credential", subject, "the address it was promised at holds a credential")


def misshapen(entry: CacheEntry) -> str:
    """What no writer of ours could have put into a row: "" or a sentence."""
    for field in fields(entry):
        value: Any = getattr(entry, field.name)
        if field.type == "str" and not isinstance(value, str):
            return f"its {field.name} is no text"
        if field.type == "float" and not _is_number(value):
            return f"its {field.name} is no number"
        if field.type == "float | None" and value is not None and not _is_number(value):
            return f"its {field.name} is no number"
        if field.type == "int" and type(value) is not int:
            return f"its {field.name} is no whole number"
    if not all(isinstance(part, str) for part in (entry.key.repo, entry.key.path, entry.key.variant)):
        return "its key is no text"
    ref = entry.ref
    if ref is None:
        return "" if entry.status in (404, 410) else f"it has no blob and status {entry.status}"
    if not isinstance(ref.sha256, str) or not _SHA256.fullmatch(ref.sha256):
        return "it names a blob that cannot be"
    return "" if type(ref.size) is int and ref.size >= 0 else "the size of its blob is no size"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def misdated(entry: CacheEntry, now: float) -> tuple[str, str] | None:
    """Kind and sentence, if a time lies ahead or the time to live is none."""
    for name in _TIMES:
        ahead = getattr(entry, name) - now
        if ahead > AHEAD:
            return "time", f"{name} lies {ahead:.0f} s ahead"
    if entry.ttl is not None and not 0 <= entry.ttl <= TTL_MAX:
        return "ttl", f"a time to live of {entry.ttl:.0f} s"
    return None


def in_time(entry: CacheEntry, now: float) -> CacheEntry:
    """The row with its times and its time to live brought within bounds."""
    times = {name: min(getattr(entry, name), now) for name in _TIMES}
    ttl = entry.ttl if entry.ttl is None else min(max(entry.ttl, 0.0), TTL_MAX)
    return replace(entry, **times, ttl=ttl)


def tells_secret(url: str, *, signed: bool) -> bool:
    """Userinfo in a URL; with `signed` also a query that grants access."""
    return bool(_USERINFO.search(url) or (signed and _SIGNED.search(url)))


def without_secret(url: str, *, signed: bool) -> str:
    url = _USERINFO.sub("", url)
    return url.partition("?")[0] if signed and _SIGNED.search(url) else url


def _judge_blob_row(ref: BlobRef, row: BlobRow | None, subject: str) -> Iterator[Finding]:
    if row is None:
        yield Finding("I14", "uncounted", subject, f"its blob {ref.sha256} is not in the sum of what is held")
    elif row.doomed_at is not None:
        yield Finding("I15", "doomed", subject, f"its blob {ref.sha256} is marked for deletion")
    elif row.ref.size != ref.size:
        yield Finding(
            "I14",
            "miscounted",
            subject,
            f"its blob {ref.sha256} is counted with {row.ref.size} bytes and named with {ref.size}",
        )


def _judge_promise(entry: CacheEntry, promise: Promise | None, subject: str) -> Iterator[Finding]:
    said = promise.digest("sha256") if promise else None
    if entry.kind is Kind.ARTIFACT and entry.ref and promise and said and said.hex != entry.ref.sha256:
        yield Finding(
            "I24",
            "contradiction",
            subject,
            f"{promise.taught_by or 'an index'} promises {said.hex}, the row names {entry.ref.sha256}",
        )


def _judge_name(key: ArtifactKey, known: Known, subject: str) -> Iterator[Finding]:
    provider = known.provider_of(key.repo) if known.provider_of else None
    if provider is None:
        return
    path, _, query = key.path.partition("?")
    try:
        route = provider.classify(Ask(key.repo, path, query=query))
    except Fault as fault:
        yield Finding("I18", "unaddressable", subject, f"no request reaches it: {fault.detail}", note=True)
        return
    if not isinstance(route, Route):
        yield Finding("I18", "unaddressable", subject, "no request reaches it", note=True)
    elif (route.key.repo, route.key.path) != (key.repo, key.path):
        yield Finding("I19", "name", subject, f"a request for it is kept as {named(route.key)}")
