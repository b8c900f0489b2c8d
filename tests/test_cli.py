"""The command line: exit codes, sentences, the control socket with and without a running instance."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import yaml

from artifactproxy import cli, control
from artifactproxy.errors import BadPath
from artifactproxy.rules.oci.addresses import Registries
from artifactproxy.targets import Purge, ask_of, purges

DEADLINE = 30  # seconds; a bound on hanging, not a measurement
CONFIG = """
listen: 127.0.0.1:0
limits: {drain_notice: 0, drain: 100ms, blob_grace: 1ms}
remotes:
  tools: {provider: generic, upstream: 'http://127.0.0.1:9/files/'}
  other: {provider: generic, upstream: 'http://127.0.0.1:9/other/', auth: {bearer: {env: CLI_TOKEN}}}
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [n for n in os.environ if n.startswith("ARTIFACTPROXY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLI_TOKEN", "hunter2")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture
def run(capfd, config, tmp_path):
    """Run a command in this process: (exit code, standard output, standard error)."""

    def command(*arguments: str, file: str | None = config) -> tuple[int, str, str]:
        extra = ["--config", file, "--data", str(tmp_path / "data")] if file else []
        with pytest.raises(SystemExit) as ended:
            cli.main([*arguments, *extra])
        out, err = capfd.readouterr()
        return ended.value.code, out, err

    return command


# --- without an instance


def test_check_prints_what_is_in_force_without_secrets(run):
    code, out, err = run("check")
    assert (code, err) == (0, "")
    shown = yaml.safe_load(out)
    assert shown["remotes"]["tools"]["upstream"] == ["http://127.0.0.1:9/files/"]
    assert shown["remotes"]["other"]["auth"]["bearer"] == {"env": "CLI_TOKEN"}
    assert "hunter2" not in out
    code, as_json, _ = run("check", "--json")
    assert (code, json.loads(as_json)) == (0, shown)


def test_a_refused_configuration_exits_2_with_one_line_per_problem(run, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("listn: 1\n\nworkers: 0\n")
    for command in ("check", "remotes", "stats", "serve"):
        code, out, err = run(command, file=str(bad))
        assert (code, out) == (2, "")
        assert sorted(err.splitlines()) == [
            f"artifactproxy: {bad}:1: listn: unknown key; the nearest known key is listen",
            f"artifactproxy: {bad}:3: workers: must be at least 1",
        ]
    assert run("check", file=str(tmp_path / "absent.yaml"))[0] == 2


def test_the_configuration_may_be_named_by_a_variable(run, config, monkeypatch):
    monkeypatch.setenv("ARTIFACTPROXY_CONFIG", config)
    code, out, _ = run("remotes", "--json", file=None)
    assert code == 0
    assert [row["name"] for row in json.loads(out)] == ["tools", "other"]


def test_remotes_lists_resolved_upstreams(run):
    assert run("remotes") == (
        0,
        "tools\tgeneric\thttp://127.0.0.1:9/files/\nother\tgeneric\thttp://127.0.0.1:9/other/\n",
        "",
    )


def test_remotes_is_a_table_on_a_terminal(run, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "100")
    _, out, _ = run("remotes")
    assert out.split()[:3] == ["repository", "provider", "upstreams"]
    assert "http://127.0.0.1:9/files/" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("stats", "--nonsense"),
        ("explain",),
        ("explain", "/tools/../x"),
        ("purge",),
        ("purge", "--all"),
        ("purge", "--repo", "absent", "--all"),
        ("purge", "/tools/"),
        ("purge", "/absent/x"),
        ("purge", "/tools/%2e%2e/x"),
        ("purge", "--repo", "tools", "--all", "--package", "x"),
        ("setup", "no-such-client"),
    ],
)
def test_usage_errors_exit_2_and_say_what_is_wrong(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Error: " in err
    assert "Traceback" not in err


def test_a_listener_for_everybody_is_warned_about(run, config):
    Path(config).write_text(CONFIG.replace("127.0.0.1:0", "0.0.0.0:8080"))
    code, _, err = run("check")
    assert code == 0
    assert "warning: 0.0.0.0:8080 is reachable from other machines" in err


def test_commands_work_offline_on_the_data_folder(run, tmp_path):
    code, out, _ = run("stats", "--json")
    assert (code, json.loads(out)["entries"]) == (0, 0)
    assert (tmp_path / "data" / "format").exists()
    code, out, _ = run("explain", "/tools/a.tar.gz", "--json")
    assert (code, json.loads(out)["decision"]) == (0, "Fetch")
    code, out, _ = run("purge", "--repo", "tools", "--all", "--json")
    assert (code, json.loads(out)["entries"]) == (0, 0)
    assert run("gc")[0] == 0
    assert run("gc", "--run")[0] == 0


def test_explain_is_told_which_form_is_asked_for(run, tmp_path):
    path = tmp_path / "npm.yaml"
    path.write_text(f"data: {tmp_path}/npm\nremotes: {{npm: {{upstream: 'http://127.0.0.1:9/'}}}}")
    short = "application/vnd.npm.install-v1+json"
    for accept, variant in ((("--accept", short), "abbreviated"), ((), "full")):
        code, out, _ = run("explain", "/npm/pot", *accept, "--json", file=str(path))
        assert (code, json.loads(out)["route"]["key"]["variant"]) == (0, variant)


def test_an_unusable_data_folder_is_one_sentence(run, tmp_path):
    (tmp_path / "data").write_text("a file")
    code, _, err = run("stats")
    assert code == 1
    assert err.startswith("artifactproxy: ")
    assert "--data" in err
    assert "Traceback" not in err


def test_setup_fills_in_the_address(run, tmp_path):
    path = tmp_path / "public.yaml"
    path.write_text(
        "public_url: https://proxy.example/cache/\nremotes: {py: {provider: pypi, upstream: 'https://index.example/'}}"
    )
    code, out, _ = run("setup", "pip", file=str(path))
    assert code == 0
    assert "https://proxy.example/cache/py/simple/" in out
    assert "{base}" not in out
    assert "pip\tpy" in run("setup", file=str(path))[1]


def test_starting_loads_neither_the_server_nor_the_terminal_library():
    script = "import sys, artifactproxy.cli; print([m for m in ('aiohttp', 'rich', 'pydantic', 'yaml') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    assert done.stdout.strip() == "[]"


# --- targets


def test_targets_become_orders():
    known = ["pypi", "tools"]

    def of(*targets, repo=None, package=None, everything=False):
        return purges(
            targets,
            repo=repo,
            package=package,
            everything=everything,
            known=known,
            root="https://p.example/cache",
        )

    assert of("/tools/a/b?x=1") == [Purge("tools", path="a/b?x=1")]
    assert of("tools/a") == [Purge("tools", path="a")]
    assert of("http://127.0.0.1:8080/tools/a", "https://p.example/cache/pypi/simple/x/") == [
        Purge("tools", path="a"),
        Purge("pypi", path="simple/x/"),
    ]
    assert of("pkg:pypi/x@1.0") == [
        Purge("pypi", package="pkg:pypi/x@1.0"),
        Purge("tools", package="pkg:pypi/x@1.0"),
    ]
    assert of("pkg:pypi/x", repo="pypi") == [Purge("pypi", package="pkg:pypi/x")]
    assert of(repo="pypi", package="x") == [Purge("pypi", package="x")]
    assert of(repo="pypi", everything=True) == [Purge("pypi")]
    for refused in (
        {"package": "x"},
        {"everything": True},
        {"repo": "pypi"},
        {"repo": "absent", "everything": True},
    ):
        with pytest.raises(ValueError):
            of(**refused)
    with pytest.raises(ValueError, match="whole repository"):
        of("/tools")
    with pytest.raises(ValueError, match="not in pypi"):
        of("/tools/a", repo="pypi")
    with pytest.raises(BadPath):
        of("/tools/a//b")


def test_an_explained_address_knows_its_base():
    ask = ask_of("https://p.example/cache/pypi/simple/x/?a=1", "https://p.example/cache")
    assert (ask.repo, ask.path, ask.query, ask.base) == (
        "pypi",
        "simple/x/",
        "a=1",
        "https://p.example/cache/pypi",
    )
    assert ask_of("http://10.0.0.1:81/pypi/x", None).base == "http://10.0.0.1:81/pypi"


# --- the control socket, against a scripted instance


class Instance(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    status, body, cut = 200, b'{"ok": true}', False


class Recorder(BaseHTTPRequestHandler):
    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.server.seen.append((self.command, self.path, self.rfile.read(length)))
        if self.server.cut:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_GET = do_POST = answer

    def log_message(self, *_: object) -> None:
        pass

    def address_string(self) -> str:
        return "unix"


@pytest.fixture
def instance(tmp_path):
    (tmp_path / "data").mkdir()
    server = Instance(str(tmp_path / "data" / control.SOCKET), Recorder)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_commands_go_to_the_running_instance(run, instance):
    instance.body = b'{"entries": 2, "bytes": 10, "repository": "x"}'
    assert run("explain", "/tools/a b".replace(" ", "%20"))[0] == 0
    assert run("explain", "/tools/a", "--accept", "text/plain")[0] == 0
    assert run("stats")[0] == 0
    assert run("gc", "--run")[0] == 0
    code, out, _ = run("purge", "/tools/a", "pkg:generic/x@1", "--json")
    assert (code, json.loads(out)) == (0, {"entries": 6, "bytes": 30, "repository": "x"})
    seen = [(method, path, json.loads(body or b"null")) for method, path, body in instance.seen]
    assert seen == [
        ("GET", "/explain?url=%2Ftools%2Fa%2520b", None),
        ("GET", "/explain?url=%2Ftools%2Fa&accept=text%2Fplain", None),
        ("GET", "/stats", None),
        ("POST", "/gc", {"run": True}),
        ("POST", "/purge", {"repo": "tools", "path": "a"}),
        ("POST", "/purge", {"repo": "tools", "package": "pkg:generic/x@1"}),
        ("POST", "/purge", {"repo": "other", "package": "pkg:generic/x@1"}),
    ]


def test_gc_that_only_looks_exits_1_where_it_found_something(run, instance):
    instance.body = b'{"orphans": 0, "evictable": 0}'
    assert run("gc")[0] == 0
    instance.body = b'{"orphans": 0, "evictable": 3}'
    assert run("gc")[0] == 1
    assert run("gc", "--run")[0] == 0


@pytest.mark.parametrize(
    ("status", "body", "cut", "sentence"),
    [
        (404, b'{"error": "there is no repository"}', False, "answered 404: there is no repository"),
        (503, b'{"detail": "busy"}', False, "answered 503: busy"),
        (500, b"oops", False, "answered 500: oops"),
        (200, b"not json", False, "did not answer in JSON"),
        (200, b"[]", False, "did not answer in JSON"),
        (200, b"", True, "broke off"),
    ],
)
def test_an_instance_that_fails_is_one_sentence(run, instance, status, body, cut, sentence):
    instance.status, instance.body, instance.cut = status, body, cut
    code, out, err = run("stats")
    assert (code, out) == (1, "")
    assert err.startswith("artifactproxy: the running instance")
    assert sentence in err


def test_an_instance_that_hangs_is_given_up(tmp_path, instance):
    held = threading.Event()
    instance.finish_request = lambda *_: held.wait(DEADLINE)
    with pytest.raises(control.Refused, match="broke off"):
        control.call(tmp_path / "data", "GET", "/ping", timeout=0.05)
    held.set()


def test_a_socket_nobody_listens_on_means_not_running(tmp_path):
    with pytest.raises(control.NotRunning):
        control.call(tmp_path, "GET", "/ping")
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / control.SOCKET))
    left.close()
    with pytest.raises(control.NotRunning):
        control.call(tmp_path, "GET", "/ping")


