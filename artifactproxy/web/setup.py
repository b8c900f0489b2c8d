"""`/setup`: ready-to-use client configuration for the address by which the caller reached us."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from artifactproxy.engine.mounts import Mount
from artifactproxy.errors import NotServed
from artifactproxy.providers._base import ClientSetup
from artifactproxy.rules.addresses import Address
from artifactproxy.web.access import loopback

_FORMATS = {"docker": "oci"}  # what other products call a format of ours


def list_clients(mounts: Mapping[str, Mount], root: str) -> str:
    """Every client that a mounted repository has a text for, with the address of that text."""
    lines = [f"{root}/setup/{client}" for client in sorted(_by_client(mounts))]
    return "\n".join(lines or ["No repository has clients to set up."]) + "\n"


def client_text(
    mounts: Mapping[str, Mount], client: str, root: str, only: Address | None = None, *, closed: bool = False
) -> str:
    """The configuration of one client for each repository it can use, or for `only` one, by the
    kind of address that names it. `closed`: reading needs a token.

    Raises `NotServed` with the names that exist.
    """
    known = _by_client(mounts)
    if client not in known:
        raise NotServed(f"no setup for that client; there is {', '.join(sorted(known)) or 'none'}")
    if only is None:
        return "\n".join(render(setup, f"{root}/{name}", closed=closed) for name, setup in known[client])
    judge_alias(only, mounts)
    texts = [
        render(setup, only.base(root), closed=closed) for name, setup in known[client] if name == only.repo
    ]
    if not texts:
        names = ", ".join(dict.fromkeys(name for name, _ in known[client]))
        raise NotServed(f"that repository is not for {client}; there is {names}")
    return "\n".join(texts)


def judge_alias(address: Address, mounts: Mapping[str, Mount]) -> None:
    """Raises `NotServed` for an alias that tells another package format or kind than the repository's."""
    mount = mounts.get(address.repo)
    if mount is None:
        return
    wanted = _FORMATS.get(address.format, address.format)
    if wanted and mount.provider.name != wanted:
        raise NotServed(f"the repository {address.repo} has {mount.provider.name} packages, not these")
    kind = "local" if mount.local else "remote"
    if address.kind and address.kind != kind:
        raise NotServed(f"the repository {address.repo} is {kind}, not {address.kind}")


def render(setup: ClientSetup, base: str, *, closed: bool = False) -> str:
    """The text for one repository at `base`, with its insecure lines where they are needed."""
    parts = urlsplit(base)
    text = setup.text.rstrip("\n") + "\n"
    if closed and setup.login:
        text += setup.login.rstrip("\n") + "\n"
    if setup.insecure and parts.scheme == "http" and (setup.insecure_at_home or not loopback(base)):
        text += setup.insecure.rstrip("\n") + "\n"
    origin = f"{parts.scheme}://{parts.netloc}"
    # Not str.format: these texts are JSON, TOML and shell, full of braces of their own.
    text = text.replace("{base}", base).replace("{origin}", origin)
    text = text.replace("{authority}", parts.netloc).replace("{repo}", base.rpartition("/")[2])
    return text.replace("{host}", parts.hostname or "")


def _by_client(mounts: Mapping[str, Mount]) -> dict[str, list[tuple[str, ClientSetup]]]:
    known: dict[str, list[tuple[str, ClientSetup]]] = {}
    for name in sorted(mounts):
        for setup in mounts[name].provider.clients:
            known.setdefault(setup.client, []).append((name, setup))
    return known
