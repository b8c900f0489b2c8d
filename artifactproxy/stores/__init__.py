"""Where bytes lie. One line here and one harness in `tests/contracts/` make a new kind."""

from __future__ import annotations

from collections.abc import Callable

from artifactproxy.ports import BlobStore


def _fs() -> type[BlobStore]:
    from artifactproxy.stores.fs import FsStore

    return FsStore


def _s3() -> type[BlobStore]:
    from artifactproxy.stores.s3.store import S3Store

    return S3Store


KINDS: dict[str, Callable[[], type[BlobStore]]] = {"fs": _fs, "s3": _s3}
"""Kind to the loader of its class, so that the drivers of unused kinds are never imported."""
