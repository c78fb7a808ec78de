"""Tests of the reported problems: each names its row. Those marked full run by `make reported` alone."""

from __future__ import annotations


def pytest_collection_modifyitems(config, items):
    if "full" in config.option.markexpr:
        return
    full = [item for item in items if item.get_closest_marker("full")]
    if full:
        config.hook.pytest_deselected(items=full)
        items[:] = [item for item in items if item not in full]
