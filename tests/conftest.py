"""What holds for every test: those that start guests share one worker, one after the other; the longest come first."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

import pytest
from hypothesis import HealthCheck, settings

# Tests start hundreds of interpreters: without bytecode each takes twice the processor time to import what it needs.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Fixtures for every test, each made once in a session.
pytest_plugins = ["tests.support.postgres", "tests.support.database"]

# A busy machine is no failure of what is tested. Tests that set their own values keep them.
settings.register_profile("corral", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("corral")


def _disregard(_number: int, _frame: FrameType | None) -> None:
    """As if the signal were ignored, in this process alone."""


def pytest_configure(config: pytest.Config) -> None:
    """What a test starts gets each signal's default, however this run was started.

    `make test &` in a script ignores SIGINT, and nohup ignores SIGHUP; what is ignored is inherited by every process
    that is started, and what is handled is not. xdist's controller runs no test, and hands on to its workers what it
    was given, so that they do not end where it does not.
    """
    if config.getoption("dist", "no") != "no":
        return
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _disregard)


@pytest.hookimpl(tryfirst=True)  # before xdist's own, which reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Several guests at once under software emulation would only make each of them late.

    The simulation's few tests take a minute each: begun last, they would leave the other worker idle.
    """
    items.sort(key=lambda item: item.path.parent.name != "simulation")
    for item in items:
        if item.get_closest_marker("qemu") is not None:
            item.add_marker(pytest.mark.xdist_group("qemu"))
