"""One tree of faults. Each class carries its HTTP status, a stable code and a public sentence.

`detail` is public by construction: it never holds a cause, a path on disk or a credential.
Causes are chained with `raise ... from` and go to the log only. 404 is never used for our own
trouble: absence is only ever what upstream said, what a local repository lacks, or a path that
no provider knows.
"""

from __future__ import annotations


class Fault(Exception):
    """Root of everything that becomes an error answer."""

    status = 500
    code = "internal"

    def __init__(self, detail: str, *, code: str = "", retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        self.retry_after = retry_after


# --- the asker ------------------------------------------------------------------------------


class BadRequest(Fault):
    """The request is not well-formed: 400."""

    status = 400
    code = "bad_request"


class BadPath(BadRequest):
    """The request target is refused before anything looks at it (dot segments, NUL, escapes)."""

    code = "bad_path"


class Unauthorized(Fault):
    """Nobody who may do this is known to ask: 401. `challenge` goes into `WWW-Authenticate`."""

    status = 401
    code = "unauthorized"

    def __init__(self, detail: str, *, challenge: str = 'Basic realm="artifactproxy"') -> None:
        super().__init__(detail)
        self.challenge = challenge


class Forbidden(Fault):
    """Who asks may read this and not do that: 403."""

    status = 403
    code = "forbidden"


class TooManyLogins(Fault):
    """An address has shown too much that proves nothing: 429."""

    status = 429
    code = "logins"


class NotServed(Fault):
    """No such repository, or a path outside the provider's grammar: 404."""

    status = 404
    code = "not_served"


def no_repository(repo: str) -> NotServed:
    """None of this name is mounted."""
    return NotServed(f"there is no repository named {repo!r} here")


class MethodRefused(Fault):
    """405. `allow` is what goes into the `Allow` header."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, detail: str, *, code: str = "", allow: str = "GET, HEAD") -> None:
        super().__init__(detail, code=code)
        self.allow = allow


class BodyTooLarge(Fault):
    """A request body above the limit: 413."""

    status = 413
    code = "body_too_large"


class HeadSlow(Fault):
    """A request head that was begun and does not end: 408."""

    status = 408
    code = "head_timeout"


class BodySlow(Fault):
    """A request body that does not arrive: 408."""

    status = 408
    code = "body_timeout"


class PreconditionFailed(Fault):
    status = 412
    code = "precondition_failed"


class BadRange(Fault):
    """No byte of the range exists: 416. `size` goes into `Content-Range: bytes */size`."""

    status = 416
    code = "bad_range"

    def __init__(self, detail: str, *, size: int) -> None:
        super().__init__(detail)
        self.size = size


class Misdirected(Fault):
    """A Host that this instance does not answer for: 421."""

    status = 421
    code = "unknown_host"


class LoopDetected(Fault):
    status = 508
    code = "loop"


# --- the rules ------------------------------------------------------------------------------


class Blocked(Fault):
    """Policy refuses, and says why: 403."""

    status = 403
    code = "blocked"


class OfflineMiss(Fault):
    """Not cached, and the remote is offline or the client said only-if-cached: 504."""

    status = 504
    code = "not_cached"


# --- the upstream ---------------------------------------------------------------------------


class UpstreamFault(Fault):
    """Upstream could not be used; `upstream_status` is its status if it sent one."""

    status = 502
    code = "upstream"

    def __init__(
        self,
        detail: str,
        *,
        code: str = "",
        retry_after: float | None = None,
        upstream_status: int | None = None,
    ) -> None:
        super().__init__(detail, code=code, retry_after=retry_after)
        self.upstream_status = upstream_status


class UpstreamAbsent(UpstreamFault):
    """Upstream said 404 or 410; the status is kept as it was."""

    code = "upstream_absent"

    def __init__(self, detail: str, *, status: int = 404) -> None:
        super().__init__(detail, upstream_status=status)
        self.status = status


class UpstreamUnreachable(UpstreamFault):
    """Refused, unresolvable or unroutable: no request reached it."""

    code = "upstream_refused"


class UpstreamSlow(UpstreamFault):
    """Too slow to connect, to send a head, or to send bytes: 504."""

    status = 504
    code = "upstream_timeout"


class UpstreamBroken(UpstreamFault):
    """Its answer breaks HTTP, ends early, or is not what this path can be: 502."""

    code = "upstream_broken"


class UpstreamBusy(UpstreamFault):
    """429, or 503 with Retry-After: passed on with the time to wait."""

    status = 503
    code = "upstream_busy"


class UpstreamBlocked(UpstreamFault):
    """A host, address or scheme that upstream named and that we do not go to: 502."""

    code = "blocked_address"


class BrokenPromise(UpstreamFault):
    """The bytes are not those that were promised (digest or size): 502."""

    code = "digest"


class TooLarge(UpstreamFault):
    """The body is larger than the limit for its kind: 502."""

    code = "too_large"


class PeerGone(UpstreamFault):
    """The process that fills this does not, or does not any more: nothing is known of upstream."""

    status = 503
    code = "peer_gone"


# --- ourselves ------------------------------------------------------------------------------


class StoreUnavailable(Fault):
    """The blob store cannot answer: 503. Never read as "missing"."""

    status = 503
    code = "store_unavailable"

    def __init__(self, detail: str, *, code: str = "", retry_after: float | None = 5.0) -> None:
        super().__init__(detail, code=code, retry_after=retry_after)


class StoreFull(StoreUnavailable):
    """No space left for a blob or a temp file."""

    code = "store_full"


class StoreAway(StoreUnavailable):
    """A store across the network does not answer, or does not let us in; trying later may do."""

    code = "store_away"


class IndexUnavailable(Fault):
    status = 503
    code = "index_unavailable"

    def __init__(self, detail: str, *, code: str = "", retry_after: float | None = 5.0) -> None:
        super().__init__(detail, code=code, retry_after=retry_after)


class Busy(Fault):
    """A bound of ours is reached (connections, queue, fills, drain): 503."""

    status = 503
    code = "busy"

    def __init__(self, detail: str, *, code: str = "", retry_after: float | None = 1.0) -> None:
        super().__init__(detail, code=code, retry_after=retry_after)


# --- internal signals, never answered -------------------------------------------------------


class BlobMissing(Exception):
    """The store does not hold this blob, for certain. `damaged`: what it held was something else,
    and has been set aside by this very call."""

    def __init__(self, sha256: str, *, damaged: bool = False) -> None:
        super().__init__(sha256)
        self.sha256 = sha256
        self.damaged = damaged


class ConfigError(Exception):
    """A configuration that is refused; the text names file, line, key and the nearest known key."""
