"""How the process that fills tells its followers what upstream said: one JSON object in one field.

Versions may differ between two processes for the time of an upgrade, so unknown members are
skipped, and what cannot be understood is a `PeerGone`: whoever follows then does without.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from artifactproxy.errors import Blocked, Fault, PeerGone, UpstreamAbsent, UpstreamFault
from artifactproxy.model import ArtifactKey, Told, UpstreamHead

PATH: Final = "/internal/fill"
HEAD: Final = "X-Peer-Head"
FOLLOWED: Final = "x-peer-fill"
"""Request field: the download that was followed until now."""
HEAD_MAX: Final = 64 * 1024  # bytes of that field
HOLD: Final = 2.0
"""Seconds after which a process that has nothing to tell yet says so. One that is silent for more than
twice as long is taken for gone, so that whoever waits behind a follower is served in about a lease's time."""
WAIT: Final = '{"v": 1, "kind": "wait"}'
_KEPT: Final = frozenset(
    {
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "docker-content-digest",
        "etag",
        "last-modified",
        "link",
        "retry-after",
    }
)
_VALUE_MAX: Final = 2048
_DETAIL_MAX: Final = 500
_CODE: Final = re.compile(r"\A[a-z0-9_]{1,40}\Z")
_NAME: Final = re.compile(r"\A[0-9a-f]{64}\Z")
_FILL: Final = re.compile(r"\A[0-9a-z-]{1,64}\Z")
_TEXT: Final = re.compile(r"\A[^\x00-\x1f\x7f]*\Z")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_INTEGERS: Final = 2**62


def lease_name(key: ArtifactKey) -> str:
    """What the coordinator knows a key by."""
    return f"{key.repo}\n{key.path}\n{key.variant}"


def fill_name(key: ArtifactKey) -> str:
    """How a key is named between processes: 64 hex digits, whatever it holds."""
    return hashlib.sha256(lease_name(key).encode("utf-8", "surrogatepass")).hexdigest()


def is_name(text: str) -> bool:
    return _NAME.match(text) is not None


def passes_on(fault: Fault) -> bool:
    """Whether this is what upstream did, or a rule of ours: it would meet every other process as
    well. Trouble of the one that filled is its own."""
    return isinstance(fault, UpstreamFault | Blocked) and not isinstance(fault, PeerGone)


# --- telling --------------------------------------------------------------------------------


def write_head(head: UpstreamHead, told: Told) -> str:
    kept = {n: _plain(v) for n, v in head.headers.items() if n in _KEPT and len(v) <= _VALUE_MAX}
    return _written(
        kind="head",
        status=head.status,
        headers=kept,
        length=head.length,
        framed=head.framed,
        url=head.url,
        fill=told.fill,
        sha256=told.sha256,
        generation=told.generation,
        ended=told.ended,
        decoded=told.decoded,
    )


def write_fault(fault: Fault) -> str:
    """Of faults that pass on only."""
    return _written(
        kind="fault",
        name=_class_of(fault).__name__,
        detail=_plain(fault.detail[:_DETAIL_MAX]),
        code=fault.code,
        status=fault.status,
        upstream_status=getattr(fault, "upstream_status", None),
        retry_after=fault.retry_after,
    )


def _written(**members: Any) -> str:
    return json.dumps({"v": 1, **members}).replace("\x7f", "\\u007f")


def _plain(text: str) -> str:
    """A tab may stand in a field (RFC 9110 section 5.5), and means no more than a blank."""
    return _CONTROL.sub(" ", text)


def _class_of(fault: Fault) -> type[Fault]:
    """The nearest class that other processes know by name."""
    return next(kind for kind in type(fault).__mro__ if kind.__name__ in _FAULTS)


# --- understanding --------------------------------------------------------------------------


def read_word(text: str) -> UpstreamHead | Fault | None:
    """The head with its `told`, or the fault that passes on, or None: ask again. Raises `PeerGone`
    for anything else."""
    try:
        return _word(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise PeerGone("the process that fills this is not understood") from error


def _word(said: object) -> UpstreamHead | Fault | None:
    if not isinstance(said, dict) or said.get("v") != 1:
        raise ValueError("version")
    match said.get("kind"):
        case "head":
            return _head(said)
        case "fault":
            return _fault(said)
        case "wait":
            return None
    raise ValueError("kind")


def _head(said: Mapping[str, Any]) -> UpstreamHead:
    headers = said.get("headers")
    if not isinstance(headers, dict):
        raise ValueError("headers")  # noqa: TRY004  one kind of error for all that is misunderstood
    told = Told(
        fill=_text(said, "fill", _FILL),
        sha256=_text(said, "sha256", _NAME) if said.get("sha256") else "",
        generation=_number(said, "generation"),
        ended=_flag(said, "ended"),
        decoded=_flag(said, "decoded"),
    )
    return UpstreamHead(
        status=_number(said, "status", 200, 599),
        headers={name: _text(headers, name, _TEXT) for name in headers if name in _KEPT},
        length=None if said.get("length") is None else _number(said, "length"),
        framed=_flag(said, "framed"),
        url=_text(said, "url", _TEXT),
        told=told,
    )


def _fault(said: Mapping[str, Any]) -> Fault:
    name, detail = said.get("name"), _text(said, "detail", _TEXT)[:_DETAIL_MAX]
    kind = _FAULTS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError("name")
    status = _number(said, "status", 400, 599)
    fault = UpstreamAbsent(detail, status=status) if kind is UpstreamAbsent else kind(detail)
    fault.code, fault.status = _text(said, "code", _CODE), status
    if said.get("retry_after") is not None:
        fault.retry_after = _seconds(said["retry_after"])
    if isinstance(fault, UpstreamFault) and said.get("upstream_status") is not None:
        fault.upstream_status = _number(said, "upstream_status", 100, 599)
    return fault


def _text(said: Mapping[str, Any], name: str, shape: re.Pattern[str]) -> str:
    value = said.get(name)
    if not isinstance(value, str) or not shape.match(value):
        raise ValueError(name)
    return value


def _number(said: Mapping[str, Any], name: str, least: int = 0, most: int = _INTEGERS) -> int:
    value = said.get(name)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(name)
    return value


def _flag(said: Mapping[str, Any], name: str) -> bool:
    value = said.get(name)
    if not isinstance(value, bool):
        raise ValueError(name)  # noqa: TRY004  one kind of error for all that is misunderstood
    return value


def _seconds(value: object) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 86400:  # type: ignore[operator]
        raise ValueError("retry_after")
    return float(value)  # type: ignore[arg-type]


def _family(root: type[Fault]) -> dict[str, type[Fault]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _family(child)
    return found


_FAULTS: Final = {
    name: kind for name, kind in (_family(UpstreamFault) | _family(Blocked)).items() if kind is not PeerGone
}
