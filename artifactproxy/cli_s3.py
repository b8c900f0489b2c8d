"""`artifactproxy s3-check`: whether the configured bucket does what the store needs, and how fast."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Iterable
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING

import click

from artifactproxy.terminal import CLEAN, FOUND, as_json_option, common, load, print_table

if TYPE_CHECKING:
    from artifactproxy.stores.s3.options import S3Options
    from artifactproxy.stores.s3.probe import Check


@click.command("s3-check")
@common
@as_json_option
def s3_check(config_file: str | None, data: str | None, *, as_json: bool) -> int:
    """Try out whether the bucket does what the store needs.

    Writes a few objects below the prefix and removes them. Exit code 0: it does, 1: something that is
    needed does not work.
    """
    config = load(config_file, data=data)
    if config.store is None:
        raise click.UsageError("the configured store is no bucket: set store.kind to s3")
    options = config.store.options
    checks = asyncio.run(_checks(options))
    good = all(check.good for check in checks if check.needed)
    if as_json:
        found = [dataclasses.asdict(check) for check in checks]
        click.echo(json.dumps({"bucket": options.bucket, "good": good, "checks": found}, indent=2))
    else:
        _show(checks, good=good)
    return CLEAN if good else FOUND


async def _checks(options: S3Options) -> list[Check]:
    from rich.console import Console

    from artifactproxy.stores.s3.probe import Probe

    moving = Console(stderr=True).status("trying out the bucket") if sys.stderr.isatty() else nullcontext()
    with moving:
        async with aclosing(Probe(options).checks()) as checks:
            return [check async for check in checks]


def _show(checks: Iterable[Check], *, good: bool) -> None:
    rows: list[tuple[str, ...]] = [(_word(check), check.name, check.detail) for check in checks]
    if sys.stdout.isatty():
        print_table(["", "ability", "seen"], rows)
    else:
        for row in rows:
            click.echo("\t".join(row))
    for check in checks:
        if not check.good and check.mend:
            click.echo(f"{check.name}: {check.mend}")
    click.echo("the bucket does what is needed" if good else "the bucket cannot be used as it is")


def _word(check: Check) -> str:
    if check.good:
        return "ok"
    return "FAILED" if check.needed else "no"
