"""Which repository an address of a registry's API belongs to. Clients fix where `/v2/` stands.

/v2/{repo}/{name}/...       whoever writes our host and the repository before an image's name
/{repo}/v2/{name}/...       clients whose mirrors may have a path; so behind every alias
/v2/{name}/...?ns=HOST      mirrors of many registries: the remote of that registry
/v2/{name}/...              mirrors of one registry: the remote named by `oci_default`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from artifactproxy.errors import BadPath, NotServed
from artifactproxy.rules.addresses import Address
from artifactproxy.rules.paths import decode_segment

ROOT = "v2"


@dataclass(frozen=True, slots=True)
class Registries:
    """`names` are the repositories that speak the protocol, `hosts` which of them stands for a registry
    (as references to images name it), `default` for whom no other address says who is meant."""

    names: frozenset[str] = frozenset()
    hosts: Mapping[str, str] = field(default_factory=dict)
    default: str = ""

    def behind(self, address: Address) -> Address:
        """The address with its path behind the API; as it is where it is of no registry, and for the
        API's root, which is nobody's.

        Raises `NotServed` for one of a registry that is not here, `BadPath` for an escape where it says
        whose it is: under another spelling a private name would be asked for elsewhere.
        """
        if address.repo == ROOT:
            return self._under_root(address) if address.path else address
        if address.repo not in self.names:
            return address
        first, slash, rest = address.path.partition("/")
        if first != ROOT or not slash:
            raise NotServed(f"addresses of this repository begin with /{address.repo}/v2/")
        return address._replace(path=rest, api=f"{address.prefix}/{address.repo}/{ROOT}")

    def _under_root(self, address: Address) -> Address:
        first, _, rest = address.path.partition("/")
        if "%" in first:
            raise BadPath("this part of an address is written without escapes")
        asked = registry_of(address.query)
        other = self.hosts.get(asked)
        if first in self.names and (other is None or first in self.hosts.values()):
            return address._replace(repo=first, path=rest, api=f"/{ROOT}/{first}")
        if asked and other is None:
            raise NotServed("no repository here stands for that registry", code="name_unknown")
        repo = other or self.default
        if not repo:
            raise NotServed("no repository of images is called this here", code="name_unknown")
        return address._replace(repo=repo, api=f"/{ROOT}")


def registry_of(query: str) -> str:
    """The registry that a mirror's client says it is after (`ns`), "" if it says none; `docker.io` by
    all of its names."""
    for pair in query.split("&") if "ns=" in query else ():
        name, _, value = pair.partition("=")
        if name == "ns":
            return named(decode_segment(value))
    return ""


def named(host: str) -> str:
    """A registry's host as references to images write it."""
    host = host.lower()
    return "docker.io" if host in ("index.docker.io", "registry-1.docker.io") else host
