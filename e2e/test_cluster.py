"""Replicas as one: what one has fetched another serves, a file is fetched once, and any of them may go."""

from __future__ import annotations

import hashlib
import http.client
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from e2e.clients import Pip
from e2e.cluster import REPLICAS, Cluster
from e2e.node_clients import Npm
from e2e.origin import Origin, content
from e2e.registry import Registry
from tests.needs import needs

pytestmark = needs("postgres", "redis-server", "minio", "nginx")

MIB = 2**20
CLIENTS = 200
SIZE = 16 * MIB


@dataclass(frozen=True, slots=True)
class Got:
    """`body` None: the connection broke; a client can tell that it has not got the file."""

    status: int
    source: str
    body: bytes | None


def get(base: str, path: str, *, timeout: float = 120.0) -> Got:
    """One request on a connection of its own."""
    place = urlsplit(base)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=timeout)
    status, source = 0, ""
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        status, source = answer.status, answer.getheader("X-Artifact-Source", "")
        return Got(status, source, answer.read())
    except (OSError, http.client.HTTPException):
        return Got(status, source, None)
    finally:
        connection.close()


@pytest.fixture
def origin() -> Iterator[Origin]:
    origin = Origin()
    yield origin
    origin.stop()


@pytest.fixture
def replicas(tmp_path: Path, origin: Origin) -> Iterator[Cluster]:
    remote = f"  files:\n    provider: generic\n    upstream: {origin.url}\n"
    with Cluster(tmp_path, remote) as found:
        yield found


def test_another_replica_serves_what_one_has_fetched(replicas: Cluster, origin: Origin) -> None:
    for size in (1, 100, 70_000, 9 * MIB, 40 * MIB):
        path = f"/files/a-{size}.bin"
        first = get(replicas.replicas[0].url, path)
        assert (first.status, first.source) == (200, "remote")
        assert first.body == content(f"/a-{size}.bin")
        for other in replicas.replicas[1:]:
            got = get(other.url, path)
            assert (got.status, got.source, got.body) == (200, "cache", first.body)
    assert set(origin.whole.values()) == {1}


def test_a_crowd_on_three_replicas_costs_one_download(replicas: Cluster, origin: Origin) -> None:
    path = f"/crowd-{SIZE}.bin"
    origin.rate = 4 * MIB
    digest = hashlib.sha256(content(path)).hexdigest()
    with ThreadPoolExecutor(CLIENTS) as pool:
        bases = [replicas.replicas[number % REPLICAS].url for number in range(CLIENTS)]
        found = list(pool.map(lambda base: _digest(base, f"/files{path}"), bases))
    assert Counter(found) == {(200, digest): CLIENTS}
    assert origin.asked == {path: 1}


def _digest(base: str, path: str) -> tuple[int, str]:
    got = get(base, path)
    return got.status, hashlib.sha256(got.body or b"").hexdigest()


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_n01_the_leader_is_killed(replicas: Cluster, origin: Origin, fraction: float) -> None:
    """Its own clients see a reset or the whole; those of the others get the file."""
    path = f"/killed-{SIZE}.bin"
    origin.hold(fraction)
    with ThreadPoolExecutor(30) as pool:
        leading = [pool.submit(get, replicas.replicas[0].url, f"/files{path}") for _ in range(5)]
        assert origin.held.wait(30)
        following = [
            pool.submit(get, replicas.replicas[number].url, f"/files{path}")
            for number in (1, 2)
            for _ in range(5)
        ]
        _until(lambda: all(_readers(replicas, number) == 5 for number in (1, 2)))
        replicas.kill(0)
        origin.release()
        for future in leading:
            got = future.result()
            assert got.body is None or (got.status, got.body) == (200, content(path))
        for future in following:
            assert future.result() == Got(200, "remote", content(path))
    assert origin.whole[path] == 1
    assert get(replicas.replicas[2].url, f"/files{path}").source == "cache"


def _readers(replicas: Cluster, number: int) -> int:
    code, stats = replicas.replicas[number].command("stats")
    assert code == 0
    return int(stats["running"]["readers"])


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_n02_a_rolling_restart_fails_no_request(tmp_path: Path, origin: Origin) -> None:
    remote = f"  files:\n    provider: generic\n    upstream: {origin.url}\n"
    top = "limits: {drain_notice: 2s}"
    with Cluster(tmp_path, remote, top=top) as replicas:
        wrong: list[tuple[str, Got]] = []
        done: Counter[str] = Counter()
        stopping = threading.Event()

        def client(number: int) -> None:
            turn = 0
            while not stopping.is_set():
                turn += 1
                path = f"/roll{number}.{turn // 3}-{(1000, 70_000, MIB)[number % 3]}.bin"
                got = get(replicas.url, f"/files{path}")
                done[got.source] += 1
                if got.status != 200 or got.body != content(path):
                    wrong.append((path, got))

        with ThreadPoolExecutor(12) as pool:
            for number in range(12):
                pool.submit(client, number)
            try:
                for number in range(REPLICAS):
                    time.sleep(1)
                    assert replicas.replicas[number].stop() == 0
                    replicas.start(number)
            finally:
                stopping.set()
        assert wrong == []
        assert done["remote"] > 20
        assert done["cache"] > 20


def test_n02_a_leader_that_stops_serves_its_clients_and_its_followers(
    replicas: Cluster, origin: Origin
) -> None:
    """Also a follower that comes after the signal, and whoever asks the balancer meanwhile."""
    path = f"/stopped-{SIZE}.bin"
    origin.hold(0.5)
    with ThreadPoolExecutor(8) as pool:
        leading = pool.submit(get, replicas.replicas[0].url, f"/files{path}")
        assert origin.held.wait(30)
        replicas.replicas[0].signal(signal.SIGTERM)
        _until(lambda: any(line.startswith("stopping") for line in replicas.replicas[0].said_now()))
        late = [pool.submit(get, replicas.replicas[1].url, f"/files{path}") for _ in range(3)]
        late += [pool.submit(get, replicas.url, f"/files{path}") for _ in range(3)]
        _until(lambda: _readers(replicas, 1) + _readers(replicas, 2) >= 6)
        origin.release()
        for future in [leading, *late]:
            assert future.result() == Got(200, "remote", content(path))
        assert replicas.replicas[0].wait() == 0
    assert origin.asked == {path: 1}
    assert get(replicas.url, f"/files{path}").source == "cache"


# --- the main job, over real registries


def test_pip_and_npm_from_different_replicas(
    tmp_path: Path, registry: Registry, pip: Pip, npm: Npm, public_npm: str
) -> None:
    del registry, public_npm
    remotes = "  pypi:\n    provider: pypi\n  npm:\n    provider: npm\n"
    with Cluster(tmp_path, remotes) as replicas:
        one, two, _ = replicas.replicas
        with one.watch() as cold:
            first = pip.installed(pip.install("flask", index=f"{one.url}/pypi/simple/"))
            npm.install({"express": "4.21.2"}, registry=f"{one.url}/npm/")
        with two.watch() as warm:
            second = pip.installed(pip.install("flask", index=f"{two.url}/pypi/simple/"))
            npm.install({"express": "4.21.2"}, registry=f"{two.url}/npm/")
        assert cold.errors() == warm.errors() == []
        assert first == second
        assert cold.sources() == {"remote"}
        assert warm.sources() == {"cache"}
        assert warm.fills("artifact") == []
        through = pip.installed(pip.install("flask", index=f"{replicas.url}/pypi/simple/"))
        assert through == first
