"""Named places on the commit path where a test can make the program fail. No-ops unless armed.

Armed by the environment variable `ARTIFACTPROXY_FAILPOINTS`, read once at import:
`name=action[:argument][@k]`, several separated by commas; `@k` acts at the k-th passage only.
Actions: `raise` (OSError with the errno named, default EIO), `kill` (SIGKILL to ourselves),
`stop` (SIGSTOP), `sleep:seconds`.

Names: tmp.opened tmp.half tmp.full tmp.reread tmp.fsynced segment.landed map.saved blob.linked dir.fsynced verified tail.released
row.written row.committed evict.marked evict.deleted backup.snapshot backup.blob backup.read
backup.synced recheck.read scrub.read scrub.aside heal.begun heal.done restore.blob restore.synced
restore.verified restore.committed restore.removed restore.moved salvage.row salvage.built
salvage.ready salvage.aside salvage.moved survey.read migrate.copied migrate.stored tier.write
upload.intended upload.created upload.part upload.sent upload.completed fetch.complete.
"""

from __future__ import annotations

import errno
import os
import signal
import time

_armed: dict[str, tuple[str, str, int]] = {}
_passed: dict[str, int] = {}


def arm(text: str) -> None:
    """Replace what is armed. Raises ValueError on text it cannot read."""
    _armed.clear()
    _passed.clear()
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, action = part.partition("=")
        action, _, nth = action.partition("@")
        action, _, argument = action.partition(":")
        if action not in ("raise", "kill", "stop", "sleep"):
            raise ValueError(f"failpoint {name!r}: unknown action {action!r}")
        _armed[name] = (action, argument, int(nth or 0))


def hit(name: str) -> None:
    """Pass the named place."""
    if _armed and name in _armed:
        _act(name)


def _act(name: str) -> None:
    action, argument, nth = _armed[name]
    _passed[name] = _passed.get(name, 0) + 1
    if nth and _passed[name] != nth:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "sleep":
        time.sleep(float(argument or 1))
    else:
        number = getattr(errno, argument or "EIO")
        raise OSError(number, f"failpoint {name}: {os.strerror(number)}")


arm(os.environ.get("ARTIFACTPROXY_FAILPOINTS", ""))
