"""The folder beside the target in which a fetch works: a data folder of its own, for one file.

It holds what has come, and the map of it, so that the same command goes on where the last one was
interrupted. It is locked while somebody works in it, and gone when the file is complete.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from artifactproxy.datadir import DataFolder
from artifactproxy.errors import StoreUnavailable
from artifactproxy.fetch.place import Destination, File
from artifactproxy.terminal import Failure

_ORDER = "order.json"
_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class Order:
    """What is fetched here; what another order has left is of no use."""

    url: str
    sha256: str


class Workplace:
    def __init__(self, folder: DataFolder) -> None:
        self.folder = folder
        self.keep = True
        """Whether there is something in it that another try could go on with."""


@contextmanager
def workplace(place: Destination, order: Order) -> Iterator[Workplace]:
    """Raises `Failure`, `StoreUnavailable` and OSError. A stream has no place that is found again."""
    if not isinstance(place, File):
        with tempfile.TemporaryDirectory(prefix="artifactproxy-") as name:
            folder = DataFolder(Path(name))
            try:
                yield Workplace(folder)
            finally:
                folder.close()
        return
    path = beside(place.path)
    folder = _claimed(path, place)
    work = Workplace(folder)
    try:
        _prepare(path, order)
        yield work
        work.keep = False
    finally:
        if not (path / "tmp").is_dir() or not any((path / "tmp").iterdir()):
            work.keep = False
        if not work.keep:
            shutil.rmtree(path, ignore_errors=True)
        folder.close()


def beside(file: Path) -> Path:
    return file.with_name(f".{file.name[:200]}.fetch")


def _claimed(path: Path, place: File) -> DataFolder:
    if path.is_dir() and not (path / _ORDER).exists() and set(_names(path)) - {_LOCK, "format"}:
        raise Failure(f"{path} is in the way: it is none of ours; move it, or name another file with -o")
    try:
        return DataFolder(path)
    except StoreUnavailable as fault:
        if fault.detail.startswith("another artifactproxy works in"):
            raise Failure(f"another fetch of {place.path} is under way") from fault
        raise


def _prepare(path: Path, order: Order) -> None:
    """Keep what the same order has left, and nothing else."""
    said = path / _ORDER
    try:
        same = json.loads(said.read_text()) == asdict(order)
    except (OSError, ValueError):
        same = False
    if same:
        return
    for name in set(_names(path)) - {_LOCK, "format"}:
        old = path / name
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink()
    said.write_text(json.dumps(asdict(order)))


def _names(path: Path) -> list[str]:
    return [entry.name for entry in path.iterdir()]
