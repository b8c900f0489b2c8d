"""What a new user of the go command is told to do, done literally."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.conftest import StartProxy
from e2e.go_client import Go, Public
from e2e.go_fixtures import StartGoProxy
from e2e.go_modules import DATABASE, Answer, Database, Modules, made
from e2e.servers import Proxy, Seen, address_of_this_machine

MODULE = "rsc.io/quote@v1.5.2"
PRIVATE = "corp.example/private"


class User:
    """Somebody with a home, whose settings stay from command to command and stand nowhere else."""

    def __init__(self, go: Go) -> None:
        self._go = go
        self._home = go.fresh("home")
        self.project = go.project()

    def settings(self, no_proxy: str = "") -> dict[str, str]:
        env = self._go.go_environment(
            proxy="", sumdb="", GOENV="", GOTOOLCHAIN="", GOFLAGS="", NO_PROXY=no_proxy or "127.0.0.1"
        )
        folder = str(Path(self._go.program).parent)
        return env | {"HOME": str(self._home), "PATH": f"{folder}:{env['PATH']}"}

    def types(self, lines: str) -> None:
        self._go.run(["sh", "-e", "-c", lines], self.settings(), self.project)

    def downloads(self, module: str, no_proxy: str = "") -> tuple[int, str]:
        """The exit code, and what was said. Nothing is kept, nothing of before is used."""
        env = self.settings(no_proxy) | {"GOFLAGS": "-modcacherw"}
        said = self._go.attempt_in(env, "mod", "download", module, cwd=self.project)
        return said.code, said.err


def _setup(proxy: Proxy, root: str = "") -> str:
    answer = proxy.get(f"{root or proxy.url}/setup/go")
    assert answer.status == 200
    return answer.body.decode()


def _advised(text: str, variable: str) -> str:
    """The commands of the text that set this variable, which are there as comments, with an example."""
    lines = [line.removeprefix("# ") for line in text.splitlines() if f"go env -w '{variable}=" in line]
    assert lines
    return "\n".join(lines)


def _files(seen: Seen, module: str) -> dict[str, int]:
    """The statuses of the requests for a module."""
    path = module.partition("@")[0]
    return {row["path"]: row["status"] for row in seen.requests() if path in row["path"]}


@pytest.fixture
def user(go: Go) -> User:
    return User(go)


# --- the public registry ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def proxy(start_proxy: StartProxy, public_go: Public) -> Proxy:
    return start_proxy("plain", with_file=False)


def test_the_start_names_the_repository_and_the_text(proxy: Proxy, public_go: Public) -> None:
    mounted = next(line for line in proxy.said if f"{proxy.url}/go" in line)
    assert public_go.proxy in mounted
    assert f"{proxy.url}/setup/go" in proxy.get("setup").body.decode().split()


def test_the_text_is_run_as_it_is(proxy: Proxy, user: User, public_go: Public) -> None:
    user.types(_setup(proxy))
    with proxy.watch() as seen:
        code, said = user.downloads(MODULE)
    assert code == 0, said
    asked = _files(seen, MODULE)
    assert asked["rsc.io/quote/@v/v1.5.2.zip"] == 200
    assert asked[f"sumdb/{public_go.sumdb}/lookup/{MODULE}"] == 200


def test_the_command_printed_at_the_start_does_the_same(proxy: Proxy, user: User) -> None:
    line = next(line for line in proxy.said if line.strip().startswith("go:"))
    user.types(line.partition(":")[2])
    with proxy.watch() as seen:
        code, said = user.downloads(MODULE)
    assert code == 0, said
    assert _files(seen, MODULE)["rsc.io/quote/@v/v1.5.2.zip"] == 200


def test_from_another_machine_it_needs_no_more_than_its_text(
    start_go_proxy: StartGoProxy, user: User, public_go: Public
) -> None:
    address = address_of_this_machine()
    if not address:
        pytest.skip("needs a network address besides loopback")
    proxy = start_go_proxy("exposed", listen="0.0.0.0:0")
    port = proxy.listen.rpartition(":")[2]
    proxy.url = f"http://127.0.0.1:{port}"
    text = _setup(proxy, f"http://{address}:{port}")
    assert f"http://{address}:{port}/go" in text
    user.types(text)
    with proxy.watch() as seen:
        code, said = user.downloads(MODULE, no_proxy=address)
    assert code == 0, said
    assert _files(seen, MODULE)["rsc.io/quote/@v/v1.5.2.zip"] == 200


@pytest.mark.parametrize("alias", ["artifactory/api/go/go", "repository/go", "api/v1/remote/go"])
def test_addresses_of_other_products_work(alias: str, proxy: Proxy, user: User) -> None:
    """Only the start of the address differs, so that a new DNS entry is enough."""
    user.types(f"go env -w GOPROXY={proxy.url}/{alias}")
    with proxy.watch() as seen:
        code, said = user.downloads(MODULE)
    assert code == 0, said
    assert _files(seen, MODULE)["rsc.io/quote/@v/v1.5.2.zip"] == 200


# --- private modules --------------------------------------------------------------------------


def test_private_modules_go_past_the_proxy(proxy: Proxy, user: User) -> None:
    text = _setup(proxy)
    user.types(text + _advised(text, "GOPRIVATE"))
    with proxy.watch() as seen:
        code, said = user.downloads(f"{PRIVATE}@v1.0.0")
        assert user.downloads(MODULE)[0] == 0
    assert code  # its repository is not there
    assert proxy.url not in said
    assert _files(seen, PRIVATE) == {}
    assert _files(seen, MODULE)["rsc.io/quote/@v/v1.5.2.zip"] == 200


@pytest.fixture(scope="module")
def modules(database: Database) -> Iterator[Modules]:
    served = Modules(database)
    yield served
    served.stop()


def test_private_modules_come_through_a_proxy_that_has_them(
    start_go_proxy: StartGoProxy, modules: Modules, database: Database, user: User
) -> None:
    """The checksum database knows nothing of them, and the go command does not ask it."""
    module = made(PRIVATE, "v1.0.0")
    modules.publish(module)
    modules.answers[f"sumdb/{DATABASE}/lookup/{PRIVATE}@v1.0.0"] = Answer(404, b"not found\n")
    proxy = start_go_proxy("mirror", upstream=modules.url, remote=f"    file_hosts: [{DATABASE}]\n")
    text = _setup(proxy)
    user.types(f"{text}go env -w {shlex.quote(f'GOSUMDB={database.key}')}\n")
    code, said = user.downloads(f"{PRIVATE}@v1.0.0")
    assert code
    assert f"sumdb/{DATABASE}/lookup/{PRIVATE}@v1.0.0" in said
    user.types(_advised(text, "GONOSUMDB"))
    with proxy.watch() as seen:
        code, said = user.downloads(f"{PRIVATE}@v1.0.0")
    assert code == 0, said
    assert set(_files(seen, PRIVATE)) == {f"{PRIVATE}/@v/v1.0.0.{kind}" for kind in ("info", "mod", "zip")}
