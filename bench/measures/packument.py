"""Package documents of an npm registry from the cache: requests per second, beside verdaccio."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from bench.measures.small import parsed
from bench.model import KIB, MIB, Bench, CannotMeasure, Column, Goal, Result, Sample, Samples, ratio
from bench.servers import Origin, Server, origin, proxy, run_pinned, tool
from bench.verdaccio import public_registry, verdaccio
from bench.watch import cpu_seconds

OURS, PEER = "artifactproxy", "verdaccio"
_LEAST = 10
SHORT = "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*"  # what npm asks for
FULL = "application/json"
_MIDDLE = "express"
LARGE = ("typescript", "next", "firebase")  # each of 10 MB and more when they were chosen
_TIMEOUT = 60  # seconds for one answer


@dataclass(frozen=True, slots=True)
class _Question:
    """One kind of request; with `known` it names the entity tag that we hold, for a 304."""

    title: str
    package: str
    accept: str
    coding: str
    connections: int
    seconds: int
    known: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    server: Server
    port: int
    prefix: str


@dataclass(frozen=True, slots=True)
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes

    def versions(self) -> set[str]:
        packed = self.headers.get("content-encoding") == "gzip"
        return set(json.loads(gzip.decompress(self.body) if packed else self.body)["versions"])


def measure(bench: Bench) -> Result:
    tool("wrk")
    with contextlib.ExitStack() as stack:
        source, sizes = stack.enter_context(upstream(bench, (_MIDDLE, *LARGE)))
        questions = _questions(bench, max(LARGE, key=lambda name: sizes[name]))
        places = {
            OURS: stack.enter_context(ours(bench, source, bench.server_cores)),
            PEER: stack.enter_context(theirs(bench, source, bench.server_cores)),
        }
        variants: dict[str, Callable[[], Sample]] = {
            f"{question.title}: {name}": partial(
                _wrk, bench, place, question, *_checked(place, question, source)
            )
            for question in questions
            for name, place in places.items()
        }
        samples = bench.interleaved(variants)
    listed = ", ".join(
        f"{name} {sizes[name] / MIB:.1f} MiB" for name in dict.fromkeys(q.package for q in questions)
    )
    return Result(
        title="Package documents from the cache",
        method=(
            "Real package documents, fetched from the public registry when the measure began and served to both by "
            f"a local upstream ({listed}), asked for warm over kept connections by wrk on one core, the server on "
            "another; abbreviated as npm asks for it, or full. 8 connections, 2 for the largest document. Verdaccio "
            "writes no log, artifactproxy its default one. Before the rounds both answers were read and must hold "
            "every version that upstream lists; a 304 must be one."
        ),
        columns=(
            Column("rps", "requests/s", 1),
            Column("p50", "p50 ms"),
            Column("p99", "p99 ms"),
            Column("cpu", "server CPU ms/request", 3),
            Column("kib", "KiB on the wire", 1),
        ),
        samples=samples,
        goals=tuple(_goal(question, samples) for question in questions),
    )


def _questions(bench: Bench, largest: str) -> list[_Question]:
    short, long = bench.scale.wrk_seconds, max(2, bench.scale.wrk_seconds * 3 // 2)
    made = [
        _Question(f"{_MIDDLE}, {form}, {coding}", _MIDDLE, accept, coding, 8, short)
        for form, accept in (("abbreviated", SHORT), ("full", FULL))
        for coding in ("gzip", "identity")
    ]
    made += [
        _Question(f"{largest}, abbreviated, {coding}", largest, SHORT, coding, 2, long)
        for coding in ("gzip", "identity")
    ]
    made.append(_Question(f"{_MIDDLE}, abbreviated, 304", _MIDDLE, SHORT, "gzip", 8, short, known=True))
    return made


def _goal(question: _Question, samples: Samples) -> Goal:
    times = ratio(samples, "rps", *(f"{question.title}: {name}" for name in (OURS, PEER)))
    what = f"warm package document: requests/s ({question.title})"
    return Goal(what, PEER, f"at least {_LEAST} x", f"{times:.1f} x", times >= _LEAST)


@contextlib.contextmanager
def upstream(bench: Bench, packages: tuple[str, ...]) -> Iterator[tuple[Origin, dict[str, int]]]:
    """A local registry of documents fetched now, and their sizes. Raises `CannotMeasure`."""
    root = bench.folder / "documents"
    root.mkdir(parents=True, exist_ok=True)
    public = public_registry(bench.all_cores)
    for package in packages:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(public + package, headers={"Accept": FULL}), timeout=_TIMEOUT
            ) as answer:
                (root / package).write_bytes(answer.read())
        except (OSError, http.client.HTTPException) as error:
            raise CannotMeasure("the public registry cannot be reached from here") from error
    sizes = {package: (root / package).stat().st_size for package in packages}
    with origin(bench.folder / "origin", root, bench.client_cores, "application/json") as source:
        yield source, sizes


@contextlib.contextmanager
def ours(bench: Bench, source: Origin, cores: frozenset[int]) -> Iterator[Place]:
    remotes = f"remotes:\n  npm: {{provider: npm, upstream: 'http://127.0.0.1:{source.port}/', ttl: 1d}}\n"
    with proxy(bench.folder / "proxy", cores, remotes) as (server, port):
        yield Place(server, port, "/npm/")


@contextlib.contextmanager
def theirs(bench: Bench, source: Origin, cores: frozenset[int]) -> Iterator[Place]:
    with verdaccio(bench.folder / "verdaccio", cores, f"http://127.0.0.1:{source.port}/") as (server, port):
        yield Place(server, port, "/")


def get(place: Place, package: str, headers: dict[str, str]) -> Answered:
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=_TIMEOUT)
    with contextlib.closing(connection):
        connection.request("GET", place.prefix + package, headers=headers)
        answer = connection.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return Answered(answer.status, names, answer.read())


def _checked(place: Place, question: _Question, source: Origin) -> tuple[dict[str, str], int]:
    """The headers to ask with and the size of the answer, once that is known to be right and warm."""
    headers = {"Accept": question.accept, "Accept-Encoding": question.coding}
    for _ in range(2):
        answer = get(place, question.package, headers)
    listed = json.loads((source.root / question.package).read_bytes())["versions"]
    if answer.status != 200 or answer.versions() != set(listed):
        raise CannotMeasure(f"a wrong answer: {question.title}, status {answer.status}")
    packed = answer.headers.get("content-encoding", "identity")
    if packed != question.coding:
        raise CannotMeasure(f"a wrong answer: {question.title} came as {packed}")
    if question.known:
        headers["If-None-Match"] = answer.headers["etag"]
        answer = get(place, question.package, headers)
        if answer.status != 304:
            raise CannotMeasure(f"a wrong answer: {question.title}, status {answer.status}")
    return headers, len(answer.body)


def _wrk(bench: Bench, place: Place, question: _Question, headers: dict[str, str], size: int) -> Sample:
    command = [tool("wrk"), "-t1", f"-c{question.connections}", f"-d{question.seconds}s", "--latency"]
    command += ["--timeout", f"{_TIMEOUT}s"]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    url = f"http://127.0.0.1:{place.port}{place.prefix}{question.package}"
    before = cpu_seconds(place.server.pid)
    sample = parsed(run_pinned([*command, url], bench.client_cores, question.seconds + 20))
    requests = sample.pop("requests")
    if not requests:
        raise CannotMeasure(f"not one answer in {question.seconds} s to {question.title}")
    spent = cpu_seconds(place.server.pid) - before
    return sample | {"cpu": spent / requests * 1000, "kib": size / KIB}
