"""`artifactproxy fetch`."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from artifactproxy.terminal import (
    CLEAN,
    UNREPAIRED,
    Failure,
    as_json_option,
    common,
    ends_by_signals,
    load,
    printable,
)

if TYPE_CHECKING:
    from artifactproxy.config import Config
    from artifactproxy.fetch.names import Elsewhere, Ours
    from artifactproxy.fetch.place import Destination
    from artifactproxy.fetch.shown import Shown
    from artifactproxy.fetch.ways import Fetched, Net
    from artifactproxy.upstream.guard import Network

_HEX = re.compile(r"[0-9a-f]{64}")


class Wrong(Failure):
    """The bytes are others than those that were asked for."""

    exit_code = UNREPAIRED


@click.command()
@click.argument("address", metavar="URL|PATH")
@click.option(
    "-o", "--output", metavar="FILE", help="Where to; a folder, or - for standard output. Default: its name."
)
@click.option("--sha256", metavar="HEX", default="", help="What the file must hash to.")
@click.option(
    "--connections",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Of a URL, at most so many at once; as many as bring more. Default: 8.",
)
@click.option(
    "--allow-private",
    metavar="NETWORK",
    multiple=True,
    help="A network that a URL may redirect into, such as 10.0.0.0/8.",
)
@common
@as_json_option
def fetch(
    address: str,
    output: str | None,
    sha256: str,
    connections: int | None,
    allow_private: tuple[str, ...],
    config_file: str | None,
    data: str | None,
    *,
    as_json: bool,
) -> int:
    """Download one file, whole and verified or not at all.

    PATH is an address of the proxy (tools/a/b.tar.gz, /pypi/simple/x/): it comes from the running
    instance, or through the data folder where none is running, and is cached there. Any other URL is
    fetched from where it lies and not cached. Run it again to go on with what was interrupted.

    Exit code 1: it could not be had; 3: the bytes are not those of --sha256, and nothing was written.
    """
    from artifactproxy.fetch.place import destination

    config = load(config_file, data=data)
    wanted = sha256.strip().lower().removeprefix("sha256:")
    if wanted and not _HEX.fullmatch(wanted):
        raise click.UsageError("--sha256 is 64 hexadecimal digits")
    named, net = _named(address, config), _net(address, _networks(allow_private), connections)
    place = destination(output, named.filename)
    started = time.monotonic()
    fetched = _held(place, wanted) or _fetched(config, named, wanted, place, net)
    seconds = time.monotonic() - started
    facts = _facts(named.shown, place, fetched, seconds)
    text = json.dumps(facts, indent=2) if as_json else _line(place, fetched, seconds)
    click.echo(text, err=place.shown == "standard output")
    return CLEAN


def _named(address: str, config: Config) -> Ours | Elsewhere:
    from artifactproxy.errors import Fault
    from artifactproxy.fetch.names import named

    try:
        return named(address, config)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except Fault as fault:
        raise click.UsageError(f"{address}: {fault.detail}") from fault


def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    from ipaddress import ip_network

    try:
        return tuple(ip_network(text) for text in texts)
    except ValueError as error:
        raise click.UsageError(f"--allow-private: {error}") from error


def _held(place: Destination, wanted: str) -> Fetched | None:
    """The file itself, where it is there already and right."""
    from artifactproxy.fetch.place import File, sha256_of
    from artifactproxy.fetch.ways import Fetched

    if not (wanted and isinstance(place, File) and place.path.is_file()):
        return None
    if sha256_of(place.path) != wanted:
        return None
    return Fetched(place.path.stat().st_size, wanted, "held")


def _fetched(config: Config, named: Ours | Elsewhere, wanted: str, place: Destination, net: Net) -> Fetched:
    from artifactproxy import control
    from artifactproxy.errors import Fault
    from artifactproxy.fetch.shown import shown
    from artifactproxy.fetch.ways import WRONG, WrongBytes

    what, name = printable(named.shown), named.filename or place.shown
    try:
        with _telling_what_is_kept(place), shown(named.shown, name) as bar:
            return _by_some_way(config, named, wanted, place, bar, net)
    except WrongBytes as wrong:
        raise Wrong(f"{what}: {wrong}; nothing was written") from wrong
    except control.Refused as refused:
        kind = Wrong if refused.code in WRONG else Failure
        raise kind(f"{what}: {refused}") from refused
    except Fault as fault:
        kind = Wrong if fault.code in WRONG else Failure
        raise kind(f"{what}: {fault.detail}") from fault
    except OSError as error:
        error.filename = error.filename or place.shown  # an error of writing knows no name
        raise


@contextmanager
def _telling_what_is_kept(place: Destination) -> Iterator[None]:
    from artifactproxy.fetch.place import File
    from artifactproxy.fetch.workplace import beside

    ended = False
    try:
        yield
        ended = True
    finally:
        if not ended and isinstance(place, File) and beside(place.path).is_dir():
            click.echo(f"what has come is kept in {beside(place.path)}; run it again to go on", err=True)


def _by_some_way(
    config: Config,
    named: Ours | Elsewhere,
    wanted: str,
    place: Destination,
    bar: Shown,
    net: Net,
) -> Fetched:
    from artifactproxy import control
    from artifactproxy.fetch import ways
    from artifactproxy.fetch.names import Ours, elsewhere

    if isinstance(named, Ours):
        try:
            with ends_by_signals():
                return ways.by_instance(config.data, named, wanted, place, bar)
        except control.NotRunning:
            if not named.is_url:
                _judge_repository(named, config)
                return _run(ways.by_folder(config, named, wanted, place, bar))
            # Whoever answers at that address, it is no instance of this data folder.
            named = elsewhere(named.text)
    return _run(ways.by_address(config, named, wanted, place, bar, net))


def _run(way: Coroutine[None, None, Fetched]) -> Fetched:
    from artifactproxy.wiring import loop_factory

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(way)


def _judge_repository(named: Ours, config: Config) -> None:
    if named.ask.repo not in config.remotes:
        known = ", ".join(config.remotes)
        raise click.UsageError(
            f"{named.text} names no repository; there are {known}; any other address begins with http:// or https://"
        )


def _net(url: str, networks: tuple[Network, ...], connections: int | None) -> Net:
    """The way out as the environment gives it (http_proxy, https_proxy, all_proxy, no_proxy): other
    downloaders take it from there too."""
    from urllib.request import getproxies_environment

    from artifactproxy.fetch.ways import Net

    told = getproxies_environment()
    if connections is not None and "://" not in url:
        raise click.UsageError("--connections is for URLs; a repository has download.connections")
    egress = told.get(url.partition(":")[0].lower()) or told.get("all", "")
    if egress and not egress.startswith(("http://", "https://")):
        raise click.UsageError(f"only http and https proxies can be used, not {egress.partition(':')[0]}")
    without = (host.strip() for host in told.get("no", "").split(","))
    net = Net(egress, tuple(host for host in without if host), networks)
    if connections is None:
        return net
    most = max(connections, net.download.max_per_host)
    return replace(net, download=replace(net.download, connections=connections, max_per_host=most))


def _facts(url: str, place: Destination, fetched: Fetched, seconds: float) -> dict[str, object]:
    return {
        "url": url,
        "file": place.shown,
        "bytes": fetched.size,
        "sha256": fetched.sha256,
        "source": fetched.source,
        "resumed_bytes": fetched.resumed,
        "seconds": round(seconds, 3),
    }


def _line(place: Destination, fetched: Fetched, seconds: float) -> str:
    from artifactproxy.backup.progress import readable

    if fetched.source == "held":
        return f"{place.shown} is there already: {readable(fetched.size)}, sha256 {fetched.sha256}"
    rate = readable(int((fetched.size - fetched.resumed) / max(seconds, 0.001)))
    return f"{place.shown}: {readable(fetched.size)} in {seconds:.1f} s ({rate}/s), sha256 {fetched.sha256}"
