"""Runs every provider's table and samples, and the laws that all providers obey.

P1 classify answers or raises BadPath, NotServed, MethodRefused, Blocked. P2 it is deterministic. P3 equal
keys mean equal upstream URLs. P4 no URL leaves the configured hosts unless the route says foreign, and
none carries what was judged away. P5 what is immutable is so by a rule that the module states. P6 every
address that render writes leads back to the upstream URL it stood for. P7 learn promises only keys
that classify can produce. P8 problem shows no cause, path on disk or credential.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from dataclasses import asdict, replace
from functools import cache
from types import ModuleType
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifactproxy import errors
from artifactproxy.model import Ask, Kind, Reply, Right, Route, View
from artifactproxy.providers import PROVIDERS, default_remotes
from artifactproxy.providers._base import Provider, PublicOrigins
from artifactproxy.web.setup import render
from tests.providers.cases import SAMPLES, Case, Sample

BASE = "https://proxy.example/prefix/repo"
REFUSALS = (errors.BadPath, errors.NotServed, errors.MethodRefused, errors.Blocked)


@cache
def table(name: str) -> ModuleType:
    return importlib.import_module(f"tests.providers.tables.{name}")


@cache
def provider(name: str) -> Provider:
    return PROVIDERS[name](table(name).SITE)


def ask(name: str, path: str, query: str = "", headers: dict[str, str] | None = None) -> Ask:
    return Ask(table(name).SITE.repo, path, query=query, headers=headers or {}, base=BASE)


ALL_CASES = [(name, case) for name in PROVIDERS for case in table(name).CASES]
ALL_SAMPLES = [(name, sample) for name in PROVIDERS for sample in getattr(table(name), "SAMPLES", [])]


@pytest.mark.parametrize("name", PROVIDERS)
def test_every_provider_has_a_table_with_cases(name: str) -> None:
    assert len(table(name).CASES) > 5


@pytest.mark.parametrize(("name", "case"), ALL_CASES, ids=[f"{n}: {c.description}" for n, c in ALL_CASES])
def test_table(name: str, case: Case) -> None:
    asked = ask(name, case.path, case.query, case.headers)
    if isinstance(case.expect, type):
        with pytest.raises(case.expect):
            provider(name).classify(asked)
        return
    got = provider(name).classify(asked)
    if isinstance(got, Reply):
        assert got.status == case.expect
    else:
        assert got.kind is case.expect
        assert case.source in (None, got.sources[0])
    for field, value in case.fields.items():
        assert _field(got, field) == value, field


def _field(got: Route | Reply, name: str) -> object:
    if isinstance(got, Reply):
        return dict(got.headers).get(name) if name == "location" else getattr(got, name)
    return getattr(got.key, name.removeprefix("key_")) if name.startswith("key_") else getattr(got, name)


def _route(name: str, sample: Sample) -> Route:
    headers = {"accept": sample.accept} if sample.accept else {}
    path, _, query = sample.path.partition("?")
    route = provider(name).classify(ask(name, path, query, headers))
    assert isinstance(route, Route)
    return route


def _body(name: str, sample: Sample) -> bytes:
    return (SAMPLES / name / f"{sample.name}.in").read_bytes()


def _rendered(name: str, sample: Sample) -> bytes:
    view = View(hidden=sample.hidden)
    return (
        provider(name).render(_route(name, sample), _body(name, sample), sample.base, view, sample.url).body
    )


sampled = pytest.mark.parametrize(
    ("name", "sample"), ALL_SAMPLES, ids=[f"{n}: {s.rendered}" for n, s in ALL_SAMPLES]
)


@sampled
def test_sample_renders_to_its_golden_body(name: str, sample: Sample) -> None:
    assert _rendered(name, sample).decode() == (SAMPLES / name / sample.rendered).read_text()


@sampled
def test_sample_teaches_its_golden_promises(name: str, sample: Sample) -> None:
    promises = provider(name).learn(_route(name, sample), _body(name, sample), sample.url)
    golden = json.loads((SAMPLES / name / f"{sample.name}.promises").read_text())
    assert json.loads(json.dumps([asdict(p) for p in promises])) == golden


@sampled
def test_p6_every_rendered_address_leads_back(name: str, sample: Sample) -> None:
    promised = {
        p.key: p.url for p in provider(name).learn(_route(name, sample), _body(name, sample), sample.url)
    }
    links = table(name).links(_route(name, sample), _rendered(name, sample), sample.base)
    for link in links:
        assert link.startswith(f"{sample.base}/"), link
        route = provider(name).classify(ask(name, link.removeprefix(f"{sample.base}/")))
        assert isinstance(route, Route)
        there = promised[route.key]
        assert any(_same_place(source, there) for source in route.sources) or route.foreign, link


def _same_place(one: str, other: str) -> bool:
    return _place(one) == _place(other)


def _place(url: str) -> tuple[str, str, str]:
    """A URL without its query, which may be a signature, and with one spelling of plus and of the
    slash in a scoped name."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc, parts.path.replace("+", "%2B").replace("%2f", "/")


