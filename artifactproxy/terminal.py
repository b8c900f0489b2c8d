"""What all commands share: exit codes, options, how results and failures are shown."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from artifactproxy.config import Config

F = TypeVar("F", bound=Callable[..., Any])
CLEAN, FOUND, USAGE, UNREPAIRED = 0, 1, 2, 3

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def common(command: F) -> F:
    """The options of every command."""
    command = click.option("--data", metavar="DIR", help="Data folder; overrides the configuration.")(command)
    return click.option(
        "--config", "config_file", metavar="FILE", envvar="ARTIFACTPROXY_CONFIG", help="Configuration file."
    )(command)


def load(config_file: str | None, **flags: str | int | None) -> Config:
    from artifactproxy.config import load

    return load(Path(config_file) if config_file else None, env=os.environ, flags=flags)


def data_folder(config_file: str | None, data: str | None) -> Path:
    """Where an instance works whose configuration is wrong by now: as far as that can be told."""
    from artifactproxy.config import strict

    found: object = data or os.environ.get("ARTIFACTPROXY_DATA")
    if not found and config_file and Path(config_file).is_file():
        try:
            with Path(config_file).open(encoding="utf-8-sig") as file:
                document = strict.read(file.read(strict.BYTES_MAX)).value
        except (OSError, ValueError, strict.Refused):
            document = None
        found = document.get("data") if isinstance(document, dict) else None
    return Path(found if isinstance(found, str) else "data")


class Failure(click.ClickException):
    """Something that the operator can mend; the text says what and how. Exit code 1."""

    def show(self, file: object = None) -> None:
        del file
        click.echo(f"artifactproxy: {self.message}", err=True)


def show(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    import yaml

    click.echo(yaml.safe_dump(result, sort_keys=False, allow_unicode=True), nl=False)


def print_table(titles: list[str], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*titles, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def printable(text: str) -> str:
    """Names come from elsewhere: what would move the cursor or break the line is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def os_sentence(error: OSError) -> str:
    what = error.strerror or str(error)
    return f"{error.filename}: {what}" if error.filename else what


@contextmanager
def ends_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does, so that it takes back what it began."""

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
