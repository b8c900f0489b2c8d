"""A repository of a single file, wherever it lies: what an address that is typed in is to the engine."""

from __future__ import annotations

from urllib.parse import urlsplit

from artifactproxy.model import ArtifactKey, Ask, Digest, Kind, Promise, Route
from artifactproxy.providers._base import Provider, Site
from artifactproxy.providers.generic import may_be_html

REPO = "fetch"
PATH = "file"
ASK = Ask(REPO, PATH, caller="command")


class OneFile(Provider):
    """No rules about paths, for the address is exactly what was asked for: immutable, and promised by the
    sha256 that was given with it ("" if none was)."""

    name = "fetch"

    def __init__(self, url: str, sha256: str) -> None:
        super().__init__(Site(REPO, (url,)))
        self._url = url
        self._sha256 = sha256

    def classify(self, ask: Ask) -> Route:
        del ask
        key = ArtifactKey(REPO, PATH)
        promise = None
        if self._sha256:
            promise = Promise(key, (Digest("sha256", self._sha256),), taught_by="the command line")
        filename = urlsplit(self._url).path.rpartition("/")[2]
        return Route(
            Kind.ARTIFACT,
            key,
            (self._url,),
            promise=promise,
            expects_html=may_be_html(filename),
            filename=filename,
        )