def test_a_socket_that_cannot_be_opened_is_not_an_absent_instance(tmp_path):
    """Going on without the instance would be wrong as long as it may be there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / control.SOCKET))
        with pytest.raises(control.Refused, match="cannot open"):
            control.call(tmp_path, "GET", "/ping")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc (Linux)")
def test_a_deep_data_folder_is_reached(tmp_path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    folder = os.open(deep, os.O_RDONLY)
    server = Instance(f"/proc/self/fd/{folder}/{control.SOCKET}", Recorder)
    server.seen = []
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    assert control.call(deep, "GET", "/ping") == {"ok": True}
    thread.join()
    server.server_close()
    os.close(folder)
    assert server.seen == [("GET", "/ping", b"")]


# --- the real thing


def spawn(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "artifactproxy", *arguments]
    root = Path(__file__).parent.parent
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root)


@pytest.fixture
def server(config, tmp_path):
    """A running instance: (process, address)."""
    process = spawn("serve", "--config", config, "--data", str(tmp_path / "data"))
    timer = threading.Timer(DEADLINE, process.kill)
    timer.start()
    first = process.stdout.readline()
    yield process, first.rsplit("http://", 1)[-1].strip()
    timer.cancel()
    process.kill()
    process.communicate()


def test_serve_answers_obeys_commands_and_stops_cleanly(server, run):
    process, address = server
    assert address.startswith("127.0.0.1:"), process.stderr.read() if process.poll() is not None else address
    connection = http.client.HTTPConnection(address, timeout=DEADLINE)
    connection.request("GET", "/livez")
    assert connection.getresponse().status == 200
    connection.close()
    code, out, _ = run("stats", "--json")
    assert (code, json.loads(out)["entries"]) == (0, 0)
    code, out, _ = run("explain", f"http://{address}/tools/a.tar.gz", "--json")
    assert (code, json.loads(out)["decision"]) == (0, "Fetch")
    assert run("purge", "/tools/a.tar.gz")[0] == 0
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=DEADLINE)
    assert process.returncode == 0


def test_a_port_in_use_exits_1_and_says_what_to_try(config, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        process = spawn("serve", "--config", config, "--data", str(tmp_path / "data"), "--listen", where)
        _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert f"artifactproxy: {where} is in use; try --listen 127.0.0.1:0\n" in err
    assert "Traceback" not in err


def test_an_address_of_another_machine_is_explained(config, tmp_path):
    process = spawn(
        "serve", "--config", config, "--data", str(tmp_path / "data"), "--listen", "192.0.2.1:8080"
    )
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert "192.0.2.1:8080 is not an address of this machine; try --listen 127.0.0.1:8080" in err


def test_two_instances_do_not_share_a_data_folder(server, config, tmp_path):
    process, _ = server
    second = spawn("serve", "--config", config, "--data", str(tmp_path / "data"))
    _, err = second.communicate(timeout=DEADLINE)
    assert second.returncode == 1
    assert "another artifactproxy works in" in err
    assert process.poll() is None


def test_a_reader_that_leaves_is_no_traceback(config):
    process = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m artifactproxy check --config {config} | true"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        cwd=Path(__file__).parent.parent,
        check=False,
    )
    assert process.stderr == ""


IMAGES = Registries(frozenset({"hub"}), {"docker.io": "hub"}, "hub")


@pytest.mark.parametrize(
    "address",
    [
        "/hub/v2/library/alpine/manifests/v1",
        "/v2/hub/library/alpine/manifests/v1",
        "/v2/library/alpine/manifests/v1",
        "http://10.0.0.1:81/v2/library/alpine/manifests/v1?ns=docker.io",
    ],
)
def test_an_image_is_named_by_any_of_its_addresses(address):
    ask = ask_of(address, None, known=IMAGES)
    assert (ask.repo, ask.path) == ("hub", "library/alpine/manifests/v1")
    path = address.partition("?")[0]
    purge = purges([path], repo=None, package=None, everything=False, known=["hub"], root=None, images=IMAGES)
    assert purge == [Purge("hub", "library/alpine/manifests/v1")]


def test_a_whole_repository_of_images_is_purged_by_its_name_only():
    with pytest.raises(ValueError, match="whole repository"):
        purges(["/hub/"], repo=None, package=None, everything=False, known=["hub"], root=None, images=IMAGES)
