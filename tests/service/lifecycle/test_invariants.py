"""What no change of a group may do, whoever asks for it: checked in the transaction, before anything is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.domain.groups import Group, GroupPhase, InstanceStatus
from service.errors import InvariantViolation
from service.lifecycle.invariants import check
from tests.support.builders import group

HOST, OTHER = "1" * 32, "2" * 32


def seated(status: InstanceStatus = InstanceStatus.CREATED, **changes: object) -> Group:
    """A group of two whose members are all on HOST."""
    plain = group()
    members = tuple(replace(m, status=status, host_uuid=HOST) for m in plain.instances)
    return replace(plain, instances=members, **changes)  # type: ignore[arg-type]


def seats(of: Group, *hosts: str) -> dict[tuple[str, int], frozenset[str]]:
    """Claims as they should be."""
    return {(m.uuid, m.attempt): frozenset(hosts or (HOST,)) for m in of.instances}


def test_a_change_that_keeps_every_rule_passes() -> None:
    before = seated(phase=GroupPhase.CREATING)
    check(before, replace(before, phase=GroupPhase.BOOTING, go=True), seats(before))


def test_a_member_never_sits_where_it_has_no_claim() -> None:
    before = seated()
    with pytest.raises(InvariantViolation, match="I2"):
        check(before, before, seats(before, OTHER))
    with pytest.raises(InvariantViolation, match="I2"):
        check(before, before, {})


def test_a_member_without_a_seat_holds_no_claim() -> None:
    before = group()
    with pytest.raises(InvariantViolation, match="I2"):
        check(before, before, seats(before))


def test_go_is_never_committed_before_all_are_created() -> None:
    before = seated(InstanceStatus.CREATING, phase=GroupPhase.CREATING)
    with pytest.raises(InvariantViolation, match="I4"):
        check(before, replace(before, go=True), seats(before))


@pytest.mark.parametrize("phase", [GroupPhase.FAILED, GroupPhase.DELETED])
def test_a_final_group_stays_final(phase: GroupPhase) -> None:
    before = group(phase=phase)
    with pytest.raises(InvariantViolation, match="I11"):
        check(before, replace(before, phase=GroupPhase.PLANNING), {})


def test_a_failed_group_may_be_forgotten() -> None:
    before = group(phase=GroupPhase.FAILED)
    check(before, replace(before, phase=GroupPhase.DELETED), {})


def test_a_member_changes_its_host_only_with_its_attempt() -> None:
    before = seated()
    moved = replace(before, instances=tuple(replace(m, host_uuid=OTHER) for m in before.instances))
    with pytest.raises(InvariantViolation, match="I1"):
        check(before, moved, seats(moved, OTHER))


def test_an_attempt_never_falls() -> None:
    before = seated()
    before = replace(before, instances=tuple(replace(m, attempt=2) for m in before.instances))
    after = replace(before, instances=tuple(replace(m, attempt=1) for m in before.instances))
    with pytest.raises(InvariantViolation, match="I1"):
        check(before, after, seats(after))