@sampled
def test_p7_promised_keys_can_be_asked_for(name: str, sample: Sample) -> None:
    for promise in provider(name).learn(_route(name, sample), _body(name, sample), sample.url):
        route = provider(name).classify(ask(name, promise.key.path))
        assert isinstance(route, Route)
        assert route.key == promise.key
        assert route.kind is Kind.ARTIFACT


# --- laws over arbitrary paths --------------------------------------------------------------

_NASTY = [
    "",
    ".",
    "..",
    "%2e%2e",
    "%2F",
    "%00",
    "%ff",
    "%zz",
    "a b",
    "\\",
    "#",
    "?",
    "é",
    "%C3%A9",
    "@s%2fn",
    "+",
    "%2B",
]


def _segments(name: str) -> list[str]:
    return sorted({segment for case in table(name).CASES for segment in case.path[:300].split("/")})


def _paths(name: str) -> st.SearchStrategy[str]:
    segment = st.sampled_from(_segments(name)) | st.sampled_from(_NASTY) | st.text(max_size=12)
    built = st.lists(segment, max_size=7).map("/".join)
    return built | st.sampled_from([case.path for case in table(name).CASES]) | st.text(max_size=60)


def _answer(name: str, path: str, query: str = "", accept: str = "") -> Route | Reply | type[errors.Fault]:
    try:
        return provider(name).classify(ask(name, path, query, {"accept": accept} if accept else {}))
    except REFUSALS as fault:
        return type(fault)


def _allowed(name: str) -> set[tuple[str, str]]:
    site, also = table(name).SITE, getattr(table(name), "ALSO_ALLOWED", ())
    urls = [u if "://" in u else f"https://{u}" for u in (*site.upstreams, *site.file_hosts, *also)]
    return {urlsplit(url)[:2] for url in urls}


@pytest.mark.parametrize("name", PROVIDERS)
def test_laws_of_classify_over_arbitrary_paths(name: str) -> None:
    allowed = _allowed(name)

    @settings(max_examples=300, deadline=None)
    @given(
        _paths(name), st.sampled_from(["", "a=b", "format=x", "%zz", "a=../b"]), st.sampled_from(["", "*/*"])
    )
    def laws(path: str, query: str, accept: str) -> None:
        got = _answer(name, path, query, accept)  # P1: anything else that is raised fails here
        assert got == _answer(name, path, query, accept)  # P2
        if not isinstance(got, Route):
            return
        assert got.key.repo == table(name).SITE.repo
        assert got.sources
        for source in got.sources:  # P4
            parts = urlsplit(source)
            assert got.foreign or tuple(parts[:2]) in allowed
            assert parts.scheme in ("http", "https")
            assert source.isascii()
            assert source.isprintable()
            assert " " not in source
            assert "#" not in source
            assert not {".", ".."} & set(parts.path.split("/"))
        again = _answer(name, *got.key.path.partition("?")[::2], accept)
        assert isinstance(again, Route)  # a key is itself a path, and its own canonical form
        assert (again.key.path, again.sources) == (got.key.path, got.sources)  # P3

    laws()


@pytest.mark.parametrize("name", PROVIDERS)
def test_p9_what_a_request_would_do_is_always_told(name: str) -> None:
    """Of its own repository, in words that scopes can cover, and reading does no more than read."""

    @settings(max_examples=200, deadline=None)
    @given(_paths(name), st.sampled_from(sorted(provider(name).methods)))
    def laws(path: str, method: str) -> None:
        operation = provider(name).operation(replace(ask(name, path, "", {}), method=method))
        assert operation.repo == table(name).SITE.repo
        assert operation.right is Right.READ or method not in ("GET", "HEAD")

    laws()


