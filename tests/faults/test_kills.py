"""Real kills of libvirtds, QEMU guests, PostgreSQL and the service itself, at random, under clients that work on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.scenario import run
from tests.faults.stores import PostgreSql
from tests.lab.fixtures import GuestImage, capability_cache, guest_image
from tests.lab.fleet import Lab
from tests.lab.requirements import why_not
from tests.support.postgres import why_not as why_no_postgres

__all__ = ["guest_image"]

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(2400)]


@pytest.fixture
def own_lab(pytestconfig: pytest.Config) -> Iterator[Lab]:
    """Three hypervisors that the test may harm."""
    reason = why_not() or why_no_postgres()
    if reason:
        pytest.skip(reason)
    with Lab(3, capability_cache(pytestconfig), network="10.79") as lab:
        yield lab


@pytest.mark.parametrize("kills", [20, pytest.param(60, marks=pytest.mark.slow)])
def test_kills_break_nothing(own_lab: Lab, guest_image: GuestImage, kills: int) -> None:
    with PostgreSql() as store:
        report = run(own_lab, guest_image.manifest, store, kills=kills, seconds=1200, seed=1)
    print("\n".join(report.lines()))
    assert report.violations == []
    assert sum(report.kills.values()) >= kills, "too little was killed in the time"
    assert len(report.kills) >= 6, report.kills
    assert report.acknowledged >= 8
    assert report.looks >= 20
