"""The check of a data folder from outside: of a stopped one, or beside whoever works in it.

Without a repair nothing is started and nothing is changed. With one the folder is locked, a damaged
index is salvaged, and the rest is mended through the ordinary graph.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from artifactproxy import backends, wiring
from artifactproxy.checkup.cases import Scope
from artifactproxy.checkup.findings import Finding
from artifactproxy.checkup.fsck import checked
from artifactproxy.checkup.repair import Mender
from artifactproxy.checkup.rows import damaged_index
from artifactproxy.config import Config
from artifactproxy.datadir import INDEX, DataFolder, looking
from artifactproxy.errors import StoreUnavailable
from artifactproxy.indexes.census import SqliteCensus
from artifactproxy.indexes.salvage import mark_clean, salvage
from artifactproxy.ports import BlobStore, Clock
from artifactproxy.providers._base import Provider
from artifactproxy.stores.fs import FsStore


async def inspect(
    data: Path,
    providers: Mapping[str, Provider] | None = None,
    *,
    full: bool = True,
    clock: Clock = time.time,
) -> tuple[list[Finding], dict[str, Any]]:
    """Check a data folder, also beside the process that works in it, and change nothing: the
    findings and the summary. Without `providers` names are not judged against a configuration.

    Raises `StoreUnavailable` and `IndexUnavailable` where there is nothing that can be checked.
    """
    found: list[Finding] = []
    summary: dict[str, Any] = {}
    with looking(data) as live:
        async with (
            _scope(data, providers, live=live, clock=clock) as scope,
            aclosing(checked(scope, full=full)) as lines,
        ):
            async for line in lines:
                if "finding" in line:
                    found.append(Finding(**line["finding"]))
                summary = line.get("summary", summary)
    return found, summary


async def fsck(config: Config, *, full: bool, repair: bool) -> AsyncGenerator[dict[str, Any], None]:
    """The check of a stopped instance, as lines. Raises `Fault`."""
    lines = _repairing(config, full=full) if repair else _reading(config, full=full)
    async with aclosing(lines) as told:
        async for line in told:
            yield line


async def _reading(config: Config, *, full: bool) -> AsyncGenerator[dict[str, Any], None]:
    with looking(config.data) as live:
        _refuse_if(config.data, live=live)
        async with (
            _scope(config.data, _providers(config), config, temp_limit=wiring.temp_limit(config)) as scope,
            aclosing(checked(scope, full=full)) as lines,
        ):
            async for line in lines:
                yield line


async def _repairing(config: Config, *, full: bool) -> AsyncGenerator[dict[str, Any], None]:
    with looking(config.data, first=True) as live:
        _refuse_if(config.data, live=live)
    summary: dict[str, Any] = {}
    with closing(DataFolder(config.data)) as folder:
        yield {"progress": {"step": "index", "done": 0, "total": None}}
        before = await _salvaged(folder.path / INDEX) if config.index is None else ()
        limit = wiring.temp_limit(config)
        async with _scope(config.data, _providers(config), config, temp_limit=limit, changing=True) as scope:
            mender = partial(_mender, config, folder, scope)
            async with aclosing(checked(scope, full=full, mender=mender, before=before)) as lines:
                async for line in lines:
                    yield line
                    summary = line.get("summary", summary)
        if full and config.index is None and summary["found"] == summary["repaired"]:
            await asyncio.to_thread(mark_clean, folder.path / INDEX)


async def scrub(config: Config, *, rate: int | None) -> AsyncGenerator[dict[str, Any], None]:
    """The scrub of a stopped instance; `rate` in bytes a second. Raises `Fault`."""
    with looking(config.data, first=True) as live:
        _refuse_if(config.data, live=live)
    with closing(DataFolder(config.data)) as folder:
        async with wiring.running(config, folder=folder) as (engine, _, _):
            _, scrubbing, _ = wiring.scrubbing(engine, folder.path, config)
            async with aclosing(scrubbing.scrub(rate=rate)) as lines:
                async for line in lines:
                    yield line


@asynccontextmanager
async def _mender(config: Config, folder: DataFolder, scope: Scope) -> AsyncGenerator[Mender, None]:
    """The graph, for as long as something is mended."""
    async with wiring.running(config, folder=folder) as (engine, _, _):
        healer, _, _ = wiring.scrubbing(engine, folder.path, config)
        yield wiring.mender(engine, scope.survey, scope.census, healer)


def _refuse_if(data: Path, *, live: bool) -> None:
    if live:
        raise StoreUnavailable(f"another artifactproxy works in {data} and does not answer commands yet")


async def _salvaged(index: Path) -> tuple[Finding, ...]:
    """A damaged index is exchanged before anything opens it for writing."""
    census = SqliteCensus(index, still=True)
    try:
        damage = await census.damage()
    finally:
        await census.close()
    if not damage:
        return ()
    saved = await asyncio.to_thread(salvage, index)
    finding = damaged_index(damage, live=False)
    rows = ", ".join(f"{count} {table}" for table, count in saved.rows.items() if table != "counters")
    detail = f"{finding.detail}; saved: {rows or 'nothing'}; the damaged one is {saved.aside}"
    return (replace(finding, detail=detail, repaired=True),)


@asynccontextmanager
async def _scope(
    data: Path,
    providers: Mapping[str, Provider] | None,
    config: Config | None = None,
    *,
    live: bool = False,
    changing: bool = False,
    temp_limit: int | None = None,
    clock: Clock = time.time,
) -> AsyncGenerator[Scope, None]:
    """Nothing of a data folder is started. `live` and `changing` say who else writes meanwhile: another
    process, or we."""
    async with AsyncExitStack() as stack:
        disk = FsStore(data)
        stack.push_async_callback(disk.close)
        store: BlobStore = disk
        if config is not None and config.store is not None:
            quiet = wiring.observe(config)
            stack.callback(quiet.close)
            store = await backends.open_bucket(stack, config.store, backends.Forgetful(), quiet, clock)
        survey = backends.survey(config, data, clock)
        stack.push_async_callback(survey.close)
        census = backends.census(config, data, still=not (live or changing))
        stack.push_async_callback(census.close)
        yield Scope(
            store,
            survey,
            census,
            clock,
            providers=providers,
            temp_limit=temp_limit,
            live=live,
            pinned=disk.pinned if store is disk else _unpinned,
        )


def _unpinned() -> bool:
    """A backup is of a data folder: it holds no blob of a bucket."""
    return False


def _providers(config: Config) -> dict[str, Provider]:
    return {name: mount.provider for name, mount in wiring.mounts(config).items() if not mount.local}
