"""Which process runs an upload: `<host>/<boot>.<pid>.<start>`.

The boot id of the kernel is shared by the containers of a machine, their process ids are not, and their
host names only where they have the network of the machine. So the host's name and that of the space in
which process ids count stand before it: a process of another host or container is never taken for dead.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path

from artifactproxy.stores.temps import Owner, alive, this_process

_NAME = re.compile(r"(?P<host>[^/]+)/(?P<boot>[0-9a-f]{1,12})\.(?P<pid>\d{1,10})\.(?P<start>\d{1,20})")
_SPACE = Path("/proc/self/ns/pid")


def this_owner() -> str:
    one = this_process()
    return f"{_host()}/{one.boot}.{one.pid}.{one.started}"


def ended(owner: str) -> bool:
    """Whether that process has certainly ended; False where that cannot be told from here."""
    match = _NAME.fullmatch(owner)
    if match is None or match["host"] != _host():
        return False
    mine = this_process()
    one = Owner(match["boot"], int(match["pid"]), int(match["start"]))
    return one.boot == mine.boot and not alive(one)


def _host() -> str:
    """Without Linux there is one such space."""
    try:
        space = _SPACE.stat().st_ino
    except OSError:
        space = 0
    return f"{socket.gethostname().replace('/', '_')}+{space:x}"
