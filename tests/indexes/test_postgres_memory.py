"""What is remembered of the database, and its texts: pure values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.indexes.postgres.memory import Memory
from artifactproxy.indexes.postgres.text import digest, digest_of, pack, packed, unpack, unpacked
from artifactproxy.indexes.rows import after
from artifactproxy.model import ArtifactKey, Found
from tests.contracts.test_index import KEY, NOW, PAGE, A, B, entry, promise

NAME = digest_of(KEY)
FOUND = Found(entry())


def remembered(limit: int = 10) -> Memory:
    memory = Memory(limit)
    assert memory.learn(NAME, memory.asking(NAME), KEY, FOUND)
    return memory


def test_what_was_looked_up_is_told() -> None:
    memory = remembered()
    assert memory.get(KEY) == memory.last(KEY) == FOUND
    assert memory.get(PAGE) is memory.last(PAGE) is None


def test_a_change_is_heard() -> None:
    memory = remembered()
    memory.drop([digest_of(PAGE), NAME])
    assert memory.get(KEY) is memory.last(KEY) is None


@pytest.mark.parametrize(
    "event",
    [
        lambda memory: memory.drop([NAME]),
        lambda memory: memory.drop_repo(KEY.repo),
        lambda memory: memory.doubt(),
        lambda memory: memory.asking(NAME),
    ],
    ids=["its change", "its repository's", "a new epoch", "another look-up"],
)
def test_a_look_up_that_something_overtook_is_not_remembered(event: Any) -> None:
    memory = Memory(10)
    token = memory.asking(NAME)
    event(memory)
    assert not memory.learn(NAME, token, KEY, FOUND)
    assert memory.last(KEY) is None


def test_of_an_older_epoch_nothing_is_told_unless_it_must() -> None:
    memory = remembered()
    memory.doubt()
    assert memory.get(KEY) is None
    assert memory.last(KEY) == FOUND
    assert memory.learn(NAME, memory.asking(NAME), KEY, Found(entry(sha256=B)))
    assert memory.get(KEY) == Found(entry(sha256=B))


def test_unknown_keys_are_not_kept_and_push_nothing_out() -> None:
    memory = remembered(limit=2)
    for number in range(5):
        key = ArtifactKey("tools", str(number))
        memory.learn(digest_of(key), memory.asking(digest_of(key)), key, Found())
    assert len(memory) == 1
    memory.learn(NAME, memory.asking(NAME), KEY, Found())
    assert len(memory) == 0


def test_the_least_recently_used_leaves_first() -> None:
    memory = remembered(limit=3)
    keys = [ArtifactKey("tools", str(number)) for number in range(3)]
    for key in keys:
        memory.get(KEY)
        memory.learn(digest_of(key), memory.asking(digest_of(key)), key, FOUND)
    assert memory.last(keys[0]) is None
    assert memory.last(KEY) == FOUND
    memory.drop([digest_of(keys[0])])
    assert len(memory) == 3


def test_a_whole_repository_is_dropped_and_no_other() -> None:
    memory = remembered()
    other = ArtifactKey("else", KEY.path)
    memory.learn(digest_of(other), memory.asking(digest_of(other)), other, FOUND)
    memory.drop_repo(KEY.repo)
    assert memory.last(KEY) is None
    assert memory.get(other) == FOUND


def test_a_use_is_noted_and_never_moves_back() -> None:
    memory = remembered()
    memory.used([KEY, PAGE], NOW)
    memory.used([KEY], NOW - 5)
    found = memory.get(KEY)
    assert found is not None
    assert found.entry == entry(last_used=NOW)


TEXT = st.text(alphabet="\0\x01\x02aé\U0010ffff", max_size=6)


@given(first=TEXT, second=TEXT)
def test_packed_texts_keep_order_equality_and_beginnings(first: str, second: str) -> None:
    one, other = pack(first), pack(second)
    assert "\0" not in one
    assert unpack(one) == first
    assert (one.encode() < other.encode()) == (first.encode() < second.encode())
    assert pack(first + second).startswith(one)
    assert unpacked(packed((first, None, 7, second))) == (first, None, 7, second)
    if (bound := after(first)) is not None:
        assert pack(first + second).encode() < pack(bound).encode()


def test_digests_tell_apart_where_a_text_ends() -> None:
    names = {
        digest("ab", "c"),
        digest("a", "bc"),
        digest("abc"),
        digest("abc", ""),
        digest("1:a"),
        digest("a"),
    }
    assert len(names) == 6
    assert {len(name) for name in names} == {32}
    assert digest_of(KEY) != digest_of(PAGE)
    with pytest.raises(UnicodeEncodeError):
        digest(A, "\ud800")


def test_a_promise_that_we_wrote_ourselves_is_remembered_unless_something_overtook_it() -> None:
    memory = remembered()
    assert memory.holds(NAME)
    memory.promised(NAME, memory.asking(NAME), promise())
    assert memory.get(KEY) == Found(entry(), promise())
    token = memory.asking(NAME)
    memory.drop([digest_of(PAGE)])
    memory.asking(NAME)
    memory.promised(NAME, token, promise())
    assert memory.last(KEY) is None
    memory.promised(NAME, memory.asking(NAME), promise())
    assert not memory.holds(NAME)
