"""A repository that takes pushes, for the stations of the engine that want a mount and a provider.

Nothing here is ever asked of an upstream: requests for it are answered by `registry.py`.
"""

from __future__ import annotations

from artifactproxy.engine.mounts import Mount
from artifactproxy.errors import Fault, NotServed
from artifactproxy.hosted.local import Local
from artifactproxy.hosted.refusals import oci_page
from artifactproxy.model import Ask, Reply, Route
from artifactproxy.providers._base import Page, Provider, Site
from artifactproxy.providers.oci.setup import clients_pushing


class Pushed(Provider):
    name = "oci"
    clients = clients_pushing()
    methods = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})

    def classify(self, ask: Ask) -> Route | Reply:
        del ask
        raise NotServed("what was pushed exists nowhere else")

    def problem(self, fault: Fault, ask: Ask) -> Page:
        del ask
        return oci_page(fault)


def mount_of(local: Local) -> Mount:
    return Mount(local.name, Pushed(Site(local.name, ())), local=True)
