"""The configuration: layers, strictness, sentences, and that the example file is complete and true."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from artifactproxy import limits
from artifactproxy.config import Config, Tls, load, strict, units, values
from artifactproxy.config.bounds import Section
from artifactproxy.config.problems import _inner
from artifactproxy.config.schema import File, Remote
from artifactproxy.errors import ConfigError
from artifactproxy.limits import Download
from artifactproxy.providers._base import Provider, PublicOrigins
from artifactproxy.upstream.auth import Basic, Bearer
from tests.chaos.certs import Authority

EXAMPLE = Path(__file__).parent.parent / "config.example.yaml"


class Pypi(Provider):
    name = "pypi"

    @classmethod
    def public_upstream(cls, origin_of):
        return origin_of.repository("pkg:pypi/x") + "simple"


class Oci(Provider):
    name = "oci"

    @classmethod
    def public_upstream(cls, origin_of):
        return "https://registry.example"


class Generic(Provider):
    name = "generic"


class Origins(PublicOrigins):
    def repository(self, purl):
        return "https://index.example/"


PROVIDERS = {p.name: p for p in (Pypi, Oci, Generic)}


@pytest.fixture
def read(tmp_path):
    """Load YAML text, with variables and flags."""

    def run(text: str = "", env: dict[str, str] | None = None, **flags: object) -> Config:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return load(path, env=env or {}, flags=flags, providers=PROVIDERS, origins=Origins())

    return run


@pytest.fixture
def refused(read):
    """The lines of the refusal, with the folder of the file left out."""

    def run(text: str = "", env: dict[str, str] | None = None, **flags: object) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            read(text, env, **flags)
        return [
            line[line.find("config.yaml") :] if "config.yaml" in line else line
            for line in str(caught.value).splitlines()
        ]

    return run


PYPI = "remotes: {pypi: {%s}}"
TOOLS = "remotes: {tools: {provider: generic, upstream: 'https://files.example/a'%s}}"


# --- layers


def test_no_file_and_an_empty_file_give_the_same_defaults(read):
    bare = load(None, env={}, flags={}, providers=PROVIDERS, origins=Origins())
    for text in ("", "# nothing\n", "remotes:\nlimits:\nstore:\nlisten: null\n"):
        assert read(text) == bare
    assert (bare.listen.host, bare.listen.port, bare.data, bare.data_limit) == (
        "127.0.0.1",
        8080,
        Path("data"),
        None,
    )
    assert bare.limits == limits.Limits()


def test_without_remotes_every_provider_with_a_public_upstream_is_mounted(read):
    remotes = read().remotes
    assert {name: r.upstreams for name, r in remotes.items()} == {
        "pypi": ("https://index.example/simple/",),
        "oci": ("https://registry.example/",),
    }
    assert remotes["pypi"].policy == limits.Policy()
    assert remotes["pypi"].limits == limits.RemoteLimits()
    assert remotes["pypi"].site.repo == "pypi"


def test_written_remotes_are_all_there_are(read):
    assert list(read(TOOLS % "").remotes) == ["tools"]


def test_flags_win_over_environment_over_file_over_defaults(read):
    file = "listen: 127.0.0.1:1\ndata: from-file\nworkers: 1\n"
    env = {"ARTIFACTPROXY_LISTEN": "127.0.0.1:2", "ARTIFACTPROXY_DATA": "from-env"}
    assert str(read(file).listen) == "127.0.0.1:1"
    assert str(read(file, env).listen) == "127.0.0.1:2"
    config = read(file, env, listen="127.0.0.1:3", data=None)
    assert (str(config.listen), config.data) == ("127.0.0.1:3", Path("from-env"))


@pytest.mark.parametrize(
    ("variable", "text", "found"),
    [
        ("REMOTES__TOOLS__TTL", "5m", lambda c: c.remotes["tools"].policy.ttl == 300),
        (
            "REMOTES__TOOLS__LIMITS__MAX_INDEX",
            "2MiB",
            lambda c: c.remotes["tools"].policy.max_index_bytes == 2**21,
        ),
        ("REMOTES__TOOLS__OFFLINE", "true", lambda c: c.remotes["tools"].policy.offline is True),
        ("LIMITS__SEND_STALL", "250ms", lambda c: c.limits.send_stall == 0.25),
        (
            "ALLOWED_HOSTS",
            "[a.example, 'b.example:8443']",
            lambda c: c.allowed_hosts == ("a.example", "b.example:8443"),
        ),
        ("DATA_LIMIT", "", lambda c: c.data_limit is None),
        (
            "REMOTES__NEW__PROVIDER",
            "oci",
            lambda c: c.remotes["new"].upstreams == ("https://registry.example/",),
        ),
    ],
)
def test_variables_reach_every_depth(read, variable, text, found):
    assert found(read(TOOLS % "", {f"ARTIFACTPROXY_{variable}": text}))


def test_a_variable_names_a_repository_with_hyphen_or_dot(read):
    text = "remotes: {my-py.x: {provider: pypi}}"
    assert read(text, {"ARTIFACTPROXY_REMOTES__MY_PY_X__TTL": "9"}).remotes["my-py.x"].policy.ttl == 9


def test_a_variable_alone_tunes_a_default_mount(read):
    config = read("", {"ARTIFACTPROXY_REMOTES__PYPI__TTL": "9"})
    assert set(config.remotes) == {"pypi", "oci"}
    assert config.remotes["pypi"].policy.ttl == 9


def test_an_empty_variable_means_the_default(read):
    env = {"ARTIFACTPROXY_REMOTES": "", "ARTIFACTPROXY_LISTEN": "", "ARTIFACTPROXY_LIMITS": "null"}
    assert read("", env) == read()


def test_variables_that_are_not_keys_are_refused_and_two_are_known(refused, read):
    env = {"ARTIFACTPROXY_LISTN": "x", "ARTIFACTPROXY_LISTEN__PORT": "1", "ARTIFACTPROXY_": "x"}
    lines = refused("", env)
    assert "ARTIFACTPROXY_LISTN: listn: unknown key; the nearest known key is listen" in lines
    assert len(lines) >= 2
    assert any(
        line.startswith("ARTIFACTPROXY_LISTEN__PORT: listen.port") or "LISTEN__PORT" in line for line in lines
    )
    read("", {"ARTIFACTPROXY_CONFIG": "x", "ARTIFACTPROXY_FAILPOINTS": "y", "OTHER": "z"})


def test_a_variable_cannot_open_a_value_as_a_section(refused):
    lines = refused("listen: 127.0.0.1:80", {"ARTIFACTPROXY_LISTEN__PORT": "1"})
    assert lines == ["ARTIFACTPROXY_LISTEN__PORT: listen.port: unknown key; listen has no keys below it"]


def test_a_refused_flag_and_variable_are_named(refused):
    assert refused("", {}, listen="nonsense")[0].startswith("--listen: listen: must be HOST:PORT")
    assert refused("", {"ARTIFACTPROXY_DATA_LIMIT": "5 apples"})[0].startswith(
        "ARTIFACTPROXY_DATA_LIMIT: data_limit: must be a size"
    )
    assert "is not valid YAML" in refused("", {"ARTIFACTPROXY_ALLOWED_HOSTS": "[a"})[0]


# --- sentences


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("listn: x", "config.yaml:1: listn: unknown key; the nearest known key is listen"),
        (
            "\nlimits:\n  keepalve: 3",
            "config.yaml:3: limits.keepalve: unknown key; the nearest known key is keepalive",
        ),
        (
            "listen: 1:30",
            "config.yaml:1: listen: must be HOST:PORT, for example 127.0.0.1:8080 or [::1]:8080",
        ),
        ("data: 5", "config.yaml:1: data: must be text; put it in quotes"),
        ("data: []", "config.yaml:1: data: must be text"),
        ("data: ''", "config.yaml:1: data: must not be empty"),
        ("limits: 5", "config.yaml:1: limits: must be a section of keys and values"),
        ("remotes: []", "config.yaml:1: remotes: must be a section of keys and values"),
        ("allowed_hosts: a.example", "config.yaml:1: allowed_hosts: must be a list"),
        (
            "allowed_hosts:\n- a.example\n- 'a b'",
            "config.yaml:1: allowed_hosts: 'a b' is not a host or host:port",
        ),
        ("limits: {connections: 0}", "config.yaml:1: limits.connections: must be more than 0"),
        ("limits: {keepalive: 0}", "config.yaml:1: limits.keepalive: must be more than 0"),
        ("limits: {min_free_share: 1.5}", "config.yaml:1: limits.min_free_share: must be less than 1"),
        ("log: {level: loud}", "config.yaml:1: log.level: must be 'debug', 'info', 'warning' or 'error'"),
        ("data_limit: 0", "config.yaml:1: data_limit: must be more than 0"),
        ("workers: 0", "config.yaml:1: workers: must be at least 1"),
        ("oci_default: tools", "config.yaml:1: oci_default: tools is not a remote whose provider is oci"),
        ("oci_default: pypi", "config.yaml:1: oci_default: pypi is not a remote whose provider is oci"),
        (TOOLS % ", offline: yes", "config.yaml:1: remotes.tools.offline: must be true or false"),
        (
            TOOLS % ", rulez: {}",
            "config.yaml:1: remotes.tools.rulez: unknown key; the nearest known key is rules",
        ),
        (
            "remotes:\n  v2: {provider: pypi}",
            "config.yaml:2: remotes.v2: this name is reserved; choose another",
        ),
        (
            "remotes: {x: {ttl: 5}}",
            "config.yaml:1: remotes.x.provider: is required; one of generic, oci, pypi",
        ),
        (
            "remotes: {x: {provider: pipy}}",
            "config.yaml:1: remotes.x.provider: pipy is not a provider of this version; one of generic, oci, pypi",
        ),
        (
            "remotes: {generic: {}}",
            "config.yaml:1: remotes.generic.upstream: generic has no public registry; give the upstream's address",
        ),
        ("- a", "config.yaml:1: must be a mapping of keys such as `listen: 127.0.0.1:8080`"),
        ("a: b: c", "config.yaml:1: is not valid YAML: mapping values are not allowed here"),
        ("a: 1\nb: \x07", "config.yaml: holds a character that YAML does not allow"),
    ],
)
def test_a_problem_names_file_line_key_and_what_is_wrong(refused, text, line):
    assert refused(text) == [line]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("store: {kind: gcs}", "store.kind: must be 'fs' or 's3'"),
        ("store: {kind: s3}", "store: kind: s3 needs a bucket"),
        ("store: {bucket: b}", "store: bucket belongs to kind: s3, not to kind: fs"),
        (
            "store: {kind: s3, bucket: b, bukcet: c}",
            "store.bukcet: unknown key; the nearest known key is bucket",
        ),
        (
            "store: {kind: s3, bucket: b, secret_key: {env: X}}",
            "store: access_key and secret_key belong together",
        ),
        ("store: {kind: s3, bucket: b, part_size: 1MiB}", "store.part_size: must be at least 5.24288e+06"),
        ("index: {kind: postgres}", "index: kind: postgres needs a url"),
        ("index: {url: postgresql://h/d}", "index: url belongs to kind: postgres, not to kind: sqlite"),
        (
            "index: {kind: postgres, url: mysql://h/d}",
            "index.url: must begin with postgres:// or postgresql://",
        ),
        (
            "index: {kind: postgres, url: 'postgresql://u:p@h/d'}",
            (
                "index.url: holds a password; write the whole address as {env: NAME} or {file: PATH}, "
                "or leave the password out"
            ),
        ),
        (
            "index: {kind: postgres, url: 'postgresql://u:12/x@h/d'}",
            "index.url: is not a valid address: in a user or password write / as %2F, ? as %3F, # as %23",
        ),
        ("coordination: {kind: redis}", "coordination: kind: redis needs a url"),
        (
            "coordination: {kind: redis, url: 'redis://h', renew: 9s}",
            "coordination: renew must be at most half of lease",
        ),
        (
            "cluster: {advertise: 'http://h', secret: short}",
            (
                "cluster.secret: is a secret and is not written here; "
                "write {env: NAME} to take it from the environment or {file: PATH} to read it from a file"
            ),
        ),
        (
            "virtuals: {python: {members: []}}",
            "virtuals: virtual repositories are not available in this version; remove this section",
        ),
    ],
)
def test_later_capabilities_are_refused_in_one_plain_sentence(refused, text, line):
    assert refused(text) == [f"config.yaml:1: {line}"]


def test_how_large_files_are_downloaded(read, refused):
    assert read(TOOLS % "").remotes["tools"].download == Download()
    chosen = read(TOOLS % ", download: {connections: 16, segment: 4MiB, from: 1GB}").remotes["tools"]
    assert chosen.download == Download(connections=16, segment=4 * 2**20, from_bytes=10**9)
    shown = read(TOOLS % ", download: {from: 1GiB}").effective()["remotes"]["tools"]["download"]
    assert shown == {"connections": 8, "max_per_host": 16, "segment": "8MiB", "from": 2**30}
    for written, why in (
        ("{segment: 1KiB}", "segment"),
        ("{connections: 0}", "connections"),
        ("{form: 1MiB}", "the nearest known key is from"),
        ("{max_per_host: 17}", "cannot be more than limits.connections_per_host, which is 16"),
    ):
        assert why in refused(TOOLS % f", download: {written}")[0]


@pytest.fixture
def pair(tmp_path):
    return Authority.make(tmp_path).issue("proxy.example")


def test_a_certificate_and_its_key(read, pair):
    cert, key = pair
    config = read(f"tls: {{cert: {cert}, key: {key}}}")
    assert config.tls == Tls(cert, key)
    assert config.effective()["tls"] == {"cert": str(cert), "key": str(key)}
    assert read("tls: null").tls is None
    named = {"ARTIFACTPROXY_TLS__CERT": str(cert), "ARTIFACTPROXY_TLS__KEY": str(key)}
    assert read("", named).tls == Tls(cert, key)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("tls:\n  cert: {cert}\n", ["config.yaml:1: tls.key: is required"]),
        ("tls:\n  cert: {cert}\n  key: ''\n", ["config.yaml:3: tls.key: must not be empty"]),
        (
            "tls:\n  cert: {cert}\n  key: {key}\n  chain: x\n",
            ["config.yaml:4: tls.chain: unknown key; the nearest known key is cert"],
        ),
        (
            "tls:\n  cert: {cert}\n  key: /none.key\n",
            ["config.yaml:3: tls.key: cannot read /none.key: No such file or directory"],
        ),
        (
            "tls:\n  cert: /none.pem\n  key: {key}\n",
            ["config.yaml:2: tls.cert: cannot read /none.pem: No such file or directory"],
        ),
        (
            "tls:\n  cert: {key}\n  key: {key}\n",
            ["config.yaml:2: tls.cert: {key} holds no certificate in PEM form"],
        ),
        (
            "tls:\n  cert: {cert}\n  key: {other}\n",
            ["config.yaml:3: tls.key: {other} is not the key of the certificate in {cert}"],
        ),
        (
            "tls:\n  cert: {cert}\n  key: {locked}\n",
            ["config.yaml:3: tls.key: {locked} is encrypted; store the key without a passphrase"],
        ),
    ],
)
def test_a_pair_that_cannot_be_used_names_the_line_and_the_file(refused, pair, text, lines):
    folder = pair[0].parent
    files = {"cert": pair[0], "key": pair[1], "other": folder / "other.key", "locked": folder / "locked.key"}
    for command in (
        ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(files["other"])],
        ["pkey", "-in", str(pair[1]), "-aes256", "-passout", "pass:x", "-out", str(files["locked"])],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    assert refused(text.format(**files)) == [line.format(**files) for line in lines]


def test_every_problem_is_told_at_once(refused):
    assert len(refused("listn: 1\nworkers: 0\nlimits: {heder: 1, header: x}\n")) == 4


def test_files_that_cannot_be_read(tmp_path):
    def sentence(path: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            load(path, env={}, flags={}, providers=PROVIDERS)
        return str(caught.value).removeprefix(str(path))

    assert sentence(tmp_path / "absent.yaml") == ": there is no such file"
    assert sentence(tmp_path).startswith(": cannot be read")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"data: caf\xe9")
    assert sentence(latin) == ": is not UTF-8 text"


# --- strict YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("yes", "yes"),
        ("on", "on"),
        ("True", "True"),
        ("1:30", "1:30"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("0o7", "0o7"),
        ("1_000", "1_000"),
        ("1e3", "1e3"),
        (".inf", ".inf"),
        ("2024-01-01", "2024-01-01"),
        ("'5'", "5"),
        ("5", 5),
        ("-5", -5),
        ("0.5", 0.5),
        ("~", None),
        ("null", None),
        ("9" * 5000, "9" * 5000),
        ("=", "="),
    ],
)
def test_scalars_are_what_they_look_like(text, value):
    found = strict.read(f"k: {text}").value["k"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "sentence", "line"),
    [
        ("a: 1\nb: 2\na: 3", "is written twice; first on line 1", 3),
        ("a: !!python/object/apply:os.system [ls]", "tags such as", 1),
        ("a: !!int 5", "tags such as", 1),
        ("a: &x {b: 1}\nc:\n  <<: *x", "merge keys are not used here", 3),
        ("? [a]\n: 1", "keys must be plain text", 1),
        ("a: &x [*x]", "an alias refers to itself", 1),
        ("a: 1\n---\nb: 2", "is not valid YAML", 2),
        ("a: *nope", "is not valid YAML", 1),
        ("[" * 100_000, "is not valid YAML", 1),
        ("a: " + "[" * 40 + "]" * 40, "is not valid YAML: nested too deeply", 1),
        ("# " + "x" * (1 << 20), "is longer than", 0),
    ],
)
def test_yaml_with_surprises_is_refused(text, sentence, line):
    with pytest.raises(strict.Refused) as caught:
        strict.read(text)
    assert sentence in caught.value.sentence
    assert caught.value.line == line


def test_an_alias_bomb_is_refused():
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(strict.Refused, match="too many values"):
        strict.read("\n".join(rows))


def test_an_honest_alias_works(read):
    config = read("remotes:\n  pypi: &x {ttl: 7}\n  other: {provider: pypi, ttl: 7}\n  oci: *x\n")
    assert config.remotes["oci"].policy.ttl == 7


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text):
    try:
        strict.read(text)
    except strict.Refused as error:
        assert error.sentence


# --- units


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("50GB", 50 * 10**9),
        ("50GiB", 50 * 2**30),
        ("1.5KiB", 1536),
        ("2 MB", 2 * 10**6),
        (7, 7),
        ("3kb", 3000),
        ("9B", 9),
    ],
)
def test_sizes(text, size):
    assert units.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["50G", "GB", "-1GB", -1, True, 1.5, None, "1e3GB", "0.3B", "5 GB GB", [], "٣GB"]
)
def test_refused_sizes(text):
    with pytest.raises(ValueError):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("10m", 600),
        ("7d", 604800),
        ("500ms", 0.5),
        ("2h", 7200),
        ("1w", 604800),
        (1.5, 1.5),
        (0, 0),
    ],
)
def test_durations(text, seconds):
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["30", "1h30m", "7D", "-1s", -1, False, None, "s", "1 month"])
def test_refused_durations(text):
    with pytest.raises(ValueError):
        units.parse_duration(text)


@given(st.integers(0, 2**60))
def test_shown_sizes_read_back(size):
    assert units.parse_size(units.show_size(size)) == size


@given(st.one_of(st.integers(0, 10**9), st.floats(0, 1e9, allow_nan=False)))
def test_shown_durations_read_back(seconds):
    assert units.parse_duration(units.show_duration(float(seconds))) == float(seconds)


# --- addresses


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("https://files.example", "https://files.example/"),
        ("https://FILES.example:8443/a/b", "https://files.example:8443/a/b/"),
        ("http://127.0.0.1:5000/", "http://127.0.0.1:5000/"),
        ("http://[::1]:5000/x", "http://[::1]:5000/x/"),
        ("public", "public"),
    ],
)
def test_upstreams(text, canonical):
    assert values.upstream(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "ftp://files.example/",
        "files.example",
        "https://",
        "https:///x",
        "https://u:p@files.example/",
        "https://@files.example/",
        "https://files.example/?q=1",
        "https://files.example/?",
        "https://files.example/#f",
        "https://files.example/a/../b",
        "https://files.example/%2e%2e/b",
        "https://files.example:0/",
        "https://files.example:/",
        "https://files.example:99999/",
        "https://fi les.example/",
        "https://files.example\\@evil.example/",
        "https://files.example/\n",
        "https://1.2.3/",
        "https://[::1/",
        "https://caf\u00e9.example/",
        "",
    ],
)
def test_refused_upstreams(text):
    with pytest.raises(ValueError):
        values.upstream(text)


def test_upstreams_keep_their_order_and_resolve_public(read):
    config = read(
        "remotes: {pypi: {upstream: ['https://mirror.example/simple', public, 'https://mirror.example/simple/']}}"
    )
    assert config.remotes["pypi"].upstreams == (
        "https://mirror.example/simple/",
        "https://index.example/simple/",
    )


def test_lists_of_hosts_and_networks(read, refused):
    config = read(
        TOOLS
        % ", file_hosts: [CDN.example, 'a.example:81', 'http://b.example/'], allow_private: [10.0.0.0/8, fd00::/8]"
    )
    tools = config.remotes["tools"]
    assert tools.site.file_hosts == ("cdn.example", "a.example:81", "http://b.example")
    assert [str(n) for n in tools.allow_private] == ["10.0.0.0/8", "fd00::/8"]
    for bad in (
        "file_hosts: ['a/b']",
        "file_hosts: ['http://b.example/x']",
        "allow_private: [10.0.0.1/8]",
        "allow_private: [x]",
        "upstream: []",
    ):
        assert len(refused(PYPI % bad)) == 1


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("0.0.0.0:80", "0.0.0.0", 80, "0.0.0.0:80"),
        ("'[::1]:0'", "::1", 0, "[::1]:0"),
        ("localhost:9", "localhost", 9, "localhost:9"),
    ],
)
def test_listen(read, text, host, port, shown):
    listen = read(f"listen: {text}").listen
    assert (listen.host, listen.port, str(listen)) == (host, port, shown)


@pytest.mark.parametrize(
    "text", ["8080", "':8080'", "host", "'a:b'", "'127.0.0.1:65536'", "'::1:80'", "'999.1.1.1:1'"]
)
def test_refused_listen(refused, text):
    assert "must be HOST:PORT" in refused(f"listen: {text}")[0]


# --- secrets


def test_secrets_come_from_variables_and_files(read, tmp_path):
    (tmp_path / "password").write_text("from file\n")
    text = f"""
