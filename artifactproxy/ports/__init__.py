"""What the engine needs from the world: signatures and numbered contracts, no code.

Each number is the name of a contract test (`test_b3_put_makes_young`) that every adapter passes;
a new expectation is numbered here and tested in `tests/contracts/`, never in one adapter's file.
Adapters hold no policy. Everything raises `Fault`s of `errors` and nothing of its driver.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from artifactproxy.model import (
    ArtifactKey,
    BlobRef,
    CacheEntry,
    Found,
    Header,
    Promise,
    Span,
    UpstreamHead,
)
from artifactproxy.ports.arriving import Growing as Growing
from artifactproxy.ports.arriving import Intake as Intake
from artifactproxy.ports.arriving import Reception as Reception
from artifactproxy.ports.observation import Observer as Observer
from artifactproxy.ports.observation import Outcome as Outcome

Clock = Callable[[], float]
"""Wall clock, POSIX seconds. Durations use the monotonic clock of the event loop instead."""


class Adapter(Protocol):
    """Lifecycle that readiness and shutdown share."""

    async def check(self) -> None:
        """Return if usable now, else raise a `Fault` whose detail says what is wrong."""

    async def close(self) -> None: ...


# --- blobs ----------------------------------------------------------------------------------


@dataclass(slots=True)
class LocalFile:
    """An opened blob on this machine; the receiver closes `fd`. Eviction cannot pull it away."""

    fd: int
    size: int


class BlobStore(Adapter, Protocol):
    """Bytes by content.

    B1 put is all or nothing for every reader, also after a crash half way; when it returns, the
    bytes survive power loss. B2 put is idempotent and safe from many writers at once. B3 put
    makes the blob young again even if it existed. B4 awaiting open itself raises `BlobMissing`
    before any byte; the chunks are exactly the span; a later failure raises, it never ends early
    and clean. B5 any span, including of the empty blob. B6 size is a number, or None for *known*
    absence; "cannot tell" raises `StoreUnavailable`. B7 delete is idempotent; running readers
    finish or raise, never see other bytes. B8 scan is complete for blobs older than its start,
    tolerates concurrent puts, skips leftovers. B9 locate is optional help and may always be None (then
    open tells of absence); absence raises `BlobMissing`; a `LocalFile` is already opened and has the
    size of the ref, else `BlobMissing` is raised and the damaged blob set aside. B10 only digest-shaped
    names are
    touched. B11 a cancelled or failed put leaves nothing visible and no temp file. B12 a full
    disk raises `StoreFull`, any other failure of the medium `StoreUnavailable`. B13 set_aside takes
    a blob out of reach without destroying it, tells whether this call did, and running readers
    finish; given the file that was found damaged it leaves another one that was put meanwhile. B14
    begin is optional help and may be None; an `Intake` keeps B1 to B3, B11 and B12, takes bytes as they
    are written and holds no more of them than its share of the store's bound; whatever becomes of it,
    the body's owner never waits for it before `finish`. B15 address is optional help and may always be
    None; an address is of a blob that is there now, for GET only, and ends by itself. B16 a store that is
    away (its network, its service, its credentials) raises `StoreAway`, also where it cannot tell; a put
    that ends so leaves the file at `path` to its owner, who tries again from it. B17 tidy finishes what
    dead or failed puts left; called seldom, by one process. B18 receive is optional help and may be None;
    a `Reception` keeps B1 to B3, B11 and B12, writes nothing to a disk of this machine, and all of them
    together hold no more than the store's bound: it is the source that waits.
    """

    async def put(self, ref: BlobRef, path: Path) -> None:
        """Take over the complete, verified file at `path` (on a local disk; it is consumed)."""

    async def put_bytes(self, ref: BlobRef, body: bytes) -> None:
        """The same for a small body that never had a file."""

    async def begin(self, sha256: str, body: Growing) -> Intake | None:
        """Take in a body that is promised to hash to `sha256` while it arrives."""

    async def receive(self, sha256: str, length: int | None) -> Reception | None:
        """Take in a body that must hash to `sha256`, without a file; `length` None: not announced."""

    async def open(self, ref: BlobRef, span: Span) -> AsyncIterator[bytes]: ...

    async def locate(self, ref: BlobRef) -> LocalFile | None: ...

    async def address(self, ref: BlobRef, *, seconds: float, media_type: str, filename: str) -> str | None:
        """A URL from which anybody may GET this blob for that long."""

    async def size(self, sha256: str) -> int | None: ...

    async def delete(self, sha256: str, *, older_than: float = 0.0) -> None:
        """Remove a blob last put at least `older_than` seconds ago; a younger one stays."""

    async def set_aside(self, ref: BlobRef, opened: LocalFile | None = None) -> bool: ...

    def scan(self) -> AsyncIterator[tuple[BlobRef, float]]:
        """Every blob with its age in seconds since it was last put."""

    async def tidy(self) -> int:
        """How many it finished."""


# --- metadata -------------------------------------------------------------------------------


class MetadataIndex(Adapter, Protocol):
    """What the engine asks while serving.

    I1 an unknown key is `Found(None, None)`; one round trip. I2 record then find returns every
    field equal. I3 a row is replaced only by a generation at least as new. I4 durable when record
    returns. I5 learn is bulk and idempotent; what several documents say is merged
    (`rules.promises`); a promise whose sha256 *changes* for an immutable key is kept as it was and
    returned to the caller as a conflict, unless nothing was stored under the old one. I6 touch is
    bulk, creates no rows, never moves `last_used` back, and may be lost. I7 keys are exact bytes,
    up to 2 KiB a field, any Unicode. I8 all of it from several tasks at once. I9 generations only
    grow, also over restarts. I10 record of a ref that is doomed makes it wanted again, in the same
    transaction. I11 a replaced body of an INDEX key is remembered as superseded. I12 what another
    process has written is found at most `recheck` seconds (of the adapter) later. I13 while the backend
    cannot be reached, rows of recent look-ups are still found, marked `uncertain`; what cannot be told
    raises `IndexUnavailable`.
    """

    async def find(self, key: ArtifactKey) -> Found: ...

    def suspect(self, keys: Iterable[ArtifactKey]) -> None:
        """Somebody says that these changed (no keys: anything): look anew when they are asked for."""

    async def generation(self) -> int:
        """A number larger than every one given before; taken before upstream is asked."""

    async def record(self, entry: CacheEntry) -> bool:
        """Write the row; False if a newer generation is there already (I3)."""

    async def learn(self, promises: Iterable[Promise]) -> list[Promise]:
        """Remember promises; returns those refused because they contradict what is stored."""

    async def touch(self, keys: Iterable[ArtifactKey], at: float) -> None: ...

    async def count(self, uses: Iterable[Use]) -> None:
        """Add to the hourly ledger of who asked for what."""


@dataclass(frozen=True, slots=True)
class Use:
    """One line of the hourly ledger; `hour` is POSIX seconds of its start."""

    hour: int
    caller: str
    repo: str
    purl: str
    sha256: str
    requests: int = 1
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Intent:
    """An upload under way: `id` is ours, `upload` the store's (empty until the store gave one), `owner`
    who runs it, `started` POSIX seconds."""

    id: str
    sha256: str
    upload: str
    owner: str
    started: float


class Intents(Protocol):
    """What uploads are open, remembered apart from the store: not every store can list them.

    T1 durable when `intend` returns; the same id again replaces it. T2 `fulfil` is idempotent. T3
    `intents` lists those started before a moment, oldest first. Raises `IndexUnavailable`.
    """

    async def intend(self, intent: Intent) -> None: ...

    async def fulfil(self, ids: Sequence[str]) -> None: ...

    async def intents(self, before: float, limit: int) -> list[Intent]: ...


@dataclass(frozen=True, slots=True)
class Totals:
    blobs: int = 0
    bytes: int = 0
    entries: int = 0
    absences: int = 0
    promises: int = 0
    by_repo: tuple[tuple[str, int, int], ...] = ()  # repo, entries, bytes


class Ledger(Protocol):
    """What the janitor, purge and explain ask; same class as the index, seldom, never in a request.

    L1 deleting is two-phase: `doom` marks blobs that no row names (any more) and returns those it
    marked; after a grace `condemned` returns the doomed ones still unnamed; the store deletes,
    then `bury` drops the rows of those still doomed. L2 a blob recorded again in between is
    neither condemned nor buried. L3 coldest lists blobs by the latest `last_used` of their rows,
    oldest first, and only those that are evictable (no row of a local repository). L4 forget
    removes rows and returns the refs they named. L5 orphans tells which of these blobs the index
    does not know. L6 forgetting an INDEX row forgets the promises it taught only when asked.
    L7 unlearn drops the promises made for a package or all of a repository; for a path only that
    of first sight, since what an index said of it still stands. L8 named lists the blobs that rows
    or superseded bodies name, in order of their sha256; naming the rows that name one. L9 expire
    dates a use that lies more than a day ahead (the clock was set back since) to now. L10 of all who ask
    for a `turn` of one name, in any process, at most one is told True within `every` seconds. L11 seize
    marks doomed blobs that are still unnamed as being deleted, and returns them: until `bury` with
    `seized` nobody is allowed to hold them (`hosting.Hosting`), and a plain bury leaves them. L12 rows
    and superseded bodies of local repositories stay when a blob is forgotten.
    """

    async def coldest(self, limit: int, before: float) -> list[tuple[BlobRef, float]]:
        """Up to `limit` blobs whose rows were all last used before `before`."""

    async def entries(
        self, repo: str, *, path: str = "", prefix: str = "", purl: str = "", limit: int = 100_000
    ) -> list[CacheEntry]:
        """Rows of a repository: one path (all variants), all below a prefix, or of a package
        (a purl without version matches all of its versions)."""

    async def forget(self, keys: Sequence[ArtifactKey], *, promises: bool = False) -> list[BlobRef]: ...

    async def unlearn(self, repo: str, *, path: str = "", purl: str = "", whole: bool = False) -> int:
        """Drop promises; returns how many. With `whole` a path loses also what an index said."""

    async def forget_blob(self, sha256: str) -> list[ArtifactKey]:
        """Drop every row that names this blob (a hollow hit, an eviction)."""

    async def named(self, after: str, limit: int) -> list[BlobRef]:
        """Up to `limit` named blobs whose sha256 sorts after `after` ("": from the first)."""

    async def naming(self, sha256: str) -> list[CacheEntry]: ...

    async def doom(self, sha256s: Sequence[str], at: float) -> list[str]: ...

    async def condemned(self, before: float, limit: int) -> list[BlobRef]: ...

    async def seize(self, sha256s: Sequence[str], at: float) -> list[str]: ...

    async def bury(self, sha256s: Sequence[str], *, seized: bool = False) -> None: ...

    async def orphans(self, sha256s: Sequence[str]) -> list[str]: ...

    async def surpass(self, generation: int) -> None: ...

    async def turn(self, name: str, every: float) -> bool:
        """Whether work that is due once in `every` seconds falls to the caller now."""

    async def expire(self, now: float) -> int:
        """Drop absences, superseded bodies and ledger hours that are past keeping."""

    async def totals(self) -> Totals: ...


# --- coordination ---------------------------------------------------------------------------


class Lease(Protocol):
    """Held until it is released or its holder dies."""

    async def release(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody else has the lease, and answers for the key at `address` (`http://host:port`,
    `https://...`, or `unix:/path`)."""

    address: str


