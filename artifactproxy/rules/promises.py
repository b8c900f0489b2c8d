"""How what several documents say about one artifact becomes one promise."""

from __future__ import annotations

from dataclasses import replace

from artifactproxy.model import FIRST_SIGHT, Digest, Promise


def merged(old: Promise | None, new: Promise) -> Promise:
    """What is known after `new` was said of the same key: the latest word on each point, and of
    points it is silent on, the word before.

    Digests, size, address and the index that gave them stay together. A document without digests
    (one that only tells a date) leaves them as they are, and what was trusted at first sight never
    takes the place of what an index promised.
    """
    if old is None:
        return new
    dated = new if new.released is not None else old
    known = replace(
        new, released=dated.released, released_from=dated.released_from, purl=new.purl or old.purl
    )
    first_sight = new.taught_by == FIRST_SIGHT and old.taught_by != FIRST_SIGHT
    if old.digests and (first_sight or not new.digests):
        return replace(
            known, digests=old.digests, size=old.size, url=new.url or old.url, taught_by=old.taught_by
        )
    if new.digests and _agree(old.digests, new.digests):
        named = {d.algorithm for d in new.digests}
        also = tuple(d for d in old.digests if d.algorithm not in named)
        size = old.size if new.size is None else new.size
        return replace(known, digests=(*new.digests, *also), size=size, url=new.url or old.url)
    if not old.digests and not new.digests:
        return replace(known, size=old.size if new.size is None else new.size, url=new.url or old.url)
    return known


def _agree(old: tuple[Digest, ...], new: tuple[Digest, ...]) -> bool:
    """Whether both name the same bytes by at least one algorithm, and none differently."""
    before = {d.algorithm: d.hex for d in old}
    shared = [d for d in new if d.algorithm in before]
    return bool(shared) and all(before[d.algorithm] == d.hex for d in shared)
