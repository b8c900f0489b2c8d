"""Every word that a metric may say: label values, from bounded sets only, and the help of each.

A new code or metric is entered here; what is not known here is counted as `other`.
"""

from __future__ import annotations

from artifactproxy import errors

RESULTS = frozenset(["hit", "miss", "stale", "revalidated", "absent", "relay", "local", "error"])
FILL_RESULTS = frozenset(["stored", "refreshed", "absent", "unstored", "failed", "followed", "landed"])
SOURCES = frozenset({"remote", "cache"})
ABORTS = frozenset({"client_left", "client_slow", "shutdown"})
REJECTIONS = frozenset({400, 403, 405, 408, 413, 417, 421, 505, 508})
BOUNDS = frozenset({"connections", "request_bodies", "logins"})  # of ours, told by a 503 or 429

# Codes that refine a class of `errors`; `tests/observe/test_metrics.py` finds the ones in use.
_FINER = frozenset(
    {
        "bad_206", "bad_encoding", "bad_framing", "bad_head", "bad_host", "bad_index",
        "bad_location", "bad_zip", "bomb", "breaker_open", "cancelled", "changed_mid_range",
        "checking", "client_left", "client_slow", "closed", "connect_timeout", "connections",
        "coordination_unavailable", "descriptors", "downgrade", "empty", "expectation",
        "first_byte", "head_too_large", "helper", "helper_slow", "hollow", "http_version",
        "index_busy", "index_damaged", "index_missing", "index_newer", "length", "no_answer", "no_pass",
        "no_part", "no_resume", "no_spare", "overlong", "ranges_ignored", "ranges_refused", "redirects", "request_bodies", "short_body", "shutdown",
        "size", "stall", "stopping", "store_temp", "tls", "too_slow", "unasked_encoding",
        "unexpected_304", "unexpected_html", "unframed_body", "unpromised_host", "unsolicited",
        "upstream_4xx", "upstream_5xx", "upstream_denied", "upstream_dns", "upstream_forbidden",
        "upstream_legal", "upstream_queue", "upstream_status", "peer_pass",
        "blob_upload_unknown", "denied", "digest_invalid", "manifest_unknown", "name_invalid",
        "name_unknown", "no_token", "pagination_number_invalid", "tag_invalid", "token_realm",
        "unsupported",
    }
)  # fmt: skip


def _codes(root: type[errors.Fault]) -> frozenset[str]:
    found = {root.code}
    for child in root.__subclasses__():
        found |= _codes(child)
    return frozenset(found)


STORE_CODES = (
    _codes(errors.StoreUnavailable)
    | {errors.IndexUnavailable.code, "store_temp", "store_busy", "being_deleted"}
    | {"hollow", "helper", "helper_slow"}
    | {
        "index_away",
        "index_busy",
        "index_damaged",
        "index_gone",
        "index_full",
        "index_readonly",
        "index_refused",
        "index_slow",
        "index_unopened",
    }
)
# Why a request to a bucket is sent again: no usable answer, a status, or a code of S3's own.
_BUCKET = frozenset(
    {
        "broken", "connect", "garbage", "resolve", "timeout", "429", "500", "502", "503", "504",
        "BandwidthLimitExceeded", "ConditionalRequestConflict", "IncompleteBody", "InternalError",
        "OperationAborted", "RequestTimeout", "ServiceUnavailable", "SlowDown", "TooManyRequests",
        "XMinioServerNotInitialized",
    }
)  # fmt: skip
KNOWN_CODES = (
    _codes(errors.Fault) | _FINER | STORE_CODES | _BUCKET | {"descriptors", "memory", "missing", "unreadable"}
)

HELP = {
    "requests": "Requests answered, by repository, result and class of status.",
    "bytes_sent": "Body bytes sent to clients.",
    "fills": "Transfers from upstream, by what became of them.",
    "upstream_errors": "Transfers that upstream did not let succeed.",
    "integrity_failures": "Bytes that were not those that were promised.",
    "resumes": "Transfers continued after a break.",
    "client_aborts": "Answers that ended before their last byte.",
    "takeovers": "Transfers that went on here after the process that had begun them was gone.",
    "peer_fills": "Requests of other processes for what is being fetched here, by what they got.",
    "peer_errors": "Processes that fetch something and could not be followed, or broke off.",
    "store_errors": "Failures of the blob store or the index.",
    "uploads": "Bodies that were pushed, in one request or a piece of one, by what became of them.",
    "dedupe_races": "Pushes of a blob that another push was bringing to this process at that moment.",
    "rejected": "Requests refused at the door or by a rule.",
    "warnings": "Warnings in the log.",
    "workers": "Processes that serve together.",
    "workers_restarted": "Processes that were started in place of one that ended.",
    "workers_silent": "Processes that did not say what they have counted; what was last known of them is shown.",
    "config_reload": "Configurations that were read while running, by what became of them.",
    "lock_lost": "Leases that ended under their holder.",
    "redis_timeouts": "Looks that Redis did not answer in time.",
    "redis_errors": "Other failures of Redis, by cause.",
    "bulletin_dropped": "Messages to other processes that could not wait any longer.",
    "store_retries": "Requests to the bucket that were sent again.",
    "degraded": "1 while a dependency is unusable.",
    "scrub_blobs": "Blobs that were hashed again.",
    "scrub_bytes": "Bytes that were read for that.",
    "scrub_bad": "Blobs that were not as they must be, by what was wrong with them.",
    "scrub_finished": "When the last whole scrub ended, in POSIX seconds.",
    "tier_bytes": "What the local tier holds, as far as this process knows.",
    "tier_hits": "Reads from a local copy of a blob.",
    "tier_misses": "Reads for which there was no whole local copy.",
    "tier_evicted_bytes": "Local copies that were removed for others.",
    "upstream_ratelimit_limit": "Requests that upstream lets us send in its window, as it said last.",
    "upstream_ratelimit_remaining": "What is left of them.",
    "redirects": "Hits that were answered with an address of the store.",
    "loop_lag_seconds": "How late a beat of the event loop came.",
    "request_seconds": "Time from the request to the last byte.",
    "fill_seconds": "Time of a whole transfer from upstream.",
}


def help_of(name: str) -> str:
    return HELP.get(name, name.replace("_", " ").capitalize() + ".")
