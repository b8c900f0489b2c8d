"""What a provider answers by itself, and which of its routes may be asked about at all."""

from __future__ import annotations

from artifactproxy.engine.answer import Answer, Body, Bytes, Nothing
from artifactproxy.engine.mounts import Mount
from artifactproxy.errors import MethodRefused
from artifactproxy.model import Ask, Kind, Reply, Route
from artifactproxy.ports import Outcome


def relayed_only(classified: Route | Reply) -> Route | Reply:
    """What is not reading never meets the store, whatever a provider says, nor the memo of routes."""
    if isinstance(classified, Route) and classified.kind is not Kind.PASS:
        raise MethodRefused("this path can only be read")
    return classified


def local_answer(mount: Mount, ask: Ask, reply: Reply) -> Answer:
    headers = [*reply.headers, ("Content-Type", reply.media_type), ("Content-Length", str(len(reply.body)))]
    if reply.status < 400:
        headers.append(("X-Artifact-Source", "cache"))
    outcome = Outcome(
        "request",
        repo=mount.name,
        provider=mount.provider.name,
        method=ask.method,
        path=ask.path,
        result="local",
    )
    outcome.caller, outcome.request_id = ask.caller, ask.request_id
    body: Body = Nothing() if ask.method == "HEAD" else Bytes(reply.body)
    return Answer(reply.status, headers, body, outcome)
