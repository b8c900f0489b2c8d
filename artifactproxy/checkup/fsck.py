"""The walk over everything that is held, told line by line, and the repairs after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace
from typing import Any, Protocol

from artifactproxy.checkup.blobs import Blobs
from artifactproxy.checkup.cases import Case, Look, Progress, Scope
from artifactproxy.checkup.findings import Finding, Tally
from artifactproxy.checkup.rows import Rows
from artifactproxy.errors import IndexUnavailable

_LOOKED_AT = ("rows", "absences", "promises", "old bodies", "blob rows", "blobs", "hashed", "bytes")


class Mends(Protocol):
    async def mend(self, case: Case) -> bool:
        """True if it is right now."""


OpenMender = Callable[[], AbstractAsyncContextManager[Mends]]
"""What repairs, opened only when there is something to repair."""


async def checked(
    scope: Scope, *, full: bool, mender: OpenMender | None = None, before: tuple[Finding, ...] = ()
) -> AsyncGenerator[dict[str, Any], None]:
    """The whole check as lines (`web.contract.CheckupLike`); `before` was found already. Raises
    `Fault` where it cannot even begin to look."""
    tally, waiting = Tally(Counter(dict.fromkeys(_LOOKED_AT, 0))), list[Case]()
    for finding in before:
        tally.add(finding)
        yield {"finding": finding.as_dict()}
    async with aclosing(_walk(Look(scope, tally), full=full)) as events:
        async for event in events:
            if isinstance(event, Progress):
                yield _progress(event)
            elif mender is None or event.finding.note:
                tally.add(event.finding)
                yield {"finding": event.finding.as_dict()}
            else:
                waiting.append(event)
    if mender is not None and waiting:
        async with mender() as mends:
            for number, case in enumerate(waiting):
                yield _progress(Progress("repairing", number, len(waiting)))
                finding = replace(case.finding, repaired=await mends.mend(case))
                tally.add(finding)
                yield {"finding": finding.as_dict()}
    yield {"summary": tally.as_dict() | {"mode": "full" if full else "fast"}}


def _progress(progress: Progress) -> dict[str, Any]:
    return {"progress": {"step": progress.step, "done": progress.done, "total": progress.total}}


async def _walk(look: Look, *, full: bool) -> AsyncGenerator[Progress | Case, None]:
    rows, readable = Rows(look), True
    try:
        async for event in rows.events():
            yield event
    except IndexUnavailable as fault:
        readable = False
        yield rows.unreadable(fault)
    async for event in Blobs(look).events(full=full, judge=readable):
        yield event
