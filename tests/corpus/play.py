"""Plays an attack over a raw socket and holds the answer, and what became of us, against its entry.

Behind every attack goes a *marker*, an honest request that asks to close. It is answered exactly if
the connection was kept, so that the socket is always read to its end and nothing waits for a timer.

`expect` may hold: `status` (a list, for every answer), `code` (X-Proxy-Error), `close`, `answers` or
`at_most` (how many, 1 if neither is said), `interim` (how many 1xx), `asked` (requests that upstream
saw), `relayed` (the one body that it was sent), `file` (the exact bytes of a seeded file), `has` and
`lacks` (texts), `each` (of these, one for every answer). `must_not`: `store` (blobs and rows), `blob`,
`record` (rows only), `ask_upstream`, `run_second`, `echo` (in an error), `believe` (a forged address, in
answer or log), `tell` (a token, in an answer, the log, the metrics or on standard error).
After every case there is no warning in the log, and an honest request is a hit.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

from tests.corpus.entry import Case
from tests.corpus.programs import FILES, GOOD, MARKER, Program
from tests.corpus.recipes import RECIPES
from tests.corpus.registry import DIGESTS, sha256
from tests.corpus.wire import NotHttp, Reply, exchange, replies

_MARKER = "GET /files/marker.bin HTTP/1.1\r\nHost: {host}\r\n{shown}Connection: close\r\n\r\n"
_NEXT = "GET /files/smuggled.bin HTTP/1.1\r\nHost: {host}\r\n\r\n"
_WORDS = {
    "get": "GET /files/good.bin HTTP/1.1\r\nHost: {host}\r\n",
    "post": "POST /npm/-/npm/v1/security/audits HTTP/1.1\r\nHost: {host}\r\n",
    "chunked": "Transfer-Encoding: chunked\r\n",
    "next": _NEXT,
}
"""What may stand in braces in a case, besides what `host`, `next_size`, `next_hex` and `etag:FILE` say, and, where
reading needs a token, `token:NAME`, `basic:NAME` and `shown`, the whole field of an honest client; of a
registry `digest:NAME`; in a head `length` and `sha256`, which are those of its body."""

# What honest answers say as well, so that it proves no echo.
_OURS = re.compile(rb"(?i)close|chunked|keep-alive|gzip|application/json|text/html|bytes.*|/?|no-cache")
FAULTLESS = "Traceback"
"""Never in what the program says."""
_SECRETS = (b"Traceback", b"aiohttp", b"asyncio", b'.py"', b"site-packages", b"index.sqlite3")


def request_of(case: Case, program: Program, host: str) -> bytes:
    """The bytes of a case, without the marker."""
    given = case.given
    if "recipe" in given:
        text = RECIPES[given["recipe"]](**given.get("with", {}))
    elif "request" in given:
        text = given["request"]
    else:
        fields = "".join(f"{field}\r\n" for field in given.get("headers", ()))
        text = f"{given.get('method', 'GET')} {given['target']} HTTP/1.1\r\nHost: {{host}}\r\n{fields}\r\n"
    return _measured(filled(text, program, host)).encode("latin-1")


def _measured(text: str) -> str:
    """With the length of the body, and its digest, where the head says `{length}` and `{sha256}`."""
    head, gap, body = text.partition("\r\n\r\n")
    whole = body.encode("latin-1")
    return head.replace("{length}", str(len(whole))).replace("{sha256}", sha256(whole)) + gap + body


def filled(text: str, program: Program, host: str) -> str:
    for word, meaning in _WORDS.items():
        text = text.replace(f"{{{word}}}", meaning)
    text = text.replace("{shown}", program.shown)
    text = re.sub(r"\{digest:([^}]+)\}", lambda match: DIGESTS[match[1]], text)
    text = re.sub(r"\{token:([^}]+)\}", lambda match: program.tokens[match[1]], text)
    text = re.sub(r"\{basic:([^}]+)\}", lambda match: _basic(program.tokens[match[1]]), text)
    size = len(_NEXT.replace("{host}", host))
    text = text.replace("{next_size}", str(size)).replace("{next_hex}", f"{size:x}")
    text = re.sub(r"\{etag:([^}]+)\}", lambda match: program.etags[match[1]], text)
    return text.replace("{host}", host)


def _basic(token: str) -> str:
    return base64.b64encode(f"me:{token}".encode()).decode()


def marker_of(case: Case, program: Program, host: str) -> bytes:
    return filled(_MARKER, program, host).encode() if case.given.get("marker", True) else b""


async def play(case: Case, program: Program, host: str) -> None:
    """Raises AssertionError, which says what was wrong."""
    request = request_of(case, program, host)
    expect = case.expect | case.expect.get(program.parser, {})
    for texts in ("has", "lacks"):
        expect[texts] = [filled(str(text), program, host) for text in expect.get(texts, ())]
    before, asked = program.kept, len(program.chaos.requests)
    program.news()
    got = await exchange(program.port, request + marker_of(case, program, host))
    answers = answers_to(got, case, request)
    finals = [answer for answer in answers if answer.status >= 200]
    kept = bool(finals) and finals[-1].body == MARKER
    _judge_answers(expect, answers, finals[: len(finals) - kept], kept=kept)
    await honest(program, program.port, host)
    _judge_traces(case, program, request, finals, upstream_before=asked)
    seen = program.chaos.requests[asked:]
    if "asked" in expect:
        assert len(seen) == expect["asked"], [s.raw for s in seen]
    if expect.get("relayed"):
        assert [s.body for s in seen] == [filled(expect["relayed"], program, host).encode()]
    program.kept = program.stored()
    if "blob" in case.entry.must_not:
        assert program.kept[0] == before[0], "a blob was stored"
    if "record" in case.entry.must_not:
        assert program.kept[1:] == before[1:], "a row was written"
    if "tell" in case.entry.must_not:
        await _judge_secrets(program, host, got)
    if "store" in case.entry.must_not:
        assert program.kept == before, "the store has changed"


def answers_to(got: bytes, case: Case, request: bytes) -> list[Reply]:
    """A HEAD that could not be read as one may be refused with a body, on a connection that ends."""
    methods = case.given.get("methods") or (["HEAD"] if request.startswith(b"HEAD ") else [])
    try:
        return replies(got, methods)
    except NotHttp:
        (refused,) = replies(got)
        assert methods == ["HEAD"] and refused.status == 400 and refused["connection"] == "close", got
        return [refused]


async def honest(program: Program, port: int, host: str) -> None:
    """An honest request right afterwards is a hit, byte for byte."""
    request = f"GET /files/good.bin HTTP/1.1\r\nHost: {host}\r\n{program.shown}Connection: close\r\n\r\n"
    (answer,) = replies(await exchange(port, request.encode()))
    assert (answer.status, answer.body, answer["x-artifact-source"]) == (200, GOOD, "cache"), answer
    assert program.process.returncode is None, "the program has ended"


def _judge_answers(expect: dict[str, Any], answers: list[Reply], mine: list[Reply], *, kept: bool) -> None:
    told = f"{[a.head for a in answers][:4]}"
    if "at_most" in expect:
        assert 1 <= len(mine) <= expect["at_most"], f"{len(mine)} answers: {told}"
    else:
        assert len(mine) == expect.get("answers", 1), f"{len(mine)} answers: {told}"
    assert len(answers) - len(mine) - kept == expect.get("interim", 0), f"interim answers: {told}"
    if "close" in expect:
        assert kept is not expect["close"], f"connection {'kept' if kept else 'closed'}: {told}"
    statuses = expect.get("status", [])
    for answer in mine:
        assert not statuses or answer.status in statuses, told
        _judge_answer(expect, answer)
    for answer, wanted in zip(mine, expect.get("each", ()), strict=bool(expect.get("each"))):
        _judge_one(wanted, answer)


def _judge_answer(expect: dict[str, Any], answer: Reply) -> None:
    assert answer["x-request-id"]
    assert answer["x-content-type-options"] == "nosniff"
    if answer.status >= 400:
        assert answer["x-proxy-error"], answer.head
        assert answer["cache-control"] == "no-store", answer.head
    if "code" in expect and answer.status >= 400:
        assert answer["x-proxy-error"] == expect["code"], answer.head
    for secret in _SECRETS:
        assert secret not in answer.head + answer.body, secret
    _judge_one(expect, answer)


def _judge_one(wanted: dict[str, Any], answer: Reply) -> None:
    """`file`: these exact bytes; `empty`: none; `has` and `lacks`: texts in the body."""
    if "each" not in wanted and "status" in wanted:
        assert answer.status in wanted["status"], answer.head
    if wanted.get("file"):
        assert answer.body == FILES[wanted["file"]]
        assert "x-forged" not in dict(answer.fields)
    if wanted.get("empty"):
        assert answer.body == b""
    for text in wanted.get("has", ()):
        assert text.encode() in answer.body, answer.body
    for text in wanted.get("lacks", ()):
        assert text.encode() not in answer.head + answer.body, text


def _judge_traces(
    case: Case, program: Program, request: bytes, finals: list[Reply], *, upstream_before: int
) -> None:
    """What the attack left behind besides its answer."""
    never = case.entry.must_not
    seen = program.chaos.requests[upstream_before:]
    news = program.news()
    runs = [line for line in news if line["event"] == "request"]
    assert not [line for line in news if line["event"] == "warning"], news
    assert FAULTLESS not in program.said(), program.said()
    if "ask_upstream" in never:
        assert seen == [], [s.raw for s in seen]
    if "run_second" in never:
        assert len(runs) <= len(finals) + 1, runs
        assert "smuggled" not in str(runs), runs
        assert not [s for s in seen if b"smuggled" in s.raw], seen
    if "believe" in never:
        assert not re.search(r"203\.0\.113|evil\.example", str(runs)), runs
    if "echo" in never:
        for answer in finals:
            for piece in echoes(request) if answer.status >= 400 else ():
                assert piece not in answer.head + answer.body, f"echoed: {piece!r}"
                assert piece not in unquote_to_bytes(answer.head), f"echoed: {piece!r}"


async def _judge_secrets(program: Program, host: str, got: bytes) -> None:
    page = f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n{program.shown}Connection: close\r\n\r\n"
    places = {
        "answer": got,
        "metrics": await exchange(program.port, page.encode()),
        "log": program.log.read_bytes(),
        "standard error": program.said().encode(),
    }
    for where, text in places.items():
        for name, token in program.tokens.items():
            assert token.encode() not in text, f"the token of {name} is in the {where}"
            assert base64.b64encode(token.encode())[4:40] not in text, (
                f"the token of {name} is in the {where}"
            )


def echoes(request: bytes) -> Iterator[bytes]:
    """Pieces of a request that no answer of ours would hold by itself, as sent and decoded."""
    head = request.partition(b"\r\n\r\n")[0]
    line, *fields = head.split(b"\r\n")
    target = line.split(b" ")[1] if line.count(b" ") > 1 else line
    pieces = {part for part in re.split(rb"[/?&=]", target)[2:] if len(part) > 5} | {target, line}
    pieces |= {field.partition(b":")[2].strip() for field in fields if not field.lower().startswith(b"host:")}
    for piece in pieces:
        for spelled in {piece, unquote_to_bytes(piece)}:
            if len(spelled) > 5 and not _OURS.fullmatch(spelled):
                yield spelled
