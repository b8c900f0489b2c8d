"""Part E: what should cost us much costs little, ends, and leaves room for everybody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import Chaos
from tests.corpus.crowds import RECIPES
from tests.corpus.entry import Case, cases
from tests.corpus.scene import Scene


@pytest.mark.parametrize("case", cases("E", "crowd"), ids=lambda case: case.id)
async def test_exhaustion(tmp_path: Path, chaos: Chaos, case: Case) -> None:
    await RECIPES[case.given["recipe"]](Scene(tmp_path, chaos), **case.given.get("with", {}))
