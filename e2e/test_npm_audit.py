"""Everything that npm asks a registry beside packages, against one on loopback that signs.

The same command is run directly and through the proxy, and must say the same.
"""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.node_clients import Npm, Pnpm, Said, integrities, versions
from e2e.node_fixtures import StartNpmProxy
from e2e.node_registry import ABBREVIATED, Answer, NodeRegistry
from e2e.servers import Proxy
from tests.needs import needs

pytestmark = needs("node", "npm", "openssl")

APPLICATION = {"lodish": "1.0.0", "@corp/tool": "^2.0.0"}
ADVISORY = {
    "id": 1099,
    "url": "https://advisories.example/1099",
    "title": "Prototype pollution in lodish",
    "severity": "high",
    "vulnerable_versions": "<1.1.0",
    "patched_versions": ">=1.1.0",
    "cwe": ["CWE-1321"],
    "cvss": {"score": 7.5, "vectorString": None},
}


@pytest.fixture(scope="module", autouse=True)
def published(node_registry: NodeRegistry) -> None:
    node_registry.publish("tiny", "1.0.0", day=1)
    node_registry.publish("lodish", "1.0.0", {"tiny": "^1.0.0"}, day=2)
    node_registry.publish("lodish", "1.1.0", {"tiny": "^1.0.0"}, day=20)
    node_registry.publish("@corp/tool", "2.0.0", {"tiny": "1"}, day=3)
    node_registry.publish("@corp/tool", "2.5.0", {"tiny": "1"}, day=25)
    node_registry.advisories["lodish"] = ADVISORY


@pytest.fixture(autouse=True)
def healthy(node_registry: NodeRegistry) -> Iterator[None]:
    yield
    node_registry.faults.clear()


@pytest.fixture(scope="module")
def project(npm: Npm, npm_mirror: Proxy) -> Path:
    """The application, installed through the proxy."""
    return npm.install(APPLICATION, registry=npm_mirror.base)


class Twice:
    """One npm command, directly and through the proxy, with the addresses made equal."""

    def __init__(self, npm: Npm, registry: NodeRegistry, npm_mirror: Proxy) -> None:
        self._npm, self._bases = npm, (registry.url, npm_mirror.base)

    def __call__(self, *arguments: str, cwd: Path | None = None, **env: str) -> tuple[Said, Said]:
        direct, through = (
            self._one(base, self._npm.attempt(*arguments, cwd=cwd, registry=base, **env))
            for base in self._bases
        )
        return direct, through

    @staticmethod
    def _one(base: str, said: Said) -> Said:
        def plain(text: str) -> str:
            text = text.replace(base, "<registry>/").replace(base.rstrip("/"), "<registry>")
            return re.sub(r"in \d+m?s|PONG \d+|\S+-debug-0\.log", "<varies>", text)

        return Said(said.code, plain(said.out), plain(said.err))


@pytest.fixture(scope="module")
def twice(npm: Npm, node_registry: NodeRegistry, npm_mirror: Proxy) -> Twice:
    return Twice(npm, node_registry, npm_mirror)


def test_both_forms_of_a_packument_come_with_their_own_type_and_tag(
    project: Path, npm_mirror: Proxy, node_registry: NodeRegistry
) -> None:
    short = npm_mirror.get(
        f"{npm_mirror.base}lodish", Accept=f"{ABBREVIATED}; q=1.0, application/json; q=0.8, */*"
    )
    full = npm_mirror.get(f"{npm_mirror.base}lodish", Accept="application/json")
    assert short.headers["Content-Type"].startswith(ABBREVIATED)
    assert full.headers["Content-Type"].startswith("application/json")
    assert short.headers["ETag"] != full.headers["ETag"]
    assert "time" in json.loads(full.body)
    assert json.loads(full.body)["versions"]["1.0.0"]["scripts"]
    again = npm_mirror.get(
        f"{npm_mirror.base}lodish", Accept=ABBREVIATED, If_None_Match=str(short.headers["ETag"])
    )
    assert again.status == 304
    promised = json.loads(full.body)["versions"]["1.0.0"]["dist"]
    assert promised["tarball"] == f"{npm_mirror.base}lodish/-/lodish-1.0.0.tgz"
    assert promised["signatures"] == node_registry.manifest("lodish", "1.0.0")["dist"]["signatures"]


