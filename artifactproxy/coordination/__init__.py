"""Who fills. One line here and one harness in `tests/contracts/` make a new kind."""

from __future__ import annotations

from collections.abc import Callable

from artifactproxy.ports import Coordinator


def _local() -> type[Coordinator]:
    from artifactproxy.coordination.local import LocalCoordinator

    return LocalCoordinator


def _redis() -> type[Coordinator]:
    from artifactproxy.coordination.redis import RedisCoordinator

    return RedisCoordinator


KINDS: dict[str, Callable[[], type[Coordinator]]] = {"local": _local, "redis": _redis}
"""Kind to the loader of its class, so that the drivers of unused kinds are never imported."""
