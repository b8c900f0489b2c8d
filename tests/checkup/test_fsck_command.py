"""The command as a process: what it prints, how it ends, beside a server and without one."""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from artifactproxy import cli
from tests.backup.folders import ROOT, counters, fill, ran, tree
from tests.chaos import Chaos
from tests.chaos.behaviours import ok
from tests.checkup.planted import DEAD
from tests.checkup.world import blob_of, sql
from tests.crash.program import fetch, program
from tests.house_proxy import configuration


async def fsck(data: Path, *options: str) -> tuple[int, str, str]:
    return await asyncio.to_thread(inside, "fsck", *options, "--data", str(data))


def inside(*arguments: str) -> tuple[int, str, str]:
    """A command in this process: the interpreter takes longer to start than the check."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    return ended.value.code, out.getvalue(), err.getvalue()


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    await fill(tmp_path / "data", 6)
    return tmp_path / "data"


async def test_exit_codes_and_text(data: Path) -> None:
    """As processes."""

    async def fsck(data: Path, *options: str) -> tuple[int, str, str]:
        return await asyncio.to_thread(ran, "fsck", *options, "--data", str(data))

    code, out, err = await fsck(data)
    assert code == 0
    assert out.splitlines()[-1] == "nothing found"
    assert re.search(r"^checked: 7 rows, 1 absences, .*8 blobs$", out, re.MULTILINE)
    assert err.splitlines()[0] == "checking index"
    (data / "tmp" / DEAD).touch()
    code, out, _ = await fsck(data, "--fast")
    assert code == 3
    assert re.search(rf"^I13 temp +tmp/{DEAD}: 0 bytes of a process that has ended$", out, re.MULTILINE)
    assert out.splitlines()[-1] == "found: 1, repaired: 0"
    code, out, _ = await fsck(data, "--repair")
    assert code == 1
    assert re.search(r"^I13 .* -> repaired$", out, re.MULTILINE)
    code, _, err = await fsck(data, "--slow")
    assert code == 2


async def test_what_cannot_be_repaired_is_3(data: Path) -> None:
    (data / "blobs").rename(data / "away")
    (data / "blobs").mkdir(0o700)
    (data / "blobs/sha256").symlink_to(data / "away/sha256")
    code, out, _ = await fsck(data, "--repair")
    assert code == 3
    assert re.search(r"^I21 link +blobs/sha256: it is no directory  -> not repaired$", out, re.MULTILINE)
    assert out.splitlines()[-1] == "found: 1, repaired: 0"


async def test_json_is_one_object_a_line(data: Path) -> None:
    (data / "blobs/sha256/ab").mkdir(mode=0o700, exist_ok=True)
    (data / "blobs/sha256/ab" / "odd\n\x1b[2J\udcff").touch()
    code, out, err = await fsck(data, "--json", "--full")
    assert code == 3
    lines = [json.loads(line) for line in out.splitlines()]
    assert [next(iter(line)) for line in lines] == ["finding", "finding", "summary"]
    note, finding = lines[0]["finding"], lines[1]["finding"]
    assert (note["invariant"], note["note"]) == ("I18", True)
    assert set(finding) == {"invariant", "kind", "subject", "detail", "repaired", "note"}
    assert (finding["invariant"], finding["repaired"]) == ("I22", None)
    summary = lines[2]["summary"]
    assert {"checked", "found", "repaired", "notes", "mode"} <= set(summary)
    assert (summary["found"], summary["notes"], summary["mode"]) == (1, 1, "full")
    assert summary["checked"]["hashed"] == 8
    code, out, err = await fsck(data)
    assert "\x1b" not in out + err
    assert len([line for line in out.splitlines() if line.startswith("I22")]) == 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda data: None, "is no directory: name the data folder of an instance"),
        (lambda data: data.mkdir(), "is no data folder: name that of an instance"),
        (lambda data: (data.mkdir(), (data / "format").write_text("99\n")), "use the newer artifactproxy"),
        (lambda data: data.write_text("a file"), "is no directory"),
    ],
    ids=["missing", "empty", "newer", "file"],
)
@pytest.mark.parametrize("options", [(), ("--repair",)])
async def test_no_data_folder_is_a_sentence(
    tmp_path: Path, make, said: str, options: tuple[str, ...]
) -> None:
    data = tmp_path / "data"
    make(data)
    before = tree(tmp_path)
    code, out, err = await fsck(data, *options)
    assert (code, out) == (1, "")
    assert said in err
    assert "Traceback" not in err
    assert tree(tmp_path) == before


async def test_blobs_that_are_away_as_a_whole_are_not_missing(data: Path) -> None:
    """A disk that is not mounted is no reason to forget a cache."""
    (data / "blobs").rename(data / "away")
    for options in ((), ("--repair",)):
        code, _, err = await fsck(data, *options)
        assert (code, "the directory of the blobs is gone" in err) == (1, True)
    (data / "away").rename(data / "blobs")
    assert (await fsck(data, "--full"))[0] == 0


async def test_only_a_full_repair_makes_an_unclean_stop_clean(data: Path) -> None:
    with sql(data) as db:
        db.execute("UPDATE counters SET value = 0 WHERE name = 'clean'")
    (data / "tmp" / DEAD).touch()
    for options in ((), ("--full",), ("--repair",)):
        await fsck(data, *options)
        assert counters(data)["clean"] == 0, options
    await asyncio.to_thread(inside, "stats", "--data", str(data))
    assert counters(data)["clean"] == 0, "a command is no server that hashed anything"
    assert (await fsck(data, "--full", "--repair"))[0] == 0
    assert counters(data)["clean"] == 1


# --- beside a server ------------------------------------------------------------------------


async def get(url: str) -> bytes | None:
    status, _, body = await fetch(url)
    assert status == 200
    return body


async def test_beside_a_server(tmp_path: Path, chaos: Chaos) -> None:
    body = chaos.script("/tool.bin", ok(), size=300_000)
    configuration(tmp_path, chaos.origin)
    data = tmp_path / "data"
    async with program(tmp_path) as (process, base):
        await get(base + "/files/tool.bin")
        await asyncio.sleep(0.2)
        with blob_of(data, "tool.bin").open("r+b") as file:
            file.write(b"damaged!")
        code, out, _ = await fsck(data, "--fast")
        assert code == 0
        code, out, _ = await fsck(data, "--full", "--json")
        lines = [json.loads(line) for line in out.splitlines()]
        assert (code, lines[0]["finding"]["kind"]) == (3, "damaged")
        code, out, _ = await fsck(data, "--full", "--repair")
        assert (code, "-> repaired" in out) == (1, True)
        asked = chaos.hits("/tool.bin")
        assert await get(base + "/files/tool.bin") == body.bytes()
        assert chaos.hits("/tool.bin") == asked == 2, "it was fetched by the repair"
        assert (await fsck(data, "--full"))[0] == 0
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert (await fsck(data, "--full"))[0] == 0


SLOW = "survey.read=sleep:0.2"


async def _begun(data: Path) -> subprocess.Popen[str]:
    """A full check that is under way."""
    process = subprocess.Popen(
        [sys.executable, "-m", "artifactproxy", "fsck", "--full", "--data", str(data)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while (line := await asyncio.to_thread(process.stderr.readline)) and "bytes" not in line:
        pass
    return process


async def test_one_at_a_time_and_ctrl_c_ends_it_in_the_server(tmp_path: Path, chaos: Chaos) -> None:
    for number in range(3):
        chaos.script(f"/f{number}.bin", ok(), size=20_000_000)
    configuration(tmp_path, chaos.origin)
    data = tmp_path / "data"
    async with program(tmp_path, SLOW) as (process, base):
        for number in range(3):
            await get(f"{base}/files/f{number}.bin")
        first = await _begun(data)
        code, out, err = await fsck(data)
        assert (code, out) == (1, "")
        assert "fsck is running here already" in err
        first.send_signal(signal.SIGINT)
        await asyncio.to_thread(first.communicate)
        assert first.returncode == 130
        async with asyncio.timeout(60):
            while (await fsck(data))[0] != 0:
                await asyncio.sleep(0.1)

        second = await _begun(data)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await process.wait() == 0, "the drain does not wait for a check"
        out, err = await asyncio.to_thread(second.communicate)
        assert second.returncode == 1
        assert "the instance is stopping" in err
    assert (await fsck(data))[0] == 0
