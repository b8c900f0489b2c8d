"""A few thousand operations of the soak, with kills: whatever is answered is right, nothing is lost."""

from __future__ import annotations

import os
from pathlib import Path

from tests.crash.soak.drive import driven

SEED = int(os.environ.get("SEED", "1"))


async def test_l05_l16_random_operations_and_kills(tmp_path: Path) -> None:
    async with driven(tmp_path / "soak", SEED, print) as drive:
        tally = await drive.run(operations=2000, kills=4)
    assert tally.failures == [], f"SEED={SEED}"
    assert tally.operations >= 2000
    assert tally.kills >= 4
    assert tally.from_cache > 400, "a soak that mostly misses proves little"
    assert tally.survivors > 20
