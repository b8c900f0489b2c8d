"""`artifactproxy migrate`."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from artifactproxy.terminal import CLEAN, FOUND, UNREPAIRED, Failure, as_json_option, common, load

if TYPE_CHECKING:
    from artifactproxy.config import Config
    from artifactproxy.migrate.move import Moved


@click.command()
@click.option("--to", "target", metavar="FILE", required=True, help="The configuration of the new instance.")
@click.option("--read-back", is_flag=True, help="Read every blob from the target and hash it once more.")
@common
@as_json_option
def migrate(target: str, config_file: str | None, data: str | None, *, read_back: bool, as_json: bool) -> int:
    """Copy this data folder's blobs into the bucket, and its rows into the database, of FILE.

    The proxy may be serving from the folder; run it again after the proxy has stopped to move what came
    last. What is there already is skipped, so an interrupted migration is run again. Exit code 1: the
    proxy stores faster than it can be followed; 3: blobs were missing or damaged and stayed behind.
    """
    source, aim = load(config_file, data=data), load(target)
    if source.store is not None or source.index is not None:
        raise Failure("only a data folder can be migrated: this instance keeps its data elsewhere already")
    if aim.store is None and aim.index is None:
        raise Failure(f"{target} keeps everything in a data folder: nothing would move; see store and index")
    moved = asyncio.run(_moved(source.data, aim, read_back=read_back))
    click.echo(json.dumps(asdict(moved), indent=2) if as_json else "\n".join(_lines(moved, aim)))
    if moved.missing or moved.damaged:
        return UNREPAIRED
    return CLEAN if moved.settled else FOUND


async def _moved(data: Path, aim: Config, *, read_back: bool) -> Moved:
    from artifactproxy import backends, wiring
    from artifactproxy.backup.progress import shown
    from artifactproxy.datadir import INDEX, looking
    from artifactproxy.indexes.census import SqliteCensus
    from artifactproxy.migrate.move import Move
    from artifactproxy.migrate.source import Source

    async with AsyncExitStack() as stack:
        live = stack.enter_context(looking(data))
        (data / "tmp").mkdir(mode=0o700, exist_ok=True)
        census = SqliteCensus(data / INDEX, still=not live)
        stack.push_async_callback(census.close)
        index, bucket = await stack.enter_async_context(wiring.target(aim))
        progress = stack.enter_context(shown())
        survey = None
        if bucket is not None and read_back:
            survey = backends.survey(aim, aim.data, time.time)
            stack.push_async_callback(survey.close)
        moved = await Move(Source(data), census, bucket, index, progress, survey=survey).run()
        if index is not None:
            tokens = await census.tokens()
            await index.tokens.adopt(tokens)
            moved.tokens = len(tokens)
        return moved


def _lines(moved: Moved, aim: Config) -> list[str]:
    from artifactproxy.backup.progress import readable

    lines = []
    if aim.store is not None:
        lines.append(f"{moved.blobs} blobs moved, {readable(moved.bytes)}; {moved.there} were there already")
    if aim.index is not None:
        lines.append(f"{moved.entries} entries, {moved.promises} promises and {moved.tokens} tokens")
    if moved.missing or moved.damaged:
        lines.append(
            f"left behind: {moved.missing} missing and {moved.damaged} damaged blobs;"
            " what they held is fetched again by the new instance"
        )
        lines += [f"  {why} {sha256}" for sha256, why in moved.examples]
    if not moved.settled:
        lines.append("the proxy goes on storing: stop it, run this once more, and start the new one")
    return lines
