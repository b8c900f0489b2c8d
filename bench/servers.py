"""The programs under measurement: started on chosen cores, watched by id, ended by id."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from bench.model import CannotMeasure

_START_SECONDS = 20.0
_STOP_SECONDS = 15.0
_ROOT = Path(__file__).parent.parent
_SBIN = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def tool(name: str) -> str:
    """The full path of a program. Raises `CannotMeasure` where there is none."""
    found = shutil.which(name, path=_SBIN)
    if found is None:
        raise CannotMeasure(f"needs {name}: apt-get install {name}")
    return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _pinned(command: Sequence[str], cores: frozenset[int]) -> list[str]:
    return [tool("taskset"), "-c", ",".join(map(str, sorted(cores))), *command]


def run_pinned(
    command: Sequence[str], cores: frozenset[int], timeout: float, env: dict[str, str] | None = None
) -> str:
    """What a program printed. Raises `CannotMeasure` if it fails or takes more than `timeout` seconds."""
    with subprocess.Popen(
        _pinned(command, cores),
        cwd=_ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            printed, complaint = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise CannotMeasure(f"{Path(command[0]).name} took more than {timeout:g} s") from error
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise CannotMeasure(f"{Path(command[0]).name} failed: {complaint.strip()[-600:]}")
    return printed


class Server:
    """A running program with its port; ended with the `with` block."""

    def __init__(
        self,
        command: Sequence[str],
        cores: frozenset[int],
        output: Path,
        env: dict[str, str] | None = None,
    ) -> None:
        self._output = output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                _pinned(command, cores),
                cwd=_ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid
        self.started = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def printed(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_for(self, port: int, path: str, status: int = 200) -> float:
        """Seconds from the start to the end of the first answer with `status`."""
        deadline = self.started + _START_SECONDS
        while time.perf_counter() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
                connection.close()
                if answer.status == status:
                    return time.perf_counter() - self.started
            time.sleep(0.002)
        raise CannotMeasure(f"no {status} from {path}: {self.printed().strip()[-600:]}")


def proxy_command(port: int, data: Path, config: Path) -> list[str]:
    address = f"127.0.0.1:{port}"
    flags = ["--listen", address, "--data", str(data), "--config", str(config)]
    return [sys.executable, "-m", "artifactproxy", "serve", *flags]


@contextlib.contextmanager
def proxy(
    folder: Path,
    cores: frozenset[int],
    remotes: str = "",
    *,
    keep: bool = False,
    port: int = 0,
    env: Mapping[str, str] | None = None,
) -> Iterator[tuple[Server, int]]:
    """Our own server in `folder`, its default log going to a file; the folder goes with it unless kept.

    `env` is added to the environment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, log, port = folder / "config.yaml", folder / "requests.log", port or free_port()
    environment = {**os.environ, **env} if env else None
    config.write_text(f"log: {{file: '{log}'}}\n{remotes}")
    try:
        command = proxy_command(port, folder / "data", config)
        with Server(command, cores, folder / "output", environment) as server:
            server.wait_for(port, "/livez")
            yield server, port
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def remotes_of(origin_port: int) -> str:
    """Two remotes: plain files without a promise, and an index that promises digests."""
    root = f"http://127.0.0.1:{origin_port}"
    return (
        f"remotes:\n  files: {{provider: generic, upstream: '{root}/'}}\n"
        f"  index: {{provider: pypi, upstream: '{root}/simple/'}}\n"
    )


_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
{user}
events {{ worker_connections 4096; }}
http {{
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  types {{ text/html html; }}
  default_type application/octet-stream;
  sendfile on; tcp_nopush off; tcp_nodelay on;
  keepalive_timeout 60s; keepalive_requests 1000000000;
  access_log off;
{body}
}}
"""

_ORIGIN = """
  log_format counted '$request_method $status $request_uri "$http_range"';
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    root {root};
    index index.html;
    default_type {media_type};
    access_log {folder}/access.log counted;
    rewrite ^/as/[^/]+/([^/]+)/ /$1 break;
  }}
"""

_CACHE = """
  open_file_cache max=1000 inactive=60s; open_file_cache_valid 60s;
  proxy_cache_path {folder}/cache levels=1:2 keys_zone=c:16m max_size=100g inactive=1d use_temp_path=off;
  upstream origin {{ server 127.0.0.1:{origin}; keepalive 64; }}
"""

_CACHE_SERVER = """
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    access_log {log};
    location /static/ {{ alias {root}/; }}
    location / {{
      proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_cache c; proxy_cache_valid 200 1d;
    }}
  }}
"""


@contextlib.contextmanager
def _nginx(folder: Path, cores: frozenset[int], body: str, port: int, probe: str) -> Iterator[Server]:
    program = tool("nginx")
    folder.mkdir(parents=True, exist_ok=True)
    # A master that runs as root gives its worker to nobody, who may not enter our folder.
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, body=body, user=user))
    command = [program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    try:
        with Server(command, cores, folder / "output") as server:
            server.wait_for(port, probe)
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Origin:
    """The upstream of everything: static files; `/as/KEY/FILE/NAME` is FILE under as many names as wanted."""

    def __init__(self, port: int, root: Path, log: Path) -> None:
        self.port = port
        self.root = root
        self._log = log

    def gets(self, path: str) -> int:
        """How many whole-file GETs arrived for `path`."""
        return sum(
            1
            for line in self._log.read_text().splitlines()
            if re.match(rf'GET \d+ {re.escape(path)} "-"$', line)
        )


@contextlib.contextmanager
def origin(
    folder: Path, root: Path, cores: frozenset[int], media_type: str = "application/octet-stream"
) -> Iterator[Origin]:
    root.mkdir(parents=True, exist_ok=True)
    (root / "ready").write_bytes(b"ready\n")
    port = free_port()
    body = _ORIGIN.format(folder=folder, root=root, port=port, media_type=media_type)
    with _nginx(folder, cores, body, port, "/ready"):
        yield Origin(port, root, folder / "access.log")


@contextlib.contextmanager
def nginx_limited(folder: Path, root: Path, cores: frozenset[int], rate: str) -> Iterator[int]:
    """Files of `root`, each connection limited to `rate` as nginx spells it; the port."""
    (root / "ready").write_bytes(b"ready\n")
    port = free_port()
    body = _ORIGIN.format(folder=folder, root=root, port=port, media_type="application/octet-stream")
    with _nginx(folder, cores, f"limit_rate {rate};\n{body}", port, "/ready"):
        yield port


@contextlib.contextmanager
def nginx_cache(folder: Path, of: Origin, cores: frozenset[int]) -> Iterator[tuple[Server, int, int]]:
    """nginx with an empty proxy_cache before the origin, and the origin's files under /static/.

    The second of the two ports writes an access log.
    """
    port, logged_port = free_port(), free_port()
    body = _CACHE.format(folder=folder, origin=of.port)
    body += _CACHE_SERVER.format(port=port, root=of.root, log="off")
    body += _CACHE_SERVER.format(port=logged_port, root=of.root, log=f"{folder}/access.log combined")
    with _nginx(folder, cores, body, port, "/static/ready") as server:
        yield server, port, logged_port
