"""Go's checksums of module zips and go.mod files, and zips that lie."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import random
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifactproxy.errors import BrokenPromise
from artifactproxy.rules import gosum
from artifactproxy.rules.gosum import hash_of_mod, hash_of_zip, parse_h1

NAME = "soup.example/pot@v1.2.0/"


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def summed(body: bytes) -> str:
    return hash_of_zip(io.BytesIO(body), len(body))


def expected(files: dict[str, bytes]) -> str:
    """The construction as its reference words it, in the plainest way."""
    lines = [f"{hashlib.sha256(files[n]).hexdigest()}  {n}\n".encode() for n in sorted(files, key=str.encode)]
    return hashlib.sha256(b"".join(lines)).hexdigest()


FILES = {f"{NAME}go.mod": b"module soup.example/pot\n", f"{NAME}b/b.go": b"package b\n", f"{NAME}a.go": b""}


def test_a_known_sum_of_a_real_go_mod() -> None:
    body = b'module "rsc.io/quote"\n\nrequire "rsc.io/sampler" v1.3.0\n'
    known = "h1:LzX7hefJvL54yjefDEDHNONDjII0t9xZLPXsUe+TKr0="
    assert hash_of_mod(hashlib.sha256(body).hexdigest()) == parse_h1(known)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_compression_and_order_change_nothing(method: int) -> None:
    orders = [dict(order) for order in itertools.permutations(FILES.items())]
    assert {summed(zipped(files, method)) for files in orders} == {expected(FILES)}


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text("abAB/._-\u00e9\u4e16 ", min_size=1, max_size=12), st.binary(max_size=300), max_size=6
    )
)
def test_it_is_the_construction_of_the_reference(files: dict[str, bytes]) -> None:
    assert summed(zipped(files)) == expected(files)


def test_one_bit_and_one_name_count() -> None:
    assert summed(zipped(FILES | {f"{NAME}a.go": b"x"})) != expected(FILES)
    assert summed(zipped({n.replace("v1.2.0", "v1.2.1"): c for n, c in FILES.items()})) != expected(FILES)
    assert summed(zipped(FILES | {f"{NAME}more": b""})) != expected(FILES)


def test_names_of_another_code_page_are_taken_as_they_are_written() -> None:
    body = zipped({"x\u00e9.go": b"package x\n"})
    raw = body.replace("x\u00e9.go".encode(), b"x\xff\xfe.go")
    for at in (raw.index(b"PK\x03\x04") + 7, raw.index(b"PK\x01\x02") + 9):
        raw = raw[:at] + b"\x00" + raw[at + 1 :]  # no flag for UTF-8
    line = hashlib.sha256(b"package x\n").hexdigest().encode() + b"  x\xff\xfe.go\n"
    assert summed(raw) == hashlib.sha256(line).hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h1:",
        "h2:" + "A" * 43 + "=",
        "h1:AAAA",
        "h1:" + "A" * 43,
        "h1:" + "*" * 43 + "=",
        "H1:" + "A" * 43,
    ],
)
def test_what_is_no_checksum(text: str) -> None:
    assert parse_h1(text) is None


@given(st.binary(min_size=32, max_size=32))
def test_checksums_are_read_as_hex(raw: bytes) -> None:
    assert parse_h1(f"h1:{base64.b64encode(raw).decode()}") == raw.hex()


# --- zips that are none, or lie -------------------------------------------------------------


def refused(body: bytes) -> None:
    with pytest.raises(BrokenPromise) as raised:
        summed(body)
    assert raised.value.code == "bad_zip"


@pytest.mark.parametrize(
    "body", [b"", b"PK", b"not a zip at all", b"<html></html>", b"PK\x05\x06" + bytes(17)]
)
def test_what_is_no_zip(body: bytes) -> None:
    refused(body)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_cut_zip(share: float) -> None:
    body = zipped(FILES)
    refused(body[: int(len(body) * share)])


def test_two_files_of_one_name() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a", b"1")
        archive.writestr("a", b"2")
    refused(out.getvalue())


def test_a_line_end_in_a_name_forges_no_line() -> None:
    refused(zipped({"a\nb": b""}))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_go_does_not_read(method: int) -> None:
    refused(zipped(FILES, method))


def test_an_encrypted_member() -> None:
    body = bytearray(zipped(FILES))
    body[body.index(b"PK\x01\x02") + 8] |= 1
    body[body.index(b"PK\x03\x04") + 6] |= 1
    refused(bytes(body))


def test_more_members_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gosum, "MEMBERS", 2)
    refused(zipped(FILES))


def test_a_longer_zip_than_allowed() -> None:
    with pytest.raises(BrokenPromise):
        hash_of_zip(io.BytesIO(), gosum.ZIP_BYTES + 1)


def test_a_directory_that_would_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gosum, "DIRECTORY_BYTES", 100)
    refused(zipped(FILES))


def test_what_unpacks_to_too_much_is_counted_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gosum, "UNPACKED_BYTES", 1_000_000)
    assert summed(zipped({"a": bytes(1_000_000)}))
    refused(zipped({"a": bytes(600_000), "b": bytes(600_000)}))
    refused(zipped({"a": bytes(50_000_000)}))


def test_a_member_that_claims_less_than_it_holds_is_not_read_past_its_claim() -> None:
    content = bytes(1_000_000)
    body = zipped({"a": content})
    claimed = struct.pack("<L", 10)
    lied = body.replace(struct.pack("<L", len(content)), claimed)
    lied = lied.replace(struct.pack("<L", zlib.crc32(content)), struct.pack("<L", zlib.crc32(content[:10])))
    assert lied != body
    try:
        assert summed(lied) != expected({"a": content})
    except BrokenPromise:
        pass


@pytest.mark.parametrize("seed", range(4))
def test_damage_anywhere_is_a_refusal_or_another_sum(seed: int) -> None:
    noise, body = random.Random(seed), zipped(FILES)
    for _ in range(250):
        damaged = bytearray(body)
        for _ in range(noise.randint(1, 4)):
            damaged[noise.randrange(len(damaged))] = noise.randrange(256)
        try:
            summed(bytes(damaged))
        except BrokenPromise as fault:
            assert fault.code == "bad_zip"


class _Failing(io.BytesIO):
    """A disk that fails at the `k`-th read."""

    def __init__(self, body: bytes, k: int) -> None:
        super().__init__(body)
        self.left = k

    def read(self, size: int | None = -1) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise OSError(5, "the disk")
        return super().read(size)


def test_a_failing_disk_is_never_read_as_a_bad_zip(tmp_path: Path) -> None:
    body, failed = zipped(FILES), 0
    for k in range(100):
        try:
            assert hash_of_zip(_Failing(body, k), len(body)) == expected(FILES)
            break
        except OSError:
            failed += 1
    assert failed > 5
    (tmp_path / "zip").write_bytes(body)
    with (tmp_path / "zip").open("rb") as file:
        assert hash_of_zip(file, len(body)) == expected(FILES)
