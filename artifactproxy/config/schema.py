"""What may be written: one frozen model per section. Types only; layers and secrets are `load`'s.

Keys that design and documentation promise for later versions stand here with a refusal that says
so, which is kinder than calling them unknown. The sections of limits are in `bounds`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from artifactproxy import limits
from artifactproxy.config import values
from artifactproxy.config.bounds import (
    DownloadSection,
    Duration,
    LimitsSection,
    RemoteLimitsSection,
    Section,
    Size,
)

_POLICY = limits.Policy()


def _each(check: Callable[[str], str]) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    return lambda texts: tuple(check(text) for text in texts)


def _texts(written: object) -> object:
    return tuple(written) if isinstance(written, list) else written


def _one_or_more(written: object) -> object:
    many = (written,) if isinstance(written, str) else _texts(written)
    if many == ():
        raise ValueError("needs at least one address")
    return many


def _pattern(text: str) -> str:
    if not text:
        raise ValueError("an empty pattern matches nothing")
    return text


def _secret_or_proxy(written: object) -> object:
    return values.proxy_url(written) if isinstance(written, str) else values.secret(written)


def _shown(value: object) -> object:
    return value.shown() if isinstance(value, values.SecretRef) else value


def _refusal(sentence: str) -> PydanticCustomError:
    """A capability of a later version; `load` then says nothing about the keys beside it."""
    return PydanticCustomError("later", "{sentence}", {"sentence": sentence})


def _later(what: str, instead: str) -> BeforeValidator:
    def judge(written: object) -> object:
        if written not in (None, {}, []):
            raise _refusal(f"{what} not available in this version; {instead}")
        return written

    return BeforeValidator(judge)


Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
Patterns = Annotated[Texts, AfterValidator(_each(_pattern))]
Networks = Annotated[Texts, AfterValidator(_each(values.network))]
Hosts = Annotated[Texts, AfterValidator(_each(values.host_port))]
Secret = Annotated[values.SecretRef, BeforeValidator(values.secret), PlainSerializer(_shown)]


class Basic(Section):
    user: str
    password: Secret


class Auth(Section):
    basic: Basic | None = None
    bearer: Secret | None = None

    @model_validator(mode="after")
    def _one(self) -> Auth:
        if (self.basic is None) == (self.bearer is None):
            raise ValueError("must hold either basic: {user: ..., password: ...} or bearer: ...")
        return self


class Rules(Section):
    immutable: Patterns = ()
    mutable: Patterns = ()
    refuse: Patterns = ()


class Egress(Section):
    proxy: Annotated[
        str | values.SecretRef | None,
        BeforeValidator(lambda w: w if w is None else _secret_or_proxy(w)),
        PlainSerializer(_shown),
    ] = None
    no_proxy: Texts = ()
    ca: str | None = None


class Remote(Section):
    provider: str = ""
    upstream: Annotated[
        tuple[str, ...], BeforeValidator(_one_or_more), AfterValidator(_each(values.upstream))
    ] = (values.PUBLIC,)
    auth: Auth | None = None
    ttl: Duration | None = None
    negative_ttl: Duration | None = None
    stale_if_error: Duration = _POLICY.stale_if_error
    stale_while_revalidate: Duration = _POLICY.stale_while_revalidate
    min_revalidate: Duration = _POLICY.min_revalidate
    offline: bool = _POLICY.offline
    accept_unframed: bool = _POLICY.accept_unframed
    cold_ranges: Literal["relay", "wait"] = "relay"
    rules: Rules = Rules()
    deny_tags: Patterns = ()
    file_hosts: Annotated[Texts, AfterValidator(_each(values.file_host))] = ()
    allow_private: Networks = ()
    egress: Egress = Egress()
    limits: RemoteLimitsSection = Field(default_factory=RemoteLimitsSection)
    download: DownloadSection = Field(default_factory=DownloadSection)

    @model_validator(mode="after")
    def _places(self) -> Remote:
        most, asked = self.limits.connections_per_host, self.download.max_per_host
        if "max_per_host" in self.download.model_fields_set and asked > most:
            raise ValueError(
                f"download.max_per_host: {asked} cannot be more than limits.connections_per_host, which is {most}"
            )
        return self


class Local(Section):
    """A repository that takes pushes."""

    provider: Literal["oci"] = "oci"
    immutable_tags: bool = False
    deletes: bool = True


class Tls(Section):
    cert: Annotated[str, Field(min_length=1)]
    key: Annotated[str, Field(min_length=1)]


class Access(Section):
    read: Literal["open", "token"] = "open"


class Kinded(Section):
    """A section whose keys depend on its `kind`; `of` says to which kind a key belongs."""

    of: ClassVar[dict[str, str]] = {}

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        kind = getattr(self, "kind", "")
        for key in sorted(self.model_fields_set & set(self.of)):
            if self.of[key] != kind:
                raise ValueError(f"{key} belongs to kind: {self.of[key]}, not to kind: {kind}")
        return self

    @model_serializer(mode="wrap")
    def _chosen(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        kind = getattr(self, "kind", "")
        return {key: value for key, value in write(self).items() if self.of.get(key, kind) == kind}


def _belongs(kind: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), kind)


class Store(Kinded):
    of = _belongs(
        "s3",
        "bucket endpoint region prefix access_key secret_key session_token addressing ca checksums"
        " sign_payload redirect redirect_from redirect_for local_tier uploads parts part_size part_memory push_memory"
        " connections tries connect read",
    )
    kind: Literal["fs", "s3"] = "fs"
    bucket: str = ""
    endpoint: Annotated[str, AfterValidator(values.public_url)] | None = None
    region: str = ""
    prefix: Annotated[str, AfterValidator(values.object_prefix)] = ""
    access_key: Secret | None = None
    secret_key: Secret | None = None
    session_token: Secret | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    ca: str | None = None
    checksums: Literal["when_required", "when_supported"] = "when_required"
    sign_payload: bool = False
    redirect: Literal["never", "blobs", "all"] = "never"
    redirect_from: Size = 2**20
    redirect_for: Duration = 900.0
    local_tier: Size = 10 * 2**30
    uploads: Annotated[int, Field(gt=0)] = 16
    parts: Annotated[int, Field(gt=0)] = 4
    part_size: Annotated[Size, Field(ge=5 * 2**20)] = 8 * 2**20
    part_memory: Annotated[Size, Field(ge=2**20)] = 32 * 2**20
    push_memory: Annotated[Size, Field(ge=2**20)] = 64 * 2**20
    connections: Annotated[int, Field(gt=1)] = 64
    tries: Annotated[int, Field(gt=0)] = 5
    connect: Annotated[Duration, Field(gt=0)] = 3.0
    read: Annotated[Duration, Field(gt=0)] = 20.0

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.kind == "s3" and not self.bucket:
            raise ValueError("kind: s3 needs a bucket")
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("access_key and secret_key belong together")
        return self


class Index(Kinded):
    of = _belongs("postgres", "url pool acquire command lock connect start_wait pgbouncer recheck recent")
    kind: Literal["sqlite", "postgres"] = "sqlite"
    url: Annotated[
        str | values.SecretRef | None,
        BeforeValidator(values.dsn),
        PlainSerializer(_shown),
    ] = None
    pool: Annotated[int, Field(gt=0)] = 10
    acquire: Annotated[Duration, Field(gt=0)] = 2.0
    command: Annotated[Duration, Field(gt=0)] = 5.0
    lock: Annotated[Duration, Field(gt=0)] = 2.0
    connect: Annotated[Duration, Field(gt=0)] = 5.0
    start_wait: Duration = 60.0
    pgbouncer: bool = False
    recheck: Duration = 1.0
    recent: Annotated[int, Field(gt=0)] = 50_000

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.kind == "postgres" and self.url is None:
            raise ValueError("kind: postgres needs a url")
        return self


class Coordination(Kinded):
    of = _belongs("redis", "url prefix budget connect rest lease renew")
    kind: Literal["local", "redis"] = "local"
    url: Annotated[
        str | values.SecretRef | None,
        BeforeValidator(values.dsn),
        PlainSerializer(_shown),
    ] = None
    prefix: Annotated[str, Field(min_length=1)] = "artifactproxy:"
    budget: Annotated[Duration, Field(gt=0)] = 0.25
    connect: Annotated[Duration, Field(gt=0)] = 1.0
    rest: Duration = 10.0
    lease: Annotated[Duration, Field(gt=0)] = 10.0
    renew: Annotated[Duration, Field(gt=0)] = 3.0

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.kind == "redis" and self.url is None:
            raise ValueError("kind: redis needs a url")
        if self.renew * 2 > self.lease:
            raise ValueError("renew must be at most half of lease")
        return self


class Cluster(Section):
    advertise: Annotated[str, AfterValidator(values.public_url)]
    secret: Secret
    ca: str | None = None


class Log(Section):
    file: str | None = None
    level: Literal["debug", "info", "warning", "error"] = "info"


class File(Section):
    """The whole file, in the order in which it is documented."""

    listen: Annotated[str, BeforeValidator(values.listen)] = "127.0.0.1:8080"
    tls: Tls | None = None
    public_url: Annotated[str, AfterValidator(values.public_url)] | None = None
    trusted_proxies: Networks = ()
    allowed_hosts: Hosts = ()
    access: Access = Access()
    data: Annotated[str, Field(min_length=1)] = "./data"
    data_limit: Annotated[Size, Field(gt=0)] | None = None
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    store: Store = Store()
    index: Index = Index()
    coordination: Coordination = Coordination()
    cluster: Cluster | None = None
    oci_default: str | None = None
    log: Log = Log()
    limits: LimitsSection = Field(default_factory=LimitsSection)
    remotes: dict[str, Remote] = {}
    locals: dict[str, Local] = {}
    virtuals: Annotated[dict[str, None], _later("virtual repositories are", "remove this section")] = {}
