"""H1 to H9 of `ports.hosting.Hosting`, and L11 and L12 of `ports.Ledger`, for every kind."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from artifactproxy.model import ArtifactKey, BlobRef, CacheEntry, Kind
from artifactproxy.ports.hosting import Refusal, Session
from tests.contracts.harness import NOW, Indexes

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
SESSION = Session("0" * 32, "mine", "app", "builder", 0, 0, NOW, NOW)


def key(variant: str, path: str = "app", repo: str = "mine") -> ArtifactKey:
    return ArtifactKey(repo, path, variant)


def row(
    variant: str, sha256: str = A, *, path: str = "app", kind: Kind = Kind.ARTIFACT, **more: Any
) -> CacheEntry:
    entry = CacheEntry(key(variant, path), kind, BlobRef(sha256, 10), verified_by="digest", fetched_at=NOW)
    return replace(entry, **more)


def piece(number: int, sha256: str = A, session: str = SESSION.id) -> CacheEntry:
    return row(f"part:{session}:{number:06}", sha256)


async def test_h1_all_rows_or_none(index: Any) -> None:
    wanted = [row("manifest:1"), row("tag:latest", kind=Kind.INDEX)]
    assert await index.publish(wanted, needs=[key("blob:1"), key("blob:2")]) == Refusal(
        (key("blob:1"), key("blob:2"))
    )
    assert await index.committed(key("manifest:1")) is None
    assert await index.publish([row("blob:1", B)]) is None
    assert await index.publish(wanted, needs=[key("blob:1"), key("blob:2")]) == Refusal((key("blob:2"),))
    assert await index.publish(wanted, needs=[key("blob:1")]) is None
    for entry in wanted:
        assert await index.committed(entry.key) == entry
        assert (await index.find(entry.key)).entry == entry


async def test_h1_an_absence_is_not_what_is_needed(index: Any) -> None:
    await index.record(replace(row("blob:1"), ref=None, status=404, ttl=60.0, checked_at=NOW))
    assert await index.publish([row("manifest:1")], needs=[key("blob:1")]) == Refusal((key("blob:1"),))


async def test_h1_durable(box: Indexes) -> None:
    async with box.open() as index:
        await index.publish([row("blob:1")])
    async with box.open() as index:
        assert await index.committed(key("blob:1")) == row("blob:1")


async def test_h1_what_is_fixed_names_one_blob(index: Any) -> None:
    first, second = row("tag:v1", A, kind=Kind.INDEX), row("tag:v1", B, kind=Kind.INDEX, generation=5)
    assert await index.publish([first], fixed=[first.key]) is None
    assert await index.publish([first], fixed=[first.key]) is None
    assert await index.publish([second, row("manifest:2", B)], fixed=[first.key]) == Refusal(
        taken=(first.key,)
    )
    assert await index.committed(first.key) == first
    assert await index.committed(key("manifest:2")) is None


async def test_h1_of_many_at_once_one_fixes(index: Any) -> None:
    tags = [row("tag:v1", f"{n:064x}", kind=Kind.INDEX, generation=n) for n in range(1, 9)]
    told = await asyncio.gather(*(index.publish([tag], fixed=[tag.key]) for tag in tags))
    assert told.count(None) == 1
    assert await index.committed(key("tag:v1")) == tags[told.index(None)]


async def test_h1_instead_of_what_leaves(index: Any) -> None:
    await index.publish([row("part:x:hold")])
    assert await index.publish([row("blob:1")], instead=[key("part:x:hold")]) is None
    assert await index.committed(key("part:x:hold")) is None
    assert await index.doom([A], NOW) == []
    assert await index.condemned(NOW + 60, 10) == []


async def test_h2_rows_leave_and_their_blobs_are_doomed(box: Indexes, index: Any) -> None:
    await index.publish([row("blob:1", A), row("blob:2", B), row("blob:2", B, path="other")])
    assert await index.withdraw([key("blob:1"), key("blob:2"), key("blob:3")]) == 2
    assert await index.condemned(box.clock.now, 10) == [BlobRef(A, 10)]
    assert (await index.find(key("blob:1"))).entry is None
    assert await index.withdraw([key("blob:1")]) == 0


async def test_h2_alike(index: Any) -> None:
    await index.publish(
        [
            row("manifest:1", A),
            row("tag:a", A, kind=Kind.INDEX),
            row("tag:b", B, kind=Kind.INDEX),
            row("tag:c", A, kind=Kind.INDEX),
            row("tag:a", A, kind=Kind.INDEX, path="app/more"),
        ]
    )
    assert [entry.key.variant for entry in await index.variants("mine", "app", "tag:", limit=9)] == [
        "tag:a",
        "tag:b",
        "tag:c",
    ]
    assert await index.withdraw([key("manifest:1")], alike="tag:") == 3
    assert [entry.key.variant for entry in await index.variants("mine", "app", "tag:", limit=9)] == ["tag:b"]
    assert await index.committed(key("tag:a", "app/more")) is not None
    assert (await index.find(key("tag:a"))).entry is None


async def test_h3_committed_by_another_process(box: Indexes) -> None:
    async with (
        box.open(**box.together) as one,
        box.open(owner=False, **box.together) as other,
    ):
        await one.publish([row("tag:a", A, kind=Kind.INDEX, generation=1)])
        assert (await other.committed(key("tag:a"))).ref.sha256 == A
        await one.publish([row("tag:a", B, kind=Kind.INDEX, generation=2)])
        assert (await other.committed(key("tag:a"))).ref.sha256 == B
        await one.withdraw([key("tag:a")])
        assert await other.committed(key("tag:a")) is None


async def test_h4_pages_of_variants(index: Any) -> None:
    tags = sorted(["1", "2", "B", "Z", "_x", "a", "a-b", "a.b", "z"])
    await index.publish([row(f"tag:{tag}", kind=Kind.INDEX) for tag in reversed(tags)])
    await index.publish([row("manifest:1"), row("tagged"), row("tag:other", path="app/x")])
    seen: list[str] = []
    while page := await index.variants("mine", "app", "tag:", after=seen[-1] if seen else "", limit=4):
        assert len(page) <= 4
        seen += [entry.key.variant.removeprefix("tag:") for entry in page]
    assert seen == tags
    assert await index.variants("mine", "app", "tag:", after="zz", limit=4) == []


async def test_h4_pages_of_paths(index: Any) -> None:
    names = sorted(["app", "app-b", "app/x", "app_b", "b", "b/c/d"])
    await index.publish([row("manifest:1", path=name) for name in names])
    await index.publish([row("manifest:2", path="app"), row("blob:1", path="only-blobs")])
    seen: list[str] = []
    while page := await index.paths("mine", "manifest:", after=seen[-1] if seen else "", limit=2):
        seen += page
    assert seen == names


async def test_h5_sessions_are_bounded_and_found(box: Indexes) -> None:
    async with (
        box.open(**box.together) as one,
        box.open(owner=False, **box.together) as other,
    ):
        assert await one.open_session(SESSION, most=2)
        assert await other.session(SESSION.id) == SESSION
        assert await one.session("1" * 32) is None
        assert await other.open_session(replace(SESSION, id="1" * 32), most=2)
        assert not await one.open_session(replace(SESSION, id="2" * 32), most=2)
        assert await one.open_session(replace(SESSION, id="2" * 32, caller="another"), most=2)


async def test_h6_one_of_many_advances(index: Any) -> None:
    await index.open_session(SESSION, most=1)
    parts = [piece(0, f"{number:064x}") for number in range(8)]
    told = await asyncio.gather(*(index.advance(SESSION, part, NOW + 5) for part in parts))
    (grown,) = [each for each in told if each is not None]
    assert grown == replace(SESSION, size=10, parts=1, touched=NOW + 5)
    assert await index.session(SESSION.id) == grown
    assert await index.variants("mine", "app", f"part:{SESSION.id}:", limit=9) == [parts[told.index(grown)]]
    assert await index.advance(SESSION, piece(1), NOW) is None
    assert (await index.advance(grown, piece(1, B), NOW + 6)).size == 20


async def test_h7_ends_once_and_its_pieces_leave(box: Indexes, index: Any) -> None:
    await index.open_session(SESSION, most=1)
    grown = await index.advance(SESSION, piece(0, A), NOW)
    grown = await index.advance(grown, piece(1, B), NOW)
    assert not await index.close_session(SESSION, [row("blob:1", C)])
    assert await index.committed(key("blob:1")) is None
    told = await asyncio.gather(*(index.close_session(grown, [row("blob:1", A)]) for _ in range(3)))
    assert sorted(told) == [False, False, True]
    assert await index.session(SESSION.id) is None
    assert await index.variants("mine", "app", "part:", limit=9) == []
    assert await index.committed(key("blob:1")) == row("blob:1", A)
    assert await index.condemned(box.clock.now, 10) == [BlobRef(B, 10)]


async def test_h7_idle_sessions(index: Any) -> None:
    sessions = [replace(SESSION, id=f"{n:032}", touched=NOW + n) for n in range(5)]
    for session in sessions:
        await index.open_session(session, most=9)
    assert await index.idle_sessions(NOW + 3, 9) == sessions[:3]
    assert await index.idle_sessions(NOW + 3, 2) == sessions[:2]


async def test_h8_what_is_being_deleted_cannot_be_held(index: Any) -> None:
    hold = row("part:x:hold")
    await index.doom([A], NOW)
    assert await index.seize([A], NOW) == [A]
    assert not await index.hold(hold)
    assert await index.committed(hold.key) is None
    await index.bury([A], seized=True)
    assert await index.hold(hold)
    assert await index.doom([A], NOW) == []
    assert await index.seize([A], NOW) == []


async def test_h8_what_is_held_cannot_be_seized(index: Any) -> None:
    await index.doom([A], NOW)
    assert await index.hold(row("part:x:hold"))
    assert await index.seize([A], NOW) == []
    await index.withdraw([key("part:x:hold")])
    assert await index.seize([A, B], NOW) == [A]


async def test_h8_either_holds_or_seizes(index: Any) -> None:
    for round_ in range(12):
        sha256 = f"{round_:064x}"
        await index.doom([sha256], NOW)
        held, seized = await asyncio.gather(
            index.hold(row(f"part:{round_}:hold", sha256)), index.seize([sha256], NOW)
        )
        assert held != bool(seized)
        await index.bury([sha256], seized=True)


async def test_h9_pieces_without_a_session(index: Any) -> None:
    await index.open_session(SESSION, most=1)
    await index.advance(SESSION, piece(0), NOW)
    other = "f" * 32
    await index.publish([piece(0, B, other), replace(piece(1, B, other), fetched_at=NOW + 50)])
    await index.publish([row("partial"), row("blob:1")])
    assert await index.strays(NOW + 10, 9) == [piece(0, B, other).key]
    assert len(await index.strays(NOW + 100, 9)) == 2
    assert len(await index.strays(NOW + 100, 1)) == 1


async def test_l11_a_seizure_is_over_when_it_is_buried(index: Any) -> None:
    await index.doom([A], NOW)
    assert await index.seize([A, B], NOW) == [A]
    await index.bury([A])
    assert await index.condemned(NOW + 60, 10) != []
    # Whoever died between seizing and bury is followed by another.
    assert await index.seize([A], NOW + 1) == [A]
    await index.bury([A], seized=True)
    assert await index.condemned(NOW + 60, 10) == []


async def test_l11_recorded_while_seized(index: Any) -> None:
    """A fetched blob may be recorded meanwhile: it is fetched again when it is gone."""
    await index.doom([A], NOW)
    assert await index.seize([A], NOW) == [A]
    await index.record(row("", path="tool.tar"))
    assert not await index.hold(row("part:x:hold"))
    await index.bury([A], seized=True)
    assert (await index.totals()).blobs == 1
    assert await index.hold(row("part:x:hold"))


async def test_l12_what_was_pushed_is_not_forgotten(index: Any) -> None:
    fetched = replace(row(""), key=ArtifactKey("tools", "a"))
    await index.publish([row("blob:1")])
    await index.record(fetched)
    old = row("tag:a", B, kind=Kind.INDEX)
    await index.publish([old])
    await index.publish([replace(old, ref=BlobRef(A, 10), generation=2)])
    assert await index.forget_blob(A) == [fetched.key]
    assert await index.committed(key("blob:1")) == row("blob:1")
    assert await index.forget_blob(B) == []
    assert await index.doom([A, B], NOW) == []
