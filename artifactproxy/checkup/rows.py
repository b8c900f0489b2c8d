"""The rows of the index, judged by themselves and against the blobs that they name."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace

from artifactproxy.checkup.cases import Case, Look, Progress
from artifactproxy.checkup.findings import Finding
from artifactproxy.checkup.invariants import AHEAD, Known, judge_promise, judge_row, named
from artifactproxy.errors import IndexUnavailable
from artifactproxy.model import ArtifactKey, BlobRef, Promise
from artifactproxy.ports.checkup import BadRow, BlobRow, Held
from artifactproxy.ports.hosting import HOLD, PART
from artifactproxy.providers._base import Provider

OVERDUE_SECONDS = 600.0  # a doomed blob goes at the next sweep but one


class Rows:
    """The part of a walk that the index answers."""

    def __init__(self, look: Look) -> None:
        self._look = look

    async def events(self) -> AsyncGenerator[Progress | Case, None]:
        """Raises `IndexUnavailable` where the database cannot give its rows."""
        for step in (self._index, self._rows, self._promises, self._old_bodies, self._blob_rows):
            async for event in step():
                yield event

    async def _index(self) -> AsyncGenerator[Progress | Case, None]:
        damage: list[str] = []
        async for beat in self._look.beating("index", self._look.scope.census.damage(), damage.extend):
            yield beat
        if damage:
            yield Case(damaged_index(damage, live=self._look.scope.live), self._damaged)

    async def _damaged(self) -> bool:
        return bool(await self._look.scope.census.damage())

    def unreadable(self, fault: IndexUnavailable) -> Case:
        async def still() -> bool:
            return True

        return Case(Finding("I23", "unreadable", "index", f"rows cannot be read: {fault.detail}"), still)

    async def _rows(self) -> AsyncGenerator[Progress | Case, None]:
        totals = await self._look.scope.census.totals()
        count, cases, notes = 0, list[Case](), _Notes()
        yield Progress("rows", 0, totals.entries + totals.absences)
        async for page in self._look.scope.census.entries():
            known = await self._known()
            for row in page:
                cases += self._judged(row, known, notes)
            cases += await self._hollow(page)
            count += len(page)
            yield Progress("rows", count, totals.entries + totals.absences)
        if notes.newest:
            cases.append(self._ungiven(notes.newest))
        for case in await self._look.settled(cases):
            yield case
        for case in notes.cases():
            yield case

    def _judged(self, row: Held | BadRow, known: Known, notes: _Notes) -> list[Case]:
        if isinstance(row, BadRow):
            self._look.tally.checked["rows"] += 1
            return [self._bad(row)]
        entry, cases = row.entry, []
        self._look.tally.checked["rows" if entry.ref else "absences"] += 1
        notes.repository(entry.key.repo, self._look.scope.providers)
        for finding in judge_row(row, known):
            if finding.kind == "generation":
                notes.newest = max(notes.newest, entry.generation)
            elif finding.note:
                notes.add(finding, entry.key.repo)
            elif self._is_news(finding, row):
                cases.append(self._of_row(finding, entry.key))
        return cases

    def _is_news(self, finding: Finding, row: Held) -> bool:
        """How a blob is counted is told once, however many rows name it."""
        if finding.invariant not in ("I14", "I15") or row.entry.ref is None:
            return True
        news = row.entry.ref.sha256 not in self._look.counted
        self._look.counted.add(row.entry.ref.sha256)
        return news

    async def _known(self) -> Known:
        providers = self._look.scope.providers
        return Known(
            self._look.scope.clock(),
            await self._look.scope.census.last_generation(),
            None if providers is None else providers.get,
        )

    def _bad(self, row: BadRow) -> Case:
        finding = Finding("I23", "row" if row.table == "entries" else "promise", row.about, row.detail)
        again = self._row_again if row.table == "entries" else self._promise_again

        async def still() -> bool:
            return await again(row.key, finding.kind)

        return Case(finding, still, key=row.key)

    def _of_row(self, finding: Finding, key: ArtifactKey) -> Case:
        return Case(finding, lambda: self._row_again(key, finding.kind), key=key)

    async def _row_again(self, key: ArtifactKey, kind: str) -> bool:
        row = await self._look.scope.census.row(key)
        if row is None or isinstance(row, BadRow):
            return row is not None and kind == "row"
        return any(finding.kind == kind for finding in judge_row(row, await self._known()))

    def _ungiven(self, newest: int) -> Case:
        async def still() -> bool:
            return await self._look.scope.census.last_generation() < newest

        detail = f"rows have generations up to {newest}, which was never given"
        return Case(Finding("I16", "generation", "index", detail), still, number=newest)

    async def _hollow(self, page: list[Held | BadRow]) -> list[Case]:
        """Rows whose blob is not there, or not of its size; one finding a blob."""
        rows = [row for row in page if isinstance(row, Held) and _names_blob(row)]
        refs = [row.entry.ref for row in rows if row.entry.ref]
        sizes = await self._look.scope.survey.sizes([ref.sha256 for ref in refs])
        cases = []
        for row, ref, size in zip(rows, refs, sizes, strict=True):
            if size != ref.size and ref.sha256 not in self._look.told:
                self._look.told.add(ref.sha256)
                cases.append(self._hollow_case(row.entry.key, ref, size))
        return cases

    def _hollow_case(self, key: ArtifactKey, ref: BlobRef, size: int | None) -> Case:
        there = "is gone" if size is None else f"has {size}"
        detail = f"the blob {ref.sha256} of {ref.size} bytes {there}"
        finding = Finding("I01", "missing" if size is None else "size", named(key), detail)
        return Case(finding, lambda: self._is_hollow(key, ref), key=key, sha256=ref.sha256)

    async def _is_hollow(self, key: ArtifactKey, ref: BlobRef) -> bool:
        """The row must stand before and after the look at the blob: eviction goes row first."""
        before = await self._look.scope.census.row(key)
        if not isinstance(before, Held) or before.entry.ref != ref:
            return False
        (size,) = await self._look.scope.survey.sizes([ref.sha256])
        if size == ref.size:
            return False
        after = await self._look.scope.census.row(key)
        return isinstance(after, Held) and (after.entry.ref, after.entry.generation) == (
            ref,
            before.entry.generation,
        )

    async def _promises(self) -> AsyncGenerator[Progress | Case, None]:
        totals = await self._look.scope.census.totals()
        count, cases = 0, list[Case]()
        async for page in self._look.scope.census.promises():
            for promise in page:
                count += 1
                if isinstance(promise, BadRow):
                    cases.append(self._bad(promise))
                else:
                    cases += [self._of_promise(f, promise.key) for f in judge_promise(promise)]
            self._look.tally.checked["promises"] += len(page)
            yield Progress("promises", count, totals.promises)
        for case in await self._look.settled(cases):
            yield case

    def _of_promise(self, finding: Finding, key: ArtifactKey) -> Case:
        finding = replace(finding, kind=finding.kind + "-promised" * (finding.kind == "credential"))
        return Case(finding, lambda: self._promise_again(key, finding.kind), key=key)

    async def _promise_again(self, key: ArtifactKey, kind: str) -> bool:
        row = await self._look.scope.census.promise(key)
        if isinstance(row, Promise):
            return any(kind.startswith(finding.kind) for finding in judge_promise(row))
        return row is not None

    async def _old_bodies(self) -> AsyncGenerator[Progress | Case, None]:
        cases: list[Case] = []
        async for page in self._look.scope.census.old_bodies():
            sizes = await self._look.scope.survey.sizes([old.sha256 for old in page])
            for old, size in zip(page, sizes, strict=True):
                if size is None and old.sha256 not in self._look.told:
                    self._look.told.add(old.sha256)
                    detail = f"the superseded body {old.sha256} is gone"
                    finding = Finding("I01", "old-body", named(old.key), detail)
                    cases.append(self._of_blob(finding, old.sha256, _is_gone))
            self._look.tally.checked["old bodies"] += len(page)
            yield Progress("old bodies", self._look.tally.checked["old bodies"], None)
        for case in await self._look.settled(cases):
            yield case

    async def _blob_rows(self) -> AsyncGenerator[Progress | Case, None]:
        cases: list[Case] = []
        totals = await self._look.scope.census.totals()
        async for page in self._look.scope.census.blobs():
            sizes = await self._look.scope.survey.sizes([row.ref.sha256 for row in page])
            for row, size in zip(page, sizes, strict=True):
                cases += self._judge_blob(row, size)
            self._look.tally.checked["blob rows"] += len(page)
            yield Progress("blob rows", self._look.tally.checked["blob rows"], totals.blobs)
        for case in await self._look.settled(cases):
            yield case

    def _judge_blob(self, row: BlobRow, size: int | None) -> list[Case]:
        sha256 = row.ref.sha256
        if sha256 in self._look.told or sha256 in self._look.counted:
            return []
        if _is_phantom(row, size):
            detail = f"{row.ref.size} bytes are counted for a blob that is gone and that nothing names"
            return [self._of_blob(Finding("I14", "phantom", sha256, detail), sha256, _is_phantom)]
        if _is_of_other_size(row, size):
            self._look.told.add(sha256)
            detail = f"{row.ref.size} bytes are counted and the blob has {size}"
            return [self._of_blob(Finding("I14", "length", sha256, detail), sha256, _is_of_other_size)]
        if self._is_overdue(row, size):
            detail = "it is marked for deletion, and the time for that has long come"
            finding = Finding("I15", "overdue", sha256, detail, note=self._look.scope.since is None)
            return [self._of_blob(finding, sha256, self._is_overdue)]
        return []

    def _is_overdue(self, row: BlobRow, size: int | None) -> bool:
        """A stopped instance deletes nothing; there it is a note that the next one will."""
        del size
        now, since = self._look.scope.clock(), self._look.scope.since
        if row.doomed_at is None or row.named or self._look.scope.pinned():
            return False
        if row.doomed_at > now + AHEAD:
            return True
        return now - max(row.doomed_at, since or 0.0) > OVERDUE_SECONDS

    def _of_blob(self, finding: Finding, sha256: str, wrong: Callable[[BlobRow, int | None], bool]) -> Case:
        async def still() -> bool:
            row = await self._look.scope.census.blob(sha256)
            if row is None:
                return False
            (size,) = await self._look.scope.survey.sizes([sha256])
            return wrong(row, size)

        return Case(finding, still, sha256=sha256)


class _Notes:
    """What is told once, with its count; `newest` is the largest generation that was never given."""

    def __init__(self) -> None:
        self._strangers: Counter[str] = Counter()
        self._others: Counter[tuple[str, str]] = Counter()
        self._first: dict[tuple[str, str], Finding] = {}
        self.newest = 0

    def repository(self, repo: str, providers: Mapping[str, Provider] | None) -> None:
        if providers is not None and repo not in providers:
            self._strangers[repo] += 1

    def add(self, finding: Finding, repo: str) -> None:
        slot = repo, finding.kind
        self._others[slot] += 1
        self._first.setdefault(slot, finding)

    def cases(self) -> list[Case]:
        found = [
            Finding(
                "I18", "unconfigured", repo, f"{count} rows of a repository that is not configured", note=True
            )
            for repo, count in self._strangers.items()
        ]
        for slot, count in self._others.items():
            first = self._first[slot]
            more = f" (and {count - 1} more rows of {slot[0]})" if count > 1 else ""
            found.append(replace(first, detail=first.detail + more))
        return [Case(finding, _always) for finding in found]


async def _always() -> bool:
    return True


def damaged_index(sentences: list[str], *, live: bool) -> Finding:
    detail = "; ".join(sentences[:3]) + (f" and {len(sentences) - 3} more" if len(sentences) > 3 else "")
    if live:
        detail += "; stop the instance and run artifactproxy fsck --repair"
    return Finding("I23", "index", "index", detail)


def _names_blob(row: Held) -> bool:
    """A push names its blob before it is put; what a dead one leaves is swept with its row."""
    ref = row.entry.ref
    if row.entry.key.variant.startswith(PART) and row.entry.key.variant.endswith(HOLD):
        return False
    return ref is not None and isinstance(ref.sha256, str) and len(ref.sha256) == 64


def _is_gone(row: BlobRow, size: int | None) -> bool:
    return row.named and size is None


def _is_phantom(row: BlobRow, size: int | None) -> bool:
    return not row.named and row.doomed_at is None and size is None


def _is_of_other_size(row: BlobRow, size: int | None) -> bool:
    return row.named and row.doomed_at is None and size is not None and size != row.ref.size
