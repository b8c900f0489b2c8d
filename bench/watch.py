"""CPU time and memory of a process and all its descendants, from /proc; stalls of its event loop.

`python -m bench.watch PID PORT PATH` is the asker of `StallWatch`: it asks until its input ends.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.model import MIB, CannotMeasure, Sample

_EVERY = 0.001  # seconds from one question of a StallWatch to the next
_ROOT = Path(__file__).parent.parent


def tree(root: int) -> list[int]:
    """The process and its descendants, as far as they are alive."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                # The command may hold spaces and parentheses; the parent is the second field after it.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def cpu_seconds(root: int) -> float:
    """User and system time in nanosecond steps; /proc/PID/stat counts in hundredths only."""
    total = 0.0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            # Linux makes a process's CPU clock from its id: (~pid << 3) | CPUCLOCK_SCHED.
            total += time.clock_gettime((~pid << 3) | 2)
    return total


@dataclass(frozen=True, slots=True)
class Memory:
    """MiB over the tree. PSS shares common pages out; peak is the kernel's own high-water mark."""

    resident: float
    proportional: float
    peak: float


def memory(root: int) -> Memory:
    totals = {"VmRSS": 0, "VmHWM": 0, "Pss": 0}
    for pid in tree(root):
        for name in ("status", "smaps_rollup"):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/{name}").read_text().splitlines():
                    key, _, value = line.partition(":")
                    if key in totals:
                        totals[key] += int(value.split()[0]) * 1024
    return Memory(totals["VmRSS"] / MIB, totals["Pss"] / MIB, totals["VmHWM"] / MIB)


def forget_peak(root: int) -> None:
    """Start the high-water mark again from now."""
    for pid in tree(root):
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


class _Watch:
    """Looks at a process every `every` seconds while a block runs, and once more at its end."""

    def __init__(self, root: int, every: float) -> None:
        self._root, self._every = root, every
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        self._look()
        while not self._done.wait(self._every):
            self._look()
        self._look()

    def _look(self) -> None:
        raise NotImplementedError


class PeakWatch(_Watch):
    """Samples the tree's PSS while a block runs; helpers that come and go are counted too."""

    def __init__(self, root: int, every: float = 0.05) -> None:
        super().__init__(root, every)
        self.proportional = 0.0
        self.peak = 0.0

    def _look(self) -> None:
        now = memory(self._root)
        self.proportional = max(self.proportional, now.proportional)
        self.peak = max(self.peak, now.peak)


class PssWatch(_Watch):
    """The greatest sum of the tree's PSS while a block runs, in MiB, and the root's own part of it."""

    def __init__(self, root: int, every: float = 0.01) -> None:
        super().__init__(root, every)
        self._looks = 0
        self._pids = [root]
        self.peak = 0.0
        self.own = 0.0

    def _look(self) -> None:
        if self._looks % 5 == 0:  # to look for children costs as much as five looks at them
            self._pids = tree(self._root)
        self._looks += 1
        shares = [_pss(pid) for pid in self._pids]
        if sum(shares) > self.peak:
            self.peak, self.own = sum(shares), shares[0]


class HoldWatch(_Watch):
    """The most descriptors and threads that a process has while a block runs."""

    def __init__(self, root: int, every: float = 0.1) -> None:
        super().__init__(root, every)
        self.descriptors = self.threads = 0

    def _look(self) -> None:
        self.descriptors = max(self.descriptors, _count(self._root, "fd"))
        self.threads = max(self.threads, _count(self._root, "task"))


class FilesWatch(_Watch):
    """How many bytes files in a folder come to hold while a block runs, more than when it began; without
    those of an index."""

    def __init__(self, folder: Path, every: float = 0.02) -> None:
        super().__init__(0, every)
        self._folder = folder
        self._before = self._held()
        self.most = 0

    def _look(self) -> None:
        self.most = max(self.most, self._held() - self._before)

    def _held(self) -> int:
        held = 0
        for folder, _, names in os.walk(self._folder):
            for name in names:
                if not name.startswith("index.sqlite3"):
                    with contextlib.suppress(OSError):  # gone meanwhile
                        held += (Path(folder) / name).lstat().st_size
        return held


def written(root: int) -> int:
    """Bytes that the process has had written to a disk so far."""
    found = re.search(r"^write_bytes: (\d+)", Path(f"/proc/{root}/io").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def _count(pid: int, folder: str) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/{folder}").iterdir())


def _pss(pid: int) -> float:
    with contextlib.suppress(OSError):
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024 / MIB
    return 0.0


class StallWatch:
    """How long a server leaves a cheap question unanswered while a block runs, in ms.

    A process of its own, of real-time priority where that is allowed, asks for `path` every
    millisecond over one connection; an answer that is late is as many late answers as there were
    milliseconds, so that `p99` is what somebody saw who came at any time. `busy` is the longest
    without what the server's main thread, ready to run, waited for a core.
    """

    def __init__(self, pid: int, port: int, path: str = "/livez") -> None:
        self._command = [sys.executable, "-m", "bench.watch", str(pid), str(port), path]
        self.seen: Sample = {}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            self._process.kill()
            self._process.wait()
            raise CannotMeasure("the server does not answer who asks whether it lives")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        try:
            printed, _ = self._process.communicate(timeout=60)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        if kind is not None:
            return
        if self._process.returncode:
            raise CannotMeasure("the server stopped answering who asks whether it lives")
        self.seen = json.loads(printed)


def delays(took: Iterable[float], every: float = _EVERY) -> Sample:
    """`worst`, `p99` and `p50` in ms, as seen by somebody who asks every `every` seconds."""
    seen = []
    for seconds in took:
        left = seconds
        while left > 0:
            seen.append(left * 1000)
            left -= every
    if len(seen) < 2:
        raise CannotMeasure("too few answers to say how late they were")
    return {
        "worst": max(seen),
        "p99": statistics.quantiles(seen, n=100, method="inclusive")[98],
        "p50": statistics.median(seen),
    }


def _ask(pid: int, port: int, path: str) -> None:
    with contextlib.suppress(OSError, AttributeError):
        # What is looked for is the server's lateness, not our own.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    gc.disable()
    done = threading.Event()
    threading.Thread(target=_wait_for_end, args=(done,), daemon=True).start()
    took: list[float] = []
    busy = 0.0
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _answered(sock, request)
        print("ready", flush=True)
        while not done.is_set():
            waited, begun = _waited(pid), time.perf_counter()
            _answered(sock, request)
            ended = time.perf_counter()
            took.append(ended - begun)
            busy = max(busy, ended - begun - (_waited(pid) - waited))
            time.sleep(max(0.0, begun + _EVERY - time.perf_counter()))
    print(json.dumps(delays(took) | {"busy": busy * 1000}))


def _waited(pid: int) -> float:
    """Seconds for which the main thread could have run and had no core; 0 where that is not counted."""
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _wait_for_end(done: threading.Event) -> None:
    sys.stdin.read()
    done.set()


def _answered(sock: socket.socket, request: bytes) -> None:
    sock.sendall(request)
    answer = b""
    while True:
        piece = sock.recv(4096)
        answer += piece
        head, blank, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\ncontent-length: *(\d+)", head)
        if not piece or (blank and (length is None or b" 200 " not in head[:16])):
            raise CannotMeasure("no 200 of known length")
        if blank and length and len(body) == int(length[1]):
            return


if __name__ == "__main__":
    _ask(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
