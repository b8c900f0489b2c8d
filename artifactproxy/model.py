"""The words of the program: frozen values that every floor above shares.

Nothing here does I/O, reads a clock or knows an ecosystem. Times are POSIX seconds (UTC, float),
sizes are bytes, paths are the percent-encoded spelling without a leading slash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Literal

from artifactproxy.errors import Fault

Header = tuple[str, str]


class Kind(Enum):
    """What a path names, and so how it may be kept."""

    ARTIFACT = "artifact"  # immutable: one name, one content, for ever
    INDEX = "index"  # mutable: has a time to live and is revalidated
    PASS = "relay"  # relayed, never stored


@dataclass(frozen=True, slots=True)
class Digest:
    """A checksum: lower-case hashlib algorithm name and lower-case hex value."""

    algorithm: str
    hex: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@dataclass(frozen=True, slots=True)
class BlobRef:
    """The only name a store knows: sha256 (64 lower-case hex digits) and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class ArtifactKey:
    """Where a document lives: repository, canonical path (with its kept query), variant.

    `variant` is the provider's word for the selected representation, "" where there is only one.
    """

    repo: str
    path: str
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open, already validated byte range."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


class Right(IntEnum):
    """What one may do; each includes those before it. Tokens are given `read`, `push` or `admin`."""

    READ = 1
    PUSH = 2
    DELETE = 3
    ADMIN = 4


@dataclass(frozen=True, slots=True)
class Scope:
    """A right on what `pattern` covers: `REPOSITORY`, or `REPOSITORY/IMAGE`, with `*` in either."""

    right: Right
    pattern: str = "*"


@dataclass(frozen=True, slots=True)
class Operation:
    """What a request would do: judged on this, never on the spelling of its address.

    `name` is the image inside a repository of containers, "" where the repository as a whole is meant.
    No `repo` means the instance itself.
    """

    right: Right
    repo: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, after the door: path judged, repository split off, headers lower-cased.

    `path` is the raw percent-encoded spelling after `/{repo}/`; `query` the raw text after `?`.
    `base` is the external address of the repository without a trailing slash, as this client
    uses it. `caller` says who asked: a token's name or an address. `scopes` are what the caller may do,
    judged at the front already; they are for whoever needs to know more (`rules.access.may`), and empty
    where we ask ourselves. `body` is what a relayed POST brought along, as it was sent.
    """

    repo: str
    path: str
    method: str = "GET"
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    base: str = ""
    request_id: str = ""
    caller: str = ""
    scopes: tuple[Scope, ...] = ()
    body: bytes = b""


FIRST_SIGHT = "first sight"
"""`Promise.taught_by` where no index did: the bytes that were seen first vouch for themselves."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What an index said about an artifact before we held it.

    `url` is where upstream keeps it; `taught_by` the path of the index that said so; `released`
    the upstream's publication time and `released_from` the field it came from.
    """

    key: ArtifactKey
    digests: tuple[Digest, ...] = ()
    size: int | None = None
    url: str = ""
    taught_by: str = ""
    released: float | None = None
    released_from: str = ""
    purl: str = ""

    def digest(self, algorithm: str) -> Digest | None:
        return next((d for d in self.digests if d.algorithm == algorithm), None)


@dataclass(frozen=True, slots=True)
class Route:
    """A provider's reading of an `Ask`: what it names and where upstream keeps it.

    `sources` are absolute URLs in order of preference. `foreign` says that their host is not one
    of the configured upstreams, so a promise must be known before any connection is made.
    `teachers` ask for index documents of the same repository whose reading would promise this
    artifact; with `taught_if_possible` it is also taken on its framing where they cannot be read.
    `derived_from` is the path of an artifact from which `Provider.derive` can make this
    document if upstream lacks it. `absent_everywhere` says that an index is absent only if every
    source lacks it, as an artifact is. `rendered` says that the stored bytes pass through
    `Provider.render` on their way out. `expects_html` is False where an HTML body can only be a
    captive portal. A `negative_ttl` of 0 holds whatever the administrator sets. `group` names the
    generation that multi-file indexes share.

    With `typed` upstream says which of its types a document has, and the row keeps it. `digest_header`
    is the header in which clients look for the digest of the bytes; `answers` are headers of every
    answer. `paged`: upstream names the next page in `Link`, which is handed on as an address of ours.
    `pointer` is the header in which upstream's answer to a HEAD names the digest of what this name
    means at the moment; the document itself is that of `Provider.pointed`, and only where upstream
    names none it is fetched from here. `shared`: upstream may give the same file under other names too,
    and says by HEAD whether it has it under this one.
    """

    kind: Kind
    key: ArtifactKey
    sources: tuple[str, ...]
    media_type: str = "application/octet-stream"
    headers: tuple[Header, ...] = ()
    promise: Promise | None = None
    ttl: float | None = None
    negative_ttl: float | None = None
    foreign: bool = False
    teachers: tuple[Ask, ...] = ()
    taught_if_possible: bool = False
    derived_from: str = ""
    absent_everywhere: bool = False
    rendered: bool = False
    teaches: bool = False
    expects_html: bool = True
    filename: str = ""
    purl: str = ""
    group: str = ""
    max_bytes: int | None = None
    typed: bool = False
    digest_header: str = ""
    answers: tuple[Header, ...] = ()
    paged: bool = False
    pointer: str = ""
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer a provider can give by itself: a redirect, a ping, a discovery document."""

    status: int
    body: bytes = b""
    media_type: str = "text/plain; charset=utf-8"
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """What a rendered index leaves out or adds, decided outside the provider; empty by default."""

    hidden: frozenset[str] = frozenset()
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Rendered:
    """A document as one client sees it; `next_flip` is when it would read differently."""

    body: bytes
    next_flip: float | None = None


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A row of the index: what is known about one key.

    `ref` is None for a remembered absence; then `status` is 404 or 410. `ttl` is None for a
    document that never goes stale. `source` is a URL without its query; the fragment of one page of
    several is the query of the next one. `etag` is the quoted entity tag we send; `validator_etag` and
    `validator_modified` are upstream's own spellings, to be echoed verbatim. `verified_by` is one
    of `digest`, `framing`, `derived`, `pointer`. `generation` fences late writers of mutable keys.
    """

    key: ArtifactKey
    kind: Kind
    ref: BlobRef | None
    status: int = 200
    media_type: str = "application/octet-stream"
    etag: str = ""
    last_modified: str = ""
    validator_etag: str = ""
    validator_modified: str = ""
    cache_control: str = ""
    source: str = ""
    fetched_at: float = 0.0
    checked_at: float = 0.0
    ttl: float | None = None
    verified_by: str = ""
    taught_by: str = ""
    released: float | None = None
    released_from: str = ""
    purl: str = ""
    first_seen: float = 0.0
    last_used: float = 0.0
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """One look-up answers both: the row, and what an index promised for the key. `uncertain`: it is
    what was known a while ago, and cannot be asked for now."""

    entry: CacheEntry | None = None
    promise: Promise | None = None
    uncertain: bool = False


# Decisions: what to do with a request; the reason travels along.


@dataclass(frozen=True, slots=True)
class Serve:
    """Answer from the store. `refresh` asks for a revalidation behind the request."""

    entry: CacheEntry
    reason: str
    stale: bool = False
    refresh: bool = False


@dataclass(frozen=True, slots=True)
class ServeAbsence:
    """Upstream's own 404 or 410, still remembered."""

    entry: CacheEntry
    reason: str


