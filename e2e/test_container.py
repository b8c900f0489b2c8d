"""The container image: built by buildah on a base that is made here, started, asked, stopped.

The base is Debian with Python, made from the mirrors this machine installs from, so that no container
registry is needed.
"""

from __future__ import annotations

import http.client
import http.server
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.nginx import free_port
from e2e.servers import ROOT
from tests.needs import needs, require

pytestmark = needs("buildah", "mmdebstrap")

CERTIFICATES = "/etc/ssl/certs"
LARGEST_ADDED = 150 * 10**6  # bytes that we add to the base


class Buildah:
    """Its storage in a folder of the test; without a daemon, and without namespaces."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._env = {**os.environ, "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"}

    def command(self, *arguments: str) -> list[str]:
        where = ["--root", str(self._folder / "store"), "--runroot", str(self._folder / "run")]
        return [require("buildah"), *where, *arguments]

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            self.command(*arguments), env=self._env, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def _mirror() -> tuple[str, str]:
    """Suite and address of the packages that this machine itself is made of."""
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )
    suite = release["VERSION_CODENAME"].strip('"')
    listed = subprocess.run(
        [require("apt-get"), "indextargets", "--format", "$(RELEASE) $(SITE)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return suite, next(line.split()[1] for line in listed.splitlines() if line.split()[0] == suite)


@pytest.fixture(scope="module")
def buildah(folder: Path) -> Buildah:
    return Buildah(folder / "buildah")


@pytest.fixture(scope="module")
def base(folder: Path, buildah: Buildah) -> str:
    suite, mirror = _mirror()
    root = folder / "root.tar"
    packages = "--include=python3,python3-venv,ca-certificates"
    command = [require("mmdebstrap"), "--quiet", "--variant=minbase", packages, suite, str(root), mirror]
    subprocess.run(command, check=True, timeout=600)
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(root), "/")
    root.unlink()
    buildah("commit", "--quiet", "--format", "docker", container, "localhost/base:test")
    buildah("rm", container)
    return "localhost/base:test"


@pytest.fixture(scope="module")
def image(buildah: Buildah, base: str) -> str:
    name = "localhost/artifactproxy:test"
    # The host's way to its registries: its network and the authorities it trusts.
    host = ["--network", "host", "--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
    built = ["--build-arg", f"BASE={base}", "--tag", name, "--file", str(ROOT / "Containerfile"), str(ROOT)]
    buildah("bud", "--quiet", "--format", "docker", *host, *built)
    return name


class _Files(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"a file of upstream " * 10_000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def _get(port: int, path: str) -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.getheader("X-Artifact-Source", "")
    finally:
        connection.close()


def _until_ready(port: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if _get(port, "/readyz")[0] == 200:
                return
        except OSError:
            pass
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the container does not answer"
        time.sleep(0.1)


def _program_below(pid: int) -> int:
    """The proxy among the descendants of `buildah run`, which passes no signal on."""
    waiting = [pid]
    while waiting:
        pid = waiting.pop()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"python" in command[0] and b"serve" in command:
            return pid
        for task in Path(f"/proc/{pid}/task").iterdir():
            waiting += map(int, (task / "children").read_text().split())
    raise AssertionError("the program does not run")


def test_what_the_image_says_of_itself(buildah: Buildah, image: str, base: str) -> None:
    told = json.loads(buildah("inspect", "--type", "image", image))
    config = told["Docker"]["config"]
    assert config["User"] == "10001:10001"
    assert config["Healthcheck"]["Test"] == ["CMD", "artifactproxy", "health"]
    assert config["Entrypoint"] == ["artifactproxy"]
    assert "/data" in config["Volumes"]
    sizes = _sizes(buildah)
    assert sizes[image] - sizes[base] < LARGEST_ADDED


def _sizes(buildah: Buildah) -> dict[str, int]:
    listed = json.loads(buildah("images", "--json"))
    return {name: _bytes(each["size"]) for each in listed for name in each["names"] or ()}


def _bytes(text: str) -> int:
    number, unit = text.split()
    return int(float(number) * {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}[unit])


def test_it_serves_is_healthy_and_stops(buildah: Buildah, image: str, upstream: str) -> None:
    port = free_port()
    container = buildah("from", image)
    settings = {
        "ARTIFACTPROXY_LISTEN": f"127.0.0.1:{port}",
        "ARTIFACTPROXY_REMOTES__FILES__PROVIDER": "generic",
        "ARTIFACTPROXY_REMOTES__FILES__UPSTREAM": upstream,
    }
    env = [part for name, value in settings.items() for part in ("--env", f"{name}={value}")]
    run = ("run", "--network", "host", *env, container, "--", "artifactproxy")
    process = buildah.start(*run, "serve")
    try:
        _until_ready(port, process)
        status, body, source = _get(port, "/files/a.tar.gz")
        assert (status, len(body), source) == (200, 190_000, "remote")
        assert _get(port, "/files/a.tar.gz")[2] == "cache"
        assert "ready" in buildah(*run, "health")
        assert buildah("run", container, "--", "id", "-u") == "10001"
        os.kill(_program_below(process.pid), signal.SIGTERM)
        told = process.communicate(timeout=60)[0]
        assert "stopping" in told
        failed = subprocess.run(buildah.command(*run, "health"), capture_output=True, check=False, timeout=60)
        assert failed.returncode != 0
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
        buildah("rm", container)
