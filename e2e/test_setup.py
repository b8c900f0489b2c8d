"""A new user's first minutes: start without a file, then do literally what the proxy says."""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from e2e.clients import Pip, Uv
from e2e.conftest import StartProxy
from e2e.poetry_client import Poetry, obtain
from e2e.registry import Registry
from e2e.servers import Proxy, Seen, address_of_this_machine

PROJECT = "idna"


@pytest.fixture(scope="module")
def proxy(start_proxy: StartProxy) -> Proxy:
    return start_proxy("plain", with_file=False)


def _command(proxy: Proxy, client: str) -> list[str]:
    """The line for this client of what was printed at the start, with a project to install."""
    line = next(line for line in proxy.said if line.strip().startswith(f"{client}:"))
    words = shlex.split(line.partition(":")[2].replace("PACKAGE", PROJECT))
    assert words[0] == client
    return words[1:]


def _was_used(seen: Seen) -> bool:
    return any(f"/{PROJECT}-" in path for path in seen.files())


def test_the_start_prints_the_address_the_upstream_and_the_data(proxy: Proxy, registry: Registry) -> None:
    assert proxy.said[0] == f"artifactproxy listens on {proxy.url}"
    assert str(proxy.data) in proxy.said[1]
    assert proxy.data.is_dir()
    mounted = next(line for line in proxy.said if f"{proxy.url}/pypi/" in line)
    assert registry.index in mounted


def test_the_printed_pip_command_works(proxy: Proxy, pip: Pip) -> None:
    with proxy.watch() as seen:
        command = _command(proxy, "pip")
        pip.plain(*command, "--no-cache-dir", "--target", str(pip.fresh("target")))
    assert _was_used(seen)


def test_the_printed_uv_command_works(proxy: Proxy, uv: Uv) -> None:
    python = uv.venv()
    with proxy.watch() as seen:
        uv.plain(*_command(proxy, "uv"), VIRTUAL_ENV=str(python.parent.parent))
    assert _was_used(seen)
    assert PROJECT in uv.installed(python)


def test_setup_lists_the_clients(proxy: Proxy) -> None:
    listed = proxy.get("setup").body.decode().split()
    assert {f"{proxy.url}/setup/{client}" for client in ("pip", "uv", "poetry")} <= set(listed)
    assert all(proxy.get(url).status == 200 for url in listed)


def _setup(proxy: Proxy, client: str, root: str = "") -> str:
    answer = proxy.get(f"{root or proxy.url}/setup/{client}")
    assert answer.status == 200
    return answer.body.decode()


def _after(text: str, words: str) -> str:
    """The rest of the line after these words."""
    return text.partition(words)[2].splitlines()[0]


def test_the_pip_text_is_a_configuration_file(proxy: Proxy, pip: Pip) -> None:
    home = pip.fresh("home")
    (home / "pip.conf").write_text(_setup(proxy, "pip"))
    with proxy.watch() as seen:
        pip.plain(
            "install", "--no-cache-dir", "--target", str(pip.fresh("target")), PROJECT,
            HOME=str(home), PIP_CONFIG_FILE=str(home / "pip.conf"),
        )  # fmt: skip
    assert _was_used(seen)


def test_the_pip_text_names_a_command_that_does_the_same(proxy: Proxy, pip: Pip) -> None:
    home = pip.fresh("home")
    said = shlex.split(_after(_setup(proxy, "pip"), "with: pip "))
    assert said[:2] == ["config", "set"]
    pip.plain(*said, HOME=str(home))
    with proxy.watch() as seen:
        pip.plain("install", "--no-cache-dir", "--target", str(pip.fresh("target")), PROJECT, HOME=str(home))
    assert _was_used(seen)


def test_the_uv_text_is_a_configuration_file(proxy: Proxy, uv: Uv) -> None:
    file = uv.fresh("settings") / "uv.toml"
    file.write_text(_setup(proxy, "uv"))
    with proxy.watch() as seen:
        uv.plain("pip", "install", "--target", str(uv.fresh("target")), PROJECT, UV_CONFIG_FILE=str(file))
    assert _was_used(seen)


