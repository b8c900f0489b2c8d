"""Metrics: what is counted, and that hostile names cannot make them grow."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from artifactproxy import __version__
from artifactproxy.observe import words as module
from artifactproxy.observe.logs import JsonLog
from artifactproxy.observe.metrics import SERIES, Metrics, Observations
from artifactproxy.ports import Observer, Outcome


def read(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Samples by name and sorted label values."""
    samples = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            samples[sample.name, *(v for _, v in sorted(sample.labels.items()))] = sample.value
    return samples


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(["pypi", "npm"])


def test_requests(metrics) -> None:
    for _ in range(2):
        metrics.outcome(
            Outcome("request", repo="pypi", result="hit", status=206, bytes=7, source="cache", seconds=0.02)
        )
    metrics.outcome(
        Outcome("request", repo="npm", result="miss", status=200, bytes=1, source="remote", seconds=500)
    )
    samples = read(metrics)
    assert samples["artifactproxy_requests_total", "pypi", "hit", "2xx"] == 2
    assert samples["artifactproxy_requests_total", "npm", "miss", "2xx"] == 1
    assert samples["artifactproxy_bytes_sent_total", "pypi", "cache"] == 14
    assert samples["artifactproxy_bytes_sent_total", "npm", "remote"] == 1
    assert samples["artifactproxy_request_seconds_bucket", "0.01", "hit"] == 0
    assert samples["artifactproxy_request_seconds_bucket", "0.025", "hit"] == 2
    assert samples["artifactproxy_request_seconds_bucket", "120.0", "miss"] == 0
    assert samples["artifactproxy_request_seconds_bucket", "+Inf", "miss"] == 1
    assert samples["artifactproxy_request_seconds_count", "hit"] == 2
    assert samples["artifactproxy_request_seconds_sum", "hit"] == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("outcome", "name", "label"),
    [
        (Outcome("request", result="error", status=200, error="client_left"), "client_aborts", "client_left"),
        (Outcome("request", result="error", status=0, error="client_slow"), "client_aborts", "client_slow"),
        (Outcome("request", result="error", status=400, error="bad_path"), "rejected", "bad_path"),
        (Outcome("request", result="error", status=403, error="blocked"), "rejected", "blocked"),
        (
            Outcome("request", result="error", status=503, error="store_unavailable"),
            "store_errors",
            "store_unavailable",
        ),
        (Outcome("fill", result="unstored", error="store_full"), "store_errors", "store_full"),
        (Outcome("fill", result="unstored", error="index_unavailable"), "store_errors", "index_unavailable"),
    ],
)
def test_errors(metrics, outcome, name, label) -> None:
    metrics.outcome(outcome)
    assert read(metrics)[f"artifactproxy_{name}_total", label] == 1


def test_fills(metrics) -> None:
    metrics.outcome(Outcome("fill", repo="pypi", result="stored", resumes=2, seconds=1.5))
    metrics.outcome(Outcome("fill", repo="pypi", result="failed", error="digest", seconds=1))
    samples = read(metrics)
    assert samples["artifactproxy_fills_total", "pypi", "stored"] == 1
    assert samples["artifactproxy_resumes_total",] == 2
    assert samples["artifactproxy_fill_seconds_count", "failed"] == 1


def test_what_others_report(metrics) -> None:
    metrics.increment("upstream_errors", remote="pypi", kind="upstream_timeout")
    metrics.increment("upstream_errors", remote="pypi", kind="upstream_timeout")
    metrics.increment("integrity_failures", where="local")
    metrics.gauge("degraded", 1, dependency="index")
    metrics.gauge("degraded", 0, dependency="index")
    metrics.gauge("fills", 3)
    metrics.warning("damaged_blob", sha256="a" * 64)
    samples = read(metrics)
    assert samples["artifactproxy_upstream_errors_total", "upstream_timeout", "pypi"] == 2
    assert samples["artifactproxy_integrity_failures_total", "local"] == 1
    assert samples["artifactproxy_degraded", "index"] == 0
    assert samples["artifactproxy_fills",] == 3
    assert samples["artifactproxy_warnings_total", "damaged_blob"] == 1


def test_hostile_names_do_not_make_series(metrics) -> None:
    size = len(metrics.exposition())
    for n in range(1000):
        name = f"evil-{n}"
        metrics.outcome(
            Outcome(
                "request", repo=name, result=name, source=name, error=name, status=403, bytes=1, kind=name
            )
        )
        metrics.outcome(Outcome("fill", repo=name, result=name, error=name))
        metrics.increment("upstream_errors", remote=name, kind=name)
        metrics.increment("integrity_failures", where=name)
        metrics.gauge("breaker_open", 1, label=name)
        metrics.warning(name)
    samples = read(metrics)
    assert samples["artifactproxy_requests_total", "other", "other", "4xx"] == 1000
    assert samples["artifactproxy_rejected_total", "other"] == 1000
    assert samples["artifactproxy_integrity_failures_total", "other"] == 1000 - SERIES
    assert len(metrics.exposition()) < size + 100_000
    assert sum(1 for key in samples if key[0] == "artifactproxy_warnings_total") == SERIES + 1


def test_every_name_has_our_prefix_and_the_build_is_known(metrics) -> None:
    names = {key[0] for key in read(metrics)}
    assert all(name.startswith("artifactproxy_") for name in names)
    build = [key for key in read(metrics) if key[0] == "artifactproxy_build_info"]
    assert len(build) == 1
    assert __version__ in build[0]
    assert "artifactproxy_process_resident_memory_bytes" in names


def test_observations_feed_both(tmp_path) -> None:
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    both = Observations(JsonLog(fd), Metrics(["pypi"]))
    observer: Observer = both
    observer.outcome(Outcome("request", repo="pypi", result="hit", status=200))
    observer.warning("store_full", repo="pypi")
    observer.gauge("fills", 1)
    observer.increment("bypassed")
    both.log.dropped = 4
    text = both.exposition().decode()
    both.close()
    os.close(fd)
    assert (tmp_path / "log").read_text().count("\n") == 2
    assert 'artifactproxy_warnings_total{event="store_full"} 1.0' in text
    assert "artifactproxy_bypassed_total 1.0" in text
    assert "artifactproxy_log_lines_dropped 4.0" in text


def test_every_code_that_the_program_uses_is_a_label_of_its_own():
    package = Path(module.__file__).parent.parent
    used = {
        code
        for path in package.rglob("*.py")
        for code in re.findall(r'\bcode="([a-z0-9_]+)"', path.read_text(encoding="utf-8"))
    }
    assert len(used) > 40
    assert sorted(used - module.KNOWN_CODES) == []
