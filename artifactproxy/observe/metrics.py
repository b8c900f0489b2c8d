"""Prometheus metrics, fed from the same records as the log.

A request costs a few dictionary updates; families are built when somebody asks. Label values come
from bounded sets only: mounted repositories, results and codes that the program knows. Everything
else is `other`, so hostile names cannot grow the exposition.
"""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from artifactproxy import __version__, errors
from artifactproxy.observe.logs import JsonLog
from artifactproxy.ports import Outcome

PREFIX = "artifactproxy_"
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
SERIES = 200  # of one metric that others name freely

RESULTS = frozenset(["hit", "miss", "stale", "revalidated", "absent", "relay", "local", "error"])
FILL_RESULTS = frozenset(["stored", "refreshed", "absent", "unstored", "failed"])
_SOURCES = frozenset({"remote", "cache"})
_ABORTS = frozenset({"client_left", "client_slow", "shutdown"})
_REJECTIONS = frozenset({400, 403, 405, 408, 413, 417, 421, 505, 508})
_BOUNDS = frozenset({"connections", "request_bodies"})  # of ours, told by a 503

# Codes that refine a class of `errors`; `tests/observe/test_metrics.py` finds the ones in use.
_FINER = frozenset(
    {
        "bad_206", "bad_encoding", "bad_framing", "bad_head", "bad_host", "bad_index",
        "bad_location", "bad_zip", "bomb", "breaker_open", "cancelled", "changed_mid_range",
        "checking", "client_left", "client_slow", "closed", "connect_timeout", "connections",
        "coordination_unavailable", "descriptors", "downgrade", "empty", "expectation",
        "first_byte", "head_too_large", "helper", "helper_slow", "hollow", "http_version",
        "index_busy", "index_damaged", "index_missing", "index_newer", "length", "no_answer",
        "no_resume", "overlong", "redirects", "request_bodies", "short_body", "shutdown",
        "size", "stall", "stopping", "store_temp", "tls", "too_slow", "unasked_encoding",
        "unexpected_304", "unexpected_html", "unframed_body", "unpromised_host", "unsolicited",
        "upstream_4xx", "upstream_5xx", "upstream_denied", "upstream_dns", "upstream_forbidden",
        "upstream_legal", "upstream_queue", "upstream_status",
    }
)  # fmt: skip


def _codes(root: type[errors.Fault]) -> frozenset[str]:
    found = {root.code}
    for child in root.__subclasses__():
        found |= _codes(child)
    return frozenset(found)


_STORE = (
    _codes(errors.StoreUnavailable)
    | {errors.IndexUnavailable.code, "store_temp", "hollow", "helper", "helper_slow"}
    | {"index_busy", "index_damaged", "index_gone", "index_full", "index_readonly", "index_unopened"}
)
KNOWN_CODES = _codes(errors.Fault) | _FINER | _STORE | {"descriptors", "memory", "missing", "unreadable"}

_Labels = tuple[str, ...]

_HELP = {
    "requests": "Requests answered, by repository, result and class of status.",
    "bytes_sent": "Body bytes sent to clients.",
    "fills": "Transfers from upstream, by what became of them.",
    "upstream_errors": "Transfers that upstream did not let succeed.",
    "integrity_failures": "Bytes that were not those that were promised.",
    "resumes": "Transfers continued after a break.",
    "client_aborts": "Answers that ended before their last byte.",
    "store_errors": "Failures of the blob store or the index.",
    "rejected": "Requests refused at the door or by a rule.",
    "warnings": "Warnings in the log.",
    "degraded": "1 while a dependency is unusable.",
    "scrub_blobs": "Blobs that were hashed again.",
    "scrub_bytes": "Bytes that were read for that.",
    "scrub_bad": "Blobs that were not as they must be, by what was wrong with them.",
    "scrub_finished": "When the last whole scrub ended, in POSIX seconds.",
    "loop_lag_seconds": "How late a beat of the event loop came.",
    "request_seconds": "Time from the request to the last byte.",
    "fill_seconds": "Time of a whole transfer from upstream.",
}


class _Histogram:
    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        sums, running = [], 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            running += count
            sums.append((bound, float(running)))
        return sums


