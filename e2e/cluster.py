"""Three replicas behind nginx, with PostgreSQL, Redis and MinIO: everything real, on free ports."""

from __future__ import annotations

import secrets
import signal
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from e2e.backends import Backends
from e2e.nginx import free_port
from e2e.servers import Proxy
from tests.needs import require
from tests.servers import redis
from tests.servers.process import wait_for

REPLICAS = 3
BUDGET = "2s"
"""Three replicas, four servers and 200 clients share this machine: Redis may answer later than in 50 ms,
and whoever does not wait for it fetches for himself."""

_NGINX = """
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream replicas {{ {servers} keepalive 32; }}
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 0;
    location / {{
      proxy_pass http://replicas;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_buffering off;
      proxy_read_timeout 120s;
      proxy_next_upstream error timeout http_503;
    }}
  }}
}}
"""


class Balancer:
    """nginx in front of addresses; a replica that refuses a connection is passed over."""

    def __init__(self, folder: Path, listens: list[str]) -> None:
        folder.mkdir(parents=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        servers = " ".join(f"server {listen} max_fails=1 fail_timeout=1s;" for listen in listens)
        (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, port=self.port, servers=servers))
        command = [require("nginx"), "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"]
        self._process = subprocess.Popen(command, cwd=folder)
        wait_for("nginx", self._answers, (folder / "error.log").read_text)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(20)


class Cluster:
    """`replicas[n]` are `Proxy`s with data folders of their own; `start(n)` brings one (back)."""

    def __init__(
        self,
        folder: Path,
        remotes: str,
        *,
        top: str = "",
        count: int = REPLICAS,
    ) -> None:
        """`remotes`: YAML below `remotes:`, without a remote named generic."""
        self.folder = folder
        self.backends = Backends()
        self.redis = redis.shared()
        self._prefix = f"e2e-{secrets.token_hex(4)}:"
        self._remotes, self._top = remotes, top
        self.listens = [f"127.0.0.1:{free_port()}" for _ in range(count)]
        self.replicas: list[Proxy] = []
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._stop_replicas)
            for number in range(len(self.listens)):
                self.replicas.append(self.start(number))
            self.balancer = Balancer(self.folder / "nginx", self.listens)
            stack.callback(self.balancer.stop)
            self._running = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._running.close()

    def _stop_replicas(self) -> None:
        for replica in self.replicas:
            replica.stop()

    @property
    def url(self) -> str:
        return self.balancer.url

    def start(self, number: int) -> Proxy:
        replica = Proxy(
            self.folder / f"replica{number}",
            listen=self.listens[number],
            top=self.configuration(number),
            provider="generic",
            upstream="http://127.0.0.1:9/",
            remote=self._remotes,
            env=self._secrets(),
        )
        if number < len(self.replicas):
            self.replicas[number] = replica
        return replica

    def configuration(self, number: int) -> str:
        return f"""
{self.backends.store()}
{self.backends.index()}
coordination: {{kind: redis, url: {{env: E2E_REDIS}}, prefix: "{self._prefix}", budget: {BUDGET}}}
cluster: {{advertise: "http://{self.listens[number]}", secret: {{env: E2E_CLUSTER}}}}
{self._top}
"""

    def _secrets(self) -> dict[str, str]:
        shared = {"E2E_REDIS": self.redis.url, "E2E_CLUSTER": "a secret among the replicas"}
        return self.backends.env | shared

    def kill(self, number: int) -> None:
        self.replicas[number].signal(signal.SIGKILL)
        self.replicas[number].wait()