class Coordinator(Adapter, Protocol):
    """Who fills. Advisory: losing it costs one duplicate download, never a wrong byte.

    C1 at most one live lease per key. C2 while another process holds the lease and has an address, the
    answer is that `Holder`, at once; without an address, or within this process, it is waited for, and
    None after `wait` seconds: the caller goes ahead without. C3 a dead holder's lease ends by itself.
    C4 only the owner releases. C5 a lease lasts as long as it is held, and `release` never raises. C6
    keys are independent. C7 backend broken or slow: None, within its budget. C8 `shared` tells whether
    other processes take part: then what was looked up before the lease may be old.
    """

    @property
    def shared(self) -> bool: ...

    async def acquire(self, key: str, *, wait: float) -> Lease | Holder | None: ...


class Bulletin(Protocol):
    """What all processes of a cluster should hear soon. Best effort: nothing is right only because of it.

    M1 `tell` never raises, never blocks, and does not come back to its teller. M2 who listens hears
    what others tell on a topic, in any order; a listener that raises harms nobody. M3 with `seconds` a
    message also reaches those that begin to listen (or are reached again) within that time.
    """

    def tell(self, topic: str, message: str, *, seconds: float = 0.0) -> None: ...

    def listen(self, topic: str, hear: Callable[[str], None]) -> None: ...


