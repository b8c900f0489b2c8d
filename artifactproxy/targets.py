"""What an operator names on the command line: addresses, packages, repositories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from artifactproxy.model import Ask
from artifactproxy.rules.paths import split_target


@dataclass(frozen=True, slots=True)
class Purge:
    """One order: a path, a package (name or package URL), or, with neither, a whole repository."""

    repo: str
    path: str = ""
    package: str = ""

    def body(self) -> dict[str, str]:
        return {key: value for key, value in asdict(self).items() if value}


def split_address(address: str, root: str | None) -> tuple[str, str, str, str]:
    """An address as a client writes it, as (base of the repository, repository, path, query).

    `root` is the public URL, whose own path is not part of ours. Raises `BadPath`.
    """
    if root and address.startswith(root + "/"):
        address = address.removeprefix(root)
    elif "://" in address:
        parts = urlsplit(address)
        root = f"{parts.scheme}://{parts.netloc}"
    repo, path, query = split_target(
        address if "://" in address or address.startswith("/") else f"/{address}"
    )
    return f"{root or 'http://localhost'}/{repo}", repo, path, query


def ask_of(address: str, root: str | None) -> Ask:
    """The request that `explain` is about. Raises `BadPath`."""
    base, repo, path, query = split_address(address, root)
    return Ask(repo, path, query=query, base=base, caller="control")


def purges(
    targets: Sequence[str],
    *,
    repo: str | None,
    package: str | None,
    everything: bool,
    known: Sequence[str],
    root: str | None,
) -> list[Purge]:
    """Raises ValueError with the sentence for the operator, `BadPath` for a malformed target.

    `known` are the configured repositories, `root` is the public URL.
    """
    if repo is not None and repo not in known:
        raise ValueError(f"there is no repository {repo}; there are {', '.join(known)}")
    if sum((bool(targets), package is not None, everything)) != 1:
        raise ValueError("name either targets, or --package NAME, or --all")
    if targets:
        return [purge for target in targets for purge in _of_target(target, repo, known, root)]
    if repo is None:
        raise ValueError("--package and --all need --repo NAME")
    return [Purge(repo, package=package or "")]


def _of_target(target: str, repo: str | None, known: Sequence[str], root: str | None) -> list[Purge]:
    if target.startswith("pkg:"):
        return [Purge(name, package=target) for name in ([repo] if repo else known)]
    _, named, path, query = split_address(target, root)
    if named not in known:
        raise ValueError(f"{target} names no repository; there are {', '.join(known)}")
    if repo not in (None, named):
        raise ValueError(f"{target} is not in {repo}")
    if not path:
        raise ValueError(f"{target} is a whole repository; if you mean that, say --repo {named} --all")
    return [Purge(named, path=f"{path}?{query}" if query else path)]
