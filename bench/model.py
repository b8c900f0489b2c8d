"""The words of a measure: samples, goals, results; rounds in which all variants take turns."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

Sample = dict[str, float]
Samples = dict[str, list[Sample]]


class CannotMeasure(Exception):
    """Something needed is missing, or an answer was wrong; the text says what."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is moved and how often. `quick` only shows that the harness works."""

    rounds: int = 5
    large: int = GIB
    middle: int = 256 * MIB
    spread: int = 512 * MIB  # over several connections
    clients: int = 200
    at_once: int = 8
    streams: int = 4  # warm transfers of `large` in one sample
    first_bytes: int = 40  # cold files in one sample
    wrk_seconds: int = 4
    quick: bool = False


FULL = Scale()
QUICK = Scale(
    rounds=2,
    large=32 * MIB,
    middle=8 * MIB,
    spread=64 * MIB,
    clients=24,
    at_once=3,
    streams=2,
    first_bytes=5,
    wrk_seconds=1,
    quick=True,
)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measure gets: its own empty folder, the scale and the cores."""

    folder: Path
    scale: Scale
    server_cores: frozenset[int]  # where one core is measured
    client_cores: frozenset[int]
    all_cores: frozenset[int]

    def interleaved(self, variants: Mapping[str, Callable[[], Sample]]) -> Samples:
        """Every variant once per round, so that a drift of the machine meets all alike."""
        samples: Samples = {name: [] for name in variants}
        for number in range(1, self.scale.rounds + 1):
            for name, take in variants.items():
                sample = take()
                samples[name].append(sample)
                shown = ", ".join(f"{key} {value:.4g}" for key, value in sample.items())
                print(f"  round {number}: {name}: {shown}", file=sys.stderr, flush=True)
        return samples


@dataclass(frozen=True, slots=True)
class Column:
    key: str
    title: str
    digits: int = 2


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the goals: what was wanted, what came out."""

    measure: str
    against: str
    wanted: str
    measured: str
    met: bool


@dataclass(frozen=True, slots=True)
class Result:
    title: str
    method: str
    columns: tuple[Column, ...]
    samples: Samples
    goals: tuple[Goal, ...]
    notes: tuple[str, ...] = field(default=())


def median(samples: Iterable[Sample], key: str) -> float:
    return statistics.median(sample[key] for sample in samples)


def ratio(samples: Samples, key: str, of: str, to: str) -> float:
    """The ratio of two medians, as the reader of the table would compute it."""
    below = median(samples[to], key)
    return median(samples[of], key) / below if below else float("inf")


def worst(samples: Iterable[Sample], key: str) -> float:
    return max(sample[key] for sample in samples)
