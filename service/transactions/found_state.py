"""Where a group stands, by what its machines do: for one whose row is lost or older than its hosts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace

from service.domain.groups import Group, GroupPhase, Instance, InstanceStatus
from service.drivers.base import MachineState
from service.lifecycle.members import S, unmoved
from service.lifecycle.settling import public_status


def as_found(group: Group, states: Mapping[str, MachineState], now: int) -> Group:
    """The group in the phase that its machines are in. `states`: instance uuid -> its machine's.

    Nothing that executes is stopped by it, and nothing that was stopped is started.
    """
    runs = any(state.executing for state in states.values())
    paused = MachineState.PAUSED in states.values()
    members = tuple(
        _member(m, states[m.uuid], runs=runs, paused=paused) if m.uuid in states else m for m in group.instances
    )
    phase = _phase({m.status for m in members}, runs=runs, paused=paused)
    # A machine that waits for GO was told the epoch that GO is to make.
    epoch = group.start_epoch if runs or not paused else max(0, group.start_epoch - 1)
    found = replace(
        group,
        instances=members,
        phase=phase,
        go=runs or phase is GroupPhase.STOPPED,
        served=runs,
        start_epoch=epoch,
        starts=epoch,
        restarting=False,
        failure=None,
        failures=0,
        retry_at=0,
        excluded_hosts=(),
        running_since=now if runs else 0,
    )
    return replace(found, status=public_status(found))


def as_if_known(before: Group, after: Group) -> Group:
    """The row as if it knew what was decided since, of which only the outcome is found.

    Of the live moves: a member changes its host within an attempt by a move alone (ARCHITECTURE I1), and what it left
    is let go by the same record. Of GO: it was committed when all members were created (I4), whatever became of them.
    """
    now_there = {m.uuid: m for m in after.instances}

    def moved(member: Instance) -> Instance:
        new = now_there.get(member.uuid)
        if new is None or not new.host_uuid or new.host_uuid == member.host_uuid or new.attempt != member.attempt:
            return member
        return replace(member, target_host_uuid=new.host_uuid, target_host_name=new.host_name, target_cells=new.cells)

    return replace(before, go=before.go or after.go, instances=tuple(moved(m) for m in before.instances))


def _phase(statuses: AbstractSet[InstanceStatus], *, runs: bool, paused: bool) -> GroupPhase:
    if runs:
        phase = GroupPhase.BOOTING if statuses - {S.RUNNING} else GroupPhase.RUNNING
    else:
        phase = GroupPhase.CREATING if paused else GroupPhase.STOPPED
    return GroupPhase.PLANNING if S.PENDING in statuses and phase is not GroupPhase.STOPPED else phase


def _member(member: Instance, state: MachineState, *, runs: bool, paused: bool) -> Instance:
    """`runs`, `paused`: whether any machine of the group executes, or waits to be let run."""
    if runs:
        status = S.CREATED if state is MachineState.PAUSED else S.RUNNING
    elif paused:
        status = S.CREATED if state is MachineState.PAUSED else S.CREATING
    else:
        status = S.STOPPED
    return replace(
        unmoved(member),
        status=status,
        was_resumed=member.was_resumed or runs,
        deadline_at=0,
        stop_asked=False,
        joining=False,
        leaving=False,
    )
