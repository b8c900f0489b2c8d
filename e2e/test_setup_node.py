"""The texts of `/setup` for JavaScript clients, used exactly as they are sent."""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from e2e.node_clients import Npm, Pnpm, Yarn, locked, tarballs
from e2e.node_fixtures import StartNpmProxy
from e2e.node_registry import NodeRegistry
from e2e.servers import Proxy, Seen, address_of_this_machine
from tests.needs import needs

pytestmark = needs("node", "npm", "openssl")

WANTED = {"sample-package": "1.0.0", "@corp/scoped": "1.0.0"}
TARBALLS = {"sample-package/-/sample-package-1.0.0.tgz", "@corp/scoped/-/scoped-1.0.0.tgz"}


@pytest.fixture(scope="module", autouse=True)
def published(node_registry: NodeRegistry) -> None:
    for name, version in WANTED.items():
        node_registry.publish(name, version)


@pytest.fixture(scope="module")
def exposed(start_npm_proxy: StartNpmProxy, node_registry: NodeRegistry) -> Proxy:
    """A proxy on every interface."""
    return start_npm_proxy("exposed", upstream=node_registry.url, listen="0.0.0.0:0")


@pytest.fixture(params=["here", "from another machine"])
def root(request: pytest.FixtureRequest, exposed: Proxy) -> str:
    """The proxy's address as this machine, or another one, would use it."""
    port = exposed.listen.rpartition(":")[2]
    exposed.url = f"http://127.0.0.1:{port}"
    if request.param == "here":
        return exposed.url
    address = address_of_this_machine()
    if not address:
        pytest.skip("needs a network address besides loopback")
    return f"http://{address}:{port}"


def _setup(proxy: Proxy, client: str, root: str) -> str:
    answer = proxy.get(f"{root}/setup/{client}")
    assert answer.status == 200
    text = answer.body.decode()
    assert f"{root}/npm" in text
    return text


def _was_used(seen: Seen) -> bool:
    return tarballs(seen) == TARBALLS and seen.errors() == []


def _host(root: str) -> str:
    return urlsplit(root).hostname or ""


def _home(client: Npm | Pnpm | Yarn, file: str, text: str) -> str:
    home = client.fresh("home")
    (home / file).write_text(text)
    return str(home)


def test_the_npm_text_is_a_configuration_file(exposed: Proxy, root: str, npm: Npm) -> None:
    home = _home(npm, ".npmrc", _setup(exposed, "npm", root))
    with exposed.watch() as seen:
        npm.install(WANTED, HOME=home, npm_config_userconfig=f"{home}/.npmrc", NO_PROXY=_host(root))
    assert _was_used(seen)


def test_the_pnpm_text_is_a_configuration_file(exposed: Proxy, root: str, pnpm: Pnpm) -> None:
    home = _home(pnpm, ".npmrc", _setup(exposed, "pnpm", root))
    project = pnpm.project(WANTED)
    with exposed.watch() as seen:
        pnpm("install", cwd=project, HOME=home, NO_PROXY=_host(root))
    assert _was_used(seen)


def test_the_yarn_text_is_a_configuration_file(exposed: Proxy, root: str, yarn: Yarn) -> None:
    project = yarn.project(WANTED)
    (project / "yarn.lock").write_text("")
    home = _home(yarn, ".yarnrc.yml", _setup(exposed, "yarn", root))
    with exposed.watch() as seen:
        yarn("install", cwd=project, HOME=home)
    assert _was_used(seen)


def test_the_npm_text_works_in_the_folder_of_a_project(exposed: Proxy, root: str, npm: Npm) -> None:
    project = npm.project(WANTED)
    (project / ".npmrc").write_text(_setup(exposed, "npm", root))
    with exposed.watch() as seen:
        npm("install", cwd=project, NO_PROXY=_host(root))
    assert _was_used(seen)


def test_the_yarn_text_works_in_the_folder_of_a_project(exposed: Proxy, root: str, yarn: Yarn) -> None:
    project = yarn.start(WANTED)
    (project / ".yarnrc.yml").write_text(_setup(exposed, "yarn", root))
    with exposed.watch() as seen:
        yarn("install", cwd=project)
    assert _was_used(seen)


def test_the_start_prints_a_command_that_works(
    start_npm_proxy: StartNpmProxy, node_registry: NodeRegistry, npm: Npm
) -> None:
    proxy = start_npm_proxy("printed", upstream=node_registry.url)
    line = next(line for line in proxy.said if line.strip().startswith("npm:"))
    words = shlex.split(line.partition(":")[2].replace("PACKAGE", "sample-package"))
    assert words[0] == "npm"
    project: Path = npm.project({})
    with proxy.watch() as seen:
        npm(*words[1:], cwd=project)
    assert seen.files() == ["sample-package/-/sample-package-1.0.0.tgz"]


@pytest.mark.parametrize("alias", ["api/v1/remote/npm/", "repository/npm/", "artifactory/api/npm/npm/"])
def test_an_alias_stays_the_address_of_everything(alias: str, exposed: Proxy, npm: Npm) -> None:
    base = f"http://127.0.0.1:{exposed.listen.rpartition(':')[2]}/{alias}"
    with exposed.watch() as seen:
        project = npm.install(WANTED, registry=base)
    assert {entry["resolved"] for entry in locked(project).values()} == {base + path for path in TARBALLS}
    assert tarballs(seen) == TARBALLS
