"""The kinds of content that can be on their way when the program dies, each with its oracle.

`PASSES` says which failpoints a request for each comes by: `place@n` is its n-th passage since the
start of the program (where the disk is probed, and generations are reserved before the first fill).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos import Chaos
from tests.chaos.behaviours import ok, status
from tests.engine.test_go import RECORD, ZIP, module, record
from tests.engine.test_go import remote as go_remote
from tests.house_proxy import promise

BIG = 600_000  # above `memory_body`: it has a temp file while it comes
SMALL = 3000
ALWAYS_STALE = "ttl: 0s\nstale_while_revalidate: 0s\nmin_revalidate: 0s"

_BODY = ("tmp.opened@1", "tmp.half@1", "tmp.full@1", "verified@1", "tail.released@1")
_STORED = ("tmp.fsynced@2", "blob.linked@1", "dir.fsynced@1")
_ROW = ("row.written@2", "row.committed@2")
_GENERATION = ("row.written@1", "row.committed@1")
_THIRD = ("row.written@3", "row.committed@3")
PASSES = {
    "promised": _BODY + _STORED + _ROW,
    "unpromised": _BODY + _STORED + _ROW + _THIRD,  # its first sight is a promise of its own
    "small": _BODY + _STORED + _GENERATION + _ROW,
    "reread": ("tmp.reread@1", "tmp.reread@2"),
    "index": _BODY + _STORED + _ROW + _THIRD,  # what it teaches comes before it
    "sidecar": _BODY + _STORED + _ROW,
    "absence": _ROW,
    "revalidated": _ROW,
    "superseded": _BODY + _STORED + _ROW,
}


@dataclass(frozen=True, slots=True)
class Content:
    """`warm` is asked before, and stored; then `change` happens upstream, and `path` is asked for.

    `right` judges a complete answer; `source` is what an answer from the store says.
    """

    path: str
    right: Callable[[int, bytes], bool]
    warm: tuple[str, ...] = ()
    change: Callable[[], object] = lambda: None
    source: str = "cache"


def setting(chaos: Chaos) -> dict[str, str]:
    """The options of `configuration` under which all of it can be asked for."""
    return {"remote": ALWAYS_STALE, "remotes": go_remote(chaos)}


def _is(body: bytes) -> Callable[[int, bytes], bool]:
    return lambda status, got: (status, got) == (200, body)


def _promised(chaos: Chaos) -> Content:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=BIG)
    return Content(promise(chaos, "pkg-1.0.tar.gz", body), _is(body.bytes()), ("/pypi/simple/pkg/",))


def _unpromised(chaos: Chaos) -> Content:
    body = chaos.script("/f.bin", ok(), size=BIG)
    return Content("/files/f.bin", _is(body.bytes()))


def _small(chaos: Chaos) -> Content:
    body = chaos.script("/s.bin", ok(), size=SMALL)
    return Content("/files/s.bin", _is(body.bytes()))


def _reread(chaos: Chaos) -> Content:
    """Its checksum is over what is inside, and is known only after the whole has come."""
    body = module(BIG)
    chaos.script(f"/{ZIP}", status(200, body))
    chaos.script(f"/{RECORD}", status(200, record(body)))
    return Content(f"/go/{ZIP}", _is(body))


def _index(chaos: Chaos) -> Content:
    body = chaos.script("/pkg-1.0.tar.gz", ok(), size=BIG)
    promise(chaos, "pkg-1.0.tar.gz", body)
    return Content("/pypi/simple/pkg/", _lists(body.sha256), source="remote")  # it has no validator


def _sidecar(chaos: Chaos) -> Content:
    wheel = chaos.script("/pkg-1.0-py3-none-any.whl", ok(), size=BIG)
    body = chaos.script("/pkg-1.0-py3-none-any.whl.metadata", ok(), size=SMALL)
    path = promise(chaos, "pkg-1.0-py3-none-any.whl", wheel, sidecar=body.sha256)
    return Content(f"{path}.metadata", _is(body.bytes()), ("/pypi/simple/pkg/",))


def _absence(chaos: Chaos) -> Content:
    return Content("/files/none.bin", lambda status, _: status == 404, source="")


def _revalidated(chaos: Chaos) -> Content:
    body = chaos.script("/i.json", ok(), size=SMALL)
    return Content("/files/i.json", _is(body.bytes()), ("/files/i.json",))


def _superseded(chaos: Chaos) -> Content:
    chaos.script("/i.json", ok(), size=SMALL)
    new = [b""]

    def change() -> None:
        new[0] = chaos.script("/i.json", ok(), size=SMALL, version=1).bytes()

    return Content(
        "/files/i.json", lambda status, got: (status, got) == (200, new[0]), ("/files/i.json",), change
    )


CONTENTS: dict[str, Callable[[Chaos], Content]] = {
    make.__name__[1:]: make
    for make in (
        _promised,
        _unpromised,
        _small,
        _reread,
        _index,
        _sidecar,
        _absence,
        _revalidated,
        _superseded,
    )
}


def _lists(sha256: str) -> Callable[[int, bytes], bool]:
    return lambda status, got: status == 200 and sha256.encode() in got and got.rstrip().endswith(b"</html>")
