"""What proves to an upstream who we are. Secrets are bound to an origin by `RemoteAccess`, never
to a request, and no representation shows them.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Basic:
    """User and password (RFC 7617); sent as UTF-8."""

    user: str
    password: str = field(repr=False)

    def header(self) -> str:
        return "Basic " + b64encode(f"{self.user}:{self.password}".encode()).decode("ascii")


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token as it stands (RFC 6750)."""

    token: str = field(repr=False)

    def header(self) -> str:
        return f"Bearer {self.token}"


Credential = Basic | Bearer
