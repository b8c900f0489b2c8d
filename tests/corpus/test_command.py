"""What an administrator writes into the configuration or types: hostile or mistaken, it is refused with
a sentence, and no secret and no control character comes back out of it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import yaml

from artifactproxy import cli
from tests.corpus.entry import Case, cases

SECRET = "c0mmand-canary"


@pytest.mark.parametrize("case", cases("BEF", "command"), ids=lambda case: case.id)
def test_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    for name in [n for n in os.environ if n.startswith("ARTIFACTPROXY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CANARY", SECRET)
    reached: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: reached.append(address) or _refuse())
    file = _configured(tmp_path, case.given.get("config", {}))
    arguments = [str(a) for a in case.given.get("arguments", ["check"])]
    code, out, err = _run(capfd, [*arguments, "--config", str(file), "--data", str(tmp_path / "data")])
    assert code in case.expect["exit"], (code, out, err)
    assert "Traceback" not in out + err
    assert SECRET not in out + err
    assert "sw0rdfish" not in out + err, "a secret that stands in the file is not repeated"
    assert all(c.isprintable() or c in "\n\t" for c in out + err), (out, err)
    for text in case.expect.get("says", []):
        assert text in out + err, err
    assert [address for address in reached if isinstance(address, tuple)] == []
    assert not (tmp_path / "outside").exists()
    if arguments == ["check"]:
        return  # which opens nothing
    code, out, err = _run(
        capfd, ["stats", "--config", str(_configured(tmp_path, {})), "--data", str(tmp_path / "data")]
    )
    assert code == 0, err


def _refuse() -> None:
    raise ConnectionRefusedError(111, "refused")


def _run(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), out, err


def _configured(folder: Path, changed: dict[str, object]) -> Path:
    """A good configuration but for what the case changes of the remote, or of the whole."""
    remote: dict[str, object] = {
        "provider": "generic",
        "upstream": "http://127.0.0.1:9/files/",
        "auth": {"bearer": {"env": "CANARY"}},
    }
    top = {key[1:]: value for key, value in changed.items() if key.startswith("/")}
    remote |= {key: value for key, value in changed.items() if not key.startswith("/")}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"listen": "127.0.0.1:0", "remotes": {"tools": remote}} | top))
    return path
