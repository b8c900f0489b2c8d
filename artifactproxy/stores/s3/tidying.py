"""Uploads that nobody ends any more: found by their intents, and by listing where the bucket can.

An intent without an upload id is of a process that died between asking for one and remembering it; its
uploads are looked for under the blob's key. An upload that became an object meanwhile is just gone.
"""

from __future__ import annotations

from contextlib import suppress

from artifactproxy.ports import Intent
from artifactproxy.rules.paths import blob_path
from artifactproxy.stores.s3.copying import QUARANTINE
from artifactproxy.stores.s3.listing import BLOBS, Open, blob_of, uploads
from artifactproxy.stores.s3.owner import ended
from artifactproxy.stores.s3.trouble import Answered
from artifactproxy.stores.s3.upload import Dock, abort

OLD_SECONDS = 86400.0
OWN_SECONDS = 600.0
"""After which an intent of this very process that runs no more is taken up."""
_AT_ONCE = 10_000


async def tidy(dock: Dock) -> int:
    """Abort what is old or whose process has ended; returns how many uploads that were.

    Raises `IndexUnavailable`, `StoreUnavailable`.
    """
    now = dock.clock()
    intents = await dock.intents.intents(now + OLD_SECONDS, _AT_ONCE)
    known = {intent.upload for intent in intents if intent.upload}
    count = 0
    for intent in intents:
        if _due(dock, intent, now):
            count += await _end(dock, intent, known)
    if len(intents) < _AT_ONCE:  # otherwise some may be known to us all the same
        count += await _sweep(dock, known)
    return count


def _due(dock: Dock, intent: Intent, now: float) -> bool:
    if intent.id in dock.live:
        return False
    age = now - intent.started
    own = intent.owner == dock.owner and age >= OWN_SECONDS
    return age >= OLD_SECONDS or own or ended(intent.owner)


async def _end(dock: Dock, intent: Intent, known: set[str]) -> int:
    """One intent. A bucket that refuses keeps it for the next time."""
    key = blob_path(intent.sha256)
    try:
        if intent.upload:
            await abort(dock.wire, dock.options.prefix + key, intent.upload)
            ids = 1
        else:
            lost = [each for each in await uploads(dock.wire, key) if each.upload not in known]
            ids = await _abort_old(dock, lost, OWN_SECONDS)
            if ids < len(lost):
                return ids  # too young to be told from one that begins just now
    except Answered:
        dock.warn("upload_not_aborted", sha256=intent.sha256)
        return 0
    await dock.intents.fulfil([intent.id])
    return ids


async def _sweep(dock: Dock, known: set[str]) -> int:
    """Uploads of our keys that no intent tells of, copies that went in parts among them."""
    with suppress(Answered):  # not every bucket lists, nor lets everybody list
        lost = [each for each in await uploads(dock.wire, BLOBS) if blob_of(each.key)]
        lost += await uploads(dock.wire, QUARANTINE)
        return await _abort_old(dock, [each for each in lost if each.upload not in known], OLD_SECONDS)
    return 0


async def _abort_old(dock: Dock, found: list[Open], seconds: float) -> int:
    old = [each for each in found if each.age >= seconds]
    for each in old:
        await abort(dock.wire, dock.options.prefix + each.key, each.upload)
    return len(old)
