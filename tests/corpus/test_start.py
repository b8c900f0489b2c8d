"""What the program says of aiohttp when it starts, and which releases of it are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from artifactproxy.errors import ConfigError
from artifactproxy.web.connection import require_aiohttp
from tests.corpus.programs import PARSERS, running

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("version", ["3.14.4", "3.14.4rc9", "3.14.5rc1", "3.9.0", "2.3.10"])
def test_the_start_refuses_an_aiohttp_below_the_tested_floor(tmp_path: Path, version: str) -> None:
    """For real: the program's own interpreter, in which aiohttp says that it is older."""
    (tmp_path / "sitecustomize.py").write_text(f"import aiohttp\naiohttp.__version__ = {version!r}\n")
    done = subprocess.run(
        [*(sys.executable, "-m", "artifactproxy", "serve"), "--listen", "127.0.0.1:0", "--data", "data"],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"artifactproxy: aiohttp {version} is too old: 3.14.5 or newer is needed\n"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("version", ["3.14.5", "3.14.10", "3.15.0rc1", "4.0.0"])
def test_newer_releases_are_taken(version: str) -> None:
    require_aiohttp(version)
    with pytest.raises(ConfigError):
        require_aiohttp("3.8.5")


@pytest.mark.parametrize("parser", PARSERS)
async def test_the_log_says_which_parser_runs(tmp_path: Path, parser: str) -> None:
    async with running(tmp_path / "program", parser) as program:
        lines = [json.loads(line) for line in program.log.read_text().splitlines()]
    told = [(line["parser"], line["aiohttp"]) for line in lines if line["event"] == "listening"]
    assert told == [(parser, aiohttp.__version__)]
    warnings = [line for line in lines if line.get("warning") == "slow_parser"]
    if parser == "c":
        assert warnings == []
    else:
        (warning,) = warnings
        assert warning["chunked_bodies"] == "refused"
        assert "C extensions" in warning["fix"]
