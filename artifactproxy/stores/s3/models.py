"""The library's description of S3: read by a process once, however many stores it opens."""

from __future__ import annotations

from functools import cache

from aiobotocore.session import AioSession
from botocore.loaders import Loader, create_loader


def session() -> AioSession:
    """A session without credentials. Without this each of them parses some megabytes of JSON, which
    holds the event loop for a tenth of a second."""
    made = AioSession()
    made.register_component("data_loader", _loader(made.get_config_variable("data_path")))
    return made


@cache
def _loader(folders: str | None) -> Loader:
    return create_loader(folders)