def test_an_installation_equals_a_direct_one(project: Path, npm: Npm, node_registry: NodeRegistry) -> None:
    directly = npm.install(APPLICATION, registry=node_registry.url)
    assert versions(project) == versions(directly) == {
        "node_modules/@corp/tool": "2.5.0",
        "node_modules/lodish": "1.0.0",
        "node_modules/tiny": "1.0.0",
    }  # fmt: skip
    assert integrities(project) == integrities(directly)


def test_a_date_chooses_the_version_of_that_day(npm: Npm, npm_mirror: Proxy) -> None:
    options = ["--before", "2024-01-10T00:00:00Z", "--package-lock-only"]
    chosen = npm.install({"lodish": "*", "@corp/tool": "*"}, *options, registry=npm_mirror.base)
    assert set(versions(chosen).values()) == {"1.0.0", "2.0.0"}


# --- audits ---------------------------------------------------------------------------------


def test_audit_reports_as_directly(twice: Twice, project: Path, node_registry: NodeRegistry) -> None:
    node_registry.posts.clear()
    direct, through = twice("audit", cwd=project)
    assert ADVISORY["title"] in direct.out
    assert through == direct
    bodies = [gzip.decompress(post.body) for post in node_registry.posts if post.encoding == "gzip"]
    assert [post.path for post in node_registry.posts] == ["-/npm/v1/security/advisories/bulk"] * 2
    assert len(bodies) == 2 and bodies[0] == bodies[1]
    assert json.loads(bodies[1])["lodish"] == ["1.0.0"]


def test_audit_reports_as_directly_in_json(twice: Twice, project: Path) -> None:
    direct, through = twice("audit", "--json", cwd=project)
    assert json.loads(direct.out)["metadata"]["vulnerabilities"]["high"] == 1
    assert through == direct


def test_an_audit_without_findings_ends_well(twice: Twice, npm: Npm, npm_mirror: Proxy) -> None:
    safe = npm.install({"lodish": "1.1.0"}, registry=npm_mirror.base)
    direct, through = twice("audit", cwd=safe)
    assert direct.code == 0 and "found 0 vulnerabilities" in direct.out
    assert through == direct


def test_a_registry_without_audits_is_told_as_such(
    twice: Twice, project: Path, node_registry: NodeRegistry
) -> None:
    for path in ("advisories/bulk", "audits/quick"):  # older ones try the second next
        node_registry.faults[f"-/npm/v1/security/{path}"] = Answer(404, b'{"error":"Not found"}')
    for said in twice("audit", cwd=project):
        assert re.search(r"audit 404 .* - POST <registry>/-/npm/v1/security/", said.err)
        assert "audit endpoint returned an error" in said.err


def test_pnpm_audits_by_the_older_form(
    pnpm: Pnpm, npm_mirror: Proxy, node_registry: NodeRegistry, npm: Npm
) -> None:
    reports = []
    for base in (node_registry.url, npm_mirror.base):
        project = pnpm.project({"lodish": "1.0.0"})
        pnpm("install", cwd=project, registry=base)
        said = pnpm.attempt("audit", "--json", cwd=project, registry=base)
        assert said.code == 1, said.text
        reports.append(json.loads(said.out))
    assert reports[0]["advisories"][str(ADVISORY["id"])]["title"] == ADVISORY["title"]
    assert reports[1] == reports[0]


# --- signatures -----------------------------------------------------------------------------


def test_signatures_are_verified_as_directly(twice: Twice, npm: Npm, project: Path) -> None:
    direct, through = twice("audit", "signatures", cwd=project, **npm.without_key_server())
    assert direct.code == 0 and "3 packages have verified registry signatures" in direct.out
    assert through == direct


def test_a_tampered_signature_is_reported_as_directly(
    npm: Npm, node_registry: NodeRegistry, npm_mirror: Proxy, twice: Twice
) -> None:
    node_registry.publish("forged", "1.0.0")
    other = node_registry.manifest("tiny", "1.0.0")["dist"]["signatures"]
    node_registry.manifest("forged", "1.0.0")["dist"]["signatures"] = other
    project = npm.install({"forged": "1.0.0", "tiny": "1.0.0"}, registry=npm_mirror.base)
    direct, through = twice("audit", "signatures", cwd=project, **npm.without_key_server())
    assert "1 package has an invalid registry signature" in direct.out
    assert "forged@1.0.0" in direct.out
    assert through == direct


