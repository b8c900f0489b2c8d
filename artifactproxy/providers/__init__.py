"""Every ecosystem the program speaks: a module in this folder that defines `PROVIDER` is one.

No registration elsewhere: the folder is scanned once, on import.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from artifactproxy.providers._base import Provider, PublicOrigins


def _scan() -> dict[str, type[Provider]]:
    found: dict[str, type[Provider]] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")):
        provider = getattr(importlib.import_module(f"{__name__}.{module}"), "PROVIDER", None)
        if provider is None:
            continue
        if provider.name in found:
            raise ImportError(f"two providers are named {provider.name!r}; {module} is the second")
        found[provider.name] = provider
    return found


PROVIDERS: Mapping[str, type[Provider]] = MappingProxyType(_scan())


def default_remotes(origins: PublicOrigins) -> dict[str, str]:
    """Repository name to public registry, for those that have one: what is mounted without a file."""
    mounts = [provider.default_mounts(origins) for provider in PROVIDERS.values()]
    return {name: url for found in mounts for name, url in found.items()}
