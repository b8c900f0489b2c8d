"""PgBouncer in front of a `Postgres`, pooling transactions: nothing of a session outlives one."""

from __future__ import annotations

import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from tests.needs import require

from . import postgres
from .postgres import ADMIN, ADMIN_PASSWORD, OWNER, OWNER_PASSWORD, Postgres
from .process import HOST, Server, one_per_process


class PgBouncer(Server):
    """`with PgBouncer(server) as pooled: pooled.url(server.fresh_database())`. `pool` connections to
    each database for all clients together."""

    name = "pgbouncer"
    account = "postgres"

    def __init__(
        self,
        server: Postgres,
        folder: Path | None = None,
        *,
        port: int = 0,
        pool: int = 5,
        clients: int = 100,
    ) -> None:
        super().__init__(folder, port=port)
        self._program = require("pgbouncer")
        self._ready = str(Path(require("postgres")).resolve().parent / "pg_isready")
        self._server = server
        self._sizes = {"default_pool_size": pool, "max_client_conn": clients}

    def url(self, database_url: str) -> str:
        """The same database, through here."""
        parts = urlsplit(database_url)
        login = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{login}@{HOST}:{self.port}").geturl()

    def prepare(self) -> None:
        users = {ADMIN: ADMIN_PASSWORD, OWNER: OWNER_PASSWORD}
        self.write("users", "".join(f'"{name}" "{password}"\n' for name, password in users.items()))
        settings = {
            "listen_addr": HOST,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": self.folder / "users",
            "pool_mode": "transaction",
            "server_login_retry": 1,
            **self._sizes,
        }
        lines = [
            "[databases]",
            f"* = host={HOST} port={self._server.port}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in settings.items()),
        ]
        self.write("pgbouncer.ini", "\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [self._program, str(self.folder / "pgbouncer.ini")]

    def answers(self) -> bool:
        asked = [self._ready, "-q", "-h", HOST, "-p", str(self.port), "-t", "2", "-U", OWNER]
        return subprocess.run(asked, check=False, timeout=10).returncode == 0


def shared() -> PgBouncer:
    """In front of the shared server."""
    return one_per_process(PgBouncer, postgres.shared())
