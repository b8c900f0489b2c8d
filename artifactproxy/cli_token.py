"""`artifactproxy token`: making, listing and ending tokens, beside a running server or without one."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from artifactproxy.terminal import CLEAN, Failure, as_json_option, common, load, print_table, show

if TYPE_CHECKING:
    from artifactproxy.config import Config
    from artifactproxy.tokens.desk import Desk

_MOMENTS = ("created", "expires", "revoked", "used")


@click.group()
def token() -> None:
    """Tokens with which clients show who they are."""


@token.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    metavar="read|push|admin[:PATTERN]",
    help="What it may do, and where: REPOSITORY or REPOSITORY/IMAGE, * for any text. May be repeated.",
)
@click.option("--expires", metavar="DURATION", help="When it ends by itself, such as 90d. Default: never.")
@common
@as_json_option
def create(
    name: str,
    scopes: tuple[str, ...],
    expires: str | None,
    config_file: str | None,
    data: str | None,
    *,
    as_json: bool,
) -> int:
    """Make a token and print it: this once, and never again.

    Clients give it as the password, with any user name, or as a Bearer token.
    """
    from artifactproxy.rules.access import parse_scope

    try:
        for scope in scopes:
            parse_scope(scope)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    seconds = None if expires is None else _duration(expires)
    config = load(config_file, data=data)
    body = {"name": name, "scopes": list(scopes), "seconds": seconds}
    made = _ask(config, "POST", "/token/create", body, lambda desk: desk.create(name, scopes, seconds))
    show(made, as_json=as_json)
    return CLEAN


@token.command("list")
@common
@as_json_option
def list_(config_file: str | None, data: str | None, *, as_json: bool) -> int:
    """List all tokens: what they may do, until when, and when they were last used."""
    config = load(config_file, data=data)
    tokens = _ask(config, "GET", "/token/list", None, lambda desk: desk.list())["tokens"]
    rows = [
        (each["name"], each["state"], " ".join(each["scopes"]), *(each[moment] or "-" for moment in _MOMENTS))
        for each in tokens
    ]
    if as_json:
        click.echo(json.dumps(tokens, indent=2))
    elif sys.stdout.isatty():
        print_table(["name", "state", "scopes", *_MOMENTS], rows)
    else:
        for row in rows:
            click.echo("\t".join(row))
    return CLEAN


@token.command()
@click.argument("name")
@common
@as_json_option
def revoke(name: str, config_file: str | None, data: str | None, *, as_json: bool) -> int:
    """End a token. It does not count any more when this returns."""
    config = load(config_file, data=data)
    show(
        _ask(config, "POST", "/token/revoke", {"name": name}, lambda desk: desk.revoke(name)), as_json=as_json
    )
    return CLEAN


def _duration(text: str) -> float:
    from artifactproxy.config.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"--expires {error}") from error


def _ask(
    config: Config,
    method: str,
    target: str,
    body: object,
    offline: Callable[[Desk], Awaitable[dict[str, Any]]],
) -> dict[str, Any]:
    """Ask the running instance, or do the same on the index where none is running."""
    from artifactproxy import control

    try:
        return control.call(config.data, method, target, body)
    except control.Refused as error:
        raise Failure(str(error)) from error
    except control.NotRunning:
        return asyncio.run(_alone(config, offline))


async def _alone(config: Config, act: Callable[[Desk], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    from artifactproxy import wiring

    async with wiring.token_desk(config) as desk:
        return await act(desk)