def test_a_missing_signature_is_reported_as_directly(
    npm: Npm, node_registry: NodeRegistry, npm_mirror: Proxy, twice: Twice
) -> None:
    node_registry.publish("unsigned", "1.0.0")
    del node_registry.manifest("unsigned", "1.0.0")["dist"]["signatures"]
    project = npm.install({"unsigned": "1.0.0"}, registry=npm_mirror.base)
    direct, through = twice("audit", "signatures", cwd=project, **npm.without_key_server())
    assert "1 package has a missing registry signature" in direct.out
    assert through == direct


# --- questions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ["view", "lodish", "--json"],
        ["view", "@corp/tool", "versions", "time", "dist", "--json"],
        ["view", "lodish@1.0.0", "dist.tarball"],
        ["dist-tag", "ls", "@corp/tool"],
        ["search", "tool"],
        ["search", "nothing-like-it", "--json"],
        ["ping"],
        ["view", "not-there"],
        ["view", "lodish@9"],
    ],
    ids=" ".join,
)
def test_a_question_is_answered_as_directly(command: list[str], twice: Twice, project: Path) -> None:
    direct, through = twice(*command)
    assert through.code == direct.code
    assert _comparable(through.out) == _comparable(direct.out)
    assert through.codes == direct.codes


def _comparable(out: str) -> object:
    """JSON without its order and its size on the way, or the text itself."""
    try:
        read = json.loads(out)
    except ValueError:
        return out
    return {**read, "_contentLength": 0} if isinstance(read, dict) else read


# --- what a cache does not do ---------------------------------------------------------------


def _token(proxy: Proxy) -> str:
    return f"--//{proxy.listen}/npm/:_authToken=secret"


def test_publishing_is_refused(npm: Npm, npm_mirror: Proxy, node_registry: NodeRegistry) -> None:
    project = npm.project({}, name="mine", private=False)
    said = npm.attempt("publish", _token(npm_mirror), cwd=project, registry=npm_mirror.base)
    assert said.code
    assert said.codes == ["E405"], said.err
    assert node_registry.changes == []
    assert npm_mirror.get(f"{npm_mirror.base}mine").status == 404


@pytest.mark.parametrize("kind", ["web", "legacy"])
def test_a_login_is_refused(kind: str, npm: Npm, npm_mirror: Proxy, node_registry: NodeRegistry) -> None:
    node_registry.posts.clear()
    answers = {"Username": "someone", "Password": "secret", "Email": "someone@client.example"}
    said = npm.asked("login", "--auth-type", kind, registry=npm_mirror.base, answers=answers)
    assert said.code
    assert said.codes in (["E405"], ["ENYI"]), said.err  # the latter: older, without a web login
    assert not any("login" in post.path for post in node_registry.posts)
    assert node_registry.changes == []


@pytest.mark.parametrize(
    "command", [["unpublish", "lodish@1.0.0", "--force"], ["dist-tag", "add", "lodish@1.0.0", "old"]]
)
def test_changes_are_refused(
    command: list[str], npm: Npm, npm_mirror: Proxy, node_registry: NodeRegistry
) -> None:
    said = npm.attempt(*command, _token(npm_mirror), registry=npm_mirror.base)
    assert said.code
    assert said.codes == ["E405"], said.err
    assert node_registry.changes == []


def test_the_token_of_a_client_never_goes_upstream(
    npm: Npm, npm_mirror: Proxy, node_registry: NodeRegistry, project: Path
) -> None:
    node_registry.credentials.clear()
    node_registry.publish("fetched-with-a-token", "1.0.0")
    npm.install({"fetched-with-a-token": "*"}, _token(npm_mirror), registry=npm_mirror.base)
    said = npm.attempt("audit", _token(npm_mirror), cwd=project, registry=npm_mirror.base)
    assert ADVISORY["title"] in said.out
    assert node_registry.credentials == []
    directly = f"--//{node_registry.url.split('/')[2]}/:_authToken=secret"
    npm("view", "tiny", directly, registry=node_registry.url)
    assert set(node_registry.credentials) == {"Bearer secret"}


