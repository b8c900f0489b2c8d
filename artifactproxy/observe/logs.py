"""The log: one JSON object a line, one line a request and a fill, one for everything that is wrong.

Lines are formatted at once and written in batches. A log that cannot be written is dropped and
counted; it never stops the program and hardly ever makes it wait. No secret can enter: fields come
from `Outcome`, addresses lose their user information and query, and tokens of ours all but their name.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import stat
import time
from collections.abc import Callable
from operator import attrgetter

from artifactproxy.ports import Outcome
from artifactproxy.rules.credentials import masked

# Of one document these are mostly the same from request to request, and encoded once.
_FIELDS = (
    "repo", "provider", "kind", "method", "path", "status", "result", "reason", "source", "error", "cause",
    "sha256", "purl", "caller", "upstream_url", "upstream_status", "bytes", "resumes", "readers",
)  # fmt: skip
_read_fields = attrgetter(*_FIELDS)
_ENCODED_MAX = 4096
_FACT_LIMIT = 8192
_PIPE_WRITE = 4096  # POSIX: a pipe that polls writable takes this much without blocking
_BACKLOG_BYTES = 4 * 1024 * 1024
_LEVELS_WITHOUT_NOTICES = frozenset({"warning", "error"})

_as_json = json.JSONEncoder(separators=(",", ":"), default=str).encode
# What stands before `://` is not looked for: in a long word that would take the square of its length.
_URL = re.compile(r"(://)(?:[^\s/?#\"'@]*@)?([^\s?#\"'<>]*)(\?[^\s\"'<>]*)?")


def without_secrets(text: str) -> str:
    """`text` with every address in it cut down to scheme, host and path."""
    if "://" not in text:
        return text
    return _URL.sub(lambda m: f"{m[1]}{m[2]}{'?...' if m[3] else ''}", text)


def _encode(fields: dict[str, str | float]) -> str:
    """One line of ASCII JSON. The slow way is taken only for what needs to be cut or cleaned."""
    line = _as_json(fields)
    if "://" in line or len(line) > _FACT_LIMIT:
        line = _as_json({name: _clean(value) for name, value in fields.items()})
    # A token in a path, or where a client says which request this is.
    return masked(line.replace("\x7f", "\\u007f")) + "\n"


def _clean(value: str | float) -> str | float:
    if not isinstance(value, str):
        return value
    text = without_secrets(value)
    return text if len(text) <= _FACT_LIMIT else f"{text[:_FACT_LIMIT]}..."


class JsonLog:
    """Writes to the file descriptor `fd`, at most `every` seconds or `size` bytes late.

    `dropped` counts lines lost to a full disk, a closed pipe or a reader that does not keep up. At the
    `level`s `warning` and `error` only warnings are written: there is nothing above them.
    """

    def __init__(
        self,
        fd: int = 2,
        *,
        every: float = 0.1,
        size: int = 64 * 1024,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.dropped = 0
        self.level = "info"
        self._fd = fd
        self._every = every
        self._size = size
        self._clock = clock
        self._encoded: dict[tuple[object, ...], str] = {}
        self._lines: list[bytes] = []
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._second = (0, "")
        self._is_file = _is_regular(fd)

    def outcome(self, outcome: Outcome) -> None:
        """One line; empty fields are left out."""
        if self.level in _LEVELS_WITHOUT_NOTICES:
            return
        values = _read_fields(outcome)
        rest = self._encoded.get(values)
        if rest is None or outcome.extra:
            line = {name: value for name, value in zip(_FIELDS, values, strict=True) if value}
            if "?" in outcome.path:
                line["path"] = outcome.path.partition("?")[0]
            rest = _encode({**outcome.extra, **line})[1:]
            if not outcome.extra:
                self._remember(values, rest)
        ids = f'"request_id":"{outcome.request_id}",' if outcome.request_id else ""
        ids += f'"fill_id":"{outcome.fill_id}",' if outcome.fill_id else ""
        times = f'"first_byte_seconds":{outcome.first_byte_seconds:.6f},"seconds":{outcome.seconds:.6f}'
        times += "," if len(rest) > 2 else ""
        self._add(f'{{"time":"{self._time()}","event":"{outcome.what}",{ids}{times}{rest}')

    def _remember(self, values: tuple[object, ...], line: str) -> None:
        if len(self._encoded) >= _ENCODED_MAX:
            self._encoded.clear()
        self._encoded[values] = line

    def notice(self, event: str, **facts: str | float) -> None:
        if self.level in _LEVELS_WITHOUT_NOTICES:
            return
        self._add(f'{{"time":"{self._time()}",{_encode({"event": event, **facts})[1:]}')

    def warning(self, event: str, **facts: str | float) -> None:
        line = _encode({"warning": event, **facts})
        self._add(f'{{"time":"{self._time()}","event":"warning",{line[1:]}')

    def flush(self) -> None:
        """Write what is waiting, as far as it can be written without waiting."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines, self._bytes = self._lines, [], 0
        rest = self._write(b"".join(lines))
        if rest:
            self._keep(rest)

    def close(self) -> None:
        """Flush; what still cannot be written is dropped."""
        self.flush()
        self._drop()

    def _time(self) -> str:
        now = self._clock()
        second = int(now)
        if self._second[0] != second:
            self._second = (second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)))
        return f"{self._second[1]}.{int((now - second) * 1000):03d}Z"

    def _add(self, line: str) -> None:
        if self._bytes > _BACKLOG_BYTES:
            self.dropped += 1
            return
        self._lines.append(line.encode("ascii"))
        self._bytes += len(line)
        if self._bytes >= self._size:
            self.flush()
        elif self._timer is None:
            self._schedule()

    def _schedule(self) -> None:
        try:
            self._timer = asyncio.get_running_loop().call_later(self._every, self.flush)
        except RuntimeError:  # no loop: start, shutdown or a command
            self.flush()

    def _keep(self, rest: bytes) -> None:
        """A reader that is merely slow gets its lines later."""
        self._lines.insert(0, rest)
        self._bytes += len(rest)
        if self._bytes > _BACKLOG_BYTES:
            self._drop()
        elif self._timer is None:
            try:
                self._timer = asyncio.get_running_loop().call_later(self._every, self.flush)
            except RuntimeError:
                self._drop()

    def _drop(self) -> None:
        self.dropped += sum(lines.count(b"\n") for lines in self._lines)
        self._lines, self._bytes = [], 0

    def _write(self, text: bytes) -> bytes:
        """Returns what would have had to wait."""
        at = 0
        while at < len(text):
            try:
                if self._is_file:
                    at += os.write(self._fd, text[at:])
                elif _is_ready(self._fd):
                    # Several processes may write to one pipe: whole lines stay whole.
                    end = text.rfind(b"\n", at, at + _PIPE_WRITE) + 1
                    at += os.write(self._fd, text[at : end or at + _PIPE_WRITE])
                else:
                    return text[at:]
            except (BlockingIOError, InterruptedError):
                return text[at:]
            except (OSError, ValueError):
                self.dropped += text.count(b"\n", at)
                return b""
        return b""


def _is_regular(fd: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False


def _is_ready(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    events = poll.poll(0)
    return bool(events)
