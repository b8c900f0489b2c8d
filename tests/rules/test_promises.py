"""One promise out of what several documents say."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.model import FIRST_SIGHT, ArtifactKey, Digest, Promise
from artifactproxy.rules.promises import merged

KEY = ArtifactKey("r", "p")
A, B = Digest("sha256", "a" * 64), Digest("sha256", "b" * 64)
SUM = Digest("sha512", "c" * 128)
DATE = Promise(KEY, taught_by="dates", released=5.0, released_from="Time", purl="pkg:x/dated")
DIGESTS = Promise(KEY, (A,), size=7, url="https://files.example/p", taught_by="sums", purl="pkg:x/summed")


def test_the_first_word_stands() -> None:
    assert merged(None, DATE) == DATE


def test_dates_and_digests_come_together_in_either_order() -> None:
    both = replace(DIGESTS, released=5.0, released_from="Time")
    assert merged(DATE, DIGESTS) == both
    assert merged(DIGESTS, DATE) == replace(both, purl="pkg:x/dated")


def test_the_latest_word_counts_on_what_it_speaks_of() -> None:
    later = replace(DIGESTS, digests=(B,), size=9, released=6.0, released_from="other", url="", purl="")
    assert merged(merged(DIGESTS, DATE), later) == replace(later, purl="pkg:x/dated")


def test_a_size_without_digests_leaves_those_that_belong_together() -> None:
    assert merged(DIGESTS, Promise(KEY, size=8)).size == 7
    assert merged(Promise(KEY, size=8, url="u"), Promise(KEY)) == Promise(KEY, size=8, url="u")
    assert merged(Promise(KEY, size=8), Promise(KEY, (A,))) == Promise(KEY, (A,))


def test_digests_that_agree_are_kept_together_with_the_size() -> None:
    more = Promise(KEY, (A, SUM), taught_by="full")
    assert merged(DIGESTS, more).digests == (A, SUM)
    assert merged(DIGESTS, more).size == 7
    assert merged(more, DIGESTS).digests == (A, SUM)


def test_digests_that_differ_are_not_mixed() -> None:
    assert merged(replace(DIGESTS, digests=(A, SUM)), Promise(KEY, (B,))).digests == (B,)
    assert merged(DIGESTS, Promise(KEY, (SUM,))).digests == (SUM,)


def test_first_sight_does_not_displace_what_an_index_promised() -> None:
    seen = Promise(KEY, (B,), size=3, taught_by=FIRST_SIGHT)
    assert merged(DIGESTS, seen) == DIGESTS
    assert merged(DATE, seen) == replace(seen, released=5.0, released_from="Time", purl="pkg:x/dated")
    assert merged(seen, replace(seen, digests=(A,))).digests == (A,)
    assert merged(seen, DIGESTS) == DIGESTS


PROMISES = st.builds(
    Promise,
    st.just(KEY),
    st.sampled_from([(), (A,), (B,), (SUM,), (A, SUM)]),
    size=st.none() | st.integers(0, 3),
    taught_by=st.sampled_from(["one", "two", FIRST_SIGHT]),
    released=st.none() | st.just(1.0),
)


@given(PROMISES, PROMISES)
def test_nothing_known_is_lost_and_saying_it_again_changes_nothing(old: Promise, new: Promise) -> None:
    both = merged(old, new)
    assert both.digests or not (old.digests or new.digests)
    assert both.released is not None or (old.released is None and new.released is None)
    assert merged(both, new) == both
