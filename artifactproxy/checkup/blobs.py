"""What lies on the medium: names and modes, blobs that nothing names, and with time every byte."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from artifactproxy.checkup.cases import Case, Look, Progress
from artifactproxy.checkup.findings import Finding
from artifactproxy.engine.janitor import BATCH, ORPHAN_AGE_SECONDS
from artifactproxy.model import BlobRef
from artifactproxy.ports.checkup import Oddity

_INVARIANT_OF = {"temp": "I13", "mode": "I21", "link": "I21", "stray": "I22", "misplaced": "I22"}


class Blobs:
    """The part of a walk that the medium answers."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._bytes = 0

    async def events(self, *, full: bool, judge: bool) -> AsyncGenerator[Progress | Case, None]:
        """With `judge` the index is asked what it knows of each blob."""
        async for event in self._medium():
            yield event
        async for event in self._files(judge=judge):
            yield event
        if full:
            async for event in self._contents():
                yield event

    async def _medium(self) -> AsyncGenerator[Progress | Case, None]:
        yield Progress("medium", 0, None)
        cases = [self._odd(oddity) async for oddity in self._look.scope.survey.oddities()]
        held, limit = await self._look.scope.survey.temp_bytes(), self._look.scope.temp_limit
        if limit is not None and held > limit:
            detail = f"temporary files hold {held} bytes, {limit} are allowed"
            cases.append(Case(Finding("I13", "temp-space", "tmp", detail), self._temp_space))
        for case in await self._look.settled(cases):
            yield case

    def _odd(self, oddity: Oddity) -> Case:
        finding = Finding(_INVARIANT_OF[oddity.kind], oddity.kind, oddity.name, oddity.detail)
        return Case(finding, lambda: self._look.scope.survey.is_odd(oddity), oddity=oddity)

    async def _temp_space(self) -> bool:
        return await self._look.scope.survey.temp_bytes() > (self._look.scope.temp_limit or 0)

    async def _files(self, *, judge: bool) -> AsyncGenerator[Progress | Case, None]:
        old: list[BlobRef] = []
        cases: list[Case] = []
        async for ref, age in self._look.scope.store.scan():
            self._look.tally.checked["blobs"] += 1
            self._bytes += ref.size
            if judge and age >= ORPHAN_AGE_SECONDS and ref.sha256 not in self._look.told:
                old.append(ref)
            if len(old) >= BATCH:
                cases += await self._orphans(old)
                old = []
                yield Progress("blobs", self._look.tally.checked["blobs"], None)
        cases += await self._orphans(old)
        yield Progress("blobs", self._look.tally.checked["blobs"], self._look.tally.checked["blobs"])
        for case in await self._look.settled(cases):
            yield case

    async def _orphans(self, refs: list[BlobRef]) -> list[Case]:
        unknown = set(await self._look.scope.census.unknown([ref.sha256 for ref in refs])) if refs else set()
        return [self._orphan(ref) for ref in refs if ref.sha256 in unknown]

    def _orphan(self, ref: BlobRef) -> Case:
        async def still() -> bool:
            if not await self._look.scope.census.unknown([ref.sha256]):
                return False
            (size,) = await self._look.scope.survey.sizes([ref.sha256])
            return size is not None

        detail = f"{ref.size} bytes that no row names, older than {ORPHAN_AGE_SECONDS:.0f} s"
        return Case(Finding("I10", "orphan", ref.sha256, detail), still, sha256=ref.sha256)

    async def _contents(self) -> AsyncGenerator[Progress | Case, None]:
        done = 0

        def told(size: int) -> None:
            nonlocal done
            done += size

        async for ref, _ in self._look.scope.store.scan():
            if ref.sha256 in self._look.told:
                continue
            right: list[Case] = []
            reading = self._judge_content(ref, told)
            async for _beat in self._look.beating("bytes", reading, right.extend):
                yield Progress("bytes", done, max(done, self._bytes))
            for case in await self._look.settled(right):
                yield case
        self._look.tally.checked["bytes"] += done
        yield Progress("bytes", done, done)

    async def _judge_content(self, ref: BlobRef, told: Callable[[int], None]) -> list[Case]:
        content = await self._look.scope.survey.read(ref.sha256, told)
        if content is None:
            return []  # deleted since it was listed
        self._look.tally.checked["hashed"] += 1
        if content.sha256 == ref.sha256:
            return []
        kind, detail = "damaged", f"its {content.size} bytes hash to {content.sha256}"
        if content.trouble:
            kind, detail = "unreadable-blob", f"its {content.size} bytes cannot be read: {content.trouble}"

        async def still() -> bool:
            again = await self._look.scope.survey.read(ref.sha256, lambda _: None)
            return again is not None and again.sha256 != ref.sha256

        return [Case(Finding("I02", kind, ref.sha256, detail), still, sha256=ref.sha256)]
