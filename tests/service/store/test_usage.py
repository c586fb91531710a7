"""What projects use is counted as their quota counts it, on both databases."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import Connection

from service.app.projects import usages
from service.domain.fleet import VCPU
from service.domain.groups import Group, GroupPhase, InstanceStatus
from service.domain.tenants import Quota
from service.errors import QuotaExceeded
from service.store import claims, groups, quotas, usage
from tests.support.builders import group
from tests.support.database import GIB, Database, member


def red(uuid: str, first: int, size: int, **changes: object) -> Group:
    """A group of the project red whose members have the numbers from `first` on; each wants 2 vCPUs and 1 GiB."""
    made = group(size, uuid=uuid * 32, project="red", **changes)
    members = (replace(m, uuid=f"{first + n:032x}") for n, m in enumerate(made.instances))
    return replace(made, instances=tuple(members))


def test_a_member_counts_once_and_one_without_a_claim_is_waiting(db: Database) -> None:
    """However many hosts hold it: one that is moved live has claims on two, one placed anew has an old one."""
    a, b = db.fill(2)

    def write(connection: Connection) -> None:
        quotas.put(connection, [Quota("red", {VCPU: 10}), Quota("idle", {VCPU: 1})])
        for one in (red("a", 1, 3), red("b", 4, 1, phase=GroupPhase.FAILED), red("c", 5, 1, phase=GroupPhase.DELETED)):
            groups.create(connection, one, due_at=0)
        stored = groups.load(connection, "a" * 32)
        gone = replace(stored.instances[2], status=InstanceStatus.REMOVED)
        groups.save(connection, stored, replace(stored, instances=(*stored.instances[:2], gone)))
        claims.take(connection, "a" * 32, [member(1, a, vcpu=2), member(1, b, vcpu=2)])

    db.write(write)
    idle, found = db.read(usages)
    assert (idle.project, idle.groups, idle.members, idle.claimed, idle.limits) == ("idle", 0, 0, {}, {VCPU: 1})
    assert (found.project, found.groups, found.members) == ("red", 2, 3)
    assert found.claimed == {VCPU: 2, "memory": GIB}
    assert found.waiting == {
        VCPU: 2,
        "memory": GIB,
    }  # the removed one wants nothing, nor do those of groups that are over
    assert found.limits == {VCPU: 10}
    assert db.read(usages, ["red"]) == (found,)
    db.write(quotas.check, "red", {VCPU: 8})
    with pytest.raises(QuotaExceeded):
        db.write(quotas.check, "red", {VCPU: 9})


def test_a_host_says_whose_claims_it_has(db: Database) -> None:
    a, b = db.fill(2)

    def write(connection: Connection) -> None:
        groups.create(connection, red("a", 1, 2), due_at=0)
        groups.create(connection, replace(red("b", 3, 1), project="blue"), due_at=0)
        claims.take(connection, "a" * 32, [member(1, a, vcpu=2), member(2, a, vcpu=3)])
        claims.take(connection, "b" * 32, [member(3, a), member(3, b)])

    db.write(write)
    found = db.read(usage.on_hosts, [a, b])
    assert {(one.project, one.members, one.amounts[VCPU]) for one in found[a]} == {("red", 2, 5), ("blue", 1, 1)}
    assert [(one.project, one.members, one.amounts[VCPU]) for one in found[b]] == [("blue", 1, 1)]
