"""Where bytes lie. One line here and one harness in `tests/contracts/` make a new kind."""

from __future__ import annotations

from collections.abc import Callable

from artifactproxy.ports import BlobStore


def _fs() -> type[BlobStore]:
    from artifactproxy.stores.fs import FsStore

    return FsStore


KINDS: dict[str, Callable[[], type[BlobStore]]] = {"fs": _fs}
"""Kind to the loader of its class, so that the drivers of unused kinds are never imported."""
