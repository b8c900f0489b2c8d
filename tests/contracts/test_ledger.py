"""L1 to L10 of `ports.Ledger`, for every kind."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from artifactproxy.errors import BadRequest
from artifactproxy.model import FIRST_SIGHT, ArtifactKey, BlobRef, Found, Kind
from artifactproxy.ports import Totals, Use
from tests.contracts.harness import NOW, Indexes
from tests.contracts.test_index import KEY, PAGE, A, B, entry, promise

C = "c" * 64
OTHER = ArtifactKey("tools", "other")


async def test_l1_two_phases(index: Any) -> None:
    await index.record(entry())
    await index.record(entry(OTHER))
    assert await index.doom([A], NOW) == []
    await index.forget([KEY])
    assert await index.doom([A], NOW) == []
    await index.forget([OTHER])
    assert await index.doom([A], NOW) == [A]
    assert await index.doom([A], NOW + 500) == []
    assert await index.condemned(NOW - 1, 10) == []
    assert await index.condemned(NOW + 60, 10) == [BlobRef(A, 10)]
    await index.bury([A])
    assert await index.condemned(NOW + 60, 10) == []
    assert (await index.totals()).blobs == 0


async def test_l1_a_blob_without_a_row_can_be_doomed(index: Any) -> None:
    assert await index.orphans([C]) == [C]
    assert await index.doom([C], NOW) == [C]
    assert await index.orphans([C]) == []
    assert [ref.sha256 for ref in await index.condemned(NOW, 10)] == [C]
    await index.bury([C])
    assert await index.orphans([C]) == [C]


async def test_l1_condemned_is_bounded(index: Any) -> None:
    names = [f"{number:064x}" for number in range(1100)]
    assert await index.doom(names, NOW) == names
    assert len(await index.condemned(NOW, 7)) == 7
    await index.bury(names)
    assert await index.condemned(NOW, 2000) == []


async def test_l1_a_write_that_fails_half_way_is_undone_alone(index: Any) -> None:
    _, failed, doomed = await asyncio.gather(
        index.touch([KEY], NOW), index.doom([C, "\ud800"], NOW), index.doom([B], NOW), return_exceptions=True
    )
    assert isinstance(failed, BadRequest)
    assert doomed == [B]
    assert [ref.sha256 for ref in await index.condemned(NOW, 10)] == [B]


async def test_l2_recorded_again_in_between(index: Any) -> None:
    await index.record(entry())
    await index.forget([KEY])
    await index.doom([A], NOW)
    await index.record(entry(OTHER))
    assert await index.condemned(NOW + 60, 10) == []
    await index.bury([A])
    assert (await index.totals()).blobs == 1
    assert (await index.find(OTHER)).entry == entry(OTHER)


async def test_l2_recorded_between_condemned_and_bury(index: Any) -> None:
    await index.doom([A], NOW)
    assert [ref.sha256 for ref in await index.condemned(NOW, 10)] == [A]
    await index.record(entry())
    await index.bury([A])
    assert (await index.totals()).blobs == 1


async def test_l3_coldest_by_the_latest_use_of_a_blob(index: Any) -> None:
    await index.record(entry(KEY, A, last_used=NOW))
    await index.record(entry(OTHER, A, last_used=NOW + 30))
    await index.record(entry(PAGE, B, Kind.INDEX, last_used=NOW + 20))
    await index.record(entry(ArtifactKey("tools", "twin"), C, last_used=NOW + 10))
    await index.record(entry(ArtifactKey("tools", "twin2"), C, last_used=NOW + 10))
    await index.record(entry(ArtifactKey("tools", "gone"), None, last_used=NOW))
    expected = [(BlobRef(C, 10), NOW + 10), (BlobRef(B, 10), NOW + 20), (BlobRef(A, 10), NOW + 30)]
    assert await index.coldest(10, NOW + 1000) == expected
    assert await index.coldest(2, NOW + 1000) == expected[:2]
    assert await index.coldest(10, NOW + 20) == expected[:1]
    await index.touch([ArtifactKey("tools", "twin2")], NOW + 90)
    assert await index.coldest(10, NOW + 1000) == [*expected[1:], (BlobRef(C, 10), NOW + 90)]


async def test_l3_pushed_blobs_are_never_evictable(box: Indexes) -> None:
    async with box.open() as index:
        await index.record(entry(KEY, A, last_used=NOW))
        await index.record(entry(ArtifactKey("mine", "pushed"), A, last_used=NOW - 100))
        await index.record(entry(ArtifactKey("mine", "too"), B, last_used=NOW - 100))
        assert await index.coldest(10, NOW + 1000) == []
    async with box.open(locals_=()) as index:
        # A repository that has left the configuration still holds what was pushed to it.
        assert await index.coldest(10, NOW + 1000) == []


async def test_l4_forget_returns_what_rows_named(index: Any) -> None:
    await index.record(entry(KEY, A))
    await index.record(entry(OTHER, B))
    await index.record(entry(PAGE, None))
    assert await index.forget([KEY, PAGE, ArtifactKey("tools", "unknown")]) == [BlobRef(A, 10)]
    assert (await index.find(KEY)).entry is None
    assert (await index.find(OTHER)).entry is not None
    assert await index.forget([]) == []


async def test_l4_forget_blob(index: Any) -> None:
    await index.record(entry(KEY, A))
    await index.record(entry(OTHER, A))
    await index.record(entry(PAGE, A, Kind.INDEX, generation=1))
    await index.record(entry(PAGE, B, Kind.INDEX, generation=2))
    await index.find(KEY)
    assert set(await index.forget_blob(A)) == {KEY, OTHER}
    assert await index.find(KEY) == Found()
    assert (await index.find(PAGE)).entry is not None
    assert await index.doom([A], NOW) == [A]


async def test_l5_orphans(index: Any) -> None:
    await index.record(entry(KEY, A))
    assert await index.orphans([A, B]) == [B]
    await index.forget([KEY])
    assert await index.orphans([A, B]) == [A, B]
    await index.doom([A], NOW)
    assert await index.orphans([A, B]) == [B]


async def test_l6_promises_are_forgotten_only_when_asked(index: Any) -> None:
    await index.record(entry(PAGE, A, Kind.INDEX))
    taught = promise(B, taught_by=PAGE.path)
    other = promise(C, OTHER, taught_by="simple/other/")
    await index.learn([taught, other])
    await index.forget([PAGE])
    assert (await index.find(KEY)).promise == taught
    await index.record(entry(KEY, B))
    await index.find(KEY)
    await index.forget([PAGE], promises=True)
    assert await index.find(KEY) == Found(entry(KEY, B), None)
    assert (await index.find(OTHER)).promise == other


async def test_entries_by_path_prefix_and_package(index: Any) -> None:
    rows = [
        entry(ArtifactKey("tools", "a/1", "x")),
        entry(ArtifactKey("tools", "a/1", "y")),
        entry(ArtifactKey("tools", "a/2"), purl="pkg:pypi/soup@1.0"),
        entry(ArtifactKey("tools", "a0"), purl="pkg:pypi/soup@2.0?file=x"),
        entry(ArtifactKey("tools", "b"), purl="pkg:pypi/soup"),
        entry(ArtifactKey("tools", "c"), purl="pkg:pypi/souper@1.0"),
        entry(ArtifactKey("else", "a/1"), purl="pkg:pypi/soup@1.0"),
    ]
    for row in rows:
        await index.record(row)
    assert await index.entries("tools", path="a/1") == rows[:2]
    assert await index.entries("tools", prefix="a/") == rows[:3]
    assert await index.entries("tools") == rows[:6]
    assert await index.entries("tools", limit=4) == rows[:4]
    assert await index.entries("tools", purl="pkg:pypi/soup") == rows[2:5]
    assert await index.entries("tools", purl="pkg:pypi/soup@2.0") == [rows[3]]
    assert await index.entries("tools", prefix="\U0010ffff") == []
    assert await index.entries("nothing") == []


async def test_expire_drops_absences_past_keeping(index: Any) -> None:
    await index.record(entry(KEY, None, ttl=60.0))
    await index.record(entry(OTHER, A, ttl=60.0))
    await index.find(KEY)
    assert await index.expire(NOW + 59) == 0
    assert await index.expire(NOW + 61) == 1
    assert await index.find(KEY) == Found()
    assert (await index.find(OTHER)).entry is not None


async def test_expire_bounds_absences_least_recently_used_first(index: Any) -> None:
    keys = [ArtifactKey("tools", str(number)) for number in range(12)]
    await asyncio.gather(*(index.record(entry(key, None, ttl=1e9, last_used=NOW)) for key in keys))
    await index.touch(keys[3:8], NOW + 1)
    assert await index.expire(NOW) == 7
    assert {each.key for each in await index.entries("tools")} == set(keys[3:8])


async def test_expire_drops_old_hours_and_count_adds_up(index: Any) -> None:
    hour = int(NOW // 3600 * 3600)
    use = Use(hour, "ci", "tools", "pkg:pypi/soup@1.0", A, 2, 100)
    await index.count([use, use, Use(hour - 100 * 86400, "ci", "tools", "", B)])
    await index.count([use])
    assert await index.expire(NOW) == 1
    assert await index.expire(NOW) == 0
    assert await index.expire(NOW + 91 * 86400) == 1


async def test_totals(index: Any) -> None:
    assert await index.totals() == Totals()
    await index.record(entry(KEY, A))
    await index.record(entry(OTHER, A))
    await index.record(entry(PAGE, None))
    await index.record(entry(ArtifactKey("mine", "x"), B))
    await index.learn([promise()])
    assert await index.totals() == Totals(
        blobs=2, bytes=20, entries=3, absences=1, promises=1, by_repo=(("mine", 1, 10), ("tools", 2, 20))
    )


async def test_l7_unlearn_by_path_package_and_repository(index: Any) -> None:
    others = [replace(KEY, path=f"other/{n}") for n in range(3)]
    purls = ["pkg:pypi/a@1", "pkg:pypi/a@2", "pkg:pypi/ab@1"]
    await index.learn(
        [promise(B, PAGE, taught_by=FIRST_SIGHT), promise(B, KEY, taught_by="an index")]
        + [promise(B, key, purl=purl) for key, purl in zip(others, purls, strict=True)]
    )
    assert await index.unlearn(KEY.repo, path=PAGE.path) == 1
    assert await index.find(PAGE) == Found(None, None)
    assert await index.unlearn(KEY.repo, path=KEY.path) == 0
    assert (await index.find(KEY)).promise is not None
    assert await index.unlearn(KEY.repo, purl="pkg:pypi/a") == 2
    assert (await index.find(others[2])).promise is not None
    assert await index.unlearn("another") == 0
    assert await index.unlearn(KEY.repo) == 2
    assert await index.find(others[2]) == Found(None, None)


async def test_l9_a_use_dated_far_ahead_is_dated_now(index: Any) -> None:
    """A clock that was ahead and is right again leaves nothing that looks used for years to come."""
    await index.record(entry(KEY, A, last_used=NOW + 10 * 365 * 86400))
    await index.record(entry(OTHER, B, last_used=NOW + 3600))
    await index.find(KEY)
    await index.expire(NOW)
    assert await index.coldest(10, NOW + 7200) == [(BlobRef(A, 10), NOW), (BlobRef(B, 10), NOW + 3600)]
    assert (await index.find(KEY)).entry.last_used == NOW


async def test_l8_named_pages_in_order_and_naming_tells_who(index: Any) -> None:
    await index.record(entry(KEY, B))
    await index.record(entry(OTHER, B))
    await index.record(entry(PAGE, A, kind=Kind.INDEX))
    await index.record(entry(PAGE, C, kind=Kind.INDEX))
    await index.record(entry(ArtifactKey("tools", "absent"), None))
    assert [ref.sha256 for ref in await index.named("", 10)] == [A, B, C], "A is superseded"
    assert [ref.sha256 for ref in await index.named("", 2)] == [A, B]
    assert [ref.sha256 for ref in await index.named(B, 10)] == [C]
    assert await index.named(C, 10) == []
    assert (await index.named("", 1))[0].size == (await index.find(KEY)).entry.ref.size
    assert {each.key for each in await index.naming(B)} == {KEY, OTHER}
    assert await index.naming(B) == [(await index.find(each.key)).entry for each in await index.naming(B)]
    assert await index.naming(A) == []
    await index.forget_blob(B)
    assert [ref.sha256 for ref in await index.named("", 10)] == [A, C]


async def test_l10_one_turn_falls_to_one_of_all_who_ask(box: Indexes) -> None:
    async with box.open(**box.together) as one, box.open(owner=False, **box.together) as other:
        asked = await asyncio.gather(*(index.turn("sweep", 3600) for index in (one, other) * 5))
        assert sorted(asked) == [False] * 9 + [True]
        assert not await one.turn("sweep", 3600)
        assert await other.turn("another", 3600)
        assert await other.turn("sweep", 0.0), "a turn whose time is over is taken again"
        assert not await one.turn("sweep", 3600)