def test_the_uv_text_names_a_variable_that_does_the_same(proxy: Proxy, uv: Uv) -> None:
    name, _, value = _after(_setup(proxy, "uv"), "environment: ").partition("=")
    assert name == "UV_DEFAULT_INDEX"
    index = value.strip()
    with proxy.watch() as seen:
        uv.plain("pip", "install", "--target", str(uv.fresh("target")), PROJECT, UV_DEFAULT_INDEX=index)
    assert _was_used(seen)


@pytest.fixture(scope="module")
def poetry(folder: Path, pip_library: str) -> Poetry:
    return Poetry(folder / "poetry", obtain(pip_library))


def _set_up_with(poetry: Poetry, text: str) -> Path:
    """A project in which the text was run as it is."""
    project = poetry.project()
    poetry.run(["sh", "-e", "-c", text], poetry.poetry_environment(), project)
    return project


def test_the_poetry_text_is_run_in_a_project(proxy: Proxy, poetry: Poetry) -> None:
    project = _set_up_with(poetry, _setup(proxy, "poetry"))
    with proxy.watch() as seen:
        poetry("add", PROJECT, cwd=project)
    assert _was_used(seen)
    assert PROJECT in poetry.installed(project / ".venv" / "bin" / "python")
    lock = (project / "poetry.lock").read_text()
    assert f'url = "{proxy.index.rstrip("/")}' in lock


def test_the_command_line_says_the_same_as_the_server(proxy: Proxy) -> None:
    code, said = proxy.command("setup", "pip")
    assert code == 0
    assert list(said) == ["pypi"]
    assert "index-url = http://127.0.0.1:" in said["pypi"]


# --- from another machine -------------------------------------------------------------------


@pytest.fixture(scope="module")
def exposed(start_proxy: StartProxy) -> tuple[Proxy, str]:
    """A proxy on every interface, and its address as another machine would see it."""
    address = address_of_this_machine()
    if not address:
        pytest.skip("needs a network address besides loopback")
    proxy = start_proxy("exposed", listen="0.0.0.0:0")
    proxy.url = f"http://127.0.0.1:{proxy.listen.rpartition(':')[2]}"
    return proxy, f"http://{address}:{proxy.listen.rpartition(':')[2]}"


def _host(root: str) -> str:
    return urlsplit(root).hostname or ""


def test_from_another_machine_pip_needs_no_more_than_its_text(exposed: tuple[Proxy, str], pip: Pip) -> None:
    proxy, root = exposed
    text = _setup(proxy, "pip", root)
    assert root in text
    home: Path = pip.fresh("home")
    (home / "pip.conf").write_text(text)
    with proxy.watch() as seen:
        pip.plain(
            "install", "--no-cache-dir", "--target", str(pip.fresh("target")), PROJECT,
            HOME=str(home), PIP_CONFIG_FILE=str(home / "pip.conf"), NO_PROXY=_host(root),
        )  # fmt: skip
    assert _was_used(seen)


def test_from_another_machine_uv_needs_no_more_than_its_text(exposed: tuple[Proxy, str], uv: Uv) -> None:
    proxy, root = exposed
    file = uv.fresh("settings") / "uv.toml"
    file.write_text(_setup(proxy, "uv", root))
    with proxy.watch() as seen:
        uv.plain(
            "pip", "install", "--target", str(uv.fresh("target")), PROJECT,
            UV_CONFIG_FILE=str(file), NO_PROXY=_host(root),
        )  # fmt: skip
    assert _was_used(seen)


def test_from_another_machine_poetry_needs_no_more_than_its_text(
    exposed: tuple[Proxy, str], poetry: Poetry
) -> None:
    proxy, root = exposed
    text = _setup(proxy, "poetry", root)
    assert root in text
    project = _set_up_with(poetry, text)
    with proxy.watch() as seen:
        poetry("add", PROJECT, cwd=project, NO_PROXY=_host(root))
    assert _was_used(seen)


def test_a_listener_off_loopback_warns(exposed: tuple[Proxy, str]) -> None:
    proxy, _ = exposed
    assert "anybody may read" in proxy.log.read_text()
