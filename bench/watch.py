"""CPU time and memory of a process and all its descendants, from /proc."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.model import MIB


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


class PeakWatch:
    """Samples the tree's PSS while a block runs; helpers that come and go are counted too."""

    def __init__(self, root: int, every: float = 0.05) -> None:
        self._root, self._every = root, every
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.proportional = 0.0
        self.peak = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._look()

    def _run(self) -> None:
        while not self._done.wait(self._every):
            self._look()

    def _look(self) -> None:
        now = memory(self._root)
        self.proportional = max(self.proportional, now.proportional)
        self.peak = max(self.peak, now.peak)
