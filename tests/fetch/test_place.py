"""Where the bytes go, and that nothing else is left there."""

from __future__ import annotations

import os
import stat

import click
import pytest

from artifactproxy import failpoints
from artifactproxy.fetch.place import File, Stream, destination
from artifactproxy.terminal import Failure


def test_the_file_appears_when_the_block_has_ended_well(tmp_path):
    place = File(tmp_path / "x")
    with place.draft() as draft:
        draft.write(b"half")
        assert [entry.suffix for entry in tmp_path.iterdir()] == [".part"]
        draft.write(b" and half")
    assert (tmp_path / "x").read_bytes() == b"half and half"
    assert draft.size == 13
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_what_lies_there_stays_when_it_does_not(tmp_path):
    (tmp_path / "x").write_text("before")
    with pytest.raises(RuntimeError), File(tmp_path / "x").draft() as draft:
        draft.write(b"half")
        raise RuntimeError
    assert (tmp_path / "x").read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_a_new_file_has_the_users_mode_and_a_replaced_one_its_own(tmp_path):
    before = os.umask(0o027)
    try:
        with File(tmp_path / "new").draft():
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "tool").touch()
    (tmp_path / "tool").chmod(0o755)
    with File(tmp_path / "tool").draft():
        pass
    assert stat.S_IMODE((tmp_path / "tool").stat().st_mode) == 0o755


@pytest.mark.parametrize("linked", [True, False])
def test_a_whole_file_is_taken_over_without_a_copy_where_that_is_possible(tmp_path, monkeypatch, linked):
    (tmp_path / "spool").write_bytes(b"all of it")
    if not linked:

        def refuse(*_: object, **__: object) -> None:
            raise OSError(18, "another file system")

        monkeypatch.setattr(os, "link", refuse)
    fd = os.open(tmp_path / "spool", os.O_RDONLY)
    File(tmp_path / "x").adopt(fd, 9)
    assert os.path.samestat(os.fstat(fd), (tmp_path / "x").stat()) is linked
    os.close(fd)
    (tmp_path / "spool").unlink()
    assert (tmp_path / "x").read_bytes() == b"all of it"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_a_disk_that_fails_at_the_end_leaves_what_was_there(tmp_path):
    (tmp_path / "x").write_text("before")
    failpoints.arm("fetch.complete=raise:EIO")
    try:
        with pytest.raises(OSError), File(tmp_path / "x").draft() as draft:
            draft.write(b"after")
    finally:
        failpoints.arm("")
    assert (tmp_path / "x").read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_where_the_bytes_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "to").symlink_to("folder")
    assert destination(None, "a.tgz") == File((tmp_path / "a.tgz").relative_to(tmp_path))
    assert destination("folder", "a.tgz").shown == "folder/a.tgz"
    assert destination("to", "a.tgz").shown == "to/a.tgz"
    assert destination("link", "a.tgz") == File(tmp_path / "real")
    assert destination("-", "a.tgz") == Stream("standard output", "-")
    assert destination(os.devnull, "a.tgz") == Stream(os.devnull, os.devnull)
    with pytest.raises(click.UsageError, match="give one with -o"):
        destination(None, "")
    with pytest.raises(Failure, match="there is no folder"):
        destination("absent/x", "a.tgz")
    (tmp_path / "a.tgz").mkdir()
    with pytest.raises(Failure, match="is a folder"):
        destination(None, "a.tgz")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with pytest.raises(click.UsageError, match="is a terminal"):
        destination("-", "a.tgz")
