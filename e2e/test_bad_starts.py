"""Mistakes in what a replica is told of its bucket, its database and its Redis: one sentence, with the fix."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from e2e.backends import Backends
from e2e.program import Done, run
from tests.needs import needs
from tests.servers import postgres

pytestmark = needs("minio", "postgres")

REMOTES = "remotes: {files: {provider: generic, upstream: 'http://127.0.0.1:9/'}}\n"


@pytest.fixture(scope="module")
def backends() -> Backends:
    return Backends()


def start(folder: Path, text: str, env: dict[str, str]) -> Done:
    (folder / "config.yaml").write_text(text + REMOTES)
    options = ("--listen", "127.0.0.1:0", "--data", str(folder / "data"))
    return run("serve", "--config", str(folder / "config.yaml"), *options, env=env)


def judge(done: Done, code: int, *said: str) -> None:
    assert (done.code, done.out) == (code, ""), done
    assert done.err.startswith("artifactproxy: ")
    assert len(done.err.splitlines()) == 1, done.err
    for each in said:
        assert each in done.err


@pytest.mark.parametrize(
    ("wrong", "env", "said"),
    [
        (
            {"bucket": "no-such-bucket-here"},
            {},
            "does not exist at {endpoint}: create it, or set store.bucket",
        ),
        ({"bucket": "No_Name"}, {}, "is no name that S3 allows: set store.bucket"),
        ({}, {"E2E_ACCESS": "nobody"}, "{endpoint} does not know the access key: set store.access_key"),
        ({}, {"E2E_SECRET": "wrong"}, "does not accept the signature: check store.secret_key"),
        ({"endpoint": "http://127.0.0.1:9"}, {}, "nothing can be reached at http://127.0.0.1:9: check"),
        ({"endpoint": "http://store.invalid"}, {}, "the host of http://store.invalid is not known: check"),
        ({"endpoint": "{tls}"}, {}, "does not speak TLS: write http:// in store.endpoint"),
        ({"endpoint": "{database}"}, {}, "check store.endpoint"),
    ],
    ids=["bucket", "bucket-name", "access-key", "secret-key", "closed", "host", "plain", "no-store"],
)
def test_a_store_that_cannot_be_used(
    backends: Backends, tmp_path: Path, wrong: dict[str, str], env: dict[str, str], said: str
) -> None:
    endpoint = backends.bucket.endpoint
    places = {
        "tls": endpoint.replace("http:", "https:"),
        "database": f"http://127.0.0.1:{postgres.shared().port}",
    }
    wrong = {name: value.format(**places) for name, value in wrong.items()}
    judge(start(tmp_path, backends.store(**wrong), backends.env | env), 1, said.format(endpoint=endpoint))


def _other(url: str, wrong: str) -> str:
    base = url.rpartition("/")[0]
    return {
        "database": f"{base}/nowhere",
        "password": re.sub(r":[^:@/]*@", ":wrong@", url),
        "user": url.replace("//proxy:", "//nobody:"),
        "closed": "postgresql://proxy:x@127.0.0.1:9/x",
        "host": "postgresql://proxy:x@database.invalid/x",
    }[wrong]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("database", ("there is no database nowhere", "create it (createdb ", "correct index.url")),
        ("password", ("does not let in proxy: correct user and password in index.url",)),
        ("user", ("does not let in nobody: correct user and password in index.url",)),
        ("closed", ("start PostgreSQL at 127.0.0.1:9/x, or correct index.url",)),
        ("host", ("the host database.invalid of index.url is unknown: correct it",)),
    ],
)
def test_a_database_that_cannot_be_used(
    backends: Backends, tmp_path: Path, wrong: str, said: tuple[str, ...]
) -> None:
    url = _other(backends.database, wrong)
    done = start(tmp_path, backends.index(), {"E2E_DATABASE": url})
    judge(done, 1, *said)
    assert "wrong" not in done.err  # the password


def test_a_database_that_belongs_to_somebody_else(tmp_path: Path, backends: Backends) -> None:
    server = postgres.shared()
    server.sql('CREATE DATABASE "of the administrator"')
    url = server.url("of%20the%20administrator")
    done = start(tmp_path, backends.index(), {"E2E_DATABASE": url})
    judge(done, 1, "proxy may not create tables in", "GRANT CREATE ON SCHEMA public TO proxy")


def test_a_schema_of_a_newer_version(tmp_path: Path) -> None:
    backends = Backends()
    made = run_until_ready(tmp_path, backends)
    assert made == 0
    server, name = postgres.shared(), backends.database.rpartition("/")[2]
    server.sql("INSERT INTO steps (number, name) VALUES (9999, 'of tomorrow')", name)
    done = start(tmp_path, backends.index(), backends.env)
    judge(done, 1, "the index was made by a newer version (schema 9999, this one knows")


def run_until_ready(folder: Path, backends: Backends) -> int:
    """Once with everything right, which makes the tables: any command that opens the index will do."""
    (folder / "config.yaml").write_text(backends.index() + REMOTES)
    options = ("--config", str(folder / "config.yaml"), "--data", str(folder / "data"))
    return run("stats", *options, env=backends.env).code


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("index: {kind: postgres, url: nonsense}\n", "index.url: must begin with postgres://"),
        ("coordination: {kind: redis, url: nonsense}\n", "coordination.url: must begin with redis://"),
        ("store: {kind: s3}\n", "store: kind: s3 needs a bucket"),
        (
            "store: {kind: s3, bucket: x, access_key: {env: NOT_SET}, secret_key: {env: X}}\n",
            "variable NOT_SET is not set",
        ),
    ],
    ids=["index", "coordination", "store", "secret"],
)
def test_what_can_be_seen_without_a_server(tmp_path: Path, text: str, said: str) -> None:
    done = start(tmp_path, text, {})
    assert (done.code, done.out) == (2, "")
    assert "config.yaml:1: " in done.err
    assert said in done.err
