"""What an operator names on the command line: addresses, packages, repositories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from artifactproxy.model import Ask
from artifactproxy.rules.addresses import written


@dataclass(frozen=True, slots=True)
class Purge:
    """One order: a path, a package (name or package URL), or, with neither, a whole repository."""

    repo: str
    path: str = ""
    package: str = ""

    def body(self) -> dict[str, str]:
        return {key: value for key, value in asdict(self).items() if value}


def ask_of(address: str, root: str | None, accept: str = "") -> Ask:
    """The request that `explain` is about. Raises `BadPath` and `NotServed`."""
    root, read = written(address, root or "")
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
        return [purge for target in targets for purge in _of_target(target, repo, known, root)]
    if repo is None:
        raise ValueError("--package and --all need --repo NAME")
    return [Purge(repo, package=package or "")]


def _of_target(target: str, repo: str | None, known: Sequence[str], root: str | None) -> list[Purge]:
    if target.startswith("pkg:"):
        return [Purge(name, package=target) for name in ([repo] if repo else known)]
    named, path, query, *_ = written(target, root or "")[1]
    if named not in known:
        raise ValueError(f"{target} names no repository; there are {', '.join(known)}")
    if repo not in (None, named):
        raise ValueError(f"{target} is not in {repo}")
    if not path:
        raise ValueError(f"{target} is a whole repository; if you mean that, say --repo {named} --all")
    return [Purge(named, path=f"{path}?{query}" if query else path)]
