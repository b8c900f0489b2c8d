"""What is told about requests and fills, and to whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(slots=True)
class Outcome:
    """One record per request or per fill: measured once, reported as log line and metrics.

    `what` is `request` or `fill`. `result` for requests: `hit`, `miss`, `stale`, `revalidated`,
    `absent`, `relay`, `local`, `error`; for fills: `stored`, `refreshed`, `absent`, `unstored`,
    `failed`, and where another process stores it: `followed`, `landed`. Seconds are durations.
    """

    what: str
    repo: str = ""
    provider: str = ""
    kind: str = ""
    method: str = ""
    path: str = ""
    status: int = 0
    result: str = ""
    reason: str = ""
    source: str = ""
    error: str = ""
    cause: str = ""
    sha256: str = ""
    purl: str = ""
    caller: str = ""
    request_id: str = ""
    fill_id: str = ""
    upstream_url: str = ""
    upstream_status: int = 0
    bytes: int = 0
    resumes: int = 0
    readers: int = 0
    first_byte_seconds: float = 0.0
    seconds: float = 0.0
    extra: dict[str, str | float] = field(default_factory=dict)


class Observer(Protocol):
    """Where outcomes and warnings go. Never raises, never blocks."""

    def outcome(self, outcome: Outcome) -> None: ...

    def notice(self, event: str, **facts: str | float) -> None:
        """Something an operator may want to know; `event` is a stable slug."""

    def warning(self, event: str, **facts: str | float) -> None:
        """Something is wrong and this was done about it; `event` is a stable slug."""

    def gauge(self, name: str, value: float, **labels: str) -> None: ...

    def increment(self, name: str, amount: float = 1, **labels: str) -> None: ...
