"""`artifactproxy fsck` and `artifactproxy scrub`: the check as lines for people or for scripts."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from artifactproxy.terminal import Failure, as_json_option, common, load, printable

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

Line = dict[str, Any]


@click.command()
@click.option("--fast/--full", "fast", default=True, help="Names and sizes (default), or every byte too.")
@click.option("--repair", is_flag=True, help="Put right what is found; what is cached is fetched again.")
@common
@as_json_option
def fsck(config_file: str | None, data: str | None, *, fast: bool, repair: bool, as_json: bool) -> int:
    """Check that everything held is what it should be, also while the proxy serves.

    Exit code 0: nothing found, 1: all that was found is repaired, 3: not all of it is.
    """
    from artifactproxy.checkup.findings import exit_code
    from artifactproxy.inspection import fsck as offline

    config = load(config_file, data=data)
    body = {"full": not fast, "repair": repair}
    lines = told(config.data, "/fsck", body, lambda: offline(config, full=not fast, repair=repair))
    summary = show_all(lines, as_json=as_json)
    return exit_code(summary["found"], summary["repaired"])


@click.command()
@click.option(
    "--rate",
    metavar="SIZE",
    help="At most so many bytes a second, 0: as fast as the disk gives. Default: limits.scrub_rate.",
)
@common
@as_json_option
def scrub(config_file: str | None, data: str | None, rate: str | None, *, as_json: bool) -> int:
    """Hash every blob again; what is damaged is set aside and fetched anew.

    Exit code 0: nothing found, 1: all that was found is repaired, 3: not all of it is. What could
    not be fetched is asked of upstream by the next request for it.
    """
    from artifactproxy.checkup.findings import exit_code
    from artifactproxy.inspection import scrub as offline

    config = load(config_file, data=data)
    bytes_a_second = (config.limits.scrub_rate if rate is None else _size(rate)) or None
    body = {"rate": bytes_a_second}
    lines = told(config.data, "/scrub", body, lambda: offline(config, rate=bytes_a_second))
    summary = show_all(lines, as_json=as_json, in_bytes=True)
    return exit_code(summary["found"], summary["repaired"])


def _size(text: str) -> int:
    from artifactproxy.config.units import parse_size

    try:
        return parse_size(int(text) if text.isdecimal() else text)
    except ValueError as error:
        raise click.UsageError(f"--rate {error}") from error


def told(
    data: Path, target: str, body: object, offline: Callable[[], AsyncGenerator[Line, None]]
) -> Iterator[Line]:
    """The lines of a running instance, or the same work on the folder where none is running."""
    from artifactproxy import control

    try:
        yield from control.stream(data, target, body)
    except control.Refused as error:
        raise Failure(str(error)) from error
    except control.NotRunning:
        yield from _pumped(offline())


def _pumped(lines: AsyncGenerator[Line, None]) -> Iterator[Line]:
    """Lines of a coroutine, one at a time, on a loop of their own."""
    with asyncio.Runner() as runner:
        try:
            while (line := runner.run(_next(lines))) is not None:
                yield line
        finally:
            runner.run(lines.aclose())


async def _next(lines: AsyncGenerator[Line, None]) -> Line | None:
    return await anext(lines, None)


def show_all(lines: Iterator[Line], *, as_json: bool, in_bytes: bool = False) -> dict[str, Any]:
    """Print as it comes; returns the summary. `in_bytes`: that is what progress counts."""
    summary: dict[str, Any] = {}
    with _progress(in_bytes=in_bytes) as progress:
        for line in lines:
            if "progress" in line:
                progress(**line["progress"])
                continue
            summary = line.get("summary", summary)
            text = json.dumps(line) if as_json else "\n".join(_texts(line))
            click.echo(text)
    if not summary:
        raise Failure("the check ended before it was complete")
    return summary


def _texts(line: Line) -> Iterator[str]:
    if "finding" in line:
        yield _finding(line["finding"])
        return
    summary = line["summary"]
    shown = {what: count for what, count in summary["checked"].items() if count or what in ("rows", "blobs")}
    checked = ", ".join(f"{count} {what}" for what, count in shown.items())
    yield f"checked: {checked}"
    if not summary["found"]:
        yield "nothing found"
    else:
        yield f"found: {summary['found']}, repaired: {summary['repaired']}"


def _finding(finding: dict[str, Any]) -> str:
    ends = {True: "  -> repaired", False: "  -> not repaired", None: ""}
    end = "  (note)" if finding.get("note") else ends[finding["repaired"]]
    text = f"{finding['invariant']} {finding['kind']:<9}  {finding['subject']}: {finding['detail']}{end}"
    return printable(text)


def _columns(*, in_bytes: bool) -> list[ProgressColumn]:
    from rich import progress as rich

    step, bar = rich.TextColumn("{task.description}"), rich.BarColumn()
    if in_bytes:
        return [step, bar, rich.DownloadColumn(), rich.TransferSpeedColumn(), rich.TimeRemainingColumn()]
    return [step, bar, rich.TextColumn("{task.completed}"), rich.TimeElapsedColumn()]


@contextmanager
def _progress(*, in_bytes: bool) -> Iterator[Callable[..., None]]:
    """A bar on a terminal, one line a step elsewhere; on standard error."""
    if not sys.stderr.isatty():
        seen: set[str] = set()

        def line(*, step: str, done: int, total: int | None) -> None:
            del done, total
            if step not in seen:
                seen.add(step)
                click.echo(f"checking {step}" if step != "repairing" else step, err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import Progress

    # What goes into a file must not be drawn between the bars.
    with Progress(
        *_columns(in_bytes=in_bytes),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    ) as bars:
        task = bars.add_task("", total=None)

        def bar(*, step: str, done: int, total: int | None) -> None:
            bars.update(task, description=step, completed=done, total=total)

        yield bar
