"""`e2e/compose.yaml`, as far as it can be judged without a container engine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from artifactproxy.config import Config, load
from e2e.servers import ROOT
from tests.needs import needs, require

REPLICAS = ("one", "two", "three")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "e2e" / "compose.yaml").read_text())
    return found


def _content(compose: dict[str, Any], name: str) -> str:
    """As the engine writes it: `$$` is a dollar."""
    return str(compose["configs"][name]["content"]).replace("$$", "$")


@pytest.mark.parametrize("name", REPLICAS)
def test_the_program_takes_the_configuration(compose: dict[str, Any], tmp_path: Path, name: str) -> None:
    service = compose["services"][name]
    file = tmp_path / "artifactproxy.yaml"
    file.write_text(_content(compose, "artifactproxy"))
    env = dict(service["environment"])
    assert env["ARTIFACTPROXY_CONFIG"] == service["configs"][0]["target"]
    config: Config = load(file, env=env, flags={})
    assert config.store is not None
    assert config.index is not None
    assert config.coordination is not None
    assert config.cluster is not None
    assert config.cluster.advertise == f"http://{name}:{config.listen.port}"
    assert config.store.options.endpoint == "http://minio:9000"
    assert config.store.options.bucket in compose["services"]["bucket"]["command"][0]
    for other in ("postgres", "redis", "bucket"):
        assert other in service["depends_on"]
        assert other in compose["services"]


@needs("nginx")
def test_nginx_takes_its_text(compose: dict[str, Any], tmp_path: Path) -> None:
    text = _content(compose, "nginx")
    for name in REPLICAS:
        assert f"server {name}:8080;" in text
        text = text.replace(f"server {name}:8080;", "server 127.0.0.1:9;")
    folders = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; events {{}} http {{ access_log off; {folders}\n{text}}}\n"
    )
    command = [require("nginx"), "-t", "-p", str(tmp_path), "-c", "nginx.conf", "-e", "error.log"]
    tested = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert tested.returncode == 0, tested.stderr


def test_what_it_builds_is_there(compose: dict[str, Any]) -> None:
    for name in REPLICAS:
        build = compose["services"][name]["build"]
        assert (ROOT / "e2e" / build["context"] / build["dockerfile"]).is_file()
