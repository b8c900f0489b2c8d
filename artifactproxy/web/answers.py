"""Answers that are made here: small, whole, and kept by nobody."""

from __future__ import annotations

import json

from artifactproxy.engine.answer import Answer, Bytes
from artifactproxy.ports import Outcome

PLAIN = "text/plain; charset=utf-8"
_JSON = "application/json"


def text_answer(text: str) -> Answer:
    return bytes_answer(200, text.encode(), PLAIN)


def json_answer(value: object, status: int = 200) -> Answer:
    return bytes_answer(status, json.dumps(value, indent=1, default=str).encode() + b"\n", _JSON)


def bytes_answer(status: int, body: bytes, media_type: str) -> Answer:
    headers = [("Content-Type", media_type), ("Cache-Control", "no-store")]
    return Answer(status, headers, Bytes(body), Outcome("request", result="local"))
