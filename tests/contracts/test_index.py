"""I1 to I13 of `ports.MetadataIndex`, for every kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifactproxy import failpoints, indexes
from artifactproxy.errors import BadRequest, IndexUnavailable
from artifactproxy.model import ArtifactKey, BlobRef, CacheEntry, Digest, Found, Kind, Promise
from artifactproxy.ports import Use
from tests.contracts.harness import CAN_BE_AWAY, INDEXES, NOW, Indexes

A, B = "a" * 64, "b" * 64
KEY = ArtifactKey("tools", "soup/soup-1.0.tgz")
PAGE = ArtifactKey("tools", "simple/soup/", "json")


def entry(
    key: ArtifactKey = KEY, sha256: str | None = A, kind: Kind = Kind.ARTIFACT, **more: Any
) -> CacheEntry:
    ref = None if sha256 is None else BlobRef(sha256, 10)
    return CacheEntry(
        key, kind, ref, status=200 if ref else 404, **{"fetched_at": NOW, "checked_at": NOW, **more}
    )


def promise(sha256: str = A, key: ArtifactKey = KEY, **more: Any) -> Promise:
    return Promise(key, (Digest("sha256", sha256),), **more)


def test_every_kind_loads_its_class() -> None:
    assert all(hasattr(load(), "find") for load in indexes.KINDS.values())
    assert set(INDEXES) == set(indexes.KINDS)


async def test_i1_an_unknown_key_is_nothing(index: Any) -> None:
    assert await index.find(KEY) == Found(None, None)
    await index.learn([promise()])
    assert await index.find(KEY) == Found(None, promise())
    assert await index.find(replace(KEY, variant="other")) == Found(None, None)
    await index.record(entry())
    assert await index.find(KEY) == Found(entry(), promise())
    assert await index.find(KEY) == Found(entry(), promise())


TEXT = st.text(max_size=40)
TIME = st.floats(allow_nan=False)
ENTRY = st.builds(
    CacheEntry,
    key=st.builds(ArtifactKey, TEXT, TEXT, TEXT),
    kind=st.sampled_from(Kind),
    ref=st.none() | st.builds(BlobRef, st.sampled_from([A, B]), st.integers(0, 2**63 - 1)),
    status=st.integers(100, 599),
    generation=st.just(1),
    ttl=st.none() | TIME,
    released=st.none() | TIME,
    **dict.fromkeys(("fetched_at", "checked_at", "first_seen", "last_used"), TIME),
    **dict.fromkeys(("media_type", "etag", "last_modified", "validator_etag", "validator_modified", "cache_control", "source", "verified_by", "taught_by", "released_from", "purl"), TEXT),
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=ENTRY)
async def test_i2_record_then_find_returns_every_field(index: Any, written: CacheEntry) -> None:
    await index.forget([written.key])
    assert await index.record(written)
    assert (await index.find(written.key)).entry == written
    assert (await index.entries(written.key.repo, path=written.key.path))[:1] or written.key.path == ""


async def test_i2_a_promise_returns_every_field(index: Any) -> None:
    whole = Promise(
        KEY,
        (Digest("sha256", A), Digest("sha512", "c" * 128)),
        size=7,
        url="https://files.example/soup-1.0.tgz",
        taught_by="simple/soup/",
        released=NOW,
        released_from="upload-time",
        purl="pkg:generic/soup@1.0",
    )
    empty = Promise(ArtifactKey("tools", "empty"))
    assert await index.learn([whole, empty]) == []
    assert (await index.find(KEY)).promise == whole
    assert (await index.find(empty.key)).promise == empty


async def test_i3_an_older_generation_never_replaces(index: Any) -> None:
    assert await index.record(entry(sha256=A, generation=5))
    assert not await index.record(entry(sha256=B, generation=4))
    assert (await index.find(KEY)).entry.ref.sha256 == A
    assert await index.record(entry(sha256=A, generation=5, etag='"again"'))
    assert await index.record(entry(sha256=B, generation=6))
    assert (await index.find(KEY)).entry.ref.sha256 == B


async def test_i3_late_writers_in_any_order(index: Any) -> None:
    numbers = [7, 3, 9, 1, 8, 2]
    await asyncio.gather(
        *(index.record(entry(PAGE, kind=Kind.INDEX, generation=number)) for number in numbers)
    )
    assert (await index.find(PAGE)).entry.generation == 9


async def test_i4_durable_when_record_returns(box: Indexes) -> None:
    async with box.open() as index:
        await index.record(entry())
        await index.learn([promise()])
        async with box.open(owner=False) as other:
            assert await other.find(KEY) == Found(entry(), promise())
    async with box.open() as index:
        assert await index.find(KEY) == Found(entry(), promise())


async def test_i5_learn_is_bulk_and_idempotent(index: Any) -> None:
    many = [promise(key=ArtifactKey("tools", f"f/{number}")) for number in range(1200)]
    assert await index.learn(iter(many)) == []
    assert await index.learn(many) == []
    assert (await index.totals()).promises == 1200
    assert await index.learn([]) == []


async def test_i5_a_change_is_refused_only_if_something_is_stored_under_the_old_one(index: Any) -> None:
    await index.learn([promise(A)])
    assert await index.learn([promise(B)]) == []
    assert (await index.find(KEY)).promise == promise(B)
    await index.record(entry(sha256=B))
    assert await index.learn([promise(A), promise(A, replace(KEY, path="other"))]) == [promise(A)]
    assert (await index.find(KEY)).promise == promise(B)
    moved = promise(B, url="https://mirror.example/soup")
    assert await index.learn([moved]) == []
    assert (await index.find(KEY)).promise == moved


async def test_i5_a_stored_artifact_is_defended_without_an_older_promise(index: Any) -> None:
    await index.record(entry(sha256=A))
    assert await index.learn([promise(B)]) == [promise(B)]
    assert (await index.find(KEY)).promise is None
    assert await index.learn([promise(A)]) == []


async def test_i5_other_algorithms_are_defended_by_the_promise_that_was_kept(index: Any) -> None:
    old = Promise(KEY, (Digest("sha512", "c" * 128),))
    new = Promise(KEY, (Digest("sha512", "d" * 128),))
    await index.learn([old])
    await index.record(entry())
    assert await index.learn([new]) == [new]
    assert (await index.find(KEY)).promise == old


async def test_i5_what_documents_say_is_merged(index: Any) -> None:
    summed = Promise(KEY, (Digest("h1", A),), taught_by="lookup")
    dated = Promise(KEY, taught_by="info", released=NOW, released_from="Time", purl="pkg:x/y@1")
    both = replace(summed, released=NOW, released_from="Time", purl="pkg:x/y@1")
    for order in ([summed, dated], [dated, summed], [dated, summed, dated, summed]):
        await index.unlearn("tools")
        for one in order:
            assert await index.learn([one]) == []
        assert (await index.find(KEY)).promise == both


async def test_i5_a_date_is_learnt_of_what_is_stored(index: Any) -> None:
    await index.learn([promise(A)])
    await index.record(entry(sha256=A))
    dated = Promise(KEY, taught_by="info", released=NOW, released_from="Time")
    assert await index.learn([dated]) == []
    assert (await index.find(KEY)).promise == promise(A, released=NOW, released_from="Time")


async def test_i5_checksums_of_go_modules_are_kept_and_defended(index: Any) -> None:
    old = Promise(KEY, (Digest("h1", A),))
    await index.learn([old, Promise(PAGE, (Digest("h1mod", B),))])
    assert (await index.find(PAGE)).promise.digests == (Digest("h1mod", B),)
    await index.record(entry(sha256="d" * 64))
    assert await index.learn([replace(old, digests=(Digest("h1", B),))]) != []
    assert (await index.find(KEY)).promise == old


async def test_i5_indexes_and_absences_may_change(index: Any) -> None:
    await index.record(entry(PAGE, A, Kind.INDEX))
    await index.record(entry(sha256=None))
    assert await index.learn([promise(B, PAGE), promise(B)]) == []


async def test_i5_nonsense_in_one_promise_spares_the_others(index: Any) -> None:
    surrogate = ArtifactKey("tools", "\ud800")
    await index.learn([promise(key=surrogate), promise(size=10**30), promise(key=PAGE)])
    assert (await index.find(PAGE)).promise == promise(key=PAGE)
    assert await index.find(KEY) == Found()
    with pytest.raises(BadRequest):
        await index.find(surrogate)


async def test_i6_touch(index: Any) -> None:
    await index.record(entry(last_used=NOW))
    await index.touch([KEY, PAGE], NOW + 50)
    assert (await index.find(KEY)).entry == entry(last_used=NOW + 50)
    assert await index.find(PAGE) == Found()
    await index.touch([KEY], NOW + 10)
    assert (await index.find(KEY)).entry.last_used == NOW + 50
    await index.touch([ArtifactKey("tools", str(number)) for number in range(1100)], NOW)
    assert (await index.totals()).entries == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=st.builds(ArtifactKey, *[st.text(max_size=2000)] * 3),
    second=st.builds(ArtifactKey, *[st.text(alphabet="aA\0\u00e9e\u0301 %/", max_size=4)] * 3),
)
async def test_i7_keys_are_exact(index: Any, first: ArtifactKey, second: ArtifactKey) -> None:
    keys = {
        first,
        second,
        replace(second, path=second.path + "\0"),
        replace(second, path=second.path.upper()),
    }
    for number, key in enumerate(keys):
        await index.forget([key], promises=True)
        await index.record(entry(key, generation=number))
        await index.learn([promise(key=key, url=str(number))])
    for number, key in enumerate(keys):
        assert await index.find(key) == Found(
            entry(key, generation=number), promise(key=key, url=str(number))
        )
    await index.forget(list(keys))


async def test_i7_fields_of_two_kibibytes(index: Any) -> None:
    key = ArtifactKey("r" * 2048, "\U0001f372" * 512, "v" * 2048)
    await index.record(entry(key))
    assert (await index.find(key)).entry == entry(key)


async def test_i8_all_of_it_at_once(index: Any) -> None:
    async def task(number: int) -> None:
        key = ArtifactKey("tools", f"many/{number % 20}")
        for _ in range(5):
            generation = await index.generation()
            await index.record(entry(key, f"{number:064x}", Kind.INDEX, generation=generation))
            await index.learn([promise(key=ArtifactKey("tools", f"p/{number}"))])
            await index.touch([key], NOW + number)
            found = (await index.find(key)).entry
            assert found.generation >= generation
            await index.count([Use(3600, "me", "tools", "", A)])

    await asyncio.gather(*(task(number) for number in range(60)))
    totals = await index.totals()
    assert (totals.entries, totals.promises) == (20, 60)


async def test_i8_one_failing_write_spares_its_neighbours(index: Any) -> None:
    bad = entry(ArtifactKey("tools", "\udfff"))
    good = [entry(ArtifactKey("tools", str(number))) for number in range(20)]
    results = await asyncio.gather(*map(index.record, [*good[:10], bad, *good[10:]]), return_exceptions=True)
    assert [result for result in results if result is True] == [True] * 20
    assert isinstance(results[10], BadRequest)
    for each in good:
        assert (await index.find(each.key)).entry == each


@pytest.mark.parametrize("laps", range(6))
async def test_i8_a_cancelled_waiter_does_not_take_its_write_back(index: Any, laps: int) -> None:
    assert (await index.find(KEY)).entry is None
    failpoints.arm("row.written=sleep:0.01")
    task = asyncio.create_task(index.record(entry()))
    other = asyncio.create_task(index.record(entry(PAGE)))
    for _ in range(laps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert await other
    assert (await index.find(KEY)).entry == (entry() if laps else None)


async def test_i9_generations_only_grow(box: Indexes) -> None:
    last = 0
    for _ in range(3):
        async with box.open() as index:
            numbers = await asyncio.gather(*(index.generation() for _ in range(35)))
            assert len(set(numbers)) == 35
            assert min(numbers) > last
            last = max(numbers)
            following = await index.generation()
            assert following > last
            last = following


async def test_i10_record_makes_a_doomed_blob_wanted(index: Any) -> None:
    await index.record(entry())
    await index.forget([KEY])
    assert await index.doom([A], NOW) == [A]
    await index.record(entry())
    assert await index.condemned(NOW + 1000, 10) == []
    await index.forget([KEY])
    assert await index.condemned(NOW + 1000, 10) == []
    assert await index.doom([A], NOW) == [A]


async def test_i11_a_replaced_index_body_is_kept_for_a_while(index: Any, box: Indexes) -> None:
    await index.record(entry(PAGE, A, Kind.INDEX, generation=1))
    await index.record(entry(PAGE, B, Kind.INDEX, generation=2))
    assert await index.doom([A], NOW) == []
    assert await index.orphans([A]) == []
    box.clock.now += 6 * 86400
    await index.expire(box.clock.now)
    assert await index.orphans([A]) == []
    box.clock.now += 2 * 86400
    assert await index.expire(box.clock.now) == 1
    assert await index.condemned(box.clock.now, 10) == [BlobRef(A, 10)]


async def test_i11_a_replaced_artifact_body_is_doomed(index: Any) -> None:
    await index.record(entry(sha256=A, generation=1))
    await index.record(entry(sha256=B, generation=2))
    assert await index.condemned(NOW, 10) == [BlobRef(A, 10)]


@pytest.fixture
async def pair(box: Indexes) -> AsyncIterator[Any]:
    """Two processes on one index."""
    async with box.open(**box.together) as one, box.open(owner=False, **box.together) as other:
        yield one, other


CHANGES = {
    "record": lambda index: index.record(entry(sha256=B, generation=2)),
    "an absence": lambda index: index.record(entry(sha256=None, generation=2)),
    "learn": lambda index: index.learn([promise(url="https://mirror.example/soup")]),
    "forget": lambda index: index.forget([KEY]),
    "forget the teacher": lambda index: index.forget([PAGE], promises=True),
    "forget_blob": lambda index: index.forget_blob(A),
    "unlearn a path": lambda index: index.unlearn(KEY.repo, path=KEY.path, whole=True),
    "unlearn a repository": lambda index: index.unlearn(KEY.repo),
    "expire": lambda index: index.expire(NOW - 100 * 86400),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_i12_what_another_process_wrote_is_found_soon(pair: Any, box: Indexes, change: str) -> None:
    one, other = pair
    await one.learn([promise(taught_by=PAGE.path)])
    await one.record(entry(generation=1, last_used=NOW))
    before = await other.find(KEY)
    assert before == Found(entry(generation=1, last_used=NOW), promise(taught_by=PAGE.path))
    await CHANGES[change](one)
    await asyncio.sleep(box.recheck)
    after = await other.find(KEY)
    assert after == await one.find(KEY)
    assert after != before


async def test_i12_who_is_told_that_a_row_changed_looks_at_once(pair: Any) -> None:
    one, other = pair
    for number, keys in enumerate(([KEY], [], [PAGE, KEY]), 1):
        await one.record(entry(generation=number))
        other.suspect(keys)
        assert (await other.find(KEY)).entry.generation == number


@pytest.mark.parametrize("box", CAN_BE_AWAY, indirect=True)
async def test_i13_what_was_looked_up_is_found_while_the_backend_is_away(box: Indexes) -> None:
    async with asyncio.timeout(60), box.open() as index:
        await index.record(entry())
        await index.record(entry(PAGE, B, Kind.INDEX))
        assert await index.find(KEY) == Found(entry())
        await asyncio.to_thread(box.away)
        while not (found := await index.find(KEY)).uncertain:
            await asyncio.sleep(0.01)
        assert found == Found(entry(), uncertain=True)
        assert (await index.find(PAGE)).uncertain, "a row that was just recorded is known, too"
        for call in (
            index.find(replace(KEY, path="never asked for")),
            index.record(entry()),
            index.generation(),
            index.check(),
        ):
            with pytest.raises(IndexUnavailable):
                await call
        index.suspect([PAGE])
        with pytest.raises(IndexUnavailable):
            await index.find(PAGE)
        index.suspect([])
        assert (await index.find(KEY)).uncertain
        await asyncio.to_thread(box.back)
        while (await index.find(KEY)).uncertain:
            await asyncio.sleep(0.01)
        assert await index.find(PAGE) == Found(entry(PAGE, B, Kind.INDEX))
        await index.check()


@pytest.mark.parametrize("errno", ["EIO", "ENOSPC"])
async def test_a_failing_commit_is_a_fault_and_nothing_is_written(index: Any, errno: str) -> None:
    assert (await index.find(KEY)).entry is None
    failpoints.arm(f"row.written=raise:{errno}")
    results = await asyncio.gather(
        index.record(entry()), index.record(entry(PAGE)), index.touch([KEY], NOW), return_exceptions=True
    )
    assert all(isinstance(result, IndexUnavailable) for result in results)
    failpoints.arm("")
    assert await index.find(KEY) == Found()
    assert await index.record(entry())
    assert (await index.find(KEY)).entry == entry()


async def test_a_commit_that_fails_once_is_tried_again_item_by_item(index: Any) -> None:
    failpoints.arm("row.written=raise:EIO@2")
    first = asyncio.create_task(index.record(entry(PAGE)))
    await asyncio.sleep(0)
    rest = [entry(ArtifactKey("tools", str(number))) for number in range(5)]
    assert await asyncio.gather(first, *map(index.record, rest)) == [True] * 6
    for each in rest:
        assert (await index.find(each.key)).entry == each


async def test_check_and_close(box: Indexes) -> None:
    async with box.open() as index:
        await index.check()
        waiting = asyncio.gather(*(index.record(entry(ArtifactKey("tools", str(n)))) for n in range(50)))
        await asyncio.sleep(0)
        await index.close()
        assert await waiting == [True] * 50
        for call in (index.find(KEY), index.record(entry()), index.check(), index.totals()):
            with pytest.raises(IndexUnavailable):
                await call
    async with box.open() as index:
        assert (await index.totals()).entries == 50
