"""`artifactproxy s3-check` on a real bucket, and on what is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from e2e.backends import Backends
from e2e.program import Done, on_a_terminal, run
from tests.needs import needs

pytestmark = needs("minio", "postgres")

NEEDED = {"put", "get", "range", "tell absence", "multipart", "abort", "list", "copy", "clock", "delete"}


@pytest.fixture(scope="module")
def backends() -> Backends:
    return Backends()


def check(folder: Path, text: str, *options: str, env: dict[str, str]) -> Done:
    (folder / "config.yaml").write_text(text)
    return run("s3-check", "--config", str(folder / "config.yaml"), *options, env=env)


def test_a_bucket_that_does_what_is_needed(backends: Backends, tmp_path: Path) -> None:
    done = check(tmp_path, backends.store(), env=backends.env)
    assert (done.code, done.err) == (0, "")
    *rows, last = done.out.splitlines()
    assert last == "the bucket does what is needed"
    assert {row.split("\t")[0] for row in rows} == {"ok"}
    assert {row.split("\t")[1] for row in rows} > NEEDED
    assert not backends.bucket.client().list_objects_v2(Bucket=backends.bucket.name).get("Contents")


def test_the_same_for_scripts_and_on_a_terminal(backends: Backends, tmp_path: Path) -> None:
    done = check(tmp_path, backends.store(), "--json", env=backends.env)
    told = json.loads(done.out)
    assert (done.code, told["good"], told["bucket"]) == (0, True, backends.bucket.name)
    assert {each["name"] for each in told["checks"] if each["needed"]} > NEEDED
    code, seen = on_a_terminal("s3-check", "--config", str(tmp_path / "config.yaml"), env=backends.env)
    assert code == 0
    assert "ability" in seen
    assert "the bucket does what is needed" in seen


@pytest.mark.parametrize(
    ("wrong", "env", "said"),
    [
        ({"bucket": "no-such-bucket-here"}, {}, "create it, or set store.bucket"),
        ({}, {"E2E_ACCESS": "nobody"}, "set store.access_key"),
        ({}, {"E2E_SECRET": "wrong"}, "check store.secret_key"),
        ({"endpoint": "http://127.0.0.1:9"}, {}, "check store.endpoint and the network"),
    ],
    ids=["bucket", "access-key", "secret-key", "endpoint"],
)
def test_what_is_wrong_is_named(
    backends: Backends, tmp_path: Path, wrong: dict[str, str], env: dict[str, str], said: str
) -> None:
    text = backends.store(**wrong)
    done = check(tmp_path, text, env=backends.env | env)
    assert (done.code, done.err) == (1, "")
    first, mend, last = done.out.splitlines()
    assert first.startswith("FAILED\treach the bucket\t")
    assert mend.startswith("reach the bucket: ")
    assert said in mend
    assert last == "the bucket cannot be used as it is"
    told = json.loads(check(tmp_path, text, "--json", env=backends.env | env).out)
    assert (told["good"], [each["good"] for each in told["checks"]]) == (False, [False])
    assert said in told["checks"][0]["mend"]


def test_a_store_that_is_no_bucket(tmp_path: Path) -> None:
    done = check(tmp_path, "", env={})
    assert (done.code, done.out) == (2, "")
    assert "the configured store is no bucket: set store.kind to s3" in done.err