remotes:
  one: {{provider: pypi, auth: {{bearer: {{env: TOKEN}}}}}}
  two: {{provider: pypi, auth: {{basic: {{user: u, password: {{file: {tmp_path}/password}}}}}}}}
  three: {{provider: pypi, egress: {{proxy: {{env: PROXY}}}}}}
"""
    config = read(text, {"TOKEN": "hunter2", "PROXY": "http://u:hunter2@proxy.example:3128"})
    assert config.remotes["one"].auth == Bearer("hunter2")
    assert config.remotes["two"].auth == Basic("u", "from file")
    assert config.remotes["three"].egress.proxy == "http://u:hunter2@proxy.example:3128"
    assert config.remotes["one"].policy.private
    assert not config.remotes["three"].policy.private
    for shown in (repr(config), json.dumps(config.effective())):
        assert "hunter2" not in shown
        assert "from file" not in shown
    assert config.effective()["remotes"]["one"]["auth"]["bearer"] == {"env": "TOKEN"}


@pytest.mark.parametrize(
    "text",
    [
        "auth: {bearer: hunter2}",
        "auth: {bearer: {value: hunter2}}",
        "auth: {bearer: {env: A, file: hunter2}}",
        "auth: {basic: {user: u, password: hunter2}}",
        "egress: {proxy: 'http://u:hunter2@proxy.example:1'}",
        "upstream: 'https://u:hunter2@files.example/'",
        "file_hosts: ['https://u:hunter2@files.example']",
    ],
)
def test_a_literal_secret_is_refused_without_repeating_it(refused, text):
    lines = refused(PYPI % text)
    assert len(lines) == 1
    assert "hunter2" not in lines[0]
    assert "{env: NAME}" in lines[0] or "`auth`" in lines[0]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("auth: {bearer: {env: NOPE}}", "auth.bearer: the environment variable NOPE is not set"),
        ("auth: {bearer: {file: /nonexistent/x}}", "auth.bearer: cannot read /nonexistent/x: No such file"),
        (
            "auth: {bearer: {env: TWO_LINES}}",
            "auth.bearer: the secret in TWO_LINES is empty or holds a line break",
        ),
        ("auth: {}", "auth: must hold either basic"),
        ("auth: {bearer: {env: T}, basic: {user: u, password: {env: T}}}", "auth: must hold either basic"),
        ("auth: {basic: {user: u}}", "auth.basic.password: is required"),
        ("auth: {basic: {user: 'u:v', password: {env: T}}}", "auth.basic.user: must not contain a colon"),
        ("egress: {proxy: {env: T}}", "egress.proxy: must be an http or https address"),
        ("egress: {ca: /nonexistent/ca.pem}", "egress.ca: there is no file /nonexistent/ca.pem"),
    ],
)
def test_secrets_and_files_that_are_not_there(refused, text, part):
    lines = refused(PYPI % text, {"T": "x", "TWO_LINES": "a\r\nX-Evil: 1"})
    assert len(lines) == 1
    assert part in lines[0]


# --- names


@pytest.mark.parametrize(
    "name", ["-a", "A", "a/b", "a b", "a" * 65, "caf\u00e9", "_x", ".x", "api", "v1", "metrics"]
)
def test_refused_repository_names(refused, name):
    lines = refused(json.dumps({"remotes": {name: {"provider": "pypi"}}}))
    assert len(lines) == 1
    assert "reserved" in lines[0] or "not a repository name" in lines[0]


def test_names_that_look_like_other_types_stay_names(read):
    assert set(read("remotes: {'2024': {provider: pypi}, true: {provider: pypi}}").remotes) == {
        "2024",
        "true",
    }


# --- the effective configuration


def test_what_is_printed_can_be_read_back(read):
    text = (
        TOOLS
        % ", ttl: 90s, rules: {immutable: ['*.gz']}, limits: {idle: 1.5, max_index: 10MB}, allow_private: [10.0.0.0/8]"
    )
    first = read(text + "\ndata_limit: 50GB\nlimits: {drain: 0}\nlisten: '[::1]:80'")
    again = read(yaml.safe_dump(first.effective()))
    assert again == first
    assert again.effective() == first.effective()


def test_the_caller_cannot_change_what_is_in_force(read):
    config = read()
    config.effective()["remotes"].clear()
    assert config.effective()["remotes"]


# --- the example


def _paths(section: type[Section], at: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found = set()
    for name, field in section.model_fields.items():
        found.add((*at, name))
        inner = Remote if (at, name) == ((), "remotes") else _inner(field.annotation)
        if isinstance(inner, type) and issubclass(inner, Section) and field.default is not None:
            found |= _paths(inner, (*at, name, "pypi") if inner is Remote else (*at, name))
    return found


def _written(value: Any, at: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    if not isinstance(value, dict):
        return set()
    return {(*at, k) for k in value} | {p for k, v in value.items() for p in _written(v, (*at, k))}


KINDED = {"store": "s3", "index": "postgres", "coordination": "redis"}


def _other_kinds() -> dict[str, Any]:
    """The example with the keys that wait behind `#` for the other kind of their section."""
    example = strict.read(re.sub(r"^#(?=  \w+:)", "", EXAMPLE.read_text(), flags=re.MULTILINE)).value
    for section, kind in KINDED.items():
        example[section]["kind"] = kind
    return example


def test_the_example_names_every_key_and_no_other():
    example = _other_kinds()
    for section in ("index", "coordination"):
        assert set(example[section].pop("url")) == {"env"}
        example[section]["url"] = None
    written = _written(example)
    assert written - {("remotes", "pypi")} == _paths(File)


def test_the_example_claims_the_true_defaults():
    example = strict.read(EXAMPLE.read_text()).value
    claimed = File.model_validate({k: v for k, v in example.items() if v is not None})
    assert example["remotes"]["pypi"].pop("provider") == "pypi"
    empty = File.model_validate({"remotes": {"pypi": {"provider": "pypi"}}})
    assert (
        claimed.remotes["pypi"].model_copy(update={"provider": "pypi"}).model_dump()
        == empty.remotes["pypi"].model_dump()
    )
    assert claimed.model_dump(exclude={"remotes"}) == empty.model_dump(exclude={"remotes"})


@pytest.mark.parametrize("section", KINDED)
def test_the_example_claims_the_true_defaults_of_other_kinds(section):
    example = _other_kinds()[section]
    claimed = File.model_validate({section: {k: v for k, v in example.items() if v is not None}})
    kind = type(getattr(claimed, section))
    for key, field in kind.model_fields.items():
        if key not in ("kind", "bucket", "url"):
            assert getattr(getattr(claimed, section), key) == field.default, key


def test_the_example_is_a_working_configuration():
    config = load(EXAMPLE, env={}, flags={}, providers=PROVIDERS, origins=Origins())
    default = load(None, env={}, flags={}, providers=PROVIDERS, origins=Origins())
    assert config.remotes["pypi"] == default.remotes["pypi"]
    assert config.limits == default.limits


def test_every_limit_of_the_model_is_a_key():
    defaults = File().limits
    for name in limits.Limits.__dataclass_fields__:
        assert getattr(defaults, name) == getattr(limits.Limits(), name)
    for name in limits.RemoteLimits.__dataclass_fields__:
        assert getattr(Remote().limits, name) == getattr(limits.RemoteLimits(), name)
