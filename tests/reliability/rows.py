"""Reading the fault matrix: `tests/reliability/faults/*.yaml`, each a list of

- id: U01
  fault: upstream refuses the connection
  promise: what is held is answered as ever; else 502 `upstream_refused` after two quick tries; nothing is stored
  decision: 16        # only where the promise was changed: the decision record that says why
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

FAULTS = Path(__file__).parent / "faults"


@dataclass(frozen=True)
class Row:
    id: str
    fault: str
    promise: str
    decision: int | None = None


def rows(part: str) -> list[Row]:
    """`part` is the name of one of the files. Raises TypeError for a row with unknown keys."""
    return [Row(**raw) for raw in yaml.safe_load((FAULTS / f"{part}.yaml").read_text(encoding="utf-8"))]
