"""nginx as a process, with the very text that docs/nginx.md shows."""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from e2e.servers import ROOT
from tests.chaos.certs import Authority
from tests.needs import require

START_SECONDS = 10.0
_BLOCK = re.compile(r"^```nginx\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def documented() -> tuple[str, str]:
    """The two configurations of the page: a host of its own, and under a path."""
    own, below = _BLOCK.findall((ROOT / "docs" / "nginx.md").read_text())
    return own, below


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Message
    body: bytes


class Nginx:
    """One run in front of `listen`; `url` is where it answers, with TLS by `authority`."""

    def __init__(self, folder: Path, text: str, listen: str, authority: Authority) -> None:
        folder.mkdir(parents=True)
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.cafile = str(authority.pem)
        cert, key = authority.issue("cache.example", "IP:127.0.0.1")
        for written, here in {
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "/etc/nginx/cache.example.pem": str(cert),
            "/etc/nginx/cache.example.key": str(key),
            "http://127.0.0.1:8080": f"http://{listen}",
        }.items():
            assert written in text
            text = text.replace(written, here)
        (folder / "nginx.conf").write_text(_whole(folder, text))
        self._log = folder / "error.log"
        command = [require("nginx"), "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"]
        self._process = subprocess.Popen(command, cwd=folder)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                said = self._log.read_text() if self._log.exists() else ""
                assert self._process.poll() is None and time.monotonic() < deadline, said
                time.sleep(0.02)
            else:
                return

    def get(self, target: str, *, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        """One request for exactly this target. A body that is cut raises `http.client.IncompleteRead`."""
        context = ssl.create_default_context(cafile=self.cafile)
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, target, body, named)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


def _whole(folder: Path, text: str) -> str:
    """The shown part, in a file that writes nowhere but into `folder`."""
    temporary = "\n".join(
        f"    {kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""
    return (
        f"{user}daemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\n"
        f"events {{}}\nhttp {{\n    access_log off;\n{temporary}\n{text}\n}}\n"
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
