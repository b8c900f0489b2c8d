"""What a running instance offers: a check of everything held, and a scrub of its blobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import Any

from artifactproxy.checkup.cases import Scope
from artifactproxy.checkup.fsck import checked
from artifactproxy.checkup.repair import Mender
from artifactproxy.checkup.scrub import Scrub
from artifactproxy.errors import Busy


class Checkup:
    """One check at a time: two would mend the same things. `alone` tells whether no other process is
    at it, and keeps them out meanwhile. `stop` ends one that runs."""

    def __init__(
        self,
        scope: Scope,
        mender: Mender,
        scrub: Scrub,
        alone: Callable[[], AbstractContextManager[bool]] = lambda: nullcontext(enter_result=True),
    ) -> None:
        self._scope = scope
        self._mender = mender
        self._scrub = scrub
        self._alone_here = alone
        self._busy = ""
        self._stopping = False

    async def fsck(self, *, full: bool, repair: bool) -> AsyncGenerator[dict[str, Any], None]:
        """Raises `Busy` beside another check."""
        mender = self._mender
        lines = checked(self._scope, full=full, mender=(lambda: nullcontext(mender)) if repair else None)
        async with aclosing(self._alone("fsck", lines)) as told:
            async for line in told:
                yield line

    async def scrub(self, *, rate: int | None) -> AsyncGenerator[dict[str, Any], None]:
        """Raises `Busy` beside another check."""
        async with aclosing(self._alone("scrub", self._scrub.scrub(rate=rate))) as told:
            async for line in told:
                yield line

    def stop(self) -> None:
        """The process ends: whoever listens hears why there is no more."""
        self._stopping = True

    async def close(self) -> None:
        await self._scope.census.close()
        await self._scope.survey.close()

    async def _alone(
        self, name: str, lines: AsyncGenerator[dict[str, Any], None]
    ) -> AsyncGenerator[dict[str, Any], None]:
        if self._busy:
            raise Busy(f"{self._busy} is running here already; try again when it has ended", code="checking")
        self._busy = name
        try:
            with self._alone_here() as alone:
                if not alone:
                    raise Busy("another check is running; try again when it has ended", code="checking")
                async with aclosing(lines) as told:
                    async for line in told:
                        if self._stopping:
                            raise Busy("the instance is stopping", code="stopping")
                        yield line
        finally:
            self._busy = ""
