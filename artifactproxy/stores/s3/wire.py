"""How requests reach the bucket: control calls through aiobotocore, bodies through our own client.

A body leaves as slices that are read when the socket wants them, with its length announced, and arrives
in the pieces the socket gives. Both ways share credentials, the server's clock, TLS trust and retries;
an eighth of the connections is kept for control calls.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import aiohttp
from aiobotocore.credentials import AioCredentials
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError
from yarl import URL

from artifactproxy.errors import StoreAway, StoreUnavailable
from artifactproxy.ports import Observer
from artifactproxy.stores.s3 import models, signing
from artifactproxy.stores.s3.budget import Gate
from artifactproxy.stores.s3.clients import bodies_session, control_config, stay, trust
from artifactproxy.stores.s3.options import S3Options
from artifactproxy.stores.s3.replies import (
    UNREADABLE,
    Thing,
    date_of,
    document,
    document_of,
    kind_of,
    kind_of_sdk,
    lower,
    refusal_of,
    thing_of,
)
from artifactproxy.stores.s3.retries import Retries
from artifactproxy.stores.s3.sending import Sending
from artifactproxy.stores.s3.sources import Marks, Source
from artifactproxy.stores.s3.trouble import Answered, Cure, Unreached, code_in, cure_of, is_absent

AGENT = "artifactproxy"


class Wire:
    """Started before use. Keys given here stand below the prefix of the options."""

    def __init__(self, options: S3Options, *, observer: Observer | None, rng: Callable[[], float]) -> None:
        self.options = options
        self._shift = 0.0
        self._region = ""
        self._base = ""
        self._stack = AsyncExitStack()
        self._closed = False
        self._client: Any = None
        self._http: aiohttp.ClientSession | None = None
        self._credentials: signing.Credentials | None = None
        control = max(1, options.connections // 8)
        self._control = control
        self._bodies = max(1, options.connections - control)
        # Clients that read slowly must leave connections for what is being stored.
        self._readers = Gate(max(1, self._bodies - max(1, self._bodies // 4)))
        self._retries = Retries(
            options.tries,
            silence=options.read,
            renew=self._renew,
            shift=self._set_clock,
            rng=rng,
            observer=observer,
        )

    async def start(self) -> None:
        """Make the clients. Raises `Keyless`, and `StoreUnavailable` for a CA file that holds none."""
        options = self.options
        context = await asyncio.to_thread(trust, options.ca)
        session = models.session()
        fixed = None
        if options.access_key:
            fixed = AioCredentials(options.access_key, options.secret_key, options.session_token or None)
        self._credentials = signing.Credentials(session, fixed)
        session.register_component("credential_provider", signing.Provider(self._credentials))
        await self._credentials.get_frozen_credentials()
        try:
            self._client = await self._stack.enter_async_context(
                session.create_client(
                    "s3",
                    region_name=options.region or None,
                    endpoint_url=options.endpoint,
                    config=control_config(options, context, self._control),
                )
            )
        except (BotoCoreError, ValueError) as error:
            raise StoreUnavailable(f"store.endpoint or store.region cannot be used: {error}") from error
        events = self._client.meta.events
        events.register_first("choose-signer.s3", signing.choose)
        events.register_first("before-sign.s3", self._before_sign)
        events.register_last("before-call.s3", stay)
        await self._find_base()
        self._http = await self._stack.enter_async_context(bodies_session(options, context, self._bodies))

    async def _find_base(self) -> None:
        """What stands before a key, by the rules of the SDK for endpoints and addressing styles."""
        try:
            url = await self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self.options.bucket, "Key": "k"}, ExpiresIn=1
            )
        except BotoCoreError as error:
            raise StoreUnavailable(
                f"bucket {self.options.bucket!r} is no name that S3 allows: set store.bucket"
            ) from error
        parts = urlsplit(url)
        scope = parse_qs(parts.query)["X-Amz-Credential"][0].split("/")
        self._region = scope[-3]
        self._base = f"{parts.scheme}://{parts.netloc}{parts.path[:-1]}"

    async def close(self) -> None:
        self._closed = True
        await self._stack.aclose()
        for _ in range(3):  # of the loop, in which transports close
            await asyncio.sleep(0)

    # --- who we are -------------------------------------------------------------------------

    def _renew(self) -> None:
        if self._credentials is not None:
            self._credentials.forget()

    def _set_clock(self, headers: Mapping[str, str]) -> None:
        self._shift = date_of(headers, "date", time.time()) - time.time()

    def _before_sign(self, request: AWSRequest, **_: Any) -> None:
        request.context["clock_shift"] = self._shift

    async def _signed(self, method: str, url: str, headers: Mapping[str, str], sha256: str) -> dict[str, str]:
        request = AWSRequest(method, url, dict(headers))
        request.context["clock_shift"] = self._shift
        request.context["body_sha256"] = sha256 or signing.UNSIGNED
        if self._credentials is None:
            raise StoreAway("the blob store is not started")
        keys = await self._credentials.get_frozen_credentials()
        signing.HeaderSigner(keys, "s3", self._region).add_auth(request)
        return dict(request.headers.items())

    # --- control calls ----------------------------------------------------------------------

    async def call(
        self,
        operation: str,
        /,
        *,
        tries: int | None = None,
        sending: Callable[[], None] | None = None,
        **parameters: Any,
    ) -> dict[str, Any]:
        """One operation of the SDK, by its Python name; `Bucket` is added. The names of the headers of
        the answer, under `ResponseMetadata`, are in lower case. `sending` is told before each try.

        Raises `Answered`, `StoreAway`.
        """

        async def attempt() -> dict[str, Any]:
            self._refuse_closed()
            if sending is not None:
                sending()
            ask = getattr(self._client, operation)
            try:
                return await ask(Bucket=self.options.bucket, **parameters)  # type: ignore[no-any-return]
            except ClientError as error:
                raise refusal_of(operation, error) from error
            except (BotoCoreError, *UNREADABLE) as error:
                raise Unreached(operation, kind_of_sdk(error)) from error

        return await self._retries.run(operation, attempt, tries)

    async def presigned(self, key: str, seconds: int, **shown: str) -> str:
        """A URL that anybody may GET for that long; `shown` are `Response...` parameters."""
        self._refuse_closed()
        parameters = {"Bucket": self.options.bucket, "Key": self.options.prefix + key, **shown}
        url = await self._client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=seconds)
        return str(url)

    # --- objects ----------------------------------------------------------------------------

    async def head(self, key: str) -> Thing | None:
        """What lies under a key; None is known absence. Raises `Answered`, `StoreAway`."""
        # The answer to a HEAD has no body that could tell a missing object from a missing bucket.
        with suppress(Answered, ValueError):
            return await self._retries.run("head_object", lambda: self._look(key, "HEAD", {}), waited=True)
        first = {"Range": "bytes=0-0"}
        try:
            return await self._retries.run("get_object", lambda: self._look(key, "GET", first), waited=True)
        except ValueError as error:
            raise StoreAway("the bucket does not say how large an object is") from error
        except Answered as trouble:
            if is_absent(trouble):
                return None
            if trouble.status == 416:  # it is empty
                return thing_of(trouble.headers, 0)
            raise

    async def _look(self, key: str, method: str, headers: Mapping[str, str]) -> Thing:
        """One request. Raises also ValueError, where it does not tell the size."""
        operation = f"{method.lower()}_object"
        reply = await self._exchange(operation, method, key, headers)
        try:
            size = reply.headers.get("Content-Length", "")
            if reply.status == 206:
                size = reply.headers.get("Content-Range", "").rpartition("/")[2]
                await document_of(operation, reply)
            return thing_of(reply.headers, int(size))
        finally:
            # More than a byte is not waited for.
            reply.close() if method == "GET" and reply.status == 200 else reply.release()

    async def get(
        self, key: str, headers: Mapping[str, str], *, tries: int | None = None
    ) -> aiohttp.ClientResponse:
        """An open answer, 200 or 206, whose body the caller reads and closes; see `reader`.

        Raises `Answered`, `StoreAway`.
        """
        return await self._retries.run(
            "get_object", lambda: self._exchange("get_object", "GET", key, headers), tries, waited=True
        )

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[None]:
        """A place for one body that is read, waited for at most as long as for an answer."""
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self.options.read):
                    await stack.enter_async_context(self._readers.hold())
            except TimeoutError as error:
                raise StoreAway("all connections to the bucket are busy", retry_after=1.0) from error
            yield

    async def put(
        self,
        key: str,
        source: Source,
        span: tuple[int, int],
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        marks: Marks | None = None,
        tries: int | None = None,
    ) -> Mapping[str, str]:
        """PUT a span of `source`; returns the headers of the answer, in lower case. With `query` it is a part.

        Raises `Answered`, `StoreAway`, `SourceFailed`.
        """
        operation = "upload_part" if query else "put_object"
        start, stop = span
        sent = {"Content-Length": str(stop - start), **(headers or {})}

        async def attempt() -> Mapping[str, str]:
            source.expect(start, stop)
            body = Sending(source, start, stop, self.options.read)
            sha256 = marks.sha256 if marks else ""
            try:
                async with asyncio.timeout(None) as body.deadline:
                    reply = await self._exchange(
                        operation, "PUT", key, sent, query=query, body=body, sha256=sha256
                    )
                    await document_of(operation, reply)
            except TimeoutError as error:
                raise Unreached(operation, "timeout") from error
            finally:
                body.end()
            reply.release()
            return lower(reply.headers)

        return await self._retries.run(operation, attempt, tries)

    async def probe(self) -> None:
        """List one key below the prefix, which needs everything but the right to write.

        Raises `Answered`, `Unreached`, `Keyless`: nothing is tried again, but for another clock, and no
        redirect is followed.
        """
        try:
            await self._list_one()
        except Answered as trouble:
            if cure_of(trouble) is not Cure.SHIFT:
                raise
            self._set_clock(trouble.headers)
            await self._list_one()

    async def _list_one(self) -> None:
        query = {"list-type": "2", "max-keys": "1", "prefix": self.options.prefix}
        reply = await self._exchange("list_objects_v2", "GET", "", {}, query=query)
        text = await document_of("list_objects_v2", reply)
        reply.release()
        if b"<ListBucketResult" not in text:
            raise Unreached("list_objects_v2", "garbage")

    async def _exchange(
        self,
        operation: str,
        method: str,
        key: str,
        headers: Mapping[str, str],
        *,
        query: Mapping[str, str] | None = None,
        body: Sending | None = None,
        sha256: str = "",
    ) -> aiohttp.ClientResponse:
        """One request; the answer is open, and a success. Raises `Answered`, `Unreached`,
        `SourceFailed`, `Keyless`."""
        self._refuse_closed()
        url = self._url(key, query)
        if body is None and self.options.sign_payload:
            sha256 = _EMPTY
        signed = await self._signed(method, url, {"User-Agent": AGENT, **headers}, sha256)
        try:
            assert self._http is not None
            reply = await self._http.request(
                method,
                URL(url, encoded=True),
                headers=signed,
                data=None if body is None else body.data(),
                allow_redirects=False,
            )
            if reply.status < 300 and (not key or "ETag" in reply.headers):
                return reply
            text = await document(reply)
            reply.release()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if body is not None and body.failure is not None:
                raise body.failure from error
            raise Unreached(operation, kind_of(error)) from error
        if reply.status < 300:  # a portal, a proxy: whatever it is, it is no object
            raise Unreached(operation, "garbage")
        raise Answered(operation, reply.status, code_in(text), lower(reply.headers))

    def _url(self, key: str, query: Mapping[str, str] | None) -> str:
        path = quote(self.options.prefix + key, safe="/~") if key else ""
        rest = "&".join(f"{name}={quote(value, safe='~')}" for name, value in (query or {}).items())
        return f"{self._base}{path}?{rest}" if rest else f"{self._base}{path}"

    def _refuse_closed(self) -> None:
        if self._closed or self._client is None:
            raise StoreUnavailable("the blob store is closed")


_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
