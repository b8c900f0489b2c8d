"""The sections of limits, generated from `limits`: a new bound needs no second place."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, create_model

from artifactproxy import limits
from artifactproxy.config import units

_MAY_BE_ZERO = frozenset(
    (
        "blob_grace",
        "breaker_max",
        "breaker_open",
        "clock_hold",
        "cold_range_wait",
        "drain",
        "drain_notice",
        "error_memory",
        "inline_index",
        "lease_wait",
        "ledger_keep",
        "lingering",
        "memo_bytes",
        "memo_file_bytes",
        "memory_body",
        "min_rate",
        "orphan_bytes",
        "orphans",
        "queue",
        "queue_wait",
        "redirects",
        "resumes",
        "retries",
        "retry_after_max",
        "retry_base",
        "scrub_every",
        "scrub_rate",
        "store_retry",
        "superseded_keep",
        "unrecorded",
    )
)
_POLICY = limits.Policy()
_KEYS = {"from_bytes": "from"}  # which is no name in Python


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


Size = Annotated[int, BeforeValidator(units.parse_size), PlainSerializer(units.show_size)]
Duration = Annotated[float, BeforeValidator(units.parse_duration), PlainSerializer(units.show_duration)]


def _number(name: str, kind: object) -> Any:
    """The type of one limit: int is a count or a size, float a duration, `*_share` a fraction."""
    positive = () if name in _MAY_BE_ZERO else (Field(gt=0),)
    if name.endswith("_share"):
        return Annotated[float, Field(ge=0, lt=1)]
    if kind is int:
        return Annotated[(int, BeforeValidator(units.parse_size), *positive)]
    return Annotated[
        (float, BeforeValidator(units.parse_duration), PlainSerializer(units.show_duration), *positive)
    ]


def _section_of(name: str, source: type[Any], **more: Any) -> type[Section]:
    hints = get_type_hints(source)
    fields = {
        _KEYS.get(f.name, f.name): (_number(f.name, hints[f.name]), f.default)
        for f in dataclasses.fields(source)
    }
    return create_model(name, __base__=Section, **(fields | more))


if TYPE_CHECKING:

    class LimitsSection(Section): ...

    class RemoteLimitsSection(Section):
        connections_per_host: int = 0
        max_artifact: int = 0
        max_index: int = 0

    class DownloadSection(Section):
        connections: int = 0
        max_per_host: int = 0
        segment: int = 0
else:
    LimitsSection = _section_of("LimitsSection", limits.Limits)
    RemoteLimitsSection = _section_of(
        "RemoteLimitsSection",
        limits.RemoteLimits,
        max_artifact=(Annotated[Size, Field(gt=0)], _POLICY.max_artifact_bytes),
        max_index=(Annotated[Size, Field(gt=0)], _POLICY.max_index_bytes),
    )
    DownloadSection = _section_of(
        "DownloadSection",
        limits.Download,
        segment=(Annotated[Size, Field(ge=2**20)], limits.Download().segment),
    )
