"""Redis: everything in memory, so a restart forgets it all."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis

from tests.needs import require

from .process import HOST, Server, one_per_process


class Redis(Server):
    """`settings` are those of redis.conf; with a `password` nobody else is let in."""

    name = "redis"

    def __init__(
        self,
        folder: Path | None = None,
        *,
        port: int = 0,
        password: str = "",
        settings: dict[str, str] | None = None,
    ) -> None:
        super().__init__(folder, port=port)
        self._program = require("redis-server")
        self._password = password
        self._settings = dict(settings or {})

    @property
    def url(self) -> str:
        user = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis://{user}{HOST}:{self.port}/0"

    def fresh_prefix(self) -> str:
        """The beginning of keys that nobody else uses."""
        return f"fresh-{secrets.token_hex(6)}:"

    def command(self) -> list[str]:
        settings = {
            "bind": HOST,
            "port": str(self.port),
            "save": "",
            "appendonly": "no",
            "dir": str(self.folder),
            **({"requirepass": self._password} if self._password else {}),
            **self._settings,
        }
        return [self._program, *(part for name, value in settings.items() for part in (f"--{name}", value))]

    def answers(self) -> bool:
        super().answers()  # a client of its own would wait between its tries
        try:
            return bool(self.ask("PING"))
        except redis.RedisError:
            return False

    def ask(self, *command: str) -> Any:
        """One command of the administrator: `ask("FLUSHALL")`."""
        with redis.Redis.from_url(self.url, socket_timeout=5) as client:
            return client.execute_command(*command)


def shared() -> Redis:
    return one_per_process(Redis)
