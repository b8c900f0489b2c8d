"""Scopes against operations: what is not granted is denied, however it is spelled."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy.model import Operation, Right, Scope
from artifactproxy.rules.access import EVERYBODY, GRANTED, lowered, may, may_see, parse_scope, scope_text

RIGHTS = list(Right)


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("read", Scope(Right.READ)),
        ("push:images", Scope(Right.PUSH, "images")),
        ("admin:corp-*", Scope(Right.ADMIN, "corp-*")),
        ("push:images/team/*", Scope(Right.PUSH, "images/team/*")),
        ("read:*", Scope(Right.READ, "*")),
    ],
)
def test_a_scope_is_read_and_written_the_same(text: str, scope: Scope) -> None:
    assert parse_scope(text) == scope
    assert parse_scope(scope_text(scope)) == scope


@pytest.mark.parametrize(
    "text",
    ["", "write", "READ", "read ", " read", "delete", "read:", "read:/", "read:/x", "read:images/", "read:Images",
     "read:a b", "read:a?c", "read:[a]", "read:a,b", "read:a:b", "read:\n", "read:images\n", "push:" + "a" * 65,
     "admin;", "pull", "read:../x?", "read:%2a", "read:\u00e9"],
)  # fmt: skip
def test_what_is_no_scope_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape(repr(text.partition(":")[2])) + "|" + re.escape(repr(text))
    ):
        parse_scope(text)


TABLE = [
    # pattern, covered, not covered
    ("*", ["a", "a/b", "a/b/c", ""], []),
    (
        "images",
        ["images", "images/app", "images/team/app"],
        ["", "images2", "my-images", "image", "imagesx/app"],
    ),
    ("corp-*", ["corp-", "corp-x", "corp-x/app"], ["corp", "xcorp-y", "", "other/corp-x"]),
    (
        "images/app",
        ["images/app"],
        ["images", "images/app2", "images/app/x", "images/my/app", "other/app", ""],
    ),
    (
        "images/team/*",
        ["images/team/app", "images/team/a/b"],
        ["images/team", "images/teams/app", "images/x/team/a"],
    ),
    ("*/library/*", ["a/library/x", "b/library/y/z"], ["a/lib/x", "a", "library/x"]),
    ("*-dev/app", ["x-dev/app"], ["x-dev", "x/app", "x-dev/app/y", "x-devs/app"]),
]


@pytest.mark.parametrize(("pattern", "covered", "other"), TABLE)
def test_what_a_pattern_covers(pattern: str, covered: list[str], other: list[str]) -> None:
    for name in covered:
        repo, _, image = name.partition("/")
        assert may([Scope(Right.READ, pattern)], Operation(Right.READ, repo, image)), name
    for name in other:
        repo, _, image = name.partition("/")
        assert not may([Scope(Right.READ, pattern)], Operation(Right.READ, repo, image)), name


def test_each_right_includes_those_below_it() -> None:
    for held, wanted in product(GRANTED.values(), RIGHTS):
        granted = may([Scope(held, "images")], Operation(wanted, "images", "app"))
        assert granted is (wanted <= held), (held, wanted)
    assert not may([parse_scope("push")], Operation(Right.DELETE, "images", "app"))


def test_nothing_is_granted_by_nothing() -> None:
    for right in RIGHTS:
        assert not may((), Operation(right, "images", "app"))
        assert not may((), Operation(right))


def test_everybody_may_read_and_nothing_else() -> None:
    assert may(EVERYBODY, Operation(Right.READ, "pypi"))
    assert not any(may(EVERYBODY, Operation(right, "pypi")) for right in RIGHTS[1:])


def test_the_instance_itself_needs_a_scope_without_a_pattern() -> None:
    assert may([parse_scope("read")], Operation(Right.READ))
    assert not may([parse_scope("admin:corp-*"), parse_scope("admin:images")], Operation(Right.READ))


def test_a_repository_is_seen_through_any_of_its_names() -> None:
    assert may_see([parse_scope("read:images/team/*")], "images")
    assert not may_see([parse_scope("read:images/team/*")], "other")
    assert not may_see((), "images")


names = st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,9}\Z")
patterns = st.from_regex(r"\A[a-z0-9*._-]{1,10}(/[a-z0-9*._/-]{0,10}[a-z0-9*])?\Z")
scopes = st.lists(st.builds(Scope, st.sampled_from(list(GRANTED.values())), patterns), max_size=5)


@given(scopes, st.sampled_from(RIGHTS), names, st.one_of(st.just(""), names))
def test_more_scopes_never_take_a_right_away(held: list[Scope], right: Right, repo: str, name: str) -> None:
    operation = Operation(right, repo, name)
    assert may(held, operation) == any(may([scope], operation) for scope in held)
    if may(held, operation):
        assert may(held, Operation(Right.READ, repo, name))
        assert may_see(held, repo)


@given(scopes, st.sampled_from(RIGHTS), st.sampled_from(RIGHTS), names)
def test_lowered_scopes_hold_for_what_is_not_above(
    held: list[Scope], most: Right, right: Right, repo: str
) -> None:
    operation = Operation(right, repo)
    assert may(lowered(tuple(held), most), operation) == (right <= most and may(held, operation))


@given(patterns)
def test_every_pattern_survives_being_written(pattern: str) -> None:
    scope = Scope(Right.PUSH, pattern)
    assert parse_scope(scope_text(scope)) == scope
