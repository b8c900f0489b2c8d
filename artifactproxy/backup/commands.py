"""`artifactproxy backup` and `artifactproxy restore`."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from artifactproxy.terminal import CLEAN, UNREPAIRED, Failure, as_json_option, common, ends_by_signals, load

if TYPE_CHECKING:
    from artifactproxy.backup.restore import Unpacked
    from artifactproxy.backup.take import Taken

_STREAM = "-"


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@common
@as_json_option
def backup(file: str, config_file: str | None, data: str | None, *, force: bool, as_json: bool) -> int:
    """Copy the whole cache into FILE, a tar archive, while the proxy may be serving.

    FILE appears when it is complete. With - it goes to standard output, and what is reported to
    standard error. Exit code 3: blobs were missing or damaged; the rest is in FILE.
    """
    folder = load(config_file, data=data).data
    with ends_by_signals():
        taken, size = _to_stream(folder) if file == _STREAM else _to_file(folder, Path(file), force=force)
    _report(_backup_facts(file, taken, size), _backup_lines(file, taken, size), file, as_json=as_json)
    return UNREPAIRED if taken.missing or taken.damaged else CLEAN


def _to_file(data: Path, file: Path, *, force: bool) -> tuple[Taken, int]:
    from artifactproxy.backup.files import Refused, check_place, complete
    from artifactproxy.backup.progress import shown
    from artifactproxy.backup.take import take
    from artifactproxy.errors import IndexUnavailable

    try:
        check_place(file, data, force=force)
        with complete(file, force=force) as (out, beside), shown() as progress:
            taken = take(data, out, beside, progress)
    except Refused as error:
        raise Failure(str(error)) from error
    except IndexUnavailable as fault:
        if fault.code == "index_full":  # of the copy, which lies beside the file
            raise Failure(f"{file}: no space is left for a copy of the index beside it") from fault
        raise
    except OSError as error:
        # An error of writing knows no name.
        error.filename = error.filename or str(file)
        raise
    return taken, taken.archive_bytes


def _to_stream(data: Path) -> tuple[Taken, int]:
    from artifactproxy.backup.progress import shown
    from artifactproxy.backup.take import take

    if sys.stdout.isatty():
        raise click.UsageError("standard output is a terminal; redirect it or name a file")
    with tempfile.TemporaryDirectory(prefix="artifactproxy-") as folder, shown() as progress:
        taken = take(data, sys.stdout.fileno(), Path(folder) / "index", progress)
    return taken, taken.archive_bytes


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--force", is_flag=True, help="Replace what is in the data folder.")
@common
@as_json_option
def restore(file: str, config_file: str | None, data: str | None, *, force: bool, as_json: bool) -> int:
    """Unpack the backup FILE (- for standard input) into an empty data folder, and verify it.

    All or nothing: the folder is as before until everything has been unpacked and verified.
    """
    folder = load(config_file, data=data).data
    with ends_by_signals(), _opened(file) as source:
        unpacked = _from(source, folder, file, force=force)
    _report(_restore_facts(folder, unpacked), _restore_lines(folder, unpacked), "", as_json=as_json)
    return CLEAN


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == _STREAM:
        if sys.stdin.isatty():
            raise click.UsageError("standard input is a terminal; redirect it or name a file")
        yield sys.stdin.buffer
        return
    with Path(file).open("rb") as source:
        yield source


def _from(source: BinaryIO, folder: Path, file: str, *, force: bool) -> Unpacked:
    from artifactproxy.backup.archive import BadBackup
    from artifactproxy.backup.progress import shown
    from artifactproxy.backup.restore import unpack
    from artifactproxy.datadir import restoring
    from artifactproxy.errors import IndexUnavailable

    name = "standard input" if file == _STREAM else file
    try:
        with restoring(folder, replace=force) as place, shown() as progress:
            return unpack(source, place, progress)
    except BadBackup as error:
        raise Failure(f"{name} cannot be restored: {error}; nothing has changed") from error
    except IndexUnavailable as fault:
        raise Failure(f"{name} cannot be restored: {fault.detail}; nothing has changed") from fault


def _report(facts: dict[str, Any], lines: list[str], file: str, *, as_json: bool) -> None:
    click.echo(json.dumps(facts, indent=2) if as_json else "\n".join(lines), err=file == _STREAM)


def _backup_facts(file: str, taken: Taken, size: int) -> dict[str, Any]:
    return {
        "file": file,
        "bytes": size,
        "entries": taken.manifest.entries,
        "promises": taken.manifest.promises,
        "blobs": taken.blobs,
        "blob_bytes": taken.blob_bytes,
        "missing": taken.missing,
        "damaged": taken.damaged,
        "examples": [{"sha256": sha256, "why": why} for sha256, why in taken.examples],
    }


def _backup_lines(file: str, taken: Taken, size: int) -> list[str]:
    from artifactproxy.backup.progress import readable

    where = "standard output" if file == _STREAM else file
    lines = [f"{where}: {taken.manifest.entries} entries, {taken.blobs} blobs, {readable(size)}"]
    if taken.missing or taken.damaged:
        lines.append(
            f"left out: {taken.missing} missing and {taken.damaged} damaged blobs;"
            " what they held is fetched again after a restore"
        )
        lines += [f"  {why} {sha256}" for sha256, why in taken.examples]
    return lines


def _restore_facts(folder: Path, unpacked: Unpacked) -> dict[str, Any]:
    manifest = unpacked.manifest
    return {
        "data": str(folder),
        "made_at": manifest.made_at,
        "made_by": manifest.program,
        "blobs": unpacked.blobs,
        "blob_bytes": unpacked.blob_bytes,
        "left_out": unpacked.left_out,
    }


def _restore_lines(folder: Path, unpacked: Unpacked) -> list[str]:
    from datetime import UTC, datetime

    from artifactproxy.backup.progress import readable

    made = datetime.fromtimestamp(unpacked.manifest.made_at, UTC).isoformat(" ", "seconds")
    lines = [f"{folder}: {unpacked.blobs} blobs, {readable(unpacked.blob_bytes)}, as of {made}"]
    if unpacked.left_out:
        lines.append(f"{unpacked.left_out} blobs were not in the backup; what they held is fetched again")
    return lines
