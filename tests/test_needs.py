"""A missing tool skips and names its package, and is a failure where everything is required."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import find, missing

SAMPLE = """
import pytest
from tests.needs import needs, require

@needs("no-such-tool", "sh")
def test_marked(): ...

def test_inside():
    require("no-such-tool")

@needs("sh")
def test_runs(): ...

@pytest.mark.xfail(reason="known")
def test_known(): assert False
"""
MODULE = "import pytest\npytest.importorskip('no_such_module')\n"


@pytest.mark.parametrize(
    ("required", "code", "closing"),
    [
        ("", 0, "1 passed, 3 skipped, 1 xfailed"),
        ("0", 0, "3 skipped"),
        ("1", 1, "1 failed, 1 passed, 1 xfailed, 2 errors"),
    ],
)
def test_skips_and_required(tmp_path, required, code, closing):
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    (tmp_path / "test_module.py").write_text(MODULE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    options = [
        "-q",
        "-rs",
        "-p",
        "tests.needs",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:asyncio",
        "--continue-on-collection-errors",
    ]
    root = str(Path(__file__).parent.parent)
    env = dict(os.environ, REQUIRE_ALL=required, PYTHONPATH=root, COLUMNS="200")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        check=False,
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stdout
    assert closing in done.stdout.splitlines()[-1]
    assert "needs no-such-tool: apt-get install no-such-tool" in done.stdout


def test_the_sentence_names_packages():
    assert missing("sh") == ""
    assert find("sh")
    assert missing("nginx-of-tomorrow", "sh") == "needs nginx-of-tomorrow: apt-get install nginx-of-tomorrow"
