"""Tests of the reported problems, each marked by its row.

`make reported` runs them all, and so does -m "full or not full". Else those marked full are left out, and of the
others a slice is taken that changes with the seed, where there are more: their exports take minutes.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

HERE = Path(__file__).parent
SLICE = 22
ALWAYS = ("test_rows.py", "test_guides.py")


def pytest_collection_modifyitems(config, items):
    if "full" in config.option.markexpr:
        return
    own = [item for item in items if HERE in item.path.parents and item.path.name not in ALWAYS]
    left = [item for item in own if not item.get_closest_marker("full")]
    if len(left) > SLICE:
        left = random.Random(os.environ["RNN_EXPORT_SEED"]).sample(left, SLICE)
    out = {item.nodeid for item in own} - {item.nodeid for item in left}
    if out:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in out])
        items[:] = [item for item in items if item.nodeid not in out]
