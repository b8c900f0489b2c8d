"""What an operator sees while bytes are copied: a bar on a terminal, one line per step elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import click


class Progress(Protocol):
    def step(self, what: str, total: int) -> None:
        """Begin a step of `total` bytes."""

    def advance(self, count: int) -> None:
        """So many bytes more."""


class Quiet:
    def step(self, what: str, total: int) -> None:
        pass

    def advance(self, count: int) -> None:
        pass


class Lines(Quiet):
    """For logs: what begins, when it begins."""

    def step(self, what: str, total: int) -> None:
        click.echo(f"{what}, {readable(total)}", err=True)


@contextmanager
def shown() -> Iterator[Progress]:
    """On standard error, since standard output may be the backup itself."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
    with Bars(
        *columns, TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bars:
        yield _Bar(bars)


class _Bar:
    def __init__(self, bars: object) -> None:
        from rich.progress import Progress as Bars

        assert isinstance(bars, Bars)
        self._bars = bars
        self._task = bars.add_task("", total=None)

    def step(self, what: str, total: int) -> None:
        self._bars.reset(self._task, description=what, total=total)

    def advance(self, count: int) -> None:
        self._bars.advance(self._task, count)


def readable(size: int) -> str:
    """Bytes for people, in the units of the configuration: 12.3 MB."""
    value, units = float(size), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.1f} {units[0]}" if units[0] != "bytes" else f"{size} bytes"
