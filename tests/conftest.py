"""What holds for every test: which share a worker, in which order they come, what their processes inherit."""

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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of ours."""
    parser.addoption(
        "--jitter", metavar="SEED", help="make everything late at random that may be (tests/support/jitter.py)"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """With `--jitter`, each test has its own delays."""
    if seed := item.config.getoption("jitter"):
        from tests.support import jitter  # it imports most of the service

        jitter.seeded(seed, item.nodeid)


def pytest_configure(config: pytest.Config) -> None:
    """What a test starts gets each signal's default, however this run was started.

    `make test &` in a script ignores SIGINT, and nohup ignores SIGHUP; what is ignored is inherited by every process
    that is started, and what is handled is not. xdist's controller runs no test, and hands on to its workers what it
    was given, so that they do not end where it does not.
    """
    if config.getoption("dist", "no") != "no":
        return
    if config.getoption("jitter"):
        from tests.support import jitter

        jitter.install()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _disregard)


# Folders of tests that take long one by one, and when they are begun: what comes last should be short, so that both
# workers end together.
_FIRST = ("simulation", "concurrency", "deploy")


@pytest.hookimpl(tryfirst=True)  # before xdist's own, which reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What shares something costly runs on one worker; groups begin in the order of their first test.

    Several guests at once under software emulation would only make each of them late. A service that a module's tests
    share would be started by each worker that runs one of them.
    """
    for item in items:
        group = "qemu" if item.get_closest_marker("qemu") is not None else _shares(item)
        if group and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=_turn)


def _shares(item: pytest.Item) -> str:
    """The module or folder whose fixture the test uses, where it is made once for all tests there; or an empty text."""
    found = ""
    assert isinstance(item, pytest.Function)
    for *_, definition in item._fixtureinfo.name2fixturedefs.values():
        if definition.scope == "session" and definition.baseid not in ("", "tests"):
            return str(definition.baseid)
        if definition.scope == "module":
            found = item.nodeid.partition("::")[0]
    return found


def _turn(item: pytest.Item) -> tuple[int, int]:
    group = item.get_closest_marker("xdist_group")
    folder = item.path.parent.name
    if group is not None:
        return (0 if group.args == ("qemu",) else 2), 0
    return (1, _FIRST.index(folder)) if folder in _FIRST else (3, 0)
