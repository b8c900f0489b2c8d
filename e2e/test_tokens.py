"""Real clients where reading needs a token: with one, without one, and with one that was ended meanwhile."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from e2e.clients import Failed, Pip, Uv
from e2e.conftest import StartProxy
from e2e.go_client import Go, Public
from e2e.go_fixtures import StartGoProxy
from e2e.node_clients import Npm
from e2e.node_fixtures import StartNpmProxy
from e2e.program import run
from e2e.servers import Forwarder, Proxy
from tests.chaos.certs import Authority
from tests.needs import needs, require

CLOSED = "access: {read: token}\n"
MODULE = "rsc.io/quote@v1.5.2"


class Issuer:
    """`artifactproxy token` beside a running proxy."""

    def __init__(self, proxy: Proxy) -> None:
        self._where = ["--config", str(proxy.folder / "config.yaml"), "--data", str(proxy.data)]

    def create(self, name: str, *scopes: str) -> str:
        words = [word for scope in scopes for word in ("--scope", scope)]
        done = run("token", "create", name, *words, "--expires", "1h", "--json", *self._where, env={})
        assert done.code == 0, done
        return str(json.loads(done.out)["token"])

    def revoke(self, name: str) -> None:
        assert run("token", "revoke", name, *self._where, env={}).code == 0


def with_token(url: str, token: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"me:{token}@{parts.netloc}").geturl()


@pytest.fixture(scope="module")
def pypi(start_proxy: StartProxy, forwarder: Forwarder) -> Proxy:
    return start_proxy("pypi", forwarder=forwarder, top=CLOSED)


Fails = Callable[[], object]


def refused(attempt: Fails) -> str:
    with pytest.raises(Failed) as failed:
        attempt()
    return str(failed.value)


def test_pip(pypi: Proxy, pip: Pip) -> None:
    issuer = Issuer(pypi)
    token = issuer.create("pip", "read:pypi")
    index = with_token(pypi.index, token)
    with pypi.watch() as seen:
        assert "idna" in pip.installed(pip.install("idna", index=index))
    assert {row["caller"] for row in seen.requests()} >= {"pip"}
    assert [row for row in seen.requests() if token in json.dumps(row)] == []
    with pypi.watch() as seen:
        refused(lambda: pip.install("idna", index=pypi.index))
    assert {row["status"] for row in seen.requests()} == {401}
    issuer.revoke("pip")
    with pypi.watch() as seen:
        assert "401 Error, Credentials not correct" in refused(lambda: pip.install("idna", index=index))
    assert {row["status"] for row in seen.requests()} == {401}


def test_pip_with_a_netrc(pypi: Proxy, pip: Pip, folder: Path) -> None:
    token = Issuer(pypi).create("netrc", "read")
    netrc = folder / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login me password {token}\n")
    netrc.chmod(0o600)
    target = str(pip.fresh("target"))
    options = ["--no-cache-dir", "--disable-pip-version-check", "--no-input", "--quiet"]
    pip.plain(
        "download",
        *options,
        "--no-deps",
        "--dest",
        target,
        "--index-url",
        pypi.index,
        "idna",
        NETRC=str(netrc),
    )
    assert len(list(Path(target).iterdir())) == 1


def test_uv(pypi: Proxy, uv: Uv) -> None:
    token = Issuer(pypi).create("uv", "read:py*")
    assert "idna" in uv.installed(uv.install("idna", index=with_token(pypi.index, token)))
    assert "401" in refused(lambda: uv.install("idna", index=pypi.index))


def test_who_may_read_something_else_is_told_that_it_is_not_there(pypi: Proxy, pip: Pip) -> None:
    token = Issuer(pypi).create("other", "read:corp-*", "push:images")
    said = refused(lambda: pip.install("idna", index=with_token(pypi.index, token)))
    assert "No matching distribution" in said


@needs("npm")
def test_npm(
    start_npm_proxy: StartNpmProxy, forwarder: Forwarder, npm: Npm, public_npm: str, folder: Path
) -> None:
    proxy = start_npm_proxy("npm-proxy", forwarder=forwarder, top=CLOSED)
    issuer = Issuer(proxy)
    token = issuer.create("npm", "read:npm")
    settings = folder / "npmrc"
    address = proxy.base.removeprefix("http:")
    settings.write_text(f"{address}:_authToken={token}\n")
    tree = {"is-odd": "3.0.1"}
    with proxy.watch() as seen:
        npm.install(tree, registry=proxy.base, npm_config_userconfig=str(settings))
    assert {row["caller"] for row in seen.requests()} == {"npm"}
    assert seen.files()
    said = npm.attempt("install", cwd=npm.project(tree), registry=proxy.base)
    assert "E401" in said.codes
    issuer.revoke("npm")
    said = npm.attempt(
        "install", cwd=npm.project(tree), registry=proxy.base, npm_config_userconfig=str(settings)
    )
    assert "E401" in said.codes


@needs("go", "openssl")
@pytest.mark.parametrize("way", ["address", "netrc"])
def test_go(
    start_go_proxy: StartGoProxy, forwarder: Forwarder, go: Go, public_go: Public, folder: Path, way: str
) -> None:
    """By https: the go command passes no credentials on to an address without."""
    folder = folder / f"go-by-{way}"
    folder.mkdir()
    authority = Authority.make(folder)
    certificate, key = authority.issue("IP:127.0.0.1")
    top = f"{CLOSED}tls: {{cert: {certificate}, key: {key}}}\n"
    proxy = start_go_proxy(f"go-{way}", forwarder=forwarder, top=top, cafile=str(authority.pem))
    issuer = Issuer(proxy)
    token = issuer.create("go", "read:go")
    netrc = folder / "netrc"
    netrc.write_text(f"machine {proxy.listen} login me password {token}\n")
    address = proxy.base.rstrip("/")
    trusting = {"SSL_CERT_FILE": str(authority.pem)}
    shown = (
        {"proxy": address, "NETRC": str(netrc)} if way == "netrc" else {"proxy": with_token(address, token)}
    )
    with proxy.watch() as seen:
        assert go.download(go.project(), MODULE, **shown, **trusting)
    assert {row["caller"] for row in seen.requests()} == {"go"}
    said = go.attempt("mod", "download", MODULE, cwd=go.project(), proxy=address, **trusting)
    assert said.code
    assert "401" in said.err
    issuer.revoke("go")
    said = go.attempt("mod", "download", MODULE, cwd=go.project(), **shown, **trusting)
    assert "401" in said.err
    assert token not in said.err + said.out


class Registry:
    """`skopeo login` or `buildah login`, with a file of its own for what it keeps."""

    def __init__(self, tool: str, proxy: Proxy, folder: Path) -> None:
        self._command = [require(tool)]
        self._end = ["--tls-verify=false", "--authfile", str(folder / f"{tool}.json"), proxy.listen]

    def login(self, token: str) -> subprocess.CompletedProcess[str]:
        command = [*self._command, "login", "--username", "me", "--password-stdin", *self._end]
        return subprocess.run(command, input=token, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "tool", [pytest.param("skopeo", marks=needs("skopeo")), pytest.param("buildah", marks=needs("buildah"))]
)
def test_logging_in_to_a_registry(pypi: Proxy, folder: Path, tool: str) -> None:
    issuer = Issuer(pypi)
    client = Registry(tool, pypi, folder)
    token = issuer.create(tool, "push:images/*")
    with pypi.watch() as seen:
        done = client.login(token)
    assert (done.returncode, done.stdout.strip()) == (0, "Login Succeeded!"), done.stderr
    asked = [(row.get("path", ""), row["status"], row["caller"]) for row in seen.requests() if "repo" in row]
    assert asked == [("", 401, "127.0.0.1"), ("token", 200, tool), ("", 200, tool)]  # the ticket's dance
    assert client.login(token[:-1] + "x").returncode != 0
    issuer.revoke(tool)
    done = client.login(token)
    assert done.returncode != 0
    assert token not in done.stdout + done.stderr
