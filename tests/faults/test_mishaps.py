"""What happens to installations beside kills: no machine is lost that nobody ordered away, and an operator is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.rounds import MISHAPS, Table, run
from tests.integration.test_service_on_hypervisors import sweep
from tests.lab.fixtures import GuestImage, capability_cache, guest_image, lab
from tests.lab.fleet import Lab
from tests.lab.requirements import why_not
from tests.support.postgres import why_not as why_no_postgres

__all__ = ["guest_image", "lab"]

pytestmark = [pytest.mark.qemu]

CHEAP = ("destroyed", "reset", "undefined", "database_full")


@pytest.fixture
def shared_lab(lab: Lab) -> Iterator[Lab]:
    """The session's hypervisors; what a failure leaves there is taken away."""
    yield lab
    for hypervisor in lab:
        sweep(hypervisor.uri)


@pytest.fixture
def own_lab(pytestconfig: pytest.Config) -> Iterator[Lab]:
    """Three hypervisors that the test may switch off."""
    if reason := why_not() or why_no_postgres():
        pytest.skip(reason)
    with Lab(3, capability_cache(pytestconfig), network="10.80") as made:
        yield made


@pytest.mark.timeout(900)
def test_mishaps_by_hand_and_a_full_disk_cost_no_machine_and_are_seen(shared_lab: Lab, guest_image: GuestImage) -> None:
    table = Table()
    run(shared_lab, guest_image.manifest, table, names=CHEAP, kind="sqlite", seed=1, count=1)
    assert table.violations == []
    assert {name: (row.done, row.lost, len(row.seen)) for name, row in table.rows.items()} == dict.fromkeys(
        CHEAP, (1, 0, 1)
    )


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("kind", "count"), [("sqlite", 1), ("postgresql", 2)])
def test_every_mishap_costs_no_machine_and_is_seen(
    own_lab: Lab, guest_image: GuestImage, kind: str, count: int
) -> None:
    table = Table()
    run(own_lab, guest_image.manifest, table, names=MISHAPS, kind=kind, seed=1, count=count)
    print("\n".join(table.lines()))
    assert table.violations == []
    assert all(len(row.seen) == 1 for row in table.rows.values())
