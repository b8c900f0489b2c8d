"""Every bound and every default number, as frozen values; the configuration sets them.

Times are seconds, sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """The numbers of one remote that caching decisions depend on (seconds, bytes).

    `ttl` and `negative_ttl` set by the administrator win over the provider's defaults (None: the
    provider's). `stale_while_revalidate` bounds how long past freshness an index is still
    answered at once while it is refreshed behind the request.
    """

    ttl: float | None = None
    negative_ttl: float | None = None
    stale_if_error: float = 7 * 86400.0
    stale_while_revalidate: float = 60.0
    min_revalidate: float = 10.0
    offline: bool = False
    accept_unframed: bool = False
    max_artifact_bytes: int = 20 * 2**30
    max_index_bytes: int = 2**30
    private: bool = False  # upstream needs credentials: answers are `Cache-Control: private`
    closed: bool = False  # and so are they where not everybody may read here


@dataclass(frozen=True, slots=True)
class RemoteLimits:
    """Bounds on what one upstream may cost us (seconds, bytes, counts). There is no total time."""

    lookup: float = 10.0  # of a name; a lost packet costs a resolver 5 s by itself
    connect: float = 5.0
    first_byte: float = 30.0  # absolute, from the request sent to the whole head received
    idle: float = 30.0
    min_rate: int = 1024  # bytes a second, averaged over `min_rate_window`
    min_rate_window: float = 30.0
    redirects: int = 5
    retries: int = 2  # before the first byte
    resumes: int = 3  # after it
    retry_base: float = 0.2  # first back-off, doubled each time, full jitter
    connections_per_host: int = 16
    queue: int = 1000
    queue_wait: float = 10.0
    breaker_failures: int = 5
    breaker_open: float = 10.0  # doubled up to breaker_max
    breaker_max: float = 60.0
    retry_after_max: float = 3600.0


@dataclass(frozen=True, slots=True)
class Download:
    """How a large body of one remote is read (bytes, counts); see `rules.ranges`.

    From `from_bytes` on it is asked for in segments of at most `segment` bytes over at most
    `connections` connections. Beyond the first of each download none is opened while its host has
    `max_per_host` of ours, whoever uses them.
    """

    connections: int = 8
    max_per_host: int = 16
    segment: int = 8 * 2**20
    from_bytes: int = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the whole process (seconds, bytes, counts)."""

    request_line: int = 8190
    header: int = 8190
    headers: int = 100
    head_total: int = 32 * 1024
    request_body: int = 10 * 2**20  # of a relayed POST
    blob_bytes: int = 64 * 2**30  # of a pushed blob
    upload_sessions: int = 1000  # pushes in pieces that one caller may have open
    failed_logins: int = 300  # of one address in a minute, before it has to wait
    upload_idle: float = 86400.0  # after which an upload that nobody went on with ends
    keepalive: float = 20.0  # idle, and the deadline of a request head
    send_stall: float = 60.0  # a client that takes no byte for this long is reset
    lingering: float = 2.0
    connections: int = 4096
    upstream_connections: int = 128
    hold_back: int = 64 * 1024
    memory_body: int = 256 * 1024  # bodies up to this never have a temp file
    orphans: int = 32
    orphan_bytes: int = 2**30
    cold_range_wait: float = 1.0
    lease_wait: float = 5.0
    takeover_wait: float = 15.0  # for who fills elsewhere and is gone, before we ask upstream as well
    inline_index: int = 64 * 1024  # 2 ms of the loop; larger ones are read in a helper process
    index_wait: float = 5.0  # for another process that holds the index
    index_memory: int = 8 * 2**30  # of a helper process, address space included
    index_seconds: float = 300.0  # for reading the largest index; a helper process that hangs is ended
    decoded_ratio: int = 200
    memo_bytes: int = 64 * 2**20
    memo_file_bytes: int = 512 * 2**20
    negative_keys: int = 10_000
    error_memory: float = 5.0
    drain_notice: float = 5.0  # readiness is false for this long before connections close
    drain: float = 30.0
    min_free_share: float = 0.10  # of the disk, where no data_limit is given
    temp_bytes: int = 20 * 2**30
    blob_grace: float = 5.0  # between doom and deletion
    store_retry: float = 600.0  # for which a verified body is kept for a store that is away
    unrecorded: int = 10_000  # rows kept for an index that is away
    superseded_keep: float = 7 * 86400.0
    ledger_keep: float = 90 * 86400.0
    sweep_every: float = 60.0
    clock_hold: float = 86400.0  # after a jump of the clock, before anything expires by it
    scrub_rate: int = 20 * 2**20  # bytes a second of the background scrub; 0: no bound
    scrub_every: float = 7 * 86400.0  # at most one round of it in this time; 0: none
    touch_every: float = 60.0  # how exactly the last use of a file is known
    flush_every: float = 2.0  # touches, the ledger, and rows kept for an index that was away
    watch_every: float = 5.0  # looks at the store, the index and the coordination
    loop_blocked: float = 1.0  # an event loop that stands still for this long is reported
    log_every: float = 0.1
    log_bytes: int = 64 * 1024
