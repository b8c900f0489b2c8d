"""The command as a user runs it, against an upstream that misbehaves."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from artifactproxy.fetch.workplace import beside
from tests.chaos.behaviours import cut, ok, redirect, slow, stall, status
from tests.program import START

ROOT = Path(__file__).parent.parent.parent
DEADLINE = 60  # seconds; a bound on hanging, not a measurement
SIZE = 1_000_000


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def spawn(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*START, "fetch", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


# --- any address


@pytest.mark.parametrize("size", [0, 1, 70_000, 300_000, SIZE])
def test_a_file_is_fetched_whole_and_nothing_else_is_left(run, chaos, here, tmp_path, size):
    body = chaos.script("/files/a.tgz", ok(), size=size)
    code, out, err = run(chaos.url("/files/a.tgz"), "--sha256", body.sha256, "--json")
    assert code == 0, err
    assert (here / "a.tgz").read_bytes() == body.bytes()
    assert names(here) == ["a.tgz"]
    told = json.loads(out)
    assert told.pop("seconds") > 0
    assert told == {
        "url": chaos.url("/files/a.tgz"),
        "file": "a.tgz",
        "bytes": size,
        "sha256": body.sha256,
        "source": "remote",
        "resumed_bytes": 0,
    }
    assert chaos.hits("/files/a.tgz") == (1 if size else 2)  # of nothing there is no range
    assert not (tmp_path / "data").exists()  # it is no business of the proxy's


def test_one_line_for_each_step_and_one_for_the_result(run, chaos, here):
    body = chaos.script("/a.tgz", ok(), size=SIZE)
    code, out, err = run(chaos.url("/a.tgz?token=secret"), "-o", "b.tgz")
    assert (code, err.splitlines()) == (0, [f"fetching {chaos.url('/a.tgz')}", "1.0 MB"])
    assert out.decode().startswith("b.tgz: 1.0 MB in ")
    assert out.decode().endswith(f", sha256 {body.sha256}\n")


def test_the_wrong_bytes_are_code_3_and_not_written(run, chaos, here):
    chaos.script("/a.tgz", ok(), size=SIZE)
    (here / "a.tgz").write_text("before")
    code, out, err = run(chaos.url("/a.tgz"), "--sha256", "0" * 64)
    assert (code, out) == (3, b"")
    assert err.splitlines()[-1].endswith("sha256 is not the promised one; nothing was written")
    assert names(here) == ["a.tgz"]
    assert (here / "a.tgz").read_text() == "before"


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (status(404), "upstream has no a.tgz"),
        (status(403), "403"),
        (status(500), "500"),
        (cut(0.5, ranges=False, validators=False), "broke off"),
    ],
)
def test_what_cannot_be_had_is_code_1_and_a_sentence(run, chaos, here, behaviour, said):
    chaos.script("/a.tgz", behaviour, size=SIZE)
    (here / "a.tgz").write_text("before")
    code, out, err = run(chaos.url("/a.tgz"))
    assert (code, out) == (1, b"")
    assert err.splitlines()[-1].startswith(f"artifactproxy: {chaos.url('/a.tgz')}: ")
    assert said in err
    assert "Traceback" not in err
    assert (here / "a.tgz").read_text() == "before"
    assert names(here) == ["a.tgz"]


def test_nobody_there_is_code_1(run, here):
    code, _, err = run("http://127.0.0.1:1/x")
    assert code == 1
    assert "refuses connections" in err
    assert names(here) == []


def test_a_large_file_comes_over_as_many_connections_as_are_wanted(run, chaos, here):
    body = chaos.script("/a.img", slow(20 * 2**20), size=40 * 2**20)
    for number in (1, 4):
        before = chaos.hits("/a.img")
        code, _, err = run(chaos.url("/a.img"), "--connections", str(number), "--sha256", body.sha256)
        assert code == 0, err
        asked = chaos.requests[before:]
        assert (len({seen.connection for seen in asked}) > 1) == (number > 1)
        assert all("range" in seen.headers for seen in asked[1:])
        assert names(here) == ["a.img"]
        (here / "a.img").unlink()


@pytest.mark.parametrize(
    "arguments",
    [
        ("http://files.example/x", "--connections", "0"),
        ("tools/x", "--connections", "2"),
        ("ftp://files.example/x",),
        ("http://files.example/",),
        ("http://files.example/x", "--sha256", "12"),
        ("http://files.example/x", "--allow-private", "everything"),
        ("absent/x",),
        ("/tools/../x",),
        (),
    ],
)
def test_usage_errors_are_code_2(run, here, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, b"")
    assert "Error: " in err
    assert names(here) == []


def test_a_broken_body_is_gone_on_with(run, chaos, here):
    body = chaos.script("/a.tgz", cut(0.5), ok(), size=SIZE)
    assert run(chaos.url("/a.tgz"))[0] == 0
    assert (here / "a.tgz").read_bytes() == body.bytes()
    assert chaos.last("/a.tgz").headers["range"].startswith("bytes=")


def test_a_file_that_is_right_already_is_not_fetched_again(run, chaos, here):
    body = chaos.script("/a.tgz", ok(), size=SIZE)
    (here / "a.tgz").write_bytes(body.bytes())
    code, out, _ = run(chaos.url("/a.tgz"), "--sha256", f"sha256:{body.sha256.upper()}")
    assert code == 0
    assert b"is there already" in out
    assert chaos.hits("/a.tgz") == 0
    (here / "a.tgz").write_bytes(b"else")
    assert run(chaos.url("/a.tgz"), "--sha256", body.sha256)[0] == 0
    assert (here / "a.tgz").read_bytes() == body.bytes()


def test_user_and_password_go_to_that_origin_only(run, chaos, here):
    chaos.script("/a.tgz", ok(), size=100)
    address = chaos.url("/a.tgz").replace("//", "//me:secret@")
    code, _, err = run(address)
    assert code == 0
    assert chaos.last("/a.tgz").headers["authorization"] == "Basic bWU6c2VjcmV0"
    assert "secret" not in err


def test_a_redirect_to_another_private_address_is_refused_unless_allowed(run, chaos, here):
    chaos.script("/a.tgz", redirect(chaos.url("/b.tgz").replace("127.0.0.1", "127.0.0.2")))
    chaos.script("/b.tgz", ok(), size=100)
    code, _, err = run(chaos.url("/a.tgz"))
    assert code == 1
    assert "127.0.0.2" in err
    # Nobody listens there: it is asked now, and that is what is seen.
    code, _, err = run(chaos.url("/a.tgz"), "--allow-private", "127.0.0.0/8")
    assert code == 1
    assert "refuses connections" in err


def test_the_environments_proxy_is_used(run, chaos, here, monkeypatch):
    body = chaos.script("http://files.example/a.tgz", ok(), size=100)
    monkeypatch.setenv("http_proxy", chaos.origin)
    code, _, err = run("http://files.example/a.tgz")
    assert code == 0, err
    assert (here / "a.tgz").read_bytes() == body.bytes()
    monkeypatch.setenv("no_proxy", "127.0.0.1, .example")
    chaos.script("/b.tgz", ok(), size=10)
    assert run(chaos.url("/b.tgz"))[0] == 0
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    assert run(chaos.url("/b.tgz"))[0] == 2


def test_a_failing_disk_is_a_sentence(run, chaos, here):
    chaos.script("/a.tgz", ok(), size=SIZE)
    code, _, err = run(chaos.url("/a.tgz"), failpoints="tmp.half=raise:ENOSPC")
    assert code == 1
    assert "no space left" in err
    code, _, err = run(chaos.url("/a.tgz"), failpoints="fetch.complete=raise:EIO")
    assert code == 1
    assert "a.tgz" in err
    assert "Traceback" not in err
    assert not (here / "a.tgz").exists()


# --- standard output


def test_standard_output_gets_it_when_it_is_verified(run, chaos, here, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temps"))
    (tmp_path / "temps").mkdir()
    body = chaos.script("/a.tgz", ok(), size=SIZE)
    code, out, err = run(chaos.url("/a.tgz"), "-o", "-", "--sha256", body.sha256)
    assert (code, out) == (0, body.bytes())
    assert err.splitlines()[-1].startswith("standard output: 1.0 MB")
    code, out, _ = run(chaos.url("/a.tgz"), "-o", "-", "--sha256", "0" * 64)
    assert (code, out) == (3, b"")
    code, out, _ = run("tools/a.tgz", "-o", "-")
    assert (code, out) == (0, body.bytes())
    code, out, _ = run("tools/a.tgz", "-o", "-", "--sha256", "0" * 64)
    assert (code, out) == (3, b"")
    assert names(here) == names(tmp_path / "temps") == []


# --- the place it works in


def test_what_is_in_the_way_is_left_alone(run, chaos, here):
    chaos.script("/a.tgz", ok(), size=SIZE)
    other = beside(Path("a.tgz"))
    other.mkdir()
    (other / "mine").write_text("mine")
    code, _, err = run(chaos.url("/a.tgz"))
    assert code == 1
    assert "is in the way" in err
    assert names(other) == ["mine"]


def test_two_fetches_of_one_file_do_not_meet(run, chaos, here):
    chaos.script("/a.tgz", stall(0.5), size=SIZE)
    first = spawn(chaos.url("/a.tgz"), cwd=here)
    try:
        _wait_for(lambda: chaos.hits("/a.tgz") == 1)
        code, _, err = run(chaos.url("/a.tgz"))
        assert code == 1
        assert "another fetch of a.tgz is under way" in err
    finally:
        first.kill()
        first.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_fetch_ends_at_once_and_leaves_no_file(chaos, here, number):
    chaos.script("/a.tgz", stall(0.5), size=SIZE)
    process = spawn(chaos.url("/a.tgz"), cwd=here)
    _wait_for(lambda: chaos.hits("/a.tgz") == 1)
    time.sleep(0.3)
    before = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert time.monotonic() - before < 3
    assert "Traceback" not in err
    assert not (here / "a.tgz").exists()


def test_a_fetch_that_is_killed_before_the_end_leaves_no_file_and_the_next_one_does(run, chaos, here):
    body = chaos.script("/a.tgz", ok(), size=SIZE)
    process = subprocess.run(
        [*START, "fetch", chaos.url("/a.tgz")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "ARTIFACTPROXY_FAILPOINTS": "fetch.complete=kill"},
        capture_output=True,
        timeout=DEADLINE,
        cwd=here,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    assert not (here / "a.tgz").exists()
    assert run(chaos.url("/a.tgz"))[0] == 0
    assert (here / "a.tgz").read_bytes() == body.bytes()


LARGE = 40 * 2**20


def in_vain(*arguments: str, cwd: Path) -> str:
    """What a process of its own says; one that still runs would need its files itself."""
    process = spawn(*arguments, cwd=cwd)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    return err


def test_what_has_come_stays_when_upstream_goes_away(run, chaos, here):
    body = chaos.script("/a.img", cut(0.6), *[status(500)] * 40, size=LARGE)
    fetch = (chaos.url("/a.img"), "--sha256", body.sha256, "--json")
    err = in_vain(*fetch, cwd=here)
    assert "what has come is kept in .a.img.fetch; run it again to go on" in err
    assert names(here) == [".a.img.fetch"]
    chaos.script("/a.img", ok(), size=LARGE)
    before = len(chaos.requests)
    code, out, err = run(*fetch)
    assert code == 0, err
    told = json.loads(out)
    assert 0 < told["resumed_bytes"] < LARGE
    assert " of it are here from before" in err
    assert not any(seen.headers.get("range") == "bytes=0-" for seen in chaos.requests[before:])
    assert (here / "a.img").read_bytes() == body.bytes()
    assert names(here) == ["a.img"]


@pytest.mark.parametrize("other", ["address", "sha256"])
def test_another_order_for_the_same_file_begins_anew(run, chaos, here, other):
    old = chaos.script("/a.img", cut(0.6), *[status(500)] * 40, size=LARGE)
    in_vain(chaos.url("/a.img"), "--sha256", old.sha256, cwd=here)
    path = "/b/a.img" if other == "address" else "/a.img"
    new = chaos.script(path, ok(), size=LARGE, version=1)
    code, out, _ = run(chaos.url(path), "--sha256", new.sha256, "--json")
    assert (code, json.loads(out)["resumed_bytes"]) == (0, 0)
    assert (here / "a.img").read_bytes() == new.bytes()
    assert names(here) == ["a.img"]


def test_what_has_rotted_meanwhile_is_wrong_and_then_gone(run, chaos, here):
    body = chaos.script("/a.img", cut(0.6), *[status(500)] * 40, size=LARGE)
    fetch = (chaos.url("/a.img"), "--sha256", body.sha256)
    in_vain(*fetch, cwd=here)
    [part] = (here / ".a.img.fetch" / "tmp").glob("*.part")
    with part.open("r+b") as file:
        file.write(b"rotten")
    chaos.script("/a.img", ok(), size=LARGE)
    assert run(*fetch)[0] == 3
    assert names(here) == []
    assert run(*fetch)[0] == 0
    assert (here / "a.img").read_bytes() == body.bytes()


def _wait_for(true) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- through the data folder


def test_a_path_comes_through_the_data_folder_and_is_cached_there(run, chaos, here):
    body = chaos.script("/a.tgz", ok(), size=SIZE)
    code, out, err = run("tools/a.tgz", "--json")
    assert (code, json.loads(out)["source"]) == (0, "remote"), err
    assert (here / "a.tgz").read_bytes() == body.bytes()
    code, out, _ = run("/tools/a.tgz", "-o", "again", "--json", "--sha256", body.sha256)
    assert (code, json.loads(out)["source"]) == (0, "cache")
    assert (here / "again").read_bytes() == body.bytes()
    assert chaos.hits("/a.tgz") == 1
    assert names(here) == ["a.tgz", "again"]
    # A file of the user's may be changed; the cache's must not.
    assert os.stat(here / "a.tgz").st_nlink == os.stat(here / "again").st_nlink == 1


def test_the_wrong_bytes_of_a_path_are_code_3_too(run, chaos, here):
    chaos.script("/a.tgz", ok(), size=SIZE)
    for _ in ("from upstream", "from the cache"):
        code, _, err = run("tools/a.tgz", "--sha256", "0" * 64)
        assert code == 3
        assert f"not {'0' * 64}; nothing was written" in err
        assert names(here) == []


def test_what_upstream_lacks_is_code_1(run, chaos, here):
    code, _, err = run("tools/absent.tgz")
    assert code == 1
    assert "artifactproxy: tools/absent.tgz: upstream has no absent.tgz" in err
    assert names(here) == []


@pytest.mark.parametrize("running", [True, False])
def test_what_is_only_relayed_can_be_fetched_too(run, chaos, here, request, running):
    if running:
        request.getfixturevalue("instance")
    chaos.script("/npm/-/v1/search", _page('{"objects": []}', "application/json"))
    code, out, err = run("npm/-/v1/search?text=pot", "-o", "-")
    assert (code, out) == (0, b'{"objects": []}'), err
    assert chaos.last("/npm/-/v1/search").target == "/npm/-/v1/search?text=pot"
    assert run("npm/-/v1/search?text=pot", "-o", "found.json")[0] == 0
    assert names(here) == ["found.json"]


# --- through the running instance


@pytest.fixture
def instance(config, tmp_path):
    """A running one: its address."""
    process = subprocess.Popen(
        [*START, "serve", "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    yield process.stdout.readline().rsplit(" ", 1)[-1].strip()
    process.kill()
    process.communicate()


def test_a_running_instance_is_asked_and_caches_it(run, chaos, here, instance):
    body = chaos.script("/a.tgz", ok(), size=SIZE)
    for source in ("remote", "cache"):
        code, out, err = run("tools/a.tgz", "--json")
        assert (code, json.loads(out)["source"]) == (0, source), err
        assert (here / "a.tgz").read_bytes() == body.bytes()
    assert err.splitlines() == ["fetching tools/a.tgz", "1.0 MB"]
    code, out, _ = run(f"{instance}/tools/a.tgz", "-o", "b")  # over HTTP: another port than configured
    assert code == 0
    assert (here / "b").read_bytes() == body.bytes()
    assert chaos.hits("/a.tgz") == 1
    assert names(here) == ["a.tgz", "b"]


def test_a_running_instance_says_what_is_wrong(run, chaos, here, instance):
    chaos.script("/a.tgz", ok(), size=SIZE)
    chaos.script("/cut.tgz", cut(0.6, ranges=False, validators=False), size=SIZE)
    code, _, err = run("tools/a.tgz", "--sha256", "0" * 64)
    assert code == 3
    assert "nothing was written" in err
    code, _, err = run("tools/absent.tgz")
    assert code == 1
    assert "answered 404: upstream has no absent.tgz" in err
    code, _, err = run("tools/cut.tgz")
    assert code == 1
    assert "broke off in the middle of the body: " in err
    assert names(here) == []


@pytest.mark.parametrize("running", [True, False])
def test_bytes_that_an_index_promised_differently_are_code_3(run, chaos, here, request, running):
    """Through an instance one only sees that it breaks off; why is asked of it afterwards."""
    if running:
        request.getfixturevalue("instance")
    promised = hashlib.sha256(b"else").hexdigest()
    chaos.script("/f/pot-1.0.tar.gz", ok(), size=SIZE)
    chaos.script("/simple/pot/", _page(f'<a href="/f/pot-1.0.tar.gz#sha256={promised}">pot-1.0.tar.gz</a>'))
    code, out, _ = run("py/simple/pot/", "-o", "-")
    assert code == 0
    path = out.decode().partition('href="')[2].partition("#")[0]
    code, _, err = run("py/" + path.rpartition("../")[2])
    assert code == 3, err
    assert names(here) == []


def _page(text: str, media_type: str = "text/html"):
    async def behave(exchange) -> None:
        body = text.encode()
        await exchange.head(200, {"Content-Type": media_type, "Content-Length": str(len(body))})
        await exchange.send(body)

    return behave


def test_the_command_is_listed_with_its_exit_codes():
    said = subprocess.run(
        [sys.executable, "-m", "artifactproxy", "fetch", "--help"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
        cwd=ROOT,
    ).stdout
    for word in ("URL|PATH", "--output", "--sha256", "--json", "Exit code 1"):
        assert word in said
