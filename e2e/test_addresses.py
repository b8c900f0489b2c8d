"""The addresses that clients may already use, and TLS without anything in front."""

from __future__ import annotations

import json
import shutil
import signal
import ssl
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from e2e.clients import Pip, Uv
from e2e.conftest import StartProxy
from e2e.node_clients import Npm
from e2e.node_registry import NodeRegistry
from e2e.servers import Forwarder, Proxy
from tests.chaos.certs import Authority
from tests.needs import needs

PROJECT = "idna"
PACKAGE = "@proxy-test/named"
PREFIXES = ["repository", "artifactory", "artifactory/api/{format}", "api/v1/remote"]


@pytest.fixture(scope="module")
def proxy(start_proxy: StartProxy, forwarder: Forwarder, node_registry: NodeRegistry) -> Proxy:
    node_registry.publish(PACKAGE, "1.0.0")
    remote = f"  npm: {{provider: npm, upstream: '{node_registry.url}'}}\n"
    return start_proxy("proxy", forwarder=forwarder, remote=remote)


@pytest.fixture(params=PREFIXES)
def prefix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _base(proxy: Proxy, prefix: str, repository: str) -> str:
    return f"{proxy.url}/{prefix.format(format=repository)}/{repository}"


def test_pip_by_an_alias(proxy: Proxy, prefix: str, pip: Pip) -> None:
    with proxy.watch() as seen:
        python = pip.install(PROJECT, index=f"{_base(proxy, prefix, 'pypi')}/simple/")
    assert PROJECT in pip.installed(python)
    assert seen.files()
    assert seen.errors() == []


def test_uv_by_an_alias(proxy: Proxy, prefix: str, uv: Uv) -> None:
    with proxy.watch() as seen:
        python = uv.install(PROJECT, index=f"{_base(proxy, prefix, 'pypi')}/simple/")
    assert PROJECT in uv.installed(python)
    assert seen.files()


def test_one_cache_behind_all_addresses(proxy: Proxy) -> None:
    addresses = [f"{proxy.url}/pypi", *(_base(proxy, prefix, "pypi") for prefix in PREFIXES)]
    pages = [proxy.get(f"{base}/simple/{PROJECT}/") for base in addresses]
    assert {page.status for page in pages} == {200}
    assert len({page.body for page in pages}) == 1  # every link in it is relative
    with proxy.watch() as seen:
        for base in addresses:
            assert proxy.get(f"{base}/simple/{PROJECT}/").status == 200
    assert {row["path"] for row in seen.requests()} == {f"simple/{PROJECT}/"}
    assert seen.fills() == []


@needs("npm")
def test_npm_writes_down_the_address_it_came_by(proxy: Proxy, prefix: str, npm: Npm) -> None:
    base = _base(proxy, prefix, "npm")
    project = npm.install({PACKAGE: "1.0.0"}, registry=f"{base}/")
    lock = json.loads((project / "package-lock.json").read_text())
    assert lock["packages"][f"node_modules/{PACKAGE}"]["resolved"].startswith(f"{base}/{PACKAGE}/-/")


def test_the_format_must_fit(proxy: Proxy) -> None:
    wrong = proxy.get(f"artifactory/api/npm/pypi/simple/{PROJECT}/")
    assert wrong.status == 404
    other = proxy.get(f"artifactory/api/pypi/npm/{PACKAGE}")
    assert (other.status, "error" in json.loads(other.body)) == (404, True)


def test_kinds_that_are_not_there_say_so(proxy: Proxy) -> None:
    for kind in ("local", "virtual"):
        answer = proxy.get(f"api/v1/{kind}/pypi/simple/{PROJECT}/")
        assert (answer.status, kind.encode() in answer.body) == (404, True)


def test_explain_and_purge_understand_them(proxy: Proxy, prefix: str) -> None:
    proxy.get(f"{_base(proxy, prefix, 'pypi')}/simple/{PROJECT}/")
    address = f"{_base(proxy, prefix, 'pypi')}/simple/{PROJECT}/"
    code, said = proxy.command("explain", address)
    assert code == 0
    assert (said["repository"], said["path"]) == ("pypi", f"simple/{PROJECT}/")
    code, said = proxy.command("purge", address)
    assert (code, said["entries"]) == (0, 1)


