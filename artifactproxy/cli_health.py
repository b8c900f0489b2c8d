"""`artifactproxy health`: whether the running instance is ready, as its control socket tells."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from artifactproxy.errors import ConfigError
from artifactproxy.terminal import (
    CLEAN,
    FOUND,
    Failure,
    as_json_option,
    common,
    data_folder,
    load,
    print_table,
)

SECONDS = 10.0  # for the whole answer; the instance itself looks for half of that


@click.command()
@common
@as_json_option
def health(config_file: str | None, data: str | None, *, as_json: bool) -> int:
    """Say whether the running instance is ready for requests, and how each of its dependencies does.

    Exit code 0: it is, even if it does without something that it can bear to miss; 1: it is not ready,
    or not running.
    """
    from artifactproxy import control

    try:
        told = control.call(_folder(config_file, data), "GET", "/ready", timeout=SECONDS)
    except (control.NotRunning, control.Refused) as error:
        if as_json:
            click.echo(json.dumps({"ready": False, "mode": "unknown", "error": str(error)}, indent=2))
            return FOUND
        raise Failure(str(error)) from error
    if as_json:
        click.echo(json.dumps(told, indent=2))
    else:
        _show(told)
    return CLEAN if told.get("ready") else FOUND


def _folder(config_file: str | None, data: str | None) -> Path:
    """A configuration that has become wrong says nothing of the instance that began with another."""
    try:
        return load(config_file, data=data).data
    except ConfigError:
        return data_folder(config_file, data)


def _show(told: dict[str, Any]) -> None:
    rows: list[tuple[str, ...]] = [(name, str(said)) for name, said in told.get("dependencies", {}).items()]
    rows.append(("mode", str(told.get("mode"))))
    click.echo("ready" if told.get("ready") else "not ready")
    if sys.stdout.isatty():
        print_table(["dependency", "state"], rows)
    else:
        for row in rows:
            click.echo("\t".join(row))
