"""What holds for every test: those that start guests stay together, one after the other, in one worker."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure of what is tested. Tests that set their own values keep them.
settings.register_profile("corral", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("corral")


@pytest.hookimpl(tryfirst=True)  # before xdist's own, which reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Several guests at once under software emulation would only make each of them late."""
    for item in items:
        if item.get_closest_marker("qemu") is not None:
            item.add_marker(pytest.mark.xdist_group("qemu"))
