"""A backup from elsewhere: cut off, garbled, or written by somebody with intentions."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import sqlite3
import tarfile
from dataclasses import dataclass

import pytest

from artifactproxy.backup.archive import BadBackup
from artifactproxy.backup.progress import Quiet
from artifactproxy.backup.restore import unpack
from artifactproxy.datadir import restoring
from artifactproxy.errors import IndexUnavailable
from tests.backup.folders import ran, tree

MANIFEST, END = "artifactproxy-backup.json", "artifactproxy-backup-end.json"


@dataclass
class Part:
    """One member, as a forger changes it."""

    name: str
    body: bytes
    type: bytes = tarfile.REGTYPE
    link: str = ""
    size: int | None = None


@pytest.fixture(scope="module")
def good(filled, tmp_path_factory):
    """The bytes of a backup."""
    file = tmp_path_factory.mktemp("good") / "b.tar"
    code, _, err = ran("backup", str(file), "--data", str(filled[0]))
    assert code == 0, err
    return file.read_bytes()


@pytest.fixture
def parts(good):
    with tarfile.open(fileobj=io.BytesIO(good)) as archive:
        return [Part(info.name, archive.extractfile(info).read()) for info in archive]


@pytest.fixture
def refused(tmp_path):
    """Restore these bytes; asserts that nothing has changed, and returns what was said."""

    def judge(content: bytes) -> str:
        before = tree(tmp_path)
        with (
            pytest.raises((BadBackup, IndexUnavailable)) as told,
            restoring(tmp_path / "data", replace=False) as place,
        ):
            unpack(io.BufferedReader(io.BytesIO(content)), place, Quiet())
        assert tree(tmp_path) == before
        return str(told.value)

    return judge


def tar(parts: list[Part]) -> bytes:
    """These members, and an end whose totals fit them unless it was changed."""
    out = io.BytesIO()
    for part in parts:
        info = tarfile.TarInfo(part.name)
        info.type, info.linkname = part.type, part.link
        info.size = len(part.body) if part.size is None else part.size
        out.write(info.tobuf(tarfile.GNU_FORMAT))
        out.write(part.body)
        out.write(bytes(-len(part.body) % 512))
    out.write(bytes(1024))
    return out.getvalue()


def sealed(parts: list[Part], **changes: object) -> bytes:
    """With a manifest changed and an end that belongs to it."""
    manifest = json.loads(parts[0].body) | changes
    parts[0].body = json.dumps(manifest).encode()
    end = json.loads(parts[-1].body)
    end["manifest_sha256"] = hashlib.sha256(parts[0].body).hexdigest()
    parts[-1].body = json.dumps(end).encode()
    return tar(parts)


def with_index(parts: list[Part], tmp_path, *statements: str) -> bytes:
    """With another index under a manifest that announces it."""
    path = tmp_path / "forged"
    path.write_bytes(parts[1].body)
    with sqlite3.connect(path, isolation_level=None) as db:
        db.execute("PRAGMA writable_schema=ON")
        for statement in statements:
            db.execute(statement)
    db.close()
    parts[1].body = path.read_bytes()
    path.unlink()
    return sealed(
        parts, index_bytes=len(parts[1].body), index_sha256=hashlib.sha256(parts[1].body).hexdigest()
    )


def blob(parts: list[Part], number: int = 0) -> int:
    """The place of a blob of some size."""
    return [i for i, part in enumerate(parts) if part.name.startswith("blobs/") and len(part.body) > 100][
        number
    ]


def test_the_forger_knows_the_format(good, parts, tmp_path):
    """What is refused below is refused for its one difference."""
    for number, content in enumerate((good, tar(parts), sealed(parts), with_index(parts, tmp_path))):
        with restoring(tmp_path / str(number), replace=False) as place:
            assert unpack(io.BufferedReader(io.BytesIO(content)), place, Quiet()).blobs == 18


# --- cut off and garbled


def test_a_cut_at_every_member_is_noticed(good, refused):
    with tarfile.open(fileobj=io.BytesIO(good)) as archive:
        starts = [info.offset for info in archive] + [info.offset_data for info in archive]
    for start in sorted({0, *starts, len(good) - 1024, len(good) - 512}):
        assert "not made by artifactproxy" in (said := refused(good[:start])) or "ends too early" in said


def test_a_cut_anywhere_is_noticed(good, refused):
    chance = random.Random(4)
    for at in (1, 511, len(good) - 1, *(chance.randrange(len(good)) for _ in range(40))):
        said = refused(good[:at])
        assert "ends too early" in said or "not made by artifactproxy" in said


def test_a_flipped_bit_anywhere_is_noticed(good, refused):
    with tarfile.open(fileobj=io.BytesIO(good)) as archive:
        heads = [info.offset for info in archive]
    chance = random.Random(5)
    places = [*(chance.randrange(len(good)) for _ in range(60)), *(h + chance.randrange(512) for h in heads)]
    places += [len(good) - 1, *range(512, 512 + len(b"artifactproxy") * 20, 7)]
    for place in places:
        content = bytearray(good)
        content[place] ^= 1 << chance.randrange(8)
        refused(bytes(content))


def test_a_flipped_bit_in_a_blob_names_the_blob(good, parts, refused):
    at = blob(parts)
    sha256 = parts[at].name[-64:]
    content = bytearray(good)
    content[good.index(parts[at].body) + 50] ^= 8
    assert f"its blob {sha256} is damaged" in refused(bytes(content))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "not made by artifactproxy"),
        (b"hello", "not made by artifactproxy"),
        (bytes(10240), "not made by artifactproxy"),
        (
            gzip.compress(b"x", mtime=0),
            "it is compressed; unpack it on the way: gzip -dc FILE | artifactproxy restore -",
        ),
        (b"\x28\xb5\x2f\xfd1234", "zstd -dc"),
        (tar([Part("other.txt", b"x")]), "not made by artifactproxy"),
        (tar([Part(MANIFEST, b"not json")]), "is damaged"),
        (tar([Part(MANIFEST, b"{}")]), "is damaged"),
        (tar([Part(MANIFEST, b"[" * 60_000)]), "is damaged"),
        (tar([Part(MANIFEST, b'{"backup": 2, "more": "things"}')]), "made by a newer artifactproxy"),
        (tar([Part(MANIFEST, b"x" * 70_000)]), "too large"),
    ],
)
def test_what_is_no_backup(refused, content, sentence):
    assert sentence in refused(content)


def test_something_after_the_end(good, refused):
    assert "something follows its end" in refused(good + b"x")
    assert "something follows its end" in refused(good + bytes(2**21))


def test_zeros_after_the_end_are_padding(good, tmp_path):
    with restoring(tmp_path / "data", replace=False) as place:
        assert unpack(io.BufferedReader(io.BytesIO(good + bytes(9 * 512))), place, Quiet()).blobs == 18


# --- written by somebody else

EVIL = b"evil"
EVIL_SHA = hashlib.sha256(EVIL).hexdigest()


@pytest.mark.parametrize(
    "planted",
    [
        Part("../evil", EVIL),
        Part("/etc/evil", EVIL),
        Part("blobs/../../evil", EVIL),
        Part("blobs/sha256/../../../evil", EVIL),
        Part("format", EVIL),
        Part("lock", EVIL),
        Part("index.sqlite3", EVIL),
        Part("index.sqlite3-wal", EVIL),
        Part(f"blobs/sha256/{EVIL_SHA[:2]}/{EVIL_SHA}", EVIL),
        Part(f"./blobs/sha256/{EVIL_SHA[:2]}/{EVIL_SHA}", EVIL),
        Part("blobs", b"", tarfile.DIRTYPE),
        Part("blobs/sha256/00", b"", tarfile.SYMTYPE, "/etc"),
        Part(f"blobs/sha256/{EVIL_SHA[:2]}/{EVIL_SHA}", b"", tarfile.SYMTYPE, "/etc/passwd"),
        Part(f"blobs/sha256/{EVIL_SHA[:2]}/{EVIL_SHA}", b"", tarfile.LNKTYPE, "/etc/passwd"),
        Part("fifo", b"", tarfile.FIFOTYPE),
        Part("device", b"", tarfile.CHRTYPE),
        Part("huge", b"", tarfile.GNUTYPE_SPARSE),
        Part("././@LongLink", b"a" * 600, tarfile.GNUTYPE_LONGNAME),
        Part("pax", b"20 path=../evil_____\n", tarfile.XHDTYPE),
        Part("pax", b"20 path=../evil_____\n", tarfile.XGLTYPE),
        Part("pax", b"", tarfile.XHDTYPE, size=2**62),
        Part("damaged/" + EVIL_SHA, b""),
    ],
    ids=lambda part: f"{part.name[:30]}-{part.type!r}",
)
@pytest.mark.parametrize("before", [1, 2, 9, -1])
def test_nothing_but_what_is_due_is_taken(parts, refused, tmp_path, planted, before):
    parts.insert(before % len(parts) if before > 0 else len(parts) - 1, planted)
    refused(tar(parts))
    assert not (tmp_path.parent / "evil").exists()


def test_links_in_place_of_blobs(parts, refused):
    at = blob(parts)
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE, tarfile.DIRTYPE):
        parts[at].type, parts[at].link = kind, "/etc/passwd"
        assert "does not put into backups" in refused(tar(parts))


def test_a_blob_twice_or_out_of_order(parts, refused):
    at = blob(parts)
    assert "not there" in refused(tar([*parts[: at + 1], parts[at], *parts[at + 1 :]]))
    assert "not there" in refused(tar([*parts[:2], *reversed(parts[2:-1]), parts[-1]]))


def test_a_blob_taken_out_or_swapped(parts, refused):
    at = blob(parts)
    assert "some were taken out" in refused(tar(parts[:at] + parts[at + 1 :]))
    parts[at].body = parts[at].body[::-1]
    assert "is damaged" in refused(tar(parts))
    parts[at].body += b"more"
    assert "another size" in refused(tar(parts))


def test_a_damaged_mark_is_believed_only_where_the_end_counts_it(parts, refused):
    at = blob(parts)
    parts[at].body = b"!" * len(parts[at].body)
    mark = Part("damaged/" + parts[at].name[-64:], b"")
    assert "some were taken out" in refused(tar([*parts[: at + 1], mark, *parts[at + 1 :]]))
    mark.body = b"with content"
    assert "is damaged" in refused(tar([*parts[: at + 1], mark, *parts[at + 1 :]]))


@pytest.mark.parametrize("size", [2**63 - 1, 2**62, 2**40, -1, -(2**40)])
def test_sizes_that_cannot_be(parts, refused, size):
    """Nothing is allocated, and nothing is read that a member does not have."""
    for at in (0, 1, blob(parts), len(parts) - 1):
        part = parts[at]
        part.size = size
        refused(tar(parts))
        part.size = None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"blob_bytes": 2**62}, "has"),
        ({"index_bytes": 2**62}, "has"),
        ({"blobs": 10**9}, "names other blobs"),
        ({"blobs": 0, "blob_bytes": 0}, "names other blobs"),
        ({"index_sha256": "0" * 64}, "its index is damaged"),
        ({"index_bytes": 5}, "another size"),
        ({"layout": 99}, "use the newer artifactproxy"),
        ({"backup": 99}, "made by a newer artifactproxy"),
        ({"backup": "1"}, "is damaged"),
        ({"blobs": -1}, "is damaged"),
        ({"blobs": 1e3}, "is damaged"),
    ],
)
def test_a_manifest_that_lies(parts, refused, changes, sentence):
    assert sentence in refused(sealed(parts, **changes))


def test_a_manifest_of_another_backup(parts, refused):
    parts[0].body = parts[0].body.replace(b'"made_at": 1', b'"made_at": 2')
    assert "do not belong together" in refused(tar(parts))


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("CREATE TRIGGER evil AFTER DELETE ON blobs BEGIN DELETE FROM entries; END", "no artifactproxy put"),
        ("CREATE VIEW evil AS SELECT 1", "no artifactproxy put"),
        ("CREATE VIRTUAL TABLE evil USING fts5(a)", "no artifactproxy put"),
        ("CREATE TABLE evil (a)", "not an index of artifactproxy"),
        ("ALTER TABLE uses ADD COLUMN evil TEXT", "not an index of artifactproxy"),
        ("ALTER TABLE uses ADD COLUMN evil TEXT AS (hex(repo))", "not an index of artifactproxy"),
        ("DROP TABLE uses", "not an index of artifactproxy"),
        ("DROP TABLE promises", "not an index of artifactproxy"),
        ("DROP INDEX entries_by_use", "not an index of artifactproxy"),
        ("INSERT INTO steps VALUES (9999, 'later')", "made by a newer version"),
        ("UPDATE entries SET size = 'many' WHERE sha256 IS NOT NULL", "blobs that cannot be"),
        ("UPDATE entries SET size = -5 WHERE sha256 IS NOT NULL", "blobs that cannot be"),
        ("UPDATE entries SET sha256 = x'00ff', size = 1", "blobs that cannot be"),
        ("UPDATE entries SET sha256 = '../../../evil' WHERE id = 1", "blob"),
        ("UPDATE entries SET size = size + 1 WHERE sha256 IS NOT NULL", "names other blobs"),
        ("DELETE FROM steps", ""),
        ("UPDATE sqlite_master SET sql = 'CREATE TABLE uses (a)' WHERE name = 'uses'", ""),
        ("UPDATE sqlite_master SET rootpage = 9999 WHERE name = 'uses'", "damaged"),
    ],
)
def test_an_index_of_somebody_else(parts, refused, tmp_path, statement, sentence):
    assert sentence in refused(with_index(parts, tmp_path, statement))


def test_an_index_that_is_none(parts, refused):
    for body in (b"", b"SQLite format 3\0" + bytes(84), random.Random(1).randbytes(9000)):
        parts[1].body = body
        sha256 = hashlib.sha256(body).hexdigest()
        refused(sealed(parts, index_bytes=len(body), index_sha256=sha256))


def test_an_index_that_names_an_impossible_blob(parts, refused, tmp_path):
    """A name that would lead out of the folder is judged before any file is made."""
    content = with_index(
        parts, tmp_path, "UPDATE entries SET sha256 = '../../../../evil', size = 4 WHERE sha256 IS NOT NULL",
        "DELETE FROM superseded",
    )  # fmt: skip
    parts = [*parts[:2], Part("blobs/sha256/../../../../evil", EVIL), parts[-1]]
    del content
    assert "blob that cannot be" in refused(sealed(parts, blobs=1, blob_bytes=4))
