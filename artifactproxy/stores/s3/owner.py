"""Which process runs an upload: `<host>/<boot>.<pid>.<start>`.

The boot id of the kernel is shared by the containers of a machine, their process ids are not, so the
host's name stands before it: a process of another host is never taken for dead.
"""

from __future__ import annotations

import re
import socket

from artifactproxy.stores.temps import Owner, alive, this_process

_NAME = re.compile(r"(?P<host>[^/]+)/(?P<boot>[0-9a-f]{1,12})\.(?P<pid>\d{1,10})\.(?P<start>\d{1,20})")


def this_owner() -> str:
    one = this_process()
    return f"{socket.gethostname()}/{one.boot}.{one.pid}.{one.started}"


def ended(owner: str) -> bool:
    """Whether that process has certainly ended; False where that cannot be told from here."""
    match = _NAME.fullmatch(owner)
    if match is None or match["host"] != socket.gethostname():
        return False
    mine = this_process()
    one = Owner(match["boot"], int(match["pid"]), int(match["start"]))
    return one.boot == mine.boot and not alive(one)
