"""Every failpoint is documented, and the program is killed at each of them by some test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from artifactproxy import failpoints
from tests.crash.contents import PASSES

ROOT = Path(__file__).parent.parent.parent
CARRIERS = {"hit", "_sync"}  # functions that take the name of a place


def places(source: str) -> set[str]:
    """The names that are passed to a failpoint, also through a function that hands them on."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [c for c in calls if getattr(c.func, "attr", getattr(c.func, "id", "")) in CARRIERS]
    constants = [arg for call in named for arg in call.args if isinstance(arg, ast.Constant)]
    return {arg.value for arg in constants if isinstance(arg.value, str) and arg.value}


def in_source() -> set[str]:
    files = (ROOT / "artifactproxy").rglob("*.py")
    return set().union(*(places(path.read_text(encoding="utf-8")) for path in files))


def documented() -> set[str]:
    text = (failpoints.__doc__ or "").partition("Names:")[2]
    return set(re.findall(r"[a-z]+(?:\.[a-z]+)*", text))


def killed_at(wanted: set[str]) -> set[str]:
    """Names that stand in a test module that arms kills, or in the table such a module reads."""
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        if "=kill" in text and path != Path(__file__):
            found |= {name for name in wanted if name in text}
    tabled = {passage.partition("@")[0] for passages in PASSES.values() for passage in passages}
    return found | tabled


def test_the_documented_places_are_those_in_the_source() -> None:
    assert documented() == in_source()
    assert len(in_source()) >= 24


def test_l05_the_program_is_killed_at_every_place() -> None:
    wanted = in_source()
    assert wanted - killed_at(wanted) == set()


def test_a_place_is_found_wherever_its_name_is_passed() -> None:
    assert places("failpoints.hit('a.b')\nself._sync(fd, 'c.d')\nhit('e')\nother('f.g')") == {
        "a.b",
        "c.d",
        "e",
    }
