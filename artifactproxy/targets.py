"""What an operator names on the command line: addresses, packages, repositories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from artifactproxy.config import Config
from artifactproxy.model import Ask
from artifactproxy.providers.oci.registries import host_of
from artifactproxy.rules.addresses import Address, written
from artifactproxy.rules.oci.addresses import Registries

NO_REGISTRIES = Registries()


@dataclass(frozen=True, slots=True)
class Purge:
    """One order: a path, a package (name or package URL), or, with neither, a whole repository."""

    repo: str
    path: str = ""
    package: str = ""

    def body(self) -> dict[str, str]:
        return {key: value for key, value in asdict(self).items() if value}


def registries(config: Config) -> Registries:
    """What is needed to read an address of a registry's API."""
    found = [remote for remote in config.remotes.values() if remote.provider == "oci"]
    hosts: dict[str, str] = {}
    for remote in found:
        for url in remote.upstreams:
            hosts.setdefault(host_of(url), remote.name)
    return Registries(frozenset(remote.name for remote in found), hosts, config.oci_default or "")


def ask_of(address: str, root: str | None, accept: str = "", known: Registries = NO_REGISTRIES) -> Ask:
    """The request that `explain` is about. Raises `BadPath` and `NotServed`."""
    root, read = written(address, root or "")
    read = known.behind(read)
    headers = {"accept": accept} if accept else {}
    return Ask(
        read.repo, read.path, query=read.query, headers=headers, base=read.base(root), caller="control"
    )


def purges(
    targets: Sequence[str],
    *,
    repo: str | None,
    package: str | None,
    everything: bool,
    known: Sequence[str],
    root: str | None,
    images: Registries = NO_REGISTRIES,
) -> list[Purge]:
    """Raises ValueError with the sentence for the operator, `BadPath` for a malformed target,
    `NotServed` for an alias that names no repository.

    `known` are the configured repositories, `root` is the public URL.
    """
    if repo is not None and repo not in known:
        raise ValueError(f"there is no repository {repo}; there are {', '.join(known)}")
    if sum((bool(targets), package is not None, everything)) != 1:
        raise ValueError("name either targets, or --package NAME, or --all")
    if targets:
        return [purge for target in targets for purge in _of_target(target, repo, known, root, images)]
    if repo is None:
        raise ValueError("--package and --all need --repo NAME")
    return [Purge(repo, package=package or "")]


def _of_target(
    target: str, repo: str | None, known: Sequence[str], root: str | None, images: Registries
) -> list[Purge]:
    if target.startswith("pkg:"):
        return [Purge(name, package=target) for name in ([repo] if repo else known)]
    address: Address = written(target, root or "")[1]
    named, path, query, *_ = images.behind(address) if address.path else address
    if named not in known:
        raise ValueError(f"{target} names no repository; there are {', '.join(known)}")
    if repo not in (None, named):
        raise ValueError(f"{target} is not in {repo}")
    if not path:
        raise ValueError(f"{target} is a whole repository; if you mean that, say --repo {named} --all")
    return [Purge(named, path=f"{path}?{query}" if query else path)]
