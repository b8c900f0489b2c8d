"""From what was written to what is used: secrets, public upstreams and names are resolved here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

from artifactproxy.config import bounds, schema, values
from artifactproxy.config.problems import Problems
from artifactproxy.config.resolved import S3, Config, Egress, Listen, Log, Remote, Tls
from artifactproxy.config.strict import KeyPath
from artifactproxy.coordination.options import ClusterOptions, RedisOptions
from artifactproxy.hosted.local import Local
from artifactproxy.indexes.postgres.options import PostgresOptions
from artifactproxy.limits import Download, Limits, Policy, RemoteLimits
from artifactproxy.providers._base import Provider, PublicOrigins, Site
from artifactproxy.rules.paths import REPO_NAME, RESERVED
from artifactproxy.stores.s3.options import S3Options
from artifactproxy.upstream.auth import Basic, Bearer

SECRET_CHARACTERS = 16

T = TypeVar("T")
Providers = Mapping[str, type[Provider]]


def build(
    file: schema.File,
    problems: Problems,
    *,
    env: Mapping[str, str],
    providers: Providers,
    origins: PublicOrigins,
) -> Config:
    """Raises `ConfigError` with everything that is wrong, also what `problems` already holds."""
    look = _Look(problems, env, providers, origins, closed=file.access.read != "open")
    remotes = {name: look.remote(name, written) for name, written in file.remotes.items()}
    locals_ = {name: look.local(name, written, remotes) for name, written in file.locals.items()}
    chosen = remotes.get(file.oci_default) if file.oci_default is not None else None
    if file.oci_default is not None and (chosen is None or chosen.provider != "oci"):
        problems.at(("oci_default",), f"{file.oci_default} is not a remote whose provider is oci")
    tls = look.tls(file.tls)
    store, index = look.store(file.store), look.index(file.index)
    coordination, cluster = look.coordination(file.coordination), look.cluster(file.cluster)
    problems.tell()

    shown = file.model_dump(mode="json")
    for name, remote in remotes.items():
        shown["remotes"][name] |= {"provider": remote.provider, "upstream": list(remote.upstreams)}
    host, _, port = file.listen.rpartition(":")
    return Config(
        listen=Listen(host.strip("[]"), int(port)),
        tls=tls,
        public_url=file.public_url,
        trusted_proxies=file.trusted_proxies,
        allowed_hosts=file.allowed_hosts,
        read=file.access.read,
        data=Path(file.data),
        data_limit=file.data_limit,
        workers=file.workers,
        store=store,
        index=index,
        coordination=coordination,
        cluster=cluster,
        oci_default=file.oci_default or _usual_registry(remotes),
        log=Log(_path(file.log.file), file.log.level),
        limits=_taken(Limits, file.limits),
        remotes=remotes,
        locals=locals_,
        shown=shown,
    )


def default_remotes(providers: Providers, origins: PublicOrigins) -> dict[str, tuple[str, str]]:
    """Provider and upstream of the repositories that are mounted where no remote is configured."""
    return {
        mount: (name, url)
        for name, provider in sorted(providers.items())
        for mount, url in provider.default_mounts(origins).items()
    }


def _usual_registry(remotes: Mapping[str, Remote]) -> str | None:
    """Who speaks of no registry means docker's."""
    usual = remotes.get("docker.io")
    return usual.name if usual is not None and usual.provider == "oci" else None


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _taken(kind: type[T], section: bounds.Section) -> T:
    """A dataclass of `model` filled from the section generated from it."""
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: getattr(section, name) for name in names})


