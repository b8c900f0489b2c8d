"""Who signs requests, and by which clock.

botocore's own signer with two changes: its clock may be shifted to that of the server, and the hash of
a body is given to it instead of being computed. It is registered under a name of its own, so that
control calls, bodies and presigned addresses are all signed by it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Any

from aiobotocore.credentials import AioCredentials
from botocore.auth import AUTH_TYPE_MAPS, SIGV4_TIMESTAMP, S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError

from artifactproxy.stores.s3.trouble import Keyless

if TYPE_CHECKING:
    from aiobotocore.session import AioSession

NAME = "artifactproxy-s3v4"
UNSIGNED = "UNSIGNED-PAYLOAD"
_PLAIN = frozenset({"v4", "s3v4", "s3", "v4-query", "s3v4-query", "s3-query"})


class _Shifted:
    """`clock_shift` in the context of a request: seconds that the server's clock is ahead of ours."""

    def _modify_request_before_signing(self, request: AWSRequest) -> None:
        shift = request.context.get("clock_shift", 0.0)
        if shift:
            now = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=shift)
            request.context["timestamp"] = now.strftime(SIGV4_TIMESTAMP)
        super()._modify_request_before_signing(request)  # type: ignore[misc]


class HeaderSigner(_Shifted, S3SigV4Auth):  # type: ignore[misc]
    """Signs by headers. A `body_sha256` in the context is signed as it is."""

    def payload(self, request: AWSRequest) -> str:
        given = request.context.get("body_sha256")
        return given if given is not None else super().payload(request)  # type: ignore[no-any-return]


class QuerySigner(_Shifted, S3SigV4QueryAuth):  # type: ignore[misc]
    """Signs by the query: for addresses that others use."""


AUTH_TYPE_MAPS[NAME] = HeaderSigner
AUTH_TYPE_MAPS[f"{NAME}-query"] = QuerySigner


def choose(signature_version: str, **_: Any) -> str | None:
    """For the event `choose-signer.s3`: ours in the place of the plain one."""
    return NAME if signature_version in _PLAIN else None


class Credentials(AioCredentials):  # type: ignore[misc]
    """Keys asked for at every request; `forget` makes the next one look for new ones."""

    def __init__(self, session: AioSession, fixed: AioCredentials | None) -> None:
        super().__init__("", "", method="artifactproxy")
        self._chain = session.get_component("credential_provider")
        self._fixed = fixed
        self._held: AioCredentials | None = fixed
        self._lock = asyncio.Lock()

    def forget(self) -> None:
        if self._fixed is None:
            self._held = None

    async def get_frozen_credentials(self) -> Any:
        """Raises `Keyless`."""
        try:
            async with self._lock:
                if self._held is None:
                    self._held = await self._chain.load_credentials()
            if self._held is None:
                raise Keyless
            return await self._held.get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:  # the second: a token service that refuses
            raise Keyless from error


class Provider:
    """What a session asks instead of its chain."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def load_credentials(self) -> Credentials:
        return self._credentials