class Metrics(Collector):
    """Counts outcomes. `repos` are the repositories that get a label of their own."""

    def __init__(self, repos: Iterable[str] = ()) -> None:
        self._repos = frozenset(repos)
        self._counters: dict[str, tuple[_Labels, dict[_Labels, float]]] = {}
        self._gauges: dict[str, tuple[_Labels, dict[_Labels, float]]] = {}
        self._histograms: dict[tuple[str, str], _Histogram] = defaultdict(_Histogram)
        self._lag = _Histogram()
        self._requests: dict[tuple[str, str, int], int] = defaultdict(int)
        self._sent: dict[tuple[str, str], int] = defaultdict(int)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(namespace=PREFIX.rstrip("_"), registry=self._registry)
        self.increment("resumes", 0)

    def outcome(self, outcome: Outcome) -> None:
        if outcome.what == "fill":
            self._fill(outcome)
        else:
            self._request(outcome)

    def warning(self, event: str, **facts: str | float) -> None:
        del facts
        self.increment("warnings", event=event)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        family = self._gauges.setdefault(name, (tuple(labels), {}))
        self._put(family, labels, value, add=False)

    def increment(self, name: str, amount: float = 1, **labels: str) -> None:
        family = self._counters.setdefault(name, (tuple(labels), {}))
        self._put(family, labels, amount, add=True)

    def lag(self, seconds: float) -> None:
        self._lag.add(seconds)

    def exposition(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self._registry)

    def _request(self, outcome: Outcome) -> None:
        repo = outcome.repo if outcome.repo in self._repos else "other"
        result = outcome.result if outcome.result in RESULTS else "other"
        self._requests[repo, result, outcome.status // 100] += 1
        self._histograms["request_seconds", result].add(outcome.seconds)
        if outcome.bytes:
            self._sent[repo, outcome.source if outcome.source in _SOURCES else "none"] += outcome.bytes
        if not outcome.error:
            return
        if outcome.error in _ABORTS:
            self.increment("client_aborts", reason=outcome.error)
        elif outcome.status in _REJECTIONS or outcome.error in _BOUNDS:
            self.increment("rejected", reason=outcome.error)
        elif outcome.error in _STORE:
            self.increment("store_errors", kind=outcome.error)

    def _fill(self, outcome: Outcome) -> None:
        repo = outcome.repo if outcome.repo in self._repos else "other"
        result = outcome.result if outcome.result in FILL_RESULTS else "other"
        self.increment("fills", repo=repo, result=result)
        self._histograms["fill_seconds", result].add(outcome.seconds)
        if outcome.resumes:
            self.increment("resumes", outcome.resumes)
        # Upstream's own failures and broken digests are counted where they happen, also when a
        # resumed transfer ends well.
        if outcome.error in _STORE:
            self.increment("store_errors", kind=outcome.error)

    def _put(
        self, family: tuple[_Labels, dict[_Labels, float]], labels: dict[str, str], value: float, *, add: bool
    ) -> None:
        names, series = family
        key = tuple(self._bounded(name, labels.get(name, "")) for name in names)
        if key not in series and len(series) >= SERIES:
            key = ("other",) * len(names)
        series[key] = series.get(key, 0.0) + value if add else value

    def _bounded(self, name: str, value: str) -> str:
        if name in ("repo", "remote"):
            return value if value in self._repos else "other"
        if name in ("kind", "reason"):
            return value if value in KNOWN_CODES else "other"
        return value

    def collect(self) -> Iterator[Metric]:
        yield self._request_counts()
        sent = CounterMetricFamily(PREFIX + "bytes_sent", _HELP["bytes_sent"], labels=("repo", "source"))
        for target, count in self._sent.items():
            sent.add_metric(target, count)
        yield sent
        for name in ("request_seconds", "fill_seconds"):
            family = HistogramMetricFamily(PREFIX + name, _HELP[name], labels=("result",))
            for (of, result), histogram in self._histograms.items():
                if of == name:
                    family.add_metric((result,), histogram.buckets(), histogram.total)
            yield family
        lag = HistogramMetricFamily(PREFIX + "loop_lag_seconds", _HELP["loop_lag_seconds"])
        lag.add_metric((), self._lag.buckets(), self._lag.total)
        yield lag
        for name, (names, series) in sorted(self._counters.items()):
            counter = CounterMetricFamily(PREFIX + name, _help(name), labels=names)
            for labels, value in series.items():
                counter.add_metric(labels, value)
            yield counter
        for name, (names, series) in sorted(self._gauges.items()):
            gauge = GaugeMetricFamily(PREFIX + name, _help(name), labels=names)
            for labels, value in series.items():
                gauge.add_metric(labels, value)
            yield gauge
        build = GaugeMetricFamily(
            PREFIX + "build_info", "Versions of this program.", labels=("version", "python")
        )
        build.add_metric((__version__, platform.python_version()), 1)
        yield build

    def _request_counts(self) -> CounterMetricFamily:
        family = CounterMetricFamily(
            PREFIX + "requests", _HELP["requests"], labels=("repo", "result", "status")
        )
        for (repo, result, group), count in self._requests.items():
            family.add_metric((repo, result, f"{group}xx" if group else "none"), count)
        return family


class Observations:
    """Log and metrics behind the one `Observer` port."""

    def __init__(self, log: JsonLog, metrics: Metrics) -> None:
        self.log = log
        self.metrics = metrics

    def outcome(self, outcome: Outcome) -> None:
        self.log.outcome(outcome)
        self.metrics.outcome(outcome)

    def notice(self, event: str, **facts: str | float) -> None:
        self.log.notice(event, **facts)

    def warning(self, event: str, **facts: str | float) -> None:
        self.log.warning(event, **facts)
        self.metrics.warning(event)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self.metrics.gauge(name, value, **labels)

    def increment(self, name: str, amount: float = 1, **labels: str) -> None:
        self.metrics.increment(name, amount, **labels)

    def lag(self, seconds: float) -> None:
        self.metrics.lag(seconds)

    def exposition(self) -> bytes:
        self.metrics.gauge("log_lines_dropped", self.log.dropped)
        return self.metrics.exposition()

    def close(self) -> None:
        self.log.close()


def _help(name: str) -> str:
    return _HELP.get(name, name.replace("_", " ").capitalize() + ".")