# --- wrong bytes ----------------------------------------------------------------------------


def test_a_tarball_that_is_not_what_was_promised_is_not_delivered(
    npm: Npm, npm_mirror: Proxy, node_registry: NodeRegistry
) -> None:
    node_registry.publish("swapped", "1.0.0")
    node_registry.packages["swapped"].tarballs["swapped-1.0.0.tgz"] = b"something else"
    project = npm.project({"swapped": "1.0.0"})
    said = npm.attempt("install", cwd=project, registry=npm_mirror.base)
    assert said.codes in (["EINTEGRITY"], ["E502"]), said.err
    assert not (project / "node_modules" / "swapped").exists()
    told = npm_mirror.explain("swapped/-/swapped-1.0.0.tgz")
    assert told["row"] is None


@pytest.fixture(scope="module")
def impatient(start_npm_proxy: StartNpmProxy, node_registry: NodeRegistry) -> Proxy:
    """It asks upstream again after a second."""
    soon = "    ttl: 1s\n    stale_while_revalidate: 0s\n    min_revalidate: 0s\n"
    return start_npm_proxy("impatient", upstream=node_registry.url, remote=soon)


def test_a_new_version_appears(npm: Npm, impatient: Proxy, node_registry: NodeRegistry) -> None:
    node_registry.publish("growing", "1.0.0")
    for version in ("1.0.0", "1.0.1"):
        node_registry.publish("growing", version)
        time.sleep(1.1)
        assert npm("view", "growing", "version", registry=impatient.base).strip() == version
    time.sleep(1.1)
    with impatient.watch() as seen:
        npm("view", "growing", registry=impatient.base)
    assert [fill["result"] for fill in seen.fills()] == ["refreshed"]


@pytest.mark.parametrize(
    "wrong",
    [
        Answer(200, b"<html>sign in here</html>", "text/html"),
        Answer(200, b'{"name": "lodish", "versions": {"1.0.'),
        Answer(200, b'{"name": "tiny", "versions": {}}'),
        Answer(200, b"[]"),
    ],
    ids=["a portal", "cut off", "another package", "no object"],
)
def test_a_wrong_packument_replaces_nothing(
    wrong: Answer, npm: Npm, impatient: Proxy, node_registry: NodeRegistry, request: pytest.FixtureRequest
) -> None:
    good = npm("view", "lodish", "versions", "--json", registry=impatient.base)
    unseen = f"unseen-{len(request.node.name)}"
    node_registry.faults = {"lodish": wrong, unseen: wrong}
    time.sleep(1.1)
    assert npm("view", "lodish", "versions", "--json", registry=impatient.base) == good
    said = npm.attempt("view", unseen, registry=impatient.base)
    assert said.codes == ["E502"], said.err
    node_registry.faults.clear()
    assert npm("view", "lodish", "versions", "--json", registry=impatient.base) == good


@pytest.mark.parametrize("status", [403, 404, 410, 451])
def test_refusals_reach_the_user(
    status: int, npm: Npm, npm_mirror: Proxy, node_registry: NodeRegistry
) -> None:
    name = f"refused-{status}"
    node_registry.faults[name] = Answer(status, b'{"error":"the registry says no"}')
    said = npm.attempt("install", name, cwd=npm.project({}), registry=npm_mirror.base)
    assert said.code
    assert said.codes == [f"E{status}"], said.err
    answer = npm_mirror.get(f"{npm_mirror.base}{name}", Accept=ABBREVIATED)
    assert json.loads(answer.body)["error"] in said.err
    assert answer.headers["X-Artifact-Source"] is None


def test_an_outage_is_told_as_such(
    npm: Npm, start_npm_proxy: StartNpmProxy, node_registry: NodeRegistry
) -> None:
    proxy = start_npm_proxy("outage", upstream=node_registry.url)
    node_registry.faults["broken"] = Answer(503, b'{"error":"the registry is down"}')
    said = npm.attempt("install", "broken", cwd=npm.project({}), registry=proxy.base)
    assert said.codes in (["E502"], ["E503"]), said.err
    assert "upstream answered 503" in said.err
