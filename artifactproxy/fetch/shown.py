"""What a user sees of a fetch: a bar on a terminal, one line per step elsewhere; on standard error."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import click

from artifactproxy.backup.progress import readable
from artifactproxy.terminal import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bars


Seen = dict[str, Any]
"""`engine.progress.Progress` as a mapping, with the size of a `segment`; empty where no download is under way."""


class Shown(Protocol):
    def begin(self, total: int | None) -> None:
        """The body has begun; `total` in bytes, None where it is not known."""

    def come(self, done: int) -> None:
        """So many bytes are here."""

    def progress(self, seen: Seen) -> None: ...


@contextmanager
def shown(address: str, name: str) -> Iterator[Shown]:
    if not sys.stderr.isatty():
        yield Lines(address)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[over]}", markup=False),
        TimeRemainingColumn(),
    )
    # What goes into a pipe must not be drawn between the bars.
    with Progress(
        *columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()
    ) as bars:
        yield _Bar(bars, name)


class Lines:
    """For logs: what begins, when it begins."""

    def __init__(self, address: str) -> None:
        self._begun = False
        click.echo(f"fetching {printable(address)}", err=True)

    def begin(self, total: int | None) -> None:
        self._say(total, 0)

    def come(self, done: int) -> None:
        pass

    def progress(self, seen: Seen) -> None:
        if seen:
            self._say(seen["total"], seen.get("resumed", 0))

    def _say(self, total: int | None, resumed: int) -> None:
        if self._begun:
            return
        self._begun = True
        size = readable(total) if total is not None else "a file of unknown size"
        before = f", {readable(resumed)} of it are here from before" if resumed else ""
        click.echo(f"{size}{before}", err=True)


class _Bar:
    def __init__(self, bars: Bars, name: str) -> None:
        self._bars = bars
        self._task = bars.add_task(printable(name), total=None, over="")
        self._begun = False

    def begin(self, total: int | None) -> None:
        self._bars.update(self._task, total=total)

    def come(self, done: int) -> None:
        self._bars.update(self._task, completed=done)

    def progress(self, seen: Seen) -> None:
        if not seen:
            return
        if not self._begun:
            # What was here before has not come at any rate.
            self._begun = True
            self._bars.reset(self._task, completed=seen.get("resumed", 0))
        self._bars.update(self._task, total=seen["total"], completed=seen["landed"], over=over(seen))


def over(seen: Seen) -> str:
    """How the rest comes in."""
    if not seen["parts"] or seen["total"] is None:
        return "1 connection"
    done, whole = seen["landed"] // seen["segment"], math.ceil(seen["total"] / seen["segment"])
    return f"{done} of {whole} segments, {seen['connections']} connections"
