"""The proxy and the counting forward proxy behind it, as processes."""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from artifactproxy import control
from e2e import trust

ROOT = Path(__file__).parent.parent
START_SECONDS = 30.0
STOP_SECONDS = 45.0
SETTLE_SECONDS = 60.0

Row = dict[str, Any]


class Child:
    """A child whose standard output is read as it comes."""

    def __init__(self, arguments: list[str], log: Path, cwd: Path, env: Mapping[str, str]) -> None:
        self._lines: queue.Queue[str] = queue.Queue()
        self.output: list[str] = []
        self.log = log
        self._command = " ".join(arguments)
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                arguments, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=cwd, env=dict(env)
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))

    def read_until(self, is_last: Callable[[str], bool]) -> list[str]:
        """The lines up to the one that is asked for. Fails with what the child said instead."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                line = self._lines.get(timeout=0.05)
            except queue.Empty:
                late = time.monotonic() > deadline
                if late or self._process.poll() is not None:
                    said = self.log.read_text(errors="replace")[-2000:]
                    raise AssertionError(f"{self._command} did not start: {self.output} {said}") from None
                continue
            self.output.append(line)
            if is_last(line):
                return self.output

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    @property
    def pid(self) -> int:
        return self._process.pid

    def lines_now(self) -> list[str]:
        """All that it has printed until now."""
        while not self._lines.empty():
            self.output.append(self._lines.get())
        return self.output

    def wait(self) -> int:
        """The exit code."""
        code = self._process.wait(STOP_SECONDS)
        self._reader.join(STOP_SECONDS)
        self.lines_now()
        return code

    def stop(self) -> int:
        """SIGTERM, SIGKILL if it does not help; the exit code."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self.wait()


class Forwarder:
    """Everything that the proxy fetches goes through here, and is counted."""

    def __init__(self, folder: Path) -> None:
        self._process = Child(
            [sys.executable, "-m", "tests.chaos.forward", "--port", "0"],
            folder / "forwarder.log",
            ROOT,
            os.environ,
        )
        self.port = int(self._process.read_until(str.isdigit)[-1])
        self.url = f"http://127.0.0.1:{self.port}"

    def counts(self) -> Row:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/__counts")
            counts: Row = json.loads(connection.getresponse().read())
            return counts
        finally:
            connection.close()

    def stop(self) -> None:
        self._process.stop()


