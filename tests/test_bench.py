"""The harness that measures: its arithmetic, its reading of wrk, its page, and one tiny real run."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from bench.content import Blob, cold_paths, promise
from bench.measures.small import parsed
from bench.model import FULL, QUICK, Bench, CannotMeasure, Column, Goal, Result, ratio
from bench.pull import pull
from bench.report import page
from bench.servers import Server, free_port, run_pinned
from bench.watch import PssWatch, StallWatch, cpu_seconds, delays, memory, tree
from tests.needs import needs

ROOT = Path(__file__).parent.parent
WRK = """Running 1s test @ http://127.0.0.1:1/x
  Latency Distribution
     50%  850.00us
     75%    1.10ms
     90%    1.50ms
     99%    2.50ms
  31000 requests in 1.00s, 60.00MB read
Requests/sec:  30999.50
Transfer/sec:     60.00MB
"""


def bench(tmp_path: Path) -> Bench:
    cores = frozenset(os.sched_getaffinity(0))
    return Bench(tmp_path, QUICK, server_cores=cores, client_cores=cores, all_cores=cores)


def test_variants_take_turns(tmp_path: Path) -> None:
    order: list[str] = []

    def take(name: str) -> dict[str, float]:
        order.append(name)
        return {"n": float(len(order))}

    samples = bench(tmp_path).interleaved({"a": lambda: take("a"), "b": lambda: take("b")})
    assert order == ["a", "b"] * QUICK.rounds
    assert samples == {"a": [{"n": 1}, {"n": 3}], "b": [{"n": 2}, {"n": 4}]}
    assert ratio(samples, "n", "b", "a") == 1.5


def test_a_result_has_at_least_five_rounds() -> None:
    assert FULL.rounds >= 5


def test_wrk_is_read_in_its_units() -> None:
    assert parsed(WRK) == {"rps": 30999.5, "requests": 31000, "p50": 0.85, "p99": 2.5}
    seconds = WRK.replace("2.50ms", "1.51s ")  # wrk pads the shorter unit
    assert parsed(seconds)["p99"] == 1510


@pytest.mark.parametrize(
    "trouble", ["  Non-2xx or 3xx responses: 7\n", "  Socket errors: connect 0, read 3, write 0, timeout 0\n"]
)
def test_wrong_answers_fail_a_measure(trouble: str) -> None:
    with pytest.raises(CannotMeasure, match=trouble.split(":", maxsplit=1)[0].strip().split(" ")[0]):
        parsed(WRK + trouble)


def test_the_page_says_plainly_what_was_met() -> None:
    result = Result(
        title="Speed",
        method="By running.",
        columns=(Column("s", "seconds", 1),),
        samples={"ours": [{"s": 3.0}, {"s": 1.0}, {"s": 2.0}], "theirs": [{"s": 2.0}] * 3},
        goals=(
            Goal("time", "theirs", "at most 1.25 x", "1.00 x", met=True),
            Goal("space", "-", "64 MiB", "65.0 MiB", met=False),
        ),
    )
    text = page({"speed": result, "luck": "needs a coin"}, FULL, "make bench", "2000-01-01", "0.00")
    assert "| time | theirs | at most 1.25 x | 1.00 x | met |" in text
    assert "| space | - | 64 MiB | 65.0 MiB | **not met** |" in text
    assert "| ours | 2.0 (1.0 to 3.0) |" in text
    assert "| theirs | 2.0 |" in text
    assert "not measured: needs a coin" in text
    assert "Not a result" not in text
    assert "Not a result" in page({}, QUICK, "x", "2000-01-01", "0.00")


def test_renewed_content_is_new_and_its_digest_true(tmp_path: Path) -> None:
    for sparse in (False, True):
        blob = Blob(tmp_path / f"blob{sparse}", 3 * 1024 * 1024 + 17, sparse=sparse)
        before = blob.sha256
        assert blob.renew() != before
        content = blob.path.read_bytes()
        assert len(content) == blob.size
        assert hashlib.sha256(content).hexdigest() == blob.sha256


def test_every_name_is_asked_for_once(tmp_path: Path) -> None:
    blob = Blob(tmp_path / "files" / "b.bin", 1024)
    assert len({*cold_paths(blob, blob), *cold_paths(blob)}) == 3
    name = promise(tmp_path / "files", blob)
    assert f"#sha256={blob.sha256}" in (tmp_path / "files" / "simple" / name / "index.html").read_text()


def test_a_process_is_watched_with_its_children() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for _ in range(2_000):
            if len(tree(process.pid)) == 2 and cpu_seconds(process.pid) > 0:
                break
            time.sleep(0.01)
        assert len(tree(process.pid)) == 2
        now = memory(process.pid)
        assert now.peak >= now.resident >= now.proportional > 1
        process.stdin.close()


def test_memory_is_summed_over_children_that_come_and_go() -> None:
    child = "data = bytearray(64 << 20); print(flush=True); input()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        with PssWatch(process.pid) as watch:
            process.stdout.readline()
            for _ in range(1000):
                if watch.peak > 64:
                    break
                time.sleep(0.01)
            process.stdin.write("\n")
            process.stdin.flush()
            process.stdout.readline()
        assert tree(process.pid) == [process.pid]
        assert watch.peak > 64 > watch.own > 1
        process.stdin.close()


def test_a_late_answer_is_late_for_all_who_would_have_asked_meanwhile() -> None:
    seen = delays([0.0005] * 90 + [0.010])
    assert seen["worst"] == 10
    assert 8 < seen["p99"] <= 10  # ten late ones among a hundred, not one among ninety
    assert seen["p50"] == 0.5
    with pytest.raises(CannotMeasure, match="too few"):
        delays([0.0005])


_STALLS = """
import socket, sys, time
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    connection, _ = server.accept()
    answers = 0
    while connection.recv(4096):
        answers += 1
        if answers == 5 and sys.argv[1] == "stall":
            print("stalled", flush=True)
            time.sleep(0.2)
            print("over", flush=True)
        if answers == 5 and sys.argv[1] == "close":
            break
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\n\\r\\nok\\n")
"""


@pytest.mark.parametrize("way", ["stall", "close"])
def test_a_stall_is_seen_from_outside(way: str) -> None:
    with subprocess.Popen([sys.executable, "-c", _STALLS, way], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        watch = StallWatch(server.pid, int(server.stdout.readline()))
        if way == "close":
            with pytest.raises(CannotMeasure, match="stopped answering"), watch:
                server.wait(20)
        else:
            with watch:
                assert [server.stdout.readline(), server.stdout.readline()] == ["stalled\n", "over\n"]
            assert watch.seen["worst"] >= watch.seen["busy"] > 100  # it slept, and did not wait for a core
            assert watch.seen["worst"] >= 200


def test_a_program_that_hangs_or_fails_ends_the_measure() -> None:
    cores = frozenset(os.sched_getaffinity(0))
    with pytest.raises(CannotMeasure, match=r"took more than 0\.2 s"):
        run_pinned(["sleep", "60"], cores, 0.2)
    with pytest.raises(CannotMeasure, match="failed: no luck"):
        run_pinned([sys.executable, "-c", "raise SystemExit('no luck')"], cores, 20)


def test_a_peer_that_cannot_be_had_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    npm, cache = tmp_path / "bin" / "npm", tmp_path / "cache"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    npm.chmod(0o755)
    run = subprocess.run(
        [sys.executable, "-c", "from bench.verdaccio import verdaccio_program; verdaccio_program()"],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{npm.parent}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "CannotMeasure: verdaccio" in run.stderr
    assert "could not be installed by npm: npm failed: no network" in run.stderr
    assert [path for path in cache.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("options", "slow"), [({"rate": 4_000_000, "slow": 2}, 2), ({"shared": 4_000_000}, 0)]
)
def test_a_throttled_origin_gives_what_it_says_and_tells_when(tmp_path: Path, options, slow: int) -> None:
    blob = Blob(tmp_path / "blob.bin", 400_000)
    port, log = free_port(), tmp_path / "log"
    known = {"port": port, "path": str(blob.path), "log": str(log), "rate": 0, "shared": 0, "slow": 0}
    command = [sys.executable, "-m", "bench.throttle", json.dumps(known | options)]
    cores = frozenset(os.sched_getaffinity(0))
    with Server(command, cores, tmp_path / "output") as server:
        server.wait_for(port, "/ready")
        seconds = []
        for _ in range(2):  # each over a connection of its own
            begun = time.perf_counter()
            (only,) = pull(port, ["/blob.bin"], cores, like=blob.path).transfers
            seconds.append(only.total)
            ended, start, stop = log.read_text().splitlines()[-1].split()
            assert begun < float(ended) <= only.ended + 0.05
            assert (start, stop) == ("0", "400000")
        with urlopen(Request(f"http://127.0.0.1:{port}/blob.bin", headers={"Range": "bytes=5-9"})) as part:
            assert (part.status, part.headers["Content-Range"]) == (206, "bytes 5-9/400000")
            assert part.read() == blob.path.read_bytes()[5:10]
    # A tick of 10 ms may leave at once; what is slower than it should be is the machine's doing.
    assert seconds[0] > 0.085
    assert seconds[1] > (0.85 if slow else 0.085)


@needs("nginx")
def test_a_tiny_run_measures_and_leaves_nothing_behind() -> None:
    # Not tmp_path: its name is so long that a Unix socket below it could not be bound.
    with tempfile.TemporaryDirectory(prefix="b") as name:
        folder = Path(name)
        run = subprocess.run(
            [sys.executable, "-m", "bench", "first-byte", "--quick", "--out", str(folder / "page.md")],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": name},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        text = (folder / "page.md").read_text()
        assert "time to first byte (promised)" in text
        assert "A quick run" in text
        assert name not in text
        assert [path.name for path in folder.iterdir()] == ["page.md"]
