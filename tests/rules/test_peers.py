"""What a process that fills tells its followers: the same comes out as went in, and nothing else does."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.errors import (
    Blocked,
    BrokenPromise,
    Busy,
    Fault,
    IndexUnavailable,
    PeerGone,
    StoreFull,
    UpstreamAbsent,
    UpstreamBlocked,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamFault,
    UpstreamSlow,
)
from artifactproxy.model import ArtifactKey, Told, UpstreamHead
from artifactproxy.rules.peers import WAIT, fill_name, is_name, passes_on, read_word, write_fault, write_head

plain = st.text(st.characters(blacklist_categories=["Cc", "Cs"]), max_size=50)
told = st.builds(
    Told,
    fill=st.text(string.digits + "abcdef-", min_size=1, max_size=40),
    sha256=st.sampled_from(["", "ab" * 32]),
    generation=st.integers(0, 2**60),
    ended=st.booleans(),
    decoded=st.booleans(),
)
NAMES = ("etag", "last-modified", "cache-control", "content-type", "content-encoding", "retry-after")
heads = st.builds(
    UpstreamHead,
    status=st.sampled_from([200, 206, 304, 404, 410]),
    headers=st.dictionaries(st.sampled_from(NAMES), plain),
    length=st.none() | st.integers(0, 2**60),
    framed=st.booleans(),
    url=plain,
    told=told,
)


@given(heads)
def test_a_head_is_told_as_it_is(head: UpstreamHead) -> None:
    assert head.told is not None
    word = write_head(head, head.told)
    assert word.isascii()
    assert word.isprintable()
    assert read_word(word) == head


def test_only_what_is_judged_crosses() -> None:
    head = UpstreamHead(200, {"set-cookie": "a", "etag": '"x"', "content-type": "t" * 9000}, 1, True, "u")
    said = read_word(write_head(head, Told("f1")))
    assert isinstance(said, UpstreamHead)
    assert said.headers == {"etag": '"x"'}


def test_a_tab_in_a_field_is_no_reason_to_be_misunderstood() -> None:
    """Upstreams may write one; a word that nobody understands would cost each follower its patience."""
    head = UpstreamHead(200, {"cache-control": "max-age=60,\tpublic"}, 1, True, "u")
    said = read_word(write_head(head, Told("f1")))
    assert isinstance(said, UpstreamHead)
    assert said.headers == {"cache-control": "max-age=60, public"}
    fault = read_word(write_fault(UpstreamBroken("upstream said \t\x7f\n that")))
    assert isinstance(fault, UpstreamBroken)
    assert fault.detail == "upstream said     that"


FAULTS: list[Fault] = [
    UpstreamAbsent("gone", status=410),
    UpstreamBroken("short", code="short_body", upstream_status=200),
    UpstreamBusy("wait", retry_after=7.5, upstream_status=429),
    UpstreamSlow("slow", code="stall"),
    UpstreamBlocked("private"),
    BrokenPromise("other bytes"),
    UpstreamFault("odd"),
    Blocked("by a rule", code="unpromised_host"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_fault_arrives_as_the_same_fault(fault: Fault) -> None:
    said = read_word(write_fault(fault))
    assert type(said) is type(fault)
    for name in ("detail", "code", "status", "retry_after", "upstream_status"):
        assert getattr(said, name, None) == getattr(fault, name, None)
    assert passes_on(fault)


@pytest.mark.parametrize(
    "fault", [StoreFull("f"), IndexUnavailable("i"), Busy("b"), PeerGone("p"), Fault("bug")]
)
def test_own_trouble_stays_at_home(fault: Fault) -> None:
    assert not passes_on(fault)


def test_a_wait_is_neither() -> None:
    assert read_word(WAIT) is None


@given(
    st.text(max_size=100)
    | st.recursive(st.none() | st.booleans() | st.integers() | plain, st.lists).map(json.dumps)
)
def test_hostile_words_are_a_peer_that_is_gone(text: str) -> None:
    with pytest.raises(PeerGone):
        read_word(text)


GOOD = json.loads(write_head(UpstreamHead(200, {"etag": '"x"'}, 5, True, "http://u.example/"), Told("f1")))
JUNK = st.sampled_from([None, True, -1, 1.5, 2**70, "", "a\nb", [], {}, {"etag": 1}, float("nan")])


@given(st.sampled_from(sorted(GOOD)), JUNK)
def test_a_bent_word_is_understood_wholly_or_not_at_all(member: str, value: object) -> None:
    try:
        said = read_word(json.dumps(GOOD | {member: value}))
    except PeerGone:
        return
    assert isinstance(said, UpstreamHead)
    assert isinstance(said.status, int)
    assert said.length is None or said.length >= 0
    assert not any(ord(c) < 32 for c in said.url + "".join(said.headers.values()))


def test_unknown_members_are_skipped_for_upgrades() -> None:
    assert isinstance(read_word(json.dumps(GOOD | {"new": [1]})), UpstreamHead)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_another_language(version: object) -> None:
    with pytest.raises(PeerGone):
        read_word(json.dumps(GOOD | {"v": version}))


@given(plain, plain, plain)
def test_names_are_safe_whatever_the_key_holds(repo: str, path: str, variant: str) -> None:
    name = fill_name(ArtifactKey(repo, path, variant))
    assert is_name(name)
    assert not is_name(name + "\n")
    assert name != fill_name(ArtifactKey(repo, path + "x", variant))
