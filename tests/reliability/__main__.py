"""`make reliability`: docs/reliability.md from the results that the last runs left in `build/reliability/`."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.reliability.page import NEEDED, page

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "build" / "reliability"
PAGE = ROOT / "docs" / "reliability.md"


def main() -> int:
    missing = [name for name in NEEDED if not (RESULTS / f"{name}.json").exists()]
    if missing:
        print("run first:", ", ".join(f"make {NEEDED[name]}" for name in missing), file=sys.stderr)
        return 1
    results = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in NEEDED}
    text, clean = page(results, datetime.now(UTC).date().isoformat())
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}" + ("" if clean else ": not everything passed"))
    return 0 if clean else 1


sys.exit(main())
