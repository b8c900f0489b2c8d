"""The harness that measures: its arithmetic, its reading of wrk, its page, and one tiny real run."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from bench.content import Blob, cold_paths, promise
from bench.measures.small import parsed
from bench.model import FULL, QUICK, Bench, CannotMeasure, Column, Goal, Result, ratio
from bench.report import page
from bench.watch import cpu_seconds, memory, tree
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
        for _ in range(200):
            if len(tree(process.pid)) == 2 and cpu_seconds(process.pid) > 0:
                break
            time.sleep(0.01)
        assert len(tree(process.pid)) == 2
        now = memory(process.pid)
        assert now.peak >= now.resident >= now.proportional > 1
        process.stdin.close()


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
