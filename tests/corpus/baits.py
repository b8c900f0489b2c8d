"""Every regular expression of a room against texts made to cost it most.

Run as a program it prints a line for each pattern before it is tried and one for each that takes more
than `MOST` seconds of processor time; who starts it bounds the whole. A bait follows the pattern up to
one of its repetitions, goes round in that for `LENGTH` characters, and then breaks off. A linear
pattern reads that in milliseconds, a quadratic one takes seconds.
"""

from __future__ import annotations

import ast
import importlib
import re
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from re import _constants as constants  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

LENGTH = 30_000
MOST = 0.5
_PACKAGE = Path(__file__).parents[2] / "artifactproxy"
_ENDS = ("", "\x00", "\n", "!", '"', " ")
_REPEATS = (constants.MAX_REPEAT, constants.MIN_REPEAT, constants.POSSESSIVE_REPEAT)
_SEARCHING = ("search", "finditer", "findall", "sub", "split")


def patterns(room: str) -> Iterator[tuple[str, re.Pattern[str], bool]]:
    """Name, pattern and whether it is searched for anywhere in a text, of each in a room."""
    place = _PACKAGE / room
    for path in sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
        source = path.read_text()
        dotted = ".".join(path.relative_to(_PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        found = vars(importlib.import_module(dotted))
        for name, value in found.items():
            for each in value if isinstance(value, tuple) else (value,):
                if isinstance(each, re.Pattern) and isinstance(each.pattern, str):
                    yield f"{dotted}.{name}", each, any(f"{name}.{word}(" in source for word in _SEARCHING)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and (text := _inline(node)) is not None:
                function = node.func
                assert isinstance(function, ast.Attribute)
                yield f"{dotted}:{node.lineno}", re.compile(text), function.attr in _SEARCHING


def _inline(node: ast.Call) -> str | None:
    """The pattern of a call such as `re.sub("...", ...)`."""
    function = node.func
    if not (isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)):
        return None
    first = node.args[0] if node.args else None
    is_text = isinstance(first, ast.Constant) and isinstance(first.value, str)
    return first.value if function.value.id == "re" and function.attr != "compile" and is_text else None


def baits(pattern: re.Pattern[str]) -> set[str]:
    made = set()
    for before, turn in _turns(list(parser.parse(pattern.pattern, pattern.flags)), ""):
        for each in {turn, turn[:1], turn[-1:]} - {""}:
            round_trips = each * (LENGTH // len(each))
            made |= {before + round_trips + end for end in _ENDS}
    return made


def _turns(nodes: list[Any], before: str) -> Iterator[tuple[str, str]]:
    """What leads to each repetition without a near bound, and one turn of it."""
    for kind, argument in nodes:
        for inner in _below(kind, argument):
            yield from _turns(list(inner), before)
        if kind in _REPEATS:
            _, most, inner = argument
            if most == constants.MAXREPEAT or most > 50:
                for variant in range(3):
                    yield before, "".join(_shortest(node, variant) for node in inner)
        before += _shortest((kind, argument), 0)


def _below(kind: Any, argument: Any) -> list[Any]:
    if kind in _REPEATS:
        return [argument[2]]
    if kind is constants.BRANCH:
        return list(argument[1])
    if kind is constants.SUBPATTERN:
        return [argument[3]]
    if kind is constants.ATOMIC_GROUP:
        return [argument]
    return [argument[1]] if kind in (constants.ASSERT, constants.ASSERT_NOT) else []


def _shortest(node: Any, variant: int) -> str:
    """A short text that one node matches; other variants take other alternatives."""
    kind, argument = node
    if kind is constants.LITERAL:
        return chr(argument)
    if kind is constants.NOT_LITERAL:
        return "a" if argument != ord("a") else "b"
    if kind is constants.ANY:
        return 'a."'[variant % 3]
    if kind is constants.IN:
        return _member(argument, variant)
    if kind in _REPEATS:
        least, _, inner = argument
        return "".join(_shortest(each, variant) for each in inner) * max(least, 1 if variant else least)
    if kind is constants.BRANCH:
        branches = argument[1]
        return "".join(_shortest(each, 0) for each in branches[variant % len(branches)])
    if kind is constants.SUBPATTERN:
        return "".join(_shortest(each, variant) for each in argument[3])
    if kind is constants.ATOMIC_GROUP:
        return "".join(_shortest(each, variant) for each in argument)
    return ""


def _member(members: list[Any], variant: int) -> str:
    if members[0][0] is constants.NEGATE:
        shut = re.compile("[^" + "".join(re.escape(c) for c in _some(members[1:])) + "]")
        return next((c for c in 'a .-"1/'[variant:] + "abc" if shut.match(c)), "a")
    some = _some(members)
    return some[variant % len(some)]


def _some(members: list[Any]) -> list[str]:
    found: list[str] = []
    classes = {
        constants.CATEGORY_DIGIT: "1",
        constants.CATEGORY_SPACE: " ",
        constants.CATEGORY_WORD: "w",
        constants.CATEGORY_NOT_SPACE: "x",
        constants.CATEGORY_NOT_DIGIT: "x",
        constants.CATEGORY_NOT_WORD: "-",
    }
    for kind, argument in members:
        if kind is constants.LITERAL:
            found.append(chr(argument))
        elif kind is constants.RANGE:
            found += [chr(argument[0]), chr(argument[1])]
        elif kind is constants.CATEGORY:
            found.append(classes[argument])
    return found or ["a"]


def cost(pattern: re.Pattern[str], *, searched: bool) -> tuple[float, str]:
    """Seconds of processor time of the worst bait, and how that begins."""
    worst = (0.0, "")
    for bait in baits(pattern):
        for read in (pattern.fullmatch, pattern.match, *([_all_of(pattern)] if searched else [])):
            start = time.process_time()
            read(bait)
            worst = max(worst, (time.process_time() - start, bait[:60]))
    return worst


def _all_of(pattern: re.Pattern[str]) -> Any:
    return lambda text: sum(1 for _ in pattern.finditer(text))


def main(room: str) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    for name, pattern, searched in patterns(room):
        print("tries", name, flush=True)
        seconds, bait = cost(pattern, searched=searched)
        if seconds > MOST:
            print(f"slow {name}: {seconds:.1f} s for {bait!a}...", flush=True)
    print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
