"""PostgreSQL: nothing is synced to disk, and every login needs its password."""

from __future__ import annotations

import itertools
import os
import secrets
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from tests.needs import require

from .process import HOST, NotStarted, Server, one_per_process, wait_for

OWNER, OWNER_PASSWORD = "proxy", "pass:word/of the@proxy"
ADMIN, ADMIN_PASSWORD = "postgres", "admin"
_ENDS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class Postgres(Server):
    """`settings` are those of postgresql.conf. Databases belong to an ordinary role, so that all limits
    hold for it; the administrator's `admin_url` goes past them."""

    name = "postgres"
    account = "postgres"

    def __init__(
        self, folder: Path | None = None, *, port: int = 0, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(folder, port=port)
        self._bin = Path(require("postgres")).resolve().parent
        self._settings = dict(settings or {})
        self._numbers = itertools.count(1)

    def fresh_database(self) -> str:
        """An empty database; its address."""
        name = f"fresh_{os.getpid()}_{next(self._numbers)}_{secrets.token_hex(3)}"
        self.sql(f'CREATE DATABASE "{name}" OWNER {OWNER}')
        return self.url(name)

    def url(self, database: str) -> str:
        return f"postgresql://{OWNER}:{quote(OWNER_PASSWORD, safe='')}@{HOST}:{self.port}/{database}"

    def admin_url(self, database: str = "postgres") -> str:
        return f"postgresql://{ADMIN}:{ADMIN_PASSWORD}@{HOST}:{self.port}/{database}"

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run by the administrator; rows as text, columns divided by `|`."""
        wanted = ("-v", "ON_ERROR_STOP=1", "-XAtq", "-c", statement, self.admin_url(database))
        return self.run(str(self._bin / "psql"), *wanted).strip()

    def end(self, number: signal.Signals = signal.SIGINT) -> None:
        super().end(signal.SIGINT if number == signal.SIGTERM else number)

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "immediate") -> None:
        """Cut all connections (`immediate`: without a checkpoint, as after a crash) and come back."""
        self.end(_ENDS[mode])
        self.start()

    def prepare(self) -> None:
        if (self.folder / "data/PG_VERSION").exists():
            return
        password = self.write("password", ADMIN_PASSWORD)
        self.run(
            *(str(self._bin / "initdb"), "--no-sync", "--no-instructions", "--no-locale"),
            *("--encoding=UTF8", "--auth=scram-sha-256", f"--username={ADMIN}", f"--pwfile={password}"),
            *("-D", str(self.folder / "data")),
        )

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            "shared_buffers": "16MB",
            "max_connections": "60",
            "max_parallel_workers": "0",
            "wal_level": "replica",
            "max_wal_size": "128MB",
            "log_timezone": "UTC",
            "timezone": "UTC",
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._bin / "postgres"), "-D", str(self.folder / "data"), *options]

    def start(self) -> Postgres:
        super().start()
        wait_for(self.name, self._has_owner, self.log)
        return self

    def _has_owner(self) -> bool:
        try:
            if not self.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{OWNER}'"):
                self.sql(f"CREATE ROLE {OWNER} LOGIN PASSWORD '{OWNER_PASSWORD}'")
        except NotStarted as error:
            if "read-only" in str(error):  # a standby has its owner from the primary
                return True
            raise
        return True

    def answers(self) -> bool:
        asked = [str(self._bin / "pg_isready"), "-q", "-h", HOST, "-p", str(self.port), "-t", "2"]
        return subprocess.run(asked, check=False, timeout=10).returncode == 0


def shared() -> Postgres:
    return one_per_process(Postgres)