def test_setup_by_an_alias(proxy: Proxy, prefix: str) -> None:
    base = _base(proxy, prefix, "pypi")
    named = urlsplit(base).path.lstrip("/")
    assert f"{base}/simple" in proxy.get(f"setup/pip?repo={named}").body.decode()


# --- TLS ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority.make(folder)


@pytest.fixture(scope="module")
def secure(
    start_proxy: StartProxy,
    forwarder: Forwarder,
    node_registry: NodeRegistry,
    authority: Authority,
    folder: Path,
) -> Proxy:
    node_registry.publish(PACKAGE, "2.0.0")
    _renew(authority, folder)
    return start_proxy(
        "secure",
        forwarder=forwarder,
        remote=f"  npm: {{provider: npm, upstream: '{node_registry.url}'}}\n",
        top=f"tls: {{cert: {folder / 'cert.pem'}, key: {folder / 'key.pem'}}}\n",
        cafile=str(authority.pem),
    )


def _renew(authority: Authority, folder: Path) -> None:
    cert, key = authority.issue("localhost", "IP:127.0.0.1")
    shutil.copy(cert, folder / "cert.pem")
    shutil.copy(key, folder / "key.pem")


pytestmark = needs("openssl")


def test_everything_is_announced_with_https(secure: Proxy) -> None:
    assert secure.url.startswith("https://127.0.0.1:")
    assert f"{secure.url}/pypi/simple" in secure.get("setup/pip").body.decode()
    assert any(secure.index in line for line in secure.said)
    code, said = secure.command("setup", "pip")
    assert code == 0
    assert "index-url = https://127.0.0.1:" in said["pypi"]


def test_pip_over_tls(secure: Proxy, pip: Pip, authority: Authority) -> None:
    with secure.watch() as seen:
        python = pip.install("--cert", str(authority.pem), PROJECT, index=secure.index)
    assert PROJECT in pip.installed(python)
    assert seen.files()


def test_uv_over_tls(secure: Proxy, uv: Uv, authority: Authority) -> None:
    python = uv.venv()
    uv(
        "pip", "install", "--python", str(python), PROJECT, index=secure.index, SSL_CERT_FILE=str(authority.pem)
    )  # fmt: skip
    assert PROJECT in uv.installed(python)


@needs("npm")
def test_npm_over_tls(secure: Proxy, npm: Npm, authority: Authority) -> None:
    registry = f"{secure.url}/npm/"
    project = npm.install({PACKAGE: "2.0.0"}, registry=registry, npm_config_cafile=str(authority.pem))
    lock = json.loads((project / "package-lock.json").read_text())
    assert lock["packages"][f"node_modules/{PACKAGE}"]["resolved"].startswith(registry)


def _shown(proxy: Proxy) -> str:
    """The certificate that a new connection sees."""
    host, port = proxy.listen.split(":")
    return ssl.get_server_certificate((host, int(port)), timeout=10)


def _logged(proxy: Proxy, event: str) -> bool:
    for _ in range(1_000):
        if event in proxy.log.read_text():
            return True
        time.sleep(0.05)
    return False


def _shown_after(proxy: Proxy, before: str) -> str:
    for _ in range(1_000):
        if (now := _shown(proxy)) != before:
            return now
        time.sleep(0.05)
    return before


def test_a_renewed_certificate_is_followed(secure: Proxy, authority: Authority, folder: Path) -> None:
    before = _shown(secure)
    _renew(authority, folder)
    renewed = _shown_after(secure, before)
    assert renewed != before
    (folder / "key.pem").write_text("nonsense")
    secure.signal(signal.SIGHUP)
    assert secure.get("livez").status == 200
    assert _shown(secure) == renewed
    assert _logged(secure, "holds no private key"), "a reload that is refused says why"
    _renew(authority, folder)
    secure.signal(signal.SIGHUP)
    assert _shown_after(secure, renewed) != renewed


def test_http_to_the_tls_port_is_harmless(secure: Proxy) -> None:
    size = secure.log.stat().st_size
    plain = f"http://{secure.listen}/livez"
    for _ in range(50):
        with pytest.raises(OSError):
            secure.get(plain)
    assert secure.get("livez").status == 200
    added = secure.log.read_text()[size:]
    assert "Traceback" not in added
    assert len(added) < 2000
