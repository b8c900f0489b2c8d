"""Tools and servers that some tests need. A missing one skips the test and names the package.

With `REQUIRE_ALL=1` in the environment every skip is a failure, so that a build machine cannot
pass by lacking something.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

PACKAGES = {
    "aria2c": "aria2",
    "apt-get": "apt",
    "buildah": "buildah",
    "cargo": "cargo",
    "ceph": "ceph-common",
    "ceph-mon": "ceph-mon",
    "ceph-osd": "ceph-osd",
    "curl": "curl",
    "docker-registry": "docker-registry",
    "faketime": "faketime",
    "gem": "ruby",
    "go": "golang-go",
    "minio": "golang-go",  # which builds it: tests/servers/minio.py
    "monmaptool": "ceph-base",
    "mvn": "maven",
    "nginx": "nginx-light",
    "node": "nodejs",
    "npm": "npm",
    "openssl": "openssl",
    "pgbouncer": "pgbouncer",
    "podman": "podman",
    "postgres": "postgresql",
    "radosgw": "radosgw",
    "radosgw-admin": "ceph-common",
    "redis-server": "redis-server",
    "skopeo": "skopeo",
    "strace": "strace",
    "wrk": "wrk",
}


def cache() -> Path:
    """Where programs are kept that no package of the system has."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "artifactproxy-e2e"


def _path() -> str:
    """Servers live outside an ordinary user's PATH on Debian."""
    versions = sorted(Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda p: -int(p.parent.name))
    folders = (*map(str, versions), "/usr/sbin", "/sbin", str(cache() / "minio"))
    return os.pathsep.join((os.environ.get("PATH", os.defpath), *folders))


def find(tool: str) -> str | None:
    """The full path of a tool, or None."""
    return shutil.which(tool, path=_path())


def missing(*tools: str) -> str:
    """One sentence about what is not installed; "" if all is there."""
    lacking = [tool for tool in tools if find(tool) is None]
    packages = " ".join(dict.fromkeys(PACKAGES.get(tool, tool) for tool in lacking))
    return f"needs {', '.join(lacking)}: apt-get install {packages}" if lacking else ""


def needs(*tools: str) -> pytest.MarkDecorator:
    """Mark a test, class or module (`pytestmark`) that runs these programs."""
    return pytest.mark.skipif(bool(missing(*tools)), reason=missing(*tools) or "nothing is missing")


def require(tool: str) -> str:
    """The full path of a tool, inside a fixture or test; skips the test where there is none."""
    path = find(tool)
    if path is None:
        pytest.skip(missing(tool))
    return path


def everything_required() -> bool:
    return os.environ.get("REQUIRE_ALL", "") not in ("", "0")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    del item, call
    report = yield
    return _judged(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    del collector
    report = yield
    return _judged(report)


def _judged(report: Report) -> Report:
    if everything_required() and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"REQUIRE_ALL is set, and this was skipped: {why}"
    return report