@dataclass(frozen=True, slots=True)
class Seen:
    """What one stretch of the proxy's log says."""

    rows: list[Row] = field(default_factory=list, repr=False)

    def requests(self, kind: str = "") -> list[Row]:
        return self._of("request", kind)

    def fills(self, kind: str = "") -> list[Row]:
        return self._of("fill", kind)

    def errors(self) -> list[str]:
        """Requests that the proxy could not answer, and why."""
        failed = (row for row in self.requests() if row.get("status", 0) >= 500)
        return [
            f"{r['status']} {r['path']}: {r['error']}, {r['reason']}, {r.get('cause', '')}" for r in failed
        ]

    def files(self) -> list[str]:
        """Paths of the whole files that were handed out, in the order of their requests."""
        whole = (r for r in self.requests("artifact") if r["method"] == "GET" and r["status"] == 200)
        return list(dict.fromkeys(r["path"] for r in whole if not r["path"].endswith(".metadata")))

    def sources(self, kind: str = "artifact") -> set[str]:
        return {row["source"] for row in self.requests(kind)}

    def _of(self, event: str, kind: str) -> list[Row]:
        return [r for r in self.rows if r["event"] == event and kind in ("", r.get("kind"))]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Proxy:
    """One run of `artifactproxy serve` on its own data folder."""

    def __init__(
        self,
        folder: Path,
        *,
        forwarder: Forwarder | None = None,
        provider: str = "pypi",
        upstream: str = "public",
        remote: str = "",
        top: str = "",
        listen: str = "127.0.0.1:0",
        with_file: bool = True,
        cafile: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        """One repository, named like its `provider`; `remote`: further YAML lines of it, each ending
        in a newline; `top`: the same of the whole. `cafile` signed its certificate. `said` grows by
        what the process prints.
        `env`: further variables of it and of its commands. Without `with_file` it is started as by a new user: no configuration, `./data`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "proxy.log"
        self._offset = self.log.stat().st_size if self.log.exists() else 0
        self._options: list[str] = []
        self._env = {**_environment(), **(env or {})}
        trusted = ssl.create_default_context(cafile=cafile) if cafile else None
        self._https = [urllib.request.HTTPSHandler(context=trusted)] if trusted else []
        if with_file:
            config = folder / "config.yaml"
            config.write_text(top + _config(provider, upstream, forwarder, remote))
            self._options = ["--config", str(config), "--data", str(self.data)]
        self._process = Child(
            [*_COMMAND, "serve", "--listen", listen, *self._options], self.log, folder, self._env
        )
        self.said = self._process.read_until(lambda line: line.startswith("more clients:"))
        self.url = self.said[0].rpartition(" ")[2]
        self.base = f"{self.url}/{provider}/"
        self.index = f"{self.url}/pypi/simple/"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def listen(self) -> str:
        return urlsplit(self.url).netloc

    def command(self, *arguments: str) -> tuple[int, Any]:
        """Run another command on the same data; its exit code and JSON answer."""
        done = subprocess.run(
            [*_COMMAND, arguments[0], "--json", *self._options, *arguments[1:]],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=self.folder,
            env=self._env,
        )
        assert done.stdout, f"{arguments} said nothing but {done.stderr}"
        return done.returncode, json.loads(done.stdout)

    def explain(self, path: str) -> Row:
        code, answer = self.command("explain", f"{self.base}{path}")
        assert code == 0, answer
        return dict(answer)

    def get(self, target: str, *, method: str = "GET", **headers: str) -> Answer:
        """One request for a path of the proxy, or for one of its URLs. No client in between."""
        request = urllib.request.Request(
            target if "://" in target else f"{self.url}/{target.lstrip('/')}",
            method=method,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _PlainStatus, *self._https)
        with opener.open(request, timeout=120) as answer:
            return Answer(answer.status, answer.headers, answer.read())

    @contextmanager
    def watch(self) -> Iterator[Seen]:
        """What the log says about this stretch; filled in when the block has ended well."""
        start = self._offset_now()
        seen = Seen()
        yield seen
        seen.rows.extend(self._settled(start))

    def signal(self, number: signal.Signals) -> None:
        self._process.signal(number)

    def said_now(self) -> list[str]:
        return self._process.lines_now()

    def wait(self) -> int:
        return self._process.wait()

    def stop(self) -> int:
        """The exit code."""
        return self._process.stop()

    def look_from_here(self) -> None:
        """What a process that was killed had begun never ends: its lines are not waited for."""
        self._offset = self.log.stat().st_size

    def _offset_now(self) -> int:
        self._settled(self._offset)
        return self.log.stat().st_size

    def _settled(self, start: int) -> list[Row]:
        """The log's lines from `start`, once every fill has ended and has been written."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while self._is_filling():
            assert time.monotonic() < deadline, "fills that do not end"
            time.sleep(0.05)
        mark = self.get("/setup").headers["X-Request-Id"]  # any request that is logged
        while True:
            rows = self._rows(start)
            named = {row["fill_id"] for row in rows if row["event"] == "request" and row.get("fill_id")}
            ended = {row.get("fill_id") for row in self._rows(self._offset) if row["event"] == "fill"}
            if named <= ended and any(row.get("request_id") == mark for row in rows):
                return [row for row in rows if row.get("request_id") != mark]
            assert time.monotonic() < deadline, f"lines missing from the log: {mark}, {named - ended}"
            time.sleep(0.05)

    def _is_filling(self) -> bool:
        """A fill without a reader (a teacher, a refresh) is named by no request."""
        return bool(control.call(self.data, "GET", "/stats")["running"]["fills"])

    def _rows(self, start: int) -> list[Row]:
        with self.log.open("rb") as file:
            file.seek(start)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        return [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]


class _PlainStatus(urllib.request.HTTPErrorProcessor):
    """Every status is an answer, redirects too."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        del request
        return response

    https_response = http_response


_COMMAND = [sys.executable, "-m", "artifactproxy"]


def _environment() -> dict[str, str]:
    """The caller's own, without settings for another proxy of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ARTIFACTPROXY_")}
    return {**kept, **trust.environment(), "PYTHONPATH": str(ROOT)}


def _config(provider: str, upstream: str, forwarder: Forwarder | None, remote: str) -> str:
    egress = ""
    if forwarder:
        # The forwarder looks up names for itself; a resolver that loses a packet needs 5 s more.
        egress = f"    egress: {{proxy: '{forwarder.url}'}}\n    limits: {{connect: 15s}}\n"
    repository = f"  {provider}:\n    provider: {provider}\n    upstream: {upstream}\n"
    return f"remotes:\n{repository}{egress}{remote}"


def address_of_this_machine() -> str:
    """An address that is not loopback, "" if there is none. No packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        found = str(probe.getsockname()[0])
    return "" if found.startswith("127.") else found
