"""Choosing by release date: what the client gets directly it gets through the proxy.

pip reads upload times from JSON pages only. Where the registry answers with HTML, which can tell
them only in attributes of its own, pip refuses directly; the proxy answers pip in JSON with the
times it read, so pip works, and must choose what the registry's own times say.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from packaging.version import Version

from e2e.clients import Failed, Pip, Uv
from e2e.registry import Registry
from e2e.servers import Proxy

DATE = "2024-10-01T00:00:00Z"
SINGLE = "idna"
SEVERAL = ["requests", "rich"]
NO_TIMES = "does not provide upload-time metadata"


def _by_pip(pip: Pip, index: str, *projects: str) -> dict[str, str]:
    report = pip(
        "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-", "--only-binary", ":all:",
        "--target", str(pip.fresh("target")), "--uploaded-prior-to", DATE, *projects, index=index,
    )  # fmt: skip
    chosen = (entry["metadata"] for entry in json.loads(report)["install"])
    return {each["name"].lower(): each["version"] for each in chosen}


def _by_uv(uv: Uv, index: str, *projects: str) -> dict[str, str]:
    wanted = uv.fresh("wanted") / "in.txt"
    wanted.write_text("\n".join(projects) + "\n")
    only = ["--only-binary", ":all:", "--exclude-newer", DATE]
    lines = uv("pip", "compile", "--quiet", "--no-header", "--no-annotate", *only, str(wanted), index=index)
    return dict(line.split("==") for line in lines.splitlines() if "==" in line)


def _newest_before(registry: Registry, project: str) -> str:
    limit = datetime.fromisoformat(DATE)
    wheels = [file for file in registry.page(project).values() if file.name.endswith(".whl")]
    assert all(file.uploaded for file in wheels), "the registry tells no upload times"
    old = [f.version for f in wheels if datetime.fromisoformat(f.uploaded).astimezone(UTC) < limit]
    return str(max(Version(v) for v in old if not Version(v).is_prerelease))


def test_uv_chooses_as_directly(uv: Uv, direct_uv: Uv, proxy: Proxy) -> None:
    through = _by_uv(uv, proxy.index, *SEVERAL)
    assert set(SEVERAL) < set(through)
    assert through == _by_uv(direct_uv, "", *SEVERAL)


def test_pip_chooses_as_uv_and_as_directly(
    pip: Pip, direct_pip: Pip, direct_uv: Uv, proxy: Proxy, registry: Registry
) -> None:
    through = _by_pip(pip, proxy.index, *SEVERAL)
    try:
        expected = _by_pip(direct_pip, registry.index, *SEVERAL)
    except Failed as refusal:
        assert NO_TIMES in str(refusal)
        expected = _by_uv(direct_uv, "", *SEVERAL)
    assert through == expected


@pytest.mark.parametrize("client", ["pip", "uv"])
def test_the_choice_is_the_newest_before_the_date(
    client: str, pip: Pip, uv: Uv, proxy: Proxy, registry: Registry
) -> None:
    chosen = _by_pip(pip, proxy.index, SINGLE) if client == "pip" else _by_uv(uv, proxy.index, SINGLE)
    assert chosen == {SINGLE: _newest_before(registry, SINGLE)}


def test_the_proxy_tells_the_times_of_the_registry(proxy: Proxy, registry: Registry) -> None:
    page = json.loads(proxy.get("pypi/simple/idna/", Accept="application/vnd.pypi.simple.v1+json").body)
    told = {file["filename"]: file.get("upload-time", "") for file in page["files"]}
    assert told == {file.name: file.uploaded for file in registry.page("idna").values()}


def test_before_everything_there_is_nothing(pip: Pip, uv: Uv, proxy: Proxy) -> None:
    ancient = "2001-01-01T00:00:00Z"
    out = str(pip.fresh("out"))
    with pytest.raises(Failed, match="No matching distribution"):
        pip("download", "--dest", out, "--uploaded-prior-to", ancient, SINGLE, index=proxy.index)
    with pytest.raises(Failed, match=r"no versions|No solution"):
        uv("pip", "install", "--target", out, "--exclude-newer", ancient, SINGLE, index=proxy.index)