@pytest.mark.parametrize("name", PROVIDERS)
def test_p3_spellings_of_one_path_share_key_and_sources(name: str) -> None:
    @settings(max_examples=150, deadline=None)
    @given(_paths(name), st.randoms(use_true_random=False))
    def law(path: str, random: object) -> None:
        spelled = "".join(
            f"%{ord(c):02x}" if c.isascii() and c.isalnum() and random.random() < 0.3 else c  # type: ignore[attr-defined]
            for c in path
        )
        if "%" in path:  # an escape within an escape is another path
            return
        one, other = _answer(name, path), _answer(name, spelled)
        if isinstance(one, Route):
            assert isinstance(other, Route)
            assert (one.key, one.sources) == (other.key, other.sources)

    law()


@pytest.mark.parametrize("name", PROVIDERS)
def test_p5_immutability_is_a_stated_rule(name: str) -> None:
    stated = sys.modules[PROVIDERS[name].__module__].__doc__ or ""
    kinds = {r.kind for case in table(name).CASES if isinstance(r := _answer(name, case.path), Route)}
    assert Kind.ARTIFACT not in kinds or "Immutable" in stated


# --- errors ---------------------------------------------------------------------------------


def _faults() -> list[type[errors.Fault]]:
    found, left = [], [errors.Fault]
    while left:
        one = left.pop()
        found.append(one)
        left += one.__subclasses__()
    return [one for one in found if one.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", _faults(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", PROVIDERS)
def test_p8_problems_show_the_sentence_and_nothing_else(name: str, kind: type[errors.Fault]) -> None:
    fault = kind("the sentence", size=1) if kind is errors.BadRange else kind("the sentence")
    fault.__cause__ = OSError(13, "s3cret-cause", "/var/disk/path")
    page = provider(name).problem(
        fault, ask(name, "a", query="token=s3cret", headers={"authorization": "s3cret"})
    )
    shown = page.body.decode() + page.reason + page.media_type
    assert "the sentence" in page.body.decode()
    assert "s3cret" not in shown
    assert "/var/disk" not in shown


@pytest.mark.parametrize("name", PROVIDERS)
@given(detail=st.text(max_size=400))
@settings(max_examples=40, deadline=None)
def test_p8_a_reason_fits_into_a_status_line(name: str, detail: str) -> None:
    reason = provider(name).problem(errors.UpstreamBroken(detail), ask(name, "a")).reason
    assert reason.isascii()
    assert len(reason) <= 200
    assert not set(reason) & set(map(chr, [*range(32), 127]))


# --- the folder -----------------------------------------------------------------------------


class Origins(PublicOrigins):
    """One invented host per ecosystem."""

    def repository(self, purl: str) -> str:
        return f"https://{_ecosystem(purl)}.example/"

    def download(self, purl: str) -> str:
        return f"https://{_ecosystem(purl)}.example/base/{purl.rpartition('/')[2]}"


def _ecosystem(purl: str) -> str:
    return purl.removeprefix("pkg:").partition("/")[0]


def test_default_remotes_are_those_with_a_public_registry() -> None:
    remotes = default_remotes(Origins())
    assert remotes["pypi"] == "https://pypi.example/simple/"
    assert "generic" not in remotes
    assert {"docker.io", "ghcr.io", "quay.io", "registry.k8s.io"} <= set(remotes)
    assert "oci" not in remotes


def test_the_public_index_is_found_in_the_package_url_library() -> None:
    parts = urlsplit(PROVIDERS["pypi"].public_upstream(PublicOrigins()) or "")
    assert (parts.scheme, parts.path) == ("https", "/simple/")
    assert "." in parts.netloc


@pytest.mark.parametrize("name", PROVIDERS)
def test_client_setups_are_complete(name: str) -> None:
    for setup in PROVIDERS[name].clients:
        text = render(setup, BASE)
        assert not re.search(r"\{[a-z]+\}", text + setup.command.replace("{base}", ""))
        assert BASE in text
