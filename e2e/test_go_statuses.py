"""How the go command finds modules through the proxy: parents, queries, old and upper-case names;
and which failures may send it to the next proxy of its list. The upstream is one on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2e.clients import NOWHERE
from e2e.go_client import Go
from e2e.go_fixtures import StartGoProxy
from e2e.go_modules import Answer, Made, Modules, made
from e2e.servers import Proxy

PSEUDO = "v0.0.0-20240102000000-0123456789ab"


@pytest.fixture(scope="module")
def second() -> Iterator[Modules]:
    """What comes next in a list of proxies."""
    served = Modules()
    yield served
    served.stop()


def _required(project: Path) -> str:
    return (project / "go.mod").read_text().partition("require ")[2].partition(" //")[0].strip()


def _got(go: Go, mirror: Proxy, what: str) -> str:
    """What `go get` writes into go.mod, as `path version`."""
    project = go.project()
    go("get", what, cwd=project, proxy=mirror.base)
    return _required(project)


@pytest.mark.parametrize("status", [404, 410])
def test_a_package_is_found_in_the_module_above_it(
    status: int, go: Go, mirror: Proxy, modules: Modules
) -> None:
    """The go command asks for every path that might be the module, all at once."""
    path = f"parents{status}.example/a"
    modules.publish(made(path, "v1.2.0", {"b/c/c.go": "package c\n"}))
    for above in (f"{path}/b/c", f"{path}/b", f"parents{status}.example"):
        modules.answers[f"{above}/@v/list"] = Answer(status, b"not found\n")
    with mirror.watch() as seen:
        assert _got(go, mirror, f"{path}/b/c") == f"{path} v1.2.0"
    assert {r["path"]: r["status"] for r in seen.requests() if r["path"].endswith("/@v/list")} == {
        f"{path}/b/c/@v/list": status,
        f"{path}/b/@v/list": status,
        f"{path}/@v/list": 200,
        f"parents{status}.example/@v/list": status,
    }


def test_upper_case_is_escaped_all_the_way(go: Go, mirror: Proxy, modules: Modules) -> None:
    modules.publish(
        made("names.example/Upper/CaseD", "v1.0.0-RC1"), made("names.example/upper/cased", "v1.0.0")
    )
    assert _got(go, mirror, "names.example/Upper/CaseD@v1.0.0-RC1") == "names.example/Upper/CaseD v1.0.0-RC1"
    assert modules.gets["names.example/!upper/!case!d/@v/v1.0.0-!r!c1.zip"] == 1
    assert _got(go, mirror, "names.example/upper/cased") == "names.example/upper/cased v1.0.0"


def test_a_raw_upper_case_address_names_nothing(mirror: Proxy, modules: Modules) -> None:
    before = sum(modules.gets.values())
    answer = mirror.get("go/names.example/Upper/@v/list")
    assert answer.status == 404
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert sum(modules.gets.values()) == before


def test_a_version_without_a_go_mod_is_incompatible(go: Go, mirror: Proxy, modules: Modules) -> None:
    module = made("old.example/a", "v3.1.0+incompatible")
    modules.publish(made("old.example/a", "v1.0.0"), module)
    modules.name("v3.1.0", module)
    assert _got(go, mirror, "old.example/a@v3.1.0") == "old.example/a v3.1.0+incompatible"
    assert modules.gets["old.example/a/@v/v3.1.0+incompatible.zip"] == 1
    row = mirror.explain("old.example/a/@v/v3.1.0+incompatible.zip")["row"]
    assert row["verified_by"] in ("digest", "framing")


def test_a_pseudo_version_is_kept_like_a_release(go: Go, mirror: Proxy, modules: Modules) -> None:
    modules.publish(made("pseudo.example/a", PSEUDO), listed=False)
    for _ in range(2):
        assert _got(go, mirror, f"pseudo.example/a@{PSEUDO}") == f"pseudo.example/a {PSEUDO}"
    for suffix in ("info", "mod", "zip"):
        assert modules.gets[f"pseudo.example/a/@v/{PSEUDO}.{suffix}"] == 1


def test_a_branch_is_followed(go: Go, start_go_proxy: StartGoProxy, modules: Modules) -> None:
    impatient = start_go_proxy(
        "impatient", upstream=modules.url, remote="    ttl: 0s\n    stale_while_revalidate: 0s\n"
    )
    older, newer = made("branch.example/a", PSEUDO), made("branch.example/a", PSEUDO.replace("0102", "0103"))
    modules.publish(older, newer, listed=False)
    for module in (older, newer):
        modules.name("master", module)
        assert _got(go, impatient, "branch.example/a@master") == f"branch.example/a {module.version}"


def test_latest_is_asked_for_where_nothing_is_listed(go: Go, mirror: Proxy, modules: Modules) -> None:
    module = made("latest.example/a", PSEUDO)
    modules.publish(module, listed=False)
    modules.name("latest", module)
    assert _got(go, mirror, "latest.example/a@latest") == f"latest.example/a {PSEUDO}"
    assert modules.gets["latest.example/a/@latest"] == 1


def test_versions_are_listed(go: Go, mirror: Proxy, modules: Modules) -> None:
    for version in ("v1.0.0", "v1.10.0", "v1.9.0", "v2.0.0+incompatible"):
        modules.publish(made("many.example/a", version))
    said = go("list", "-m", "-versions", "many.example/a", cwd=go.project(), proxy=mirror.base)
    assert said.split() == ["many.example/a", "v1.0.0", "v1.9.0", "v1.10.0", "v2.0.0+incompatible"]


def test_clients_that_come_at_once_cost_upstream_one_request(go: Go, mirror: Proxy, modules: Modules) -> None:
    module = made("crowd.example/a", "v1.0.0", {"a.go": f"package a\n// {'x' * 500_000}\n"})
    modules.publish(module)
    projects = [go.project() for _ in range(6)]
    with ThreadPoolExecutor(len(projects)) as pool:
        list(pool.map(lambda cwd: go("get", "crowd.example/a@v1.0.0", cwd=cwd, proxy=mirror.base), projects))
    assert {_required(project) for project in projects} == {"crowd.example/a v1.0.0"}
    for suffix in ("info", "mod", "zip"):
        assert modules.gets[f"crowd.example/a/@v/v1.0.0.{suffix}"] == 1


# --- lists of proxies -------------------------------------------------------------------------


@pytest.fixture
def fresh(start_go_proxy: StartGoProxy, modules: Modules, request: pytest.FixtureRequest) -> Proxy:
    """One that has met no failure of its upstream yet."""
    proxy = start_go_proxy(request.node.name, upstream=modules.url)
    request.addfinalizer(proxy.stop)
    return proxy


@pytest.fixture
def elsewhere(second: Modules, request: pytest.FixtureRequest) -> Made:
    """A module that only the second proxy has."""
    name = "".join(letter for letter in request.node.name if letter.isalnum())
    module = made(f"{name}.example/a", "v1.0.0")
    second.publish(module)
    return module


def _tried(go: Go, module: Made, proxies: str) -> tuple[int, str]:
    said = go.attempt("mod", "download", f"{module.path}@{module.version}", cwd=go.project(), proxy=proxies)
    return said.code, said.err


@pytest.mark.parametrize("status", [404, 410])
def test_absence_sends_the_client_on(
    status: int, go: Go, fresh: Proxy, modules: Modules, second: Modules, elsewhere: Made
) -> None:
    modules.refuse(elsewhere.path, status, "not here")
    code, said = _tried(go, elsewhere, f"{fresh.base},{second.url}")
    assert code == 0, said
    assert second.asked(elsewhere.path) > 0


@pytest.mark.parametrize("status", [401, 403, 429, 451, 500, 502, 503])
def test_nothing_else_does(
    status: int, go: Go, fresh: Proxy, modules: Modules, second: Modules, elsewhere: Made
) -> None:
    modules.refuse(elsewhere.path, status, "not today")
    code, said = _tried(go, elsewhere, f"{fresh.base},{second.url}")
    assert code
    assert fresh.base in said
    assert not any(absent in said for absent in ("404 Not Found", "410 Gone"))
    assert second.asked(elsewhere.path) == 0


def test_an_upstream_that_cannot_be_reached_does_not(
    go: Go, start_go_proxy: StartGoProxy, second: Modules, elsewhere: Made
) -> None:
    dark = start_go_proxy("dark", upstream=NOWHERE)
    code, said = _tried(go, elsewhere, f"{dark.base},{second.url}")
    assert code
    assert " 502 " in said or " 503 " in said
    assert second.asked(elsewhere.path) == 0


def test_after_a_bar_any_failure_sends_the_client_on(
    go: Go, fresh: Proxy, modules: Modules, second: Modules, elsewhere: Made
) -> None:
    modules.refuse(elsewhere.path, 503, "not today")
    code, said = _tried(go, elsewhere, f"{fresh.base}|{second.url}")
    assert code == 0, said


def test_the_client_shows_why_it_was_refused(go: Go, fresh: Proxy, modules: Modules, elsewhere: Made) -> None:
    modules.refuse(elsewhere.path, 403, "not today")
    _, said = _tried(go, elsewhere, fresh.base)
    assert "403 Forbidden" in said
    assert "server response: " in said
    assert "upstream answered 403" in said
