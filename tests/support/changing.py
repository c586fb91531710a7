"""Groups that run, and changes of them that change what they say and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection

from service.domain.groups import Group, GroupPhase, GroupStatus, InstanceStatus
from service.store import claims, groups
from service.transactions.changes import Foreseen
from service.transactions.together import Change
from tests.support.builders import group, host, seat


def next_change(known: Group, turn: int) -> Change:
    """The group and its first member say something else."""
    first = replace(known.instances[0], reason=f"turn {turn} of a member")
    after = replace(known, reason=f"turn {turn}", instances=(first, *known.instances[1:]))
    return Change(known, Foreseen(after, ()), (), 1_000 + turn, known.epoch)


def running(uuid: str, number: int, host_uuid: str) -> Group:
    """A group with a member that runs on the host."""
    made = group(1, uuid, phase=GroupPhase.RUNNING, status=GroupStatus.RUNNING, go=True, served=True, start_epoch=1)
    (member,) = made.instances
    member = replace(
        member, uuid=f"{number:032x}", status=InstanceStatus.RUNNING, host_uuid=host_uuid, host_name="host-1"
    )
    return replace(made, instances=(member,))


def put(connection: Connection, uuids: Sequence[str]) -> None:
    """Groups of these uuids, each with the claim of its member."""
    where = host(1).uuid
    for number, uuid in enumerate(uuids):
        made = running(uuid, number, where)
        groups.create(connection, made, due_at=0)
        claims.take(connection, uuid, [seat(made.instances[0].uuid, where, {"vcpu": 1})])
