"""The words that fills, the table and the pipeline share: what is asked for, what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Literal

from artifactproxy.engine.mounts import Mount
from artifactproxy.engine.spool import Spool
from artifactproxy.engine.temps import LeftOvers
from artifactproxy.engine.unrecorded import Unrecorded
from artifactproxy.engine.waiting import Waiting
from artifactproxy.errors import Blocked, Busy, Fault, IndexUnavailable, StoreUnavailable, UpstreamFault
from artifactproxy.limits import Limits
from artifactproxy.model import (
    FIRST_SIGHT,
    BlobRef,
    CacheEntry,
    Digest,
    Found,
    Header,
    Kind,
    Promise,
    Route,
)
from artifactproxy.ports import (
    BlobStore,
    Clock,
    Coordinator,
    Ledger,
    LocalFile,
    MetadataIndex,
    Observer,
    Upstream,
)

Locate = Callable[[BlobRef], Awaitable[LocalFile | None]]
"""How the engine opens what is held: `BlobStore.locate`, with the check of first use."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A body is arriving in `spool`; `Fill.entry` describes it. `bypass` says why it will not be
    stored; `headers` are what a bypassed body must carry (its content coding)."""

    spool: Spool
    bypass: str = ""
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """An index body to read or render: by content from the store, or still in a spool."""

    ref: BlobRef
    url: str
    spool: Spool | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """No new body: the row that answers, and how it came to; `landed`: another process wrote it."""

    entry: CacheEntry
    how: Literal["refreshed", "absent", "stale", "landed"]
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Why a fill is made, what is already held, and what is promised. `seen` is the generation of the
    row that was found, -1 where there was none."""

    reason: str
    held: CacheEntry | None = None
    may_serve_stale: bool = False
    promise: Promise | None = None
    request_id: str = ""
    caller: str = ""
    lost: CacheEntry | None = None
    """The row whose bytes are gone and are fetched once more: nobody's use, and of an artifact only
    the same bytes will do."""
    seen: int = -1
    withhold: str = ""
    """Why what comes must not be stored, "" if it may: then it is a bypass like others, still one for
    all who ask."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """Whole bodies that clients are sent to the store for, where it has addresses: those of artifacts, with
    `which` "all" also documents that leave as they are stored; from `from_bytes` on, by an address that
    holds for `seconds`."""

    which: Literal["blobs", "all"]
    from_bytes: int = 2**20
    seconds: float = 900.0


@dataclass(slots=True)
class Tools:
    """What every fill works with; built once by wiring."""

    store: BlobStore
    index: MetadataIndex
    ledger: Ledger
    upstream: Upstream
    coordinator: Coordinator
    observer: Observer
    clock: Clock
    limits: Limits
    new_spool: Callable[[int | None, Promise | None], Spool]
    ready_for: Callable[[int], None]
    learn: Callable[[Mount, Route, Source], Awaitable[Collection[Promise]]]
    teach: Callable[[Mount, Route], Coroutine[None, None, Promise | None]]
    derive: Callable[[Mount, Route], Awaitable[bytes | None]]
    locate: Locate
    unrecorded: Unrecorded
    waiting: Waiting
    redirect: Redirect | None = None
    left_overs: LeftOvers | None = None


def vouched(promise: Promise | None) -> bool:
    return promise is not None and bool(promise.digests)


def seen_in(found: Found) -> int:
    """`Plan.seen` for what was found."""
    return found.entry.generation if found.entry is not None else -1


def withheld(found: Found) -> str:
    """`Plan.withhold` for what was found: where no row is known, others may have one by now."""
    return IndexUnavailable.code if found.uncertain and found.entry is None else ""


def sha256_of(promise: Promise | None) -> str:
    """The promised sha256, "" if none is known."""
    digest = promise.digest("sha256") if promise is not None else None
    return digest.hex if digest is not None else ""


def first_sight(entry: CacheEntry) -> Promise:
    """Trust on first use: other bytes under this immutable name will be refused later."""
    ref = ref_of(entry)
    return Promise(
        entry.key,
        (Digest("sha256", ref.sha256),),
        size=ref.size,
        taught_by=FIRST_SIGHT,
        purl=entry.purl,
    )


def stale_helps(fault: Fault) -> bool:
    """Our own trouble and upstream's outage may be bridged; a refusal by upstream may not."""
    if isinstance(fault, UpstreamFault):
        return fault.upstream_status not in (401, 403, 451)
    return isinstance(fault, StoreUnavailable | IndexUnavailable | Busy)


def unpromised(route: Route) -> Blocked:
    """A foreign host is contacted only on an index's word (design: what upstream names)."""
    return Blocked(
        f"no index of this repository lists {route.filename or 'this file'} on that host; "
        "add the host to file_hosts if it is meant to be used",
        code="unpromised_host",
    )


def ref_of(entry: CacheEntry) -> BlobRef:
    if entry.ref is None:
        raise RuntimeError("an unverified entry cannot be stored")
    return entry.ref


def cause_of(fault: Fault) -> str:
    cause = fault.__cause__ or fault.__context__
    return f"{type(cause).__name__}: {cause}" if cause is not None else fault.detail


def wants_teaching(route: Route, promise: Promise | None) -> bool:
    return route.kind is Kind.ARTIFACT and bool(route.teachers) and not vouched(promise)