@dataclass(frozen=True, slots=True)
class Revalidate:
    entry: CacheEntry
    may_serve_stale: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bring the whole document in."""

    reason: str


@dataclass(frozen=True, slots=True)
class Relay:
    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    fault: Fault
    reason: str


Decision = Serve | ServeAbsence | Revalidate | Fetch | Relay | Refuse


@dataclass(frozen=True, slots=True)
class Told:
    """What the process that fills says beside upstream's head. `fill` names its download; `sha256` is
    what the bytes must hash to, as far as it knows; `generation` was taken before it asked upstream.
    `ended`: upstream's body was complete already. `decoded`: the body has lost its content coding."""

    fill: str
    sha256: str = ""
    generation: int = 0
    ended: bool = False
    decoded: bool = False


@dataclass(frozen=True, slots=True)
class UpstreamHead:
    """Status line and headers of an upstream answer; header names are lower-case.

    `framed` is False when the body ends only with the connection (no length, not chunked).
    `url` is the final URL after redirects. `told` is None where upstream itself answered.
    """

    status: int
    headers: Mapping[str, str]
    length: int | None
    framed: bool
    url: str
    told: Told | None = None


@dataclass(frozen=True, slots=True)
class Keep:
    """Store the body. `ttl` None: never stale."""

    ttl: float | None


@dataclass(frozen=True, slots=True)
class Refresh:
    """304: what we hold is still right, for another `ttl` seconds."""

    ttl: float | None


@dataclass(frozen=True, slots=True)
class Absent:
    """404 or 410, remembered for `ttl` seconds."""

    status: int
    ttl: float


@dataclass(frozen=True, slots=True)
class Bypass:
    """Stream the body through, never store it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reject:
    """Not usable. `retry` says that another try or another upstream may do better."""

    fault: Fault
    retry: bool = False


Admission = Keep | Refresh | Absent | Bypass | Reject

Source = Literal["remote", "cache", ""]
