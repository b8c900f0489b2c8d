"""`artifactproxy health` and what it asks: the readiness of the running instance, on its control socket."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading

import pytest

from artifactproxy import cli, control


class _Control(socketserver.ThreadingUnixStreamServer):
    told: bytes = b""
    status = 200


class _Answer(http.server.BaseHTTPRequestHandler):
    server: _Control

    def do_GET(self):
        assert self.path == "/ready"
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.told)))
        self.end_headers()
        self.wfile.write(self.server.told)

    def log_message(self, *_):
        pass


@pytest.fixture
def instance(tmp_path):
    (tmp_path / "data").mkdir()
    server = _Control(str(tmp_path / "data" / control.SOCKET), _Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def run(capfd, tmp_path):
    def command(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["health", *arguments, "--data", str(tmp_path / "data")])
        out, err = capfd.readouterr()
        return ended.value.code, out, err

    return command


def _tells(instance, *, ready, mode="ok", **dependencies):
    instance.told = json.dumps({"ready": ready, "mode": mode, "dependencies": dependencies}).encode()


def test_a_ready_instance(run, instance):
    _tells(instance, ready=True, store="ok", index="ok")
    assert run() == (0, "ready\nstore\tok\nindex\tok\nmode\tok\n", "")
    assert run("--json")[0] == 0


def test_what_is_missed_but_bearable_is_told_and_healthy(run, instance):
    _tells(instance, ready=True, mode="without coordination", coordination="redis does not answer")
    code, out, _ = run()
    assert code == 0
    assert "coordination\tredis does not answer\nmode\twithout coordination\n" in out


def test_an_instance_that_is_not_ready(run, instance):
    _tells(instance, ready=False, mode="without store", store="no space is left")
    code, out, _ = run()
    assert (code, out.splitlines()[:2]) == (1, ["not ready", "store\tno space is left"])
    code, out, _ = run("--json")
    assert (code, json.loads(out)["ready"]) == (1, False)


def test_no_instance_is_not_healthy(run, tmp_path):
    assert run() == (1, "", f"artifactproxy: no instance is running in {tmp_path / 'data'}\n")
    code, out, err = run("--json")
    assert (code, err) == (1, "")
    assert json.loads(out)["error"].startswith("no instance is running")


def test_an_instance_that_answers_otherwise_is_not_healthy(run, instance):
    instance.told = b"what?"
    code, _, err = run()
    assert code == 1
    assert "did not answer in JSON" in err


def test_a_configuration_that_became_wrong_does_not_hide_the_instance(run, instance, tmp_path):
    _tells(instance, ready=True, store="ok")
    (tmp_path / "bad.yaml").write_text("nonsense: 1\n")
    assert run("--config", str(tmp_path / "bad.yaml"))[0] == 0
