"""Prometheus metrics, fed from the same records as the log.

A request costs a few dictionary updates; families are built when somebody asks. Label values come
from bounded sets only: mounted repositories, results and codes that the program knows. Everything
else is `other`, so hostile names cannot grow the exposition.

Several processes of one instance are shown as one: each tells its `numbers` as JSON values, and one
of them adds them up. What a process that died had counted goes on in its successor.
"""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from artifactproxy import __version__
from artifactproxy.observe.logs import JsonLog
from artifactproxy.observe.words import (
    ABORTS,
    BOUNDS,
    FILL_RESULTS,
    HELP,
    KNOWN_CODES,
    REJECTIONS,
    RESULTS,
    SOURCES,
    STORE_CODES,
    help_of,
)
from artifactproxy.ports import Outcome

PREFIX = "artifactproxy_"
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
SERIES = 200  # of one metric that others name freely

_Labels = tuple[str, ...]
Numbers = dict[str, Any]

# Gauges that every process of an instance tells of the same thing; the others add up.
_SAME = frozenset({"degraded", "scrub_finished", "tier_bytes"})
_PROCESS = {
    "process_virtual_memory_bytes": "Address space, in bytes.",
    "process_resident_memory_bytes": "Memory in use, in bytes.",
    "process_open_fds": "Open files.",
    "process_max_fds": "Files that may be open.",
    "process_start_time_seconds": "When the (oldest) process began, in POSIX seconds.",
}
_CPU = "process_cpu_seconds"


def _told(families: Mapping[str, tuple[_Labels, dict[_Labels, float]]]) -> list[Any]:
    return [
        [name, names, [[labels, value] for labels, value in series.items()]]
        for name, (names, series) in families.items()
    ]


class _Histogram:
    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def take(self, counts: Sequence[int], total: float) -> None:
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, counts, strict=True)]
        self.total += total

    def buckets(self) -> list[tuple[str, float]]:
        sums, running = [], 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            running += count
            sums.append((bound, float(running)))
        return sums


