"""One file per question. A measure takes a `Bench` and answers a `Result`; it may raise `CannotMeasure`."""

from __future__ import annotations

from collections.abc import Callable

from bench.measures import (
    cluster,
    cold,
    crowd,
    crowded,
    first_byte,
    go,
    lookups,
    memory,
    npm,
    packument,
    packument_cold,
    pip,
    ranges,
    ranges_memory,
    rows,
    small,
    start,
    store_cold,
    straggler,
    tier,
    unlimited,
    upload,
    warm,
)
from bench.model import Bench, Result

MEASURES: dict[str, Callable[[Bench], Result]] = {
    "cold": cold.measure,
    "first-byte": first_byte.measure,
    "crowd": crowd.measure,
    "memory": memory.measure,
    "ranges": ranges.measure,
    "ranges-nginx": ranges.measure_nginx,
    "ranges-memory": ranges_memory.measure,
    "straggler": straggler.measure,
    "unlimited": unlimited.measure,
    "client-limited": unlimited.measure_shared,
    "crowded": crowded.measure,
    "warm": warm.measure,
    "small": small.measure,
    "pip": pip.measure,
    "npm": npm.measure,
    "go": go.measure,
    "packument": packument.measure,
    "packument-cold": packument_cold.measure,
    "start": start.measure,
    "upload": upload.measure,
    "store-cold": store_cold.measure,
    "tier": tier.measure,
    "lookups": lookups.measure,
    "rows": rows.measure,
    "cluster": cluster.measure,
}
