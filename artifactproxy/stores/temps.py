"""Names of temporary files that tell who owns them: `<boot>.<pid>.<start>-<seq>-<random>.part`.

A process id alone would be fooled by its reuse, so the kernel's boot id and the start time of the
process (clock ticks since boot, field 22 of proc_pid_stat(5)) stand beside it. Where there is no
/proc, boot and start are 0 and the process id decides alone.

A large promised download writes beside its file what has landed of it, `<name>.map`. After a crash (not
after a loss of power, which may take what the map tells of) it is good for a day.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from artifactproxy.rules.segments import SavedMap, read_map

MAP = ".map"
KEPT_SECONDS = 86400.0
_AHEAD = 60.0  # seconds; a map dated further ahead was written under a clock that was set back since
_NAME = re.compile(r"([0-9a-f]{1,12})\.(\d{1,10})\.(\d{1,20})-\d+-[0-9a-f]+\.part(?:\.map(?:\.new)?)?")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Owner:
    """One life of one process."""

    boot: str
    pid: int
    started: int


def owner_of(name: str) -> Owner | None:
    """Who made this temporary file; None if the name is none of ours."""
    match = _NAME.fullmatch(name)
    return Owner(match[1], int(match[2]), int(match[3])) if match else None


def this_process() -> Owner:
    return Owner(_boot(), os.getpid(), _started(os.getpid()) or 0)


def alive(owner: Owner) -> bool:
    """Whether the process that made a file still runs; a zombie does not."""
    if owner.boot != _boot():
        return False
    if not owner.started:
        return _answers(owner.pid)
    return _started(owner.pid) == owner.started


def part_of(path: Path) -> Path:
    """The file that a map is of; any other as it is."""
    return path.with_name(path.name.removesuffix(MAP))


def left_over(part: Path, now: float) -> SavedMap | None:
    """What a crash has left in this file, with which its download can go on; None: nothing, or it is not
    to be believed. Blocking."""
    owner = owner_of(part.name)
    if owner is None or owner.boot != _boot() or alive(owner):
        return None
    try:
        about = part.with_name(part.name + MAP).lstat()
        saved = read_map(part.with_name(part.name + MAP).read_bytes())
        size = part.lstat().st_size
    except OSError:
        return None
    young = -_AHEAD < now - about.st_mtime < KEPT_SECONDS
    return saved if saved is not None and young and size == saved.length else None


class TempNames:
    """An endless supply of names that no other process and no earlier life has used."""

    def __init__(self) -> None:
        self._owner = this_process()
        self._numbers = itertools.count(1)

    def next(self) -> str:
        if self._owner.pid != os.getpid():  # forked since
            self._owner = this_process()
        owner = self._owner
        number = next(self._numbers)
        return f"{owner.boot}.{owner.pid}.{owner.started}-{number}-{secrets.token_hex(4)}.part"


def _boot() -> str:
    try:
        return _BOOT_ID.read_text().strip().replace("-", "")[:12]
    except OSError:
        return "0"


def _started(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The command name is in brackets and may hold anything, brackets and blanks included.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
