"""The checksum database reached through the proxy; what the proxy and the go command do about bytes
that are not what a database or a go.sum says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from e2e.conftest import StartForwarder
from e2e.go_client import Go, Module, Public, wanted
from e2e.go_fixtures import StartGoProxy
from e2e.go_modules import DATABASE, Answer, Database, Made, Modules, made
from e2e.servers import Proxy, Row, Seen

WANTED = wanted()[::4]  # enough of them to make the tree's tiles matter


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    modules: dict[str, Module]
    sums: str
    seen: Seen

    def of_database(self, what: str) -> list[Row]:
        """Requests for a part of the database: `supported`, `lookup/` or `tile/`."""
        return [
            row
            for row in self.seen.requests()
            if row["path"].startswith("sumdb/") and row["path"].split("/", 2)[2].startswith(what)
        ]


def _step(go: Go, proxy: Proxy, public_go: Public) -> Step:
    with proxy.watch() as seen:
        modules, sums = _downloaded(go, proxy.base, public_go.sumdb)
    return Step(modules, sums, seen)


def _downloaded(go: Go, proxy: str, sumdb: str) -> tuple[dict[str, Module], str]:
    """The modules, and the go.sum that was empty before. Reading the imports makes the go command
    fetch and check the go.mod files of many more."""
    project = go.copy_of_program()
    cache = str(go.fresh("modules"))
    modules = go.download(project, *WANTED, proxy=proxy, sumdb=sumdb, GOMODCACHE=cache)
    flags = "-modcacherw -mod=mod"
    go("list", "-deps", ".", cwd=project, proxy=proxy, sumdb=sumdb, GOMODCACHE=cache, GOFLAGS=flags)
    return modules, (project / "go.sum").read_text()


@pytest.fixture(scope="module")
def first(go: Go, go_proxy: Proxy, public_go: Public) -> Step:
    return _step(go, go_proxy, public_go)


@pytest.fixture(scope="module")
def second(first: Step, go: Go, go_proxy: Proxy, public_go: Public) -> Step:
    return _step(go, go_proxy, public_go)


def test_every_module_is_looked_up_through_the_proxy(first: Step, public_go: Public) -> None:
    """The go command has no other way: all else ends at a closed port."""
    asked = first.of_database("supported")
    assert asked and {row["status"] for row in asked} == {200}
    lookups = {unquote(row["path"]).rpartition("/lookup/")[2] for row in first.of_database("lookup/")}
    files = {file for module in first.modules.values() for file in module.files}
    assert lookups > {f.replace("/@v/", "@").removesuffix(".zip") for f in files if f.endswith(".zip")}
    assert first.of_database("tile/")
    assert {row["path"].split("/")[1] for row in first.of_database("")} == {public_go.sumdb}
    assert first.seen.errors() == []


def test_the_sums_are_those_of_a_direct_download(first: Step, direct_go: Go) -> None:
    assert _downloaded(direct_go, "", "") == (first.modules, first.sums)


def test_the_second_time_no_record_and_no_file_comes_from_upstream(first: Step, second: Step) -> None:
    """Which tiles are asked for depends on the order in which records arrive: each carries the tree
    of its day, and they arrive in parallel."""
    assert (second.modules, second.sums) == (first.modules, first.sums)
    assert {row["source"] for row in second.of_database("lookup/")} == {"cache"}
    files = [row for row in second.seen.requests("artifact") if not row["path"].startswith("sumdb/")]
    assert {row["source"] for row in files} == {"cache"}


def test_without_the_internet_what_was_looked_up_is_verified(
    second: Step, go: Go, go_proxy: Proxy, public_go: Public, start_go_proxy: StartGoProxy,
    start_forwarder: StartForwarder,
) -> None:  # fmt: skip
    one_by_one = WANTED[::7]

    def verified(proxy: Proxy) -> list[str]:
        projects = [go.project(module) for module in one_by_one]
        for module, project in zip(one_by_one, projects, strict=True):
            go.download(project, module, proxy=proxy.base, sumdb=public_go.sumdb)
        return [(project / "go.sum").read_text() for project in projects]

    before = verified(go_proxy)
    gone = start_forwarder()
    gone.stop()
    assert go_proxy.stop() == 0
    cut_off = start_go_proxy("proxy", forwarder=gone)
    with cut_off.watch() as seen:
        assert verified(cut_off) == before
    assert len([row for row in seen.requests() if "/lookup/" in row["path"]]) >= len(one_by_one)
    assert any("/tile/" in row["path"] for row in seen.requests())
    assert {row["source"] for row in seen.requests("artifact")} == {"cache"}


# --- wrong bytes ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def modules(database: Database) -> Iterator[Modules]:
    """A module proxy on loopback that passes on what its checksum database says."""
    served = Modules(database)
    yield served
    served.stop()


@pytest.fixture(scope="module")
def mirror(start_go_proxy: StartGoProxy, modules: Modules) -> Proxy:
    return start_go_proxy("mirror", upstream=modules.url, remote=f"    file_hosts: [{DATABASE}]\n")


def _download(go: Go, mirror: Proxy, module: Made, sumdb: str = "off") -> tuple[int, str]:
    name = f"{module.path}@{module.version}"
    said = go.attempt("mod", "download", name, cwd=go.project(), proxy=mirror.base, sumdb=sumdb)
    return said.code, said.err


def _tampered(module: Made) -> Made:
    return dataclasses.replace(module, zip=made(module.path, module.version, {"a.go": "package a // !"}).zip)


def _base(module: Made) -> str:
    return f"{module.path}/@v/{module.version}"


def test_a_database_of_another_name_is_relayed_too(
    go: Go, mirror: Proxy, modules: Modules, database: Database
) -> None:
    module = made("good.example/a", "v1.0.0")
    modules.publish(module)
    database.record(module)
    for _ in range(2):
        project = go.project()
        go(
            "mod", "download", "-json", "good.example/a@v1.0.0",
            cwd=project, proxy=mirror.base, sumdb=database.key, GOFLAGS="-modcacherw -mod=mod",
        )  # fmt: skip
    assert modules.gets[f"sumdb/{DATABASE}/lookup/good.example/a@v1.0.0"] == 1
    assert modules.gets[f"{_base(module)}.zip"] == 1
    for suffix in (".mod", ".zip"):
        assert mirror.explain(_base(module) + suffix)["row"]["verified_by"] == "digest"


def test_a_zip_that_the_database_contradicts_is_refused_and_not_kept(
    go: Go, mirror: Proxy, modules: Modules, database: Database
) -> None:
    """Even for a client that does not ask the database; and the right one is taken afterwards."""
    module = made("zip.example/a", "v1.0.0")
    modules.publish(_tampered(module))
    database.record(module)
    code, said = _download(go, mirror, module)
    assert code
    assert f"{_base(module)}.zip: 502 Bad Gateway" in said
    assert "server response: " in said
    assert mirror.explain(f"{_base(module)}.zip")["row"] is None
    modules.publish(module)
    code, said = _download(go, mirror, module, database.key)
    assert code == 0, said
    assert mirror.explain(f"{_base(module)}.zip")["row"]["verified_by"] == "digest"


def test_a_go_mod_that_the_database_contradicts_is_refused_and_not_kept(
    go: Go, mirror: Proxy, modules: Modules, database: Database
) -> None:
    module = made("mod.example/a", "v1.0.0")
    modules.publish(dataclasses.replace(module, go_mod=module.go_mod + b"// !\n"))
    database.record(module)
    code, said = _download(go, mirror, module)
    assert code
    assert f"{_base(module)}.mod: 502 Bad Gateway" in said
    assert mirror.explain(f"{_base(module)}.mod")["row"] is None


def test_a_record_of_another_module_is_no_record(
    go: Go, mirror: Proxy, modules: Modules, database: Database
) -> None:
    module, other = made("record.example/a", "v1.0.0"), made("record.example/b", "v1.0.0")
    modules.publish(module)
    database.record(module, other.sums)
    code, said = _download(go, mirror, module, database.key)
    assert code, said
    row = mirror.explain(f"sumdb/{DATABASE}/lookup/record.example/a@v1.0.0")["row"]
    assert row is None


def test_a_module_without_a_record_is_served_to_who_does_not_ask(
    go: Go, mirror: Proxy, modules: Modules, database: Database
) -> None:
    module = made("private.example/a", "v1.0.0")
    modules.publish(module)
    modules.answers[f"sumdb/{DATABASE}/lookup/private.example/a@v1.0.0"] = Answer(404, b"not found\n")
    code, said = _download(go, mirror, module)
    assert code == 0, said
    assert mirror.explain(f"{_base(module)}.zip")["row"]["verified_by"] == "framing"
    code, said = _download(go, mirror, module, database.key)
    assert code
    assert f"sumdb/{DATABASE}/lookup/private.example/a@v1.0.0" in said


def test_the_absence_of_a_record_is_not_remembered(
    go: Go, mirror: Proxy, modules: Modules, database: Database
) -> None:
    module = made("late.example/a", "v1.0.0")
    modules.publish(module)
    lookup = f"sumdb/{DATABASE}/lookup/late.example/a@v1.0.0"
    modules.answers[lookup] = Answer(404, b"not found\n")
    assert _download(go, mirror, module, database.key)[0]
    del modules.answers[lookup]
    database.record(module)
    code, said = _download(go, mirror, module, database.key)
    assert code == 0, said


def test_the_client_compares_with_its_go_sum(go: Go, mirror: Proxy, modules: Modules) -> None:
    module = made("sums.example/a", "v1.0.0")
    modules.publish(_tampered(module))
    project: Path = go.project("sums.example/a@v1.0.0")
    (project / "go.sum").write_text(module.sums)
    said = go.attempt("mod", "download", cwd=project, proxy=mirror.base)
    assert said.code
    assert "checksum mismatch" in said.err
    assert "SECURITY ERROR" in said.err
