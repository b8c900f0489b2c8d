"""Registries' addresses on the web floor: whose they are, and what is answered where they are nobody's."""

from __future__ import annotations

from collections.abc import Mapping

from artifactproxy.engine.answer import Answer, Bytes
from artifactproxy.engine.mounts import Mount
from artifactproxy.errors import Fault
from artifactproxy.model import Header
from artifactproxy.ports import Outcome
from artifactproxy.providers._base import Page
from artifactproxy.providers.oci.registries import host_of
from artifactproxy.rules.addresses import Address
from artifactproxy.rules.oci import problems
from artifactproxy.rules.oci.addresses import ROOT, Registries, registry_of

FORMAT = "oci"
_VERSION: Header = ("Docker-Distribution-Api-Version", "registry/2.0")


class Containers:
    """What is mounted changes seldom, so it is looked through once for each change."""

    def __init__(self) -> None:
        self._read: tuple[Mapping[str, Mount], str] = ({}, "")
        self._known = Registries()

    def behind(self, address: Address, mounts: Mapping[str, Mount], default: str) -> Address:
        """As `Registries.behind`."""
        mount = mounts.get(address.repo)
        if address.repo != ROOT and (mount is None or mount.provider.name != FORMAT):
            return address
        if self._read[0] is not mounts or self._read[1] != default:
            self._known = _registries(mounts, default)
            self._read = (mounts, default)
        return self._known.behind(address)


def _registries(mounts: Mapping[str, Mount], default: str) -> Registries:
    found = {name: mount for name, mount in mounts.items() if mount.provider.name == FORMAT}
    hosts: dict[str, str] = {}
    for name, mount in found.items():
        for url in mount.upstreams:
            hosts.setdefault(host_of(url), name)
    return Registries(frozenset(found), hosts, default if default in found else "")


def namespace(address: Address) -> tuple[Header, ...]:
    """For a client that said which registry it is after: that this was understood."""
    asked = registry_of(address.query) if address.api else ""
    return (("OCI-Namespace", asked),) if asked.isascii() and asked.isprintable() and asked else ()


def ping() -> Answer:
    """The API's root: there is a registry here."""
    headers = [_VERSION, ("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    return Answer(200, headers, Bytes(b"{}\n"), Outcome("request", result="local"))


def page(fault: Fault) -> Page:
    """A fault of an address under `/v2/` that belongs to no repository."""
    return Page(problems.document(problems.code_of(fault), fault.detail), problems.MEDIA_TYPE)
