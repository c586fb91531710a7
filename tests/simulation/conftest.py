"""The whole table of planted bugs takes minutes of a processor: it runs where it is asked for, `-m slow`."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the table out unless slow tests are named."""
    if "slow" in config.option.markexpr:
        return
    out = [item for item in items if item.name.startswith("test_every_planted_bug_is_found")]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]