class Metrics(Collector):
    """Counts outcomes. `repos` are the repositories that get a label of their own; they may change.
    `process` False: the sum of several processes, for one look at it."""

    def __init__(self, repos: Iterable[str] = (), *, process: bool = True) -> None:
        self.repos = frozenset(repos)
        self._counters: dict[str, tuple[_Labels, dict[_Labels, float]]] = {}
        self._gauges: dict[str, tuple[_Labels, dict[_Labels, float]]] = {}
        self._histograms: dict[tuple[str, str], _Histogram] = defaultdict(_Histogram)
        self._lag = _Histogram()
        self._requests: dict[tuple[str, str, int], int] = defaultdict(int)
        self._sent: dict[tuple[str, str], int] = defaultdict(int)
        self._cpu_before = 0.0
        self._process: dict[str, float] = {}
        self._own = ProcessCollector(namespace=PREFIX.rstrip("_"), registry=None) if process else None
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

    def exposition(self, parts: Sequence[Numbers] = ()) -> bytes:
        """Prometheus text format, of all who told `parts`; without them of this process."""
        shown = Metrics(process=False)
        for numbers in parts or [self.numbers()]:
            shown.add(numbers)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(shown)
        return generate_latest(registry)

    def numbers(self) -> Numbers:
        """Everything counted, as JSON values."""
        return {
            "requests": [[*of, count] for of, count in self._requests.items()],
            "sent": [[*of, count] for of, count in self._sent.items()],
            "histograms": [[*of, each.counts, each.total] for of, each in self._histograms.items()],
            "lag": [self._lag.counts, self._lag.total],
            "counters": _told(self._counters),
            "gauges": _told(self._gauges),
            "process": self._read_process(),
        }

    def add(self, numbers: Numbers, *, counters_only: bool = False) -> None:
        """Take over what another process has counted; of one that has ended only `counters_only`."""
        for repo, result, group, count in numbers["requests"]:
            self._requests[repo, result, group] += count
        for repo, source, count in numbers["sent"]:
            self._sent[repo, source] += count
        for of, result, counts, total in numbers["histograms"]:
            self._histograms[of, result].take(counts, total)
        self._lag.take(*numbers["lag"])
        for name, names, series in numbers["counters"]:
            _, mine = self._counters.setdefault(name, (tuple(names), {}))
            for labels, value in series:
                mine[tuple(labels)] = mine.get(tuple(labels), 0.0) + value
        self._cpu_before += numbers["process"].get(_CPU, 0.0)
        if not counters_only:
            self._add_gauges(numbers)

    def _add_gauges(self, numbers: Numbers) -> None:
        for name, names, series in numbers["gauges"]:
            _, mine = self._gauges.setdefault(name, (tuple(names), {}))
            join: Callable[[float, float], float] = max if name in _SAME else float.__add__
            for labels, value in series:
                before = mine.get(tuple(labels))
                mine[tuple(labels)] = float(value) if before is None else join(before, float(value))
        for name, value in numbers["process"].items():
            before = self._process.get(name)
            if name == "process_start_time_seconds":
                self._process[name] = value if before is None else min(before, value)
            else:
                self._process[name] = value + (before or 0.0)

    def _read_process(self) -> dict[str, float]:
        """Of this process, its processor time with that of those it succeeds."""
        found = {family.name.removeprefix(PREFIX): family.samples[0].value for family in self._families()}
        return found | {_CPU: found.get(_CPU, 0.0) + self._cpu_before}

    def _families(self) -> list[Metric]:
        return [family for family in self._own.collect() if family.samples] if self._own else []

    def _request(self, outcome: Outcome) -> None:
        repo = outcome.repo if outcome.repo in self.repos else "other"
        result = outcome.result if outcome.result in RESULTS else "other"
        self._requests[repo, result, outcome.status // 100] += 1
        self._histograms["request_seconds", result].add(outcome.seconds)
        if outcome.bytes:
            self._sent[repo, outcome.source if outcome.source in SOURCES else "none"] += outcome.bytes
        if not outcome.error:
            return
        if outcome.error in ABORTS:
            self.increment("client_aborts", reason=outcome.error)
        elif outcome.status in REJECTIONS or outcome.error in BOUNDS:
            self.increment("rejected", reason=outcome.error)
        elif outcome.error in STORE_CODES:
            self.increment("store_errors", kind=outcome.error)

    def _fill(self, outcome: Outcome) -> None:
        repo = outcome.repo if outcome.repo in self.repos else "other"
        result = outcome.result if outcome.result in FILL_RESULTS else "other"
        self.increment("fills", repo=repo, result=result)
        self._histograms["fill_seconds", result].add(outcome.seconds)
        if outcome.resumes:
            self.increment("resumes", outcome.resumes)
        # Upstream's own failures and broken digests are counted where they happen, also when a
        # resumed transfer ends well.
        if outcome.error in STORE_CODES:
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
            return value if value in self.repos else "other"
        if name in ("kind", "reason"):
            return value if value in KNOWN_CODES else "other"
        return value

    def collect(self) -> Iterator[Metric]:
        yield self._request_counts()
        sent = CounterMetricFamily(PREFIX + "bytes_sent", HELP["bytes_sent"], labels=("repo", "source"))
        for target, count in self._sent.items():
            sent.add_metric(target, count)
        yield sent
        for name in ("request_seconds", "fill_seconds"):
            family = HistogramMetricFamily(PREFIX + name, HELP[name], labels=("result",))
            for (of, result), histogram in self._histograms.items():
                if of == name:
                    family.add_metric((result,), histogram.buckets(), histogram.total)
            yield family
        lag = HistogramMetricFamily(PREFIX + "loop_lag_seconds", HELP["loop_lag_seconds"])
        lag.add_metric((), self._lag.buckets(), self._lag.total)
        yield lag
        for name, (names, series) in sorted(self._counters.items()):
            counter = CounterMetricFamily(PREFIX + name, help_of(name), labels=names)
            for labels, value in series.items():
                counter.add_metric(labels, value)
            yield counter
        for name, (names, series) in sorted(self._gauges.items()):
            gauge = GaugeMetricFamily(PREFIX + name, help_of(name), labels=names)
            for labels, value in series.items():
                gauge.add_metric(labels, value)
            yield gauge
        yield from self._process_families()
        build = GaugeMetricFamily(
            PREFIX + "build_info", "Versions of this program.", labels=("version", "python")
        )
        build.add_metric((__version__, platform.python_version()), 1)
        yield build

    def _process_families(self) -> Iterator[Metric]:
        if self._process:
            yield CounterMetricFamily(
                PREFIX + _CPU, "Processor time, in seconds.", value=round(self._cpu_before, 3)
            )
        for name, help_text in _PROCESS.items():
            if name in self._process:
                yield GaugeMetricFamily(PREFIX + name, help_text, value=self._process[name])

    def _request_counts(self) -> CounterMetricFamily:
        family = CounterMetricFamily(
            PREFIX + "requests", HELP["requests"], labels=("repo", "result", "status")
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

    def exposition(self, parts: Sequence[Numbers] = ()) -> bytes:
        self.metrics.gauge("log_lines_dropped", self.log.dropped)
        return self.metrics.exposition(parts)

    def numbers(self) -> Numbers:
        self.metrics.gauge("log_lines_dropped", self.log.dropped)
        return self.metrics.numbers()

    def close(self) -> None:
        self.log.close()