@dataclass(frozen=True, slots=True)
class _Look:
    """Looks up what a remote refers to and reports what is not there."""

    problems: Problems
    env: Mapping[str, str]
    providers: Providers
    origins: PublicOrigins
    closed: bool
    """Not everybody may read what is here."""

    def remote(self, name: str, written: schema.Remote) -> Remote:
        at: KeyPath = ("remotes", name)
        self._judge_name(name, at)
        provider = self._provider(name, written.provider, at)
        auth = self._auth(written.auth, (*at, "auth"))
        site = Site(
            repo=name,
            upstreams=self._upstreams(name, provider, written.upstream, (*at, "upstream")),
            file_hosts=written.file_hosts,
            immutable=written.rules.immutable,
            mutable=written.rules.mutable,
            refuse=written.rules.refuse,
            deny_tags=written.deny_tags,
        )
        if written.deny_tags and provider != "oci":
            self.problems.at((*at, "deny_tags"), "is for remotes whose provider is oci")
        return Remote(
            name=name,
            provider=provider,
            site=site,
            policy=_policy(written, private=auth is not None, closed=self.closed),
            limits=_taken(RemoteLimits, written.limits),
            cold_ranges=written.cold_ranges,
            download=_download(written.download),
            auth=auth,
            allow_private=tuple(ip_network(text) for text in written.allow_private),
            egress=self._egress(written.egress, (*at, "egress")),
        )

    def local(self, name: str, written: schema.Local, remotes: Mapping[str, Remote]) -> Local:
        at: KeyPath = ("locals", name)
        self._judge_name(name, at)
        if name in remotes:
            self.problems.at(at, "a remote has this name already; choose another")
        return Local(name, written.immutable_tags, written.deletes)

    def tls(self, written: schema.Tls | None) -> Tls | None:
        if written is None:
            return None
        from artifactproxy.web.tls import PairRefused, context_of

        pair = Tls(Path(written.cert), Path(written.key))
        try:
            context_of(pair.cert, pair.key)
        except PairRefused as refused:
            self.problems.at(("tls", refused.which), str(refused))
        return pair

    def store(self, written: schema.Store) -> S3 | None:
        if written.kind == "fs":
            return None
        at: KeyPath = ("store",)
        secrets: dict[str, Any] = {
            name: self._secret(ref, (*at, name)) if (ref := getattr(written, name)) is not None else ""
            for name in ("access_key", "secret_key", "session_token")
        }
        plain: dict[str, Any] = {
            f.name: getattr(written, f.name)
            for f in fields(S3Options)
            if f.name not in secrets and f.name != "ca"
        }
        return S3(
            S3Options(**plain, **secrets, ca=self._ca(written.ca, at)),
            local_tier=written.local_tier,
            redirect=written.redirect,
            redirect_from=written.redirect_from,
            redirect_for=written.redirect_for,
        )

    def index(self, written: schema.Index) -> PostgresOptions | None:
        if written.kind == "sqlite":
            return None
        url = self._dsn(written.url, ("index", "url"), ("postgres", "postgresql"))
        return PostgresOptions(url, **_others(PostgresOptions, written))

    def coordination(self, written: schema.Coordination) -> RedisOptions | None:
        if written.kind == "local":
            return None
        url = self._dsn(written.url, ("coordination", "url"), ("redis", "rediss", "unix"))
        return RedisOptions(url, **_others(RedisOptions, written))

    def cluster(self, written: schema.Cluster | None) -> ClusterOptions | None:
        if written is None:
            return None
        secret = self._secret(written.secret, ("cluster", "secret"))
        if secret and len(secret) < SECRET_CHARACTERS:
            self.problems.at(("cluster", "secret"), f"must have at least {SECRET_CHARACTERS} characters")
        return ClusterOptions(written.advertise, secret, self._ca(written.ca, ("cluster",)))

    def _dsn(self, written: str | values.SecretRef | None, at: KeyPath, schemes: tuple[str, ...]) -> str:
        text = self._secret(written, at) if isinstance(written, values.SecretRef) else written or ""
        try:
            if text:
                values.judge_dsn(text, schemes)
        except ValueError as error:
            self.problems.at(at, str(error))
        return text

    def _ca(self, written: str | None, at: KeyPath) -> str:
        if written is not None and not Path(written).is_file():
            self.problems.at((*at, "ca"), f"there is no file {written}")
        return written or ""

    def _judge_name(self, name: str, at: KeyPath) -> None:
        if name in RESERVED:
            self.problems.at(at, "this name is reserved; choose another")
        elif REPO_NAME.fullmatch(name) is None:
            rule = "a to z, 0 to 9, dot, hyphen and underscore, a letter or digit first, at most 64"
            self.problems.at(at, f"not a repository name; allowed are {rule}")

    def _provider(self, name: str, written: str, at: KeyPath) -> str:
        known = ", ".join(sorted(self.providers))
        if not written and name not in self.providers:
            self.problems.at((*at, "provider"), f"is required; one of {known}")
        elif written and written not in self.providers:
            self.problems.at(
                (*at, "provider"), f"{written} is not a provider of this version; one of {known}"
            )
        return written or name

    def _upstreams(self, name: str, provider: str, written: tuple[str, ...], at: KeyPath) -> tuple[str, ...]:
        found: list[str] = []
        for url in written:
            if url != values.PUBLIC:
                found.append(self.providers[provider].reached_at(url) if provider in self.providers else url)
            elif provider in self.providers:
                of = self.providers[provider]
                public = of.default_mounts(self.origins).get(name) or of.public_upstream(self.origins)
                if public:
                    found.append(values.upstream(public))
                else:
                    self.problems.at(at, f"{provider} has no public registry; give the upstream's address")
        return tuple(dict.fromkeys(found))

    def _auth(self, written: schema.Auth | None, at: KeyPath) -> Basic | Bearer | None:
        if written is not None and written.basic is not None:
            password = self._secret(written.basic.password, (*at, "basic", "password"))
            if ":" in written.basic.user:
                self.problems.at((*at, "basic", "user"), "must not contain a colon")
            return Basic(written.basic.user, password)
        if written is not None and written.bearer is not None:
            return Bearer(self._secret(written.bearer, (*at, "bearer")))
        return None

    def _egress(self, written: schema.Egress, at: KeyPath) -> Egress:
        proxy = written.proxy
        if isinstance(proxy, values.SecretRef):
            found = self._secret(proxy, (*at, "proxy"))
            try:
                proxy = values.proxy_url_resolved(found) if found else None
            except ValueError as error:
                self.problems.at((*at, "proxy"), str(error))
                proxy = None
        if written.ca is not None and not Path(written.ca).is_file():
            self.problems.at((*at, "ca"), f"there is no file {written.ca}")
        return Egress(proxy, written.no_proxy, _path(written.ca))

    def _secret(self, ref: values.SecretRef, at: KeyPath) -> str:
        """The secret without the line end that editors leave; "" after reporting a problem."""
        if ref.source == "env":
            text = self.env.get(ref.name, "")
            if not text:
                self.problems.at(at, f"the environment variable {ref.name} is not set")
                return ""
        else:
            try:
                text = Path(ref.name).read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
                self.problems.at(at, f"cannot read {ref.name}: {why}")
                return ""
        text = text.removesuffix("\n").removesuffix("\r")
        if not text or not text.isprintable():
            self.problems.at(
                at, f"the secret in {ref.name} is empty or holds a line break or control character"
            )
        return text


def _others(kind: type[Any], written: bounds.Section) -> dict[str, Any]:
    """What the section offers of the options; the rest is for tests."""
    offered = type(written).model_fields
    return {f.name: getattr(written, f.name) for f in fields(kind) if f.name != "url" and f.name in offered}


def _download(written: bounds.DownloadSection) -> Download:
    return Download(
        connections=written.connections,
        max_per_host=written.max_per_host,
        segment=written.segment,
        from_bytes=getattr(written, "from"),
    )


def _policy(written: schema.Remote, *, private: bool, closed: bool) -> Policy:
    named: dict[str, Any] = {
        f.name: getattr(written, f.name) for f in fields(Policy) if f.name in schema.Remote.model_fields
    }
    return Policy(
        **named,
        max_artifact_bytes=written.limits.max_artifact,
        max_index_bytes=written.limits.max_index,
        private=private,
        closed=closed,
    )
