"""Names of temporary files that tell who owns them: `<boot>.<pid>.<start>-<seq>-<random>.part`.

A process id alone would be fooled by its reuse, so the kernel's boot id and the start time of the
process (clock ticks since boot, field 22 of proc_pid_stat(5)) stand beside it. Where there is no
/proc, boot and start are 0 and the process id decides alone.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"([0-9a-f]{1,12})\.(\d{1,10})\.(\d{1,20})-\d+-[0-9a-f]+\.part")
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
