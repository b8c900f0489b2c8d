"""Core metadata out of real zip files, honest and hostile."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifactproxy.model import Ask, Route
from artifactproxy.providers.pypi import PyPI, wheel
from tests.providers.tables.pypi import SITE

NAME = "pot_soup-1.2.0-py3-none-any.whl"
MEMBER = "pot_soup-1.2.0.dist-info/METADATA"
TEXT = b"Metadata-Version: 2.1\nName: pot-soup\nVersion: 1.2.0\n"


def build(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED, before: bytes = b"") -> bytes:
    buffer = io.BytesIO(before)
    buffer.seek(len(before))
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, body in members:
            archive.writestr(name, body)
    return buffer.getvalue()


def read(body: bytes, name: str = NAME) -> bytes | None:
    return wheel.metadata(io.BytesIO(body), name)


HONEST = build(
    ("pot_soup/__init__.py", b"pass\n" * 100), (MEMBER, TEXT), ("pot_soup-1.2.0.dist-info/RECORD", b"")
)


def test_the_provider_derives_the_sidecar_of_a_wheel() -> None:
    provider = PyPI(SITE)
    route = provider.classify(Ask("py", f"packages/files.example/{NAME}.metadata"))
    assert isinstance(route, Route)
    assert route.derived_from == f"packages/files.example/{NAME}"
    assert provider.derive(route, io.BytesIO(HONEST)) == TEXT
    other = provider.classify(Ask("py", f"packages/files.example/{NAME}"))
    assert isinstance(other, Route)
    assert provider.derive(other, io.BytesIO(HONEST)) is None


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_honest_wheels(method: int) -> None:
    assert read(build((MEMBER, TEXT), method=method)) == TEXT
    assert read(build((MEMBER, TEXT), method=method, before=b"#!/usr/bin/python\n")) == TEXT


@pytest.mark.parametrize("folder", ["Pot.Soup-1.2.0", "pot_soup-1.2", "POT_SOUP-v1.2.0"])
def test_names_are_compared_in_their_normal_form(folder: str) -> None:
    assert read(build((f"{folder}.dist-info/METADATA", TEXT))) == TEXT


@pytest.mark.parametrize(
    "members",
    [
        [],
        [("METADATA", TEXT)],
        [("other-1.2.0.dist-info/METADATA", TEXT)],
        [("pot_soup-9.dist-info/METADATA", TEXT)],
        [("pot-soup-1.2.0.dist-info/METADATA", TEXT)],
        [(f"vendored/{MEMBER}", TEXT)],
        [(f"../{MEMBER}", TEXT)],
        [(f"/{MEMBER}", TEXT)],
        [(MEMBER, TEXT), ("other-1.0.dist-info/METADATA", TEXT)],
        [(MEMBER, b"<html>not metadata</html>")],
        [(MEMBER, b"")],
        [(MEMBER, b"Metadata-Version: 2.1\n" + b"a" * wheel.MAX_METADATA)],
        [(MEMBER, b"Metadata-Version: 2.1\n" + b"\0" * 5_000_000)],
    ],
    ids=range(13),
)
def test_doubt_means_none(members: list[tuple[str, bytes]]) -> None:
    assert read(build(*members)) is None


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_occurs_twice_means_none() -> None:
    assert read(build((MEMBER, TEXT), (MEMBER, TEXT + b"x"))) is None


def test_methods_that_may_eat_memory_are_not_opened() -> None:
    assert read(build((MEMBER, TEXT), method=zipfile.ZIP_LZMA)) is None
    assert read(build((MEMBER, TEXT), method=zipfile.ZIP_BZIP2)) is None


def test_too_many_members_mean_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "MAX_MEMBERS", 2)
    assert read(HONEST) is None


def test_a_directory_that_claims_to_be_huge_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "MAX_DIRECTORY", 60)
    assert read(HONEST) is None


def _with_directory_entry(offset: int, value: bytes) -> bytes:
    """The honest wheel with bytes of METADATA's directory entry replaced (APPNOTE 4.3.12)."""
    start = HONEST.rfind(b"PK\x01\x02", 0, HONEST.rfind(MEMBER.encode()))
    return HONEST[: start + offset] + value + HONEST[start + offset + len(value) :]


@pytest.mark.parametrize(
    ("what", "offset", "value"),
    [
        ("encrypted", 8, b"\x01"),
        ("an unknown method", 10, b"\x63\x00"),
        ("a wrong checksum", 16, b"\0\0\0\0"),
        ("a size that lies small", 24, struct.pack("<I", 10)),
        ("a size that lies large", 24, struct.pack("<I", 4000)),
        ("zip64 sizes without their field", 24, b"\xff" * 4),
        ("an offset behind the end", 42, struct.pack("<I", 2**31)),
    ],
)
def test_a_directory_that_lies_means_none(what: str, offset: int, value: bytes) -> None:
    assert read(_with_directory_entry(0, b"PK\x01\x02")) == TEXT
    assert read(_with_directory_entry(offset, value)) is None, what


@pytest.mark.parametrize("cut", range(0, len(HONEST), max(1, len(HONEST) // 60)))
def test_cut_at_any_place(cut: int) -> None:
    assert read(HONEST[:cut]) is None


@given(st.integers(0, len(HONEST) - 1), st.binary(min_size=1, max_size=6))
@settings(max_examples=300, deadline=None)
def test_damage_anywhere_means_none_or_the_right_bytes(at: int, other: bytes) -> None:
    got = read(HONEST[:at] + other + HONEST[at + len(other) :])
    assert got is None or zlib.crc32(got) == zlib.crc32(TEXT)


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_arbitrary_bytes(body: bytes) -> None:
    assert read(body) is None
