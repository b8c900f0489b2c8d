"""The command line: what an operator types. Everything heavy is imported by the command that needs it.

Exit codes: 0 clean, 1 found something or failed, 2 usage or configuration, 3 found and not repaired.
Commands that look into or change an instance speak to it over `data/control.sock`; where none is
running they open the data folder themselves.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from artifactproxy import __version__
from artifactproxy.backup.commands import backup, restore
from artifactproxy.cli_checkup import fsck, scrub
from artifactproxy.cli_health import health
from artifactproxy.cli_s3 import s3_check
from artifactproxy.cli_token import token
from artifactproxy.errors import BadPath, ConfigError, Fault
from artifactproxy.migrate.commands import migrate
from artifactproxy.terminal import (
    CLEAN,
    FOUND,
    UNREPAIRED,
    USAGE,
    Failure,
    as_json_option,
    common,
    data_folder,
    load,
    os_sentence,
    print_table,
    show,
)

if TYPE_CHECKING:
    from artifactproxy.config import Config, Remote
    from artifactproxy.providers._base import ClientSetup


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="artifactproxy")
def cli() -> None:
    """A caching, verifying pull-through proxy between package clients and registries."""


cli.add_command(backup)
cli.add_command(restore)
cli.add_command(fsck)
cli.add_command(scrub)
cli.add_command(migrate)
cli.add_command(s3_check)
cli.add_command(health)
cli.add_command(token)


@cli.command()
@common
@click.option("--listen", metavar="HOST:PORT", help="Address to listen on; port 0 chooses one.")
@click.option("--workers", type=int, metavar="N", help="Processes that serve together.")
def serve(config_file: str | None, data: str | None, listen: str | None, workers: int | None) -> int:
    """Run the proxy until it is told to stop. SIGHUP reads the configuration again."""
    config = load(config_file, data=data, listen=listen, workers=workers)
    _warn(config)
    from artifactproxy import serving, supervisor
    from artifactproxy.reload import judge_file

    def reread() -> Config:
        judge_file(Path(config_file) if config_file else None)
        return load(config_file, data=data, listen=listen, workers=workers)

    try:
        run = supervisor.serve if config.workers > 1 else serving.serve
        return run(config, announce=_announce, reread=reread)
    except OSError as error:
        raise Failure(_why_not_listening(error, config)) from error


def _announce(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()


def _why_not_listening(error: OSError, config: Config) -> str:
    where = str(config.listen)
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use; try --listen 127.0.0.1:0"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where} is not an address of this machine; try --listen 127.0.0.1:{config.listen.port}"
    if error.errno == errno.EACCES and error.filename is None:
        return f"{where} may only be opened by root; try a port above 1023"
    return os_sentence(error)


def _warn(config: Config) -> None:
    if not _is_loopback(config.listen.host) and config.read == "open":
        click.echo(
            f"artifactproxy: warning: {config.listen} is reachable from other machines and anybody may read; "
            "keep it inside a network you trust, or set access: {read: token}",
            err=True,
        )


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@cli.command()
@common
@as_json_option
def reload(config_file: str | None, data: str | None, *, as_json: bool) -> int:
    """Have the running instance read its configuration again.

    It takes the whole of it or nothing: whatever is wrong is printed, the old one stays in force, and
    the exit code is 2. What needs a restart is named.
    """
    from artifactproxy import control
    from artifactproxy.reload import judge_file

    problem = None
    try:
        judge_file(Path(config_file) if config_file else None)
        folder = load(config_file, data=data).data
    except ConfigError as error:
        problem = error  # the instance says so itself, if it can be found
        folder = data_folder(config_file, data)
    with _working():
        try:
            told = control.call(folder, "POST", "/reload", {})
        except control.Refused as error:
            raise Failure(str(error)) from error
        except control.NotRunning as error:
            raise problem or Failure(str(error)) from error
    if as_json or told["result"] == "accepted":
        show(told, as_json=as_json)
    else:
        raise ConfigError("\n".join(told["reasons"]))
    return CLEAN if told["result"] == "accepted" else USAGE


@cli.command()
@common
@as_json_option
def check(config_file: str | None, data: str | None, *, as_json: bool) -> int:
    """Validate the configuration and print what is in force, secrets hidden."""
    config = load(config_file, data=data)
    _warn(config)
    show(config.effective(), as_json=as_json)
    return CLEAN


@cli.command()
@common
@as_json_option
def remotes(config_file: str | None, data: str | None, *, as_json: bool) -> int:
    """List the repositories, their providers and the upstreams they resolve to."""
    mounted = load(config_file, data=data).remotes.values()
    if as_json:
        rows = [{"name": r.name, "provider": r.provider, "upstreams": list(r.upstreams)} for r in mounted]
        click.echo(json.dumps(rows, indent=2))
    elif sys.stdout.isatty():
        print_table(
            ["repository", "provider", "upstreams"],
            [(r.name, r.provider, "\n".join(r.upstreams)) for r in mounted],
        )
    else:
        for r in mounted:
            click.echo(f"{r.name}\t{r.provider}\t{' '.join(r.upstreams)}")
    return CLEAN


@cli.command()
@click.argument("url")
@click.option("--accept", default="", metavar="TYPE", help="The Accept header of the request.")
@common
@as_json_option
def explain(url: str, accept: str, config_file: str | None, data: str | None, *, as_json: bool) -> int:
    """Say what a request for URL would do, and why, without fetching anything.

    URL is what a client asks for: http://127.0.0.1:8080/REPOSITORY/PATH or /REPOSITORY/PATH.
    """
    from artifactproxy.targets import ask_of, registries

    config = load(config_file, data=data)
    target = f"/explain?url={quote(url, safe='')}"
    if accept:
        target += f"&accept={quote(accept, safe='')}"
    try:
        ask = ask_of(url, config.public_url, accept, registries(config))
    except BadPath as error:
        raise click.UsageError(error.detail) from error
    show(_ask(config, "GET", target, None, lambda engine: engine.explain(ask)), as_json=as_json)
    return CLEAN


@cli.command()
@click.argument("targets", nargs=-1, metavar="[URL|/REPOSITORY/PATH|PURL]...")
@click.option("--repo", metavar="NAME", help="The repository to purge from.")
@click.option("--package", metavar="NAME", help="Everything of this package; needs --repo.")
@click.option("--all", "everything", is_flag=True, help="The whole repository; needs --repo.")
@common
@as_json_option
def purge(
    targets: tuple[str, ...],
    repo: str | None,
    package: str | None,
    config_file: str | None,
    data: str | None,
    *,
    everything: bool,
    as_json: bool,
) -> int:
    """Forget cached documents, so that the next request asks upstream again.

    A package URL such as pkg:pypi/name@1.0 is purged from --repo, or from every repository.
    """
    from artifactproxy.targets import Purge, purges, registries

    config = load(config_file, data=data)
    try:
        wanted = purges(
            targets,
            repo=repo,
            package=package,
            everything=everything,
            known=list(config.remotes),
            root=config.public_url,
            images=registries(config),
        )
    except (ValueError, BadPath) as error:
        raise click.UsageError(str(error)) from error

    def one(purge: Purge) -> dict[str, Any]:
        return _ask(
            config,
            "POST",
            "/purge",
            purge.body(),
            lambda engine: engine.purge(purge.repo, path=purge.path, package=purge.package),
        )

    show(_summed([one(each) for each in wanted]), as_json=as_json)
    return CLEAN


@cli.command()
@click.option("--run", is_flag=True, help="Delete; without it only say what would go.")
@common
@as_json_option
def gc(config_file: str | None, data: str | None, *, run: bool, as_json: bool) -> int:
    """Find what nothing refers to and what is over the limit, and delete it with --run.

    Without --run the exit code is 1 if there is something to delete.
    """
    config = load(config_file, data=data)
    report = _ask(config, "POST", "/gc", {"run": run}, lambda engine: engine.gc(run=run))
    show(report, as_json=as_json)
    if report.get("postponed"):
        return UNREPAIRED
    return FOUND if not run and (report.get("orphans") or report.get("evictable")) else CLEAN


@cli.command()
@common
@as_json_option
def stats(config_file: str | None, data: str | None, *, as_json: bool) -> int:
    """Print how much is cached, by repository."""
    config = load(config_file, data=data)
    show(_ask(config, "GET", "/stats", None, lambda engine: engine.stats()), as_json=as_json)
    return CLEAN


@cli.command()
@click.argument("client", required=False)
@click.option("--repo", metavar="NAME", help="The repository to use, where several serve this client.")
@common
@as_json_option
def setup(
    client: str | None, repo: str | None, config_file: str | None, data: str | None, *, as_json: bool
) -> int:
    """Print ready-to-use settings for CLIENT; without it, list the clients."""
    config = load(config_file, data=data)
    offers = [(r.name, c) for r in config.remotes.values() if repo in (None, r.name) for c in _clients(r)]
    if client is None:
        listed = [{"client": c.client, "repository": name} for name, c in offers]
        text = "\n".join(f"{entry['client']}\t{entry['repository']}" for entry in listed)
        click.echo(json.dumps(listed, indent=2) if as_json else text)
        return CLEAN
    from artifactproxy.web.setup import render

    texts = {name: render(c, f"{_root(config)}/{name}") for name, c in offers if c.client == client}
    if not texts:
        known = ", ".join(dict.fromkeys(c.client for _, c in offers)) or "none"
        raise click.UsageError(f"no settings for {client}; known clients are {known}")
    click.echo(json.dumps(texts, indent=2) if as_json else "\n".join(texts.values()), nl=as_json)
    return CLEAN


def _clients(remote: Remote) -> tuple[ClientSetup, ...]:
    from artifactproxy.providers import PROVIDERS

    return PROVIDERS[remote.provider].clients


def _root(config: Config) -> str:
    """The address clients use; a wildcard listener is shown as this machine."""
    if config.public_url:
        return config.public_url
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.listen.host, config.listen.host)  # noqa: S104  not a bind
    from artifactproxy.config import Listen

    return f"{'https' if config.tls else 'http'}://{Listen(host, config.listen.port)}"


def _ask(
    config: Config,
    method: str,
    target: str,
    body: object,
    offline: Callable[[Any], Awaitable[dict[str, Any]]],
) -> dict[str, Any]:
    """Ask the running instance, or do the same on the data folder where none is running."""
    from artifactproxy import control

    with _working():
        try:
            return control.call(config.data, method, target, body)
        except control.Refused as error:
            raise Failure(str(error)) from error
        except control.NotRunning:
            return asyncio.run(_offline(config, offline))


def _working() -> AbstractContextManager[object]:
    """Something that moves while a terminal waits; elsewhere nothing."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status("working")


async def _offline(config: Config, act: Callable[[Any], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    from artifactproxy import wiring

    async with wiring.offline(config) as engine:
        return await act(engine)


def _summed(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts are added up over several orders; the rest is told once."""
    total: dict[str, Any] = {}
    for key in dict.fromkeys(key for result in results for key in result):
        found = [result[key] for result in results if key in result]
        if all(type(value) is int for value in found):
            total[key] = sum(found)
        else:
            total[key] = ", ".join(dict.fromkeys(map(str, found)))
    return total


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its code; every expected failure is one line without a traceback."""
    try:
        code = cli.main(arguments, prog_name="artifactproxy", standalone_mode=False)
    except ConfigError as error:
        for line in str(error).splitlines():
            click.echo(f"artifactproxy: {line}", err=True)
        sys.exit(USAGE)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except Fault as error:
        click.echo(f"artifactproxy: {error.detail}", err=True)
        sys.exit(FOUND)
    except BrokenPipeError:
        # The reader has left; the interpreter must not fail again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FOUND)
    except OSError as error:
        click.echo(f"artifactproxy: {os_sentence(error)}", err=True)
        sys.exit(FOUND)
    sys.exit(code if isinstance(code, int) else CLEAN)