# --- upstream -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One request to send. Only `headers` go out, plus what the adapter owes (Host,
    `Accept-Encoding: identity` unless given, credentials for the configured origin, Via).

    `remote` is the repository whose credentials, egress and address rules apply. `max_bytes`
    bounds the body. `body` is for relayed POSTs. `on_leave` is called when the wait for a place is
    over and the request is about to leave. With `peer` the request goes to the process at that address,
    which is filling `key` from this very URL, instead of upstream.
    """

    remote: str
    url: str
    method: str = "GET"
    headers: tuple[Header, ...] = ()
    max_bytes: int | None = None
    body: bytes | None = None
    peer: str = ""
    key: ArtifactKey | None = None
    on_leave: Callable[[], None] | None = field(default=None, compare=False)


class UpstreamReply(Protocol):
    """An open answer: the head is known, the body arrives."""

    head: UpstreamHead

    def chunks(self) -> AsyncIterator[bytes]:
        """The raw body as framed, in the sizes the socket gave. Raises `UpstreamBroken` when it
        ends before its announced length or without its terminator, `UpstreamSlow` when idle or
        below the minimum rate, `TooLarge` past `max_bytes`."""


class Upstream(Adapter, Protocol):
    """Everything that leaves towards upstream.

    U1 head before body. U2 stops at the limit with a typed error. U3 the guard judges every
    redirect hop and every resolved address, before a packet is sent. U4 no header goes out unless
    the request names it; credentials only to their own origin. U5 fewer bytes than announced
    raises. U6 leaving the context frees the connection. U7 statuses are returned, not raised
    (304, 404, 429, 5xx); only failures of transport, framing, guard and time raise. U8 an
    upstream that failed repeatedly, or asked us to wait, is not contacted until then: the
    same fault is raised at once with `retry_after`. U9 no retry here: that is the engine's. U10 a
    request that waits for a place has not left: `on_leave` was not called, and cancelling it then
    sends nothing. U11 of a peer the head is the one upstream gave it (or what became of it), `url` too;
    its body is what it holds so far and what comes; nothing but the path of our own cluster is
    contacted, and a fault of a peer never counts against the upstream.
    """

    def open(self, request: UpstreamRequest) -> AbstractAsyncContextManager[UpstreamReply]: ...
