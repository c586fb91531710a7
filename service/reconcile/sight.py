"""What a look at a member's machine says of the member, as facts. Nothing is asked here."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from service.domain.groups import Instance, InstanceStatus
from service.domain.staging import Staging
from service.drivers.base import MachineState, ObservedMachine
from service.drivers.reports import GuestReport
from service.lifecycle.facts import Fact, Observation, Observed, Quiesced
from service.lifecycle.last_words import GUEST_SAYS

READY = "ready"
FAILED = "failed"
STOPPING = "stopping"
UNHEARD_SECONDS = 30.0
"""A progress channel that is refused for longer is taken from whoever reads it: libvirtd gives up a silent client
within that time, and one that lives may be another replica, which had its turn."""

RESET_SECONDS = 120.0
"""A reset that is older is no news, whatever clocks do."""

_OBSERVATION: Mapping[MachineState, Observation] = {
    MachineState.PAUSED: Observation.PAUSED,
    MachineState.RUNNING: Observation.EXECUTING,
    MachineState.STOPPING: Observation.EXECUTING,
    MachineState.STOPPED: Observation.HALTED,
    MachineState.CRASHED: Observation.HALTED,
}


_STARTED = frozenset({InstanceStatus.CREATING, InstanceStatus.CREATED, InstanceStatus.BOOTING, InstanceStatus.RUNNING})

_AS_KNOWN: Mapping[InstanceStatus, Collection[Observation]] = {
    InstanceStatus.CREATED: (Observation.PAUSED,),
    InstanceStatus.BOOTING: (Observation.EXECUTING,),
    InstanceStatus.RUNNING: (Observation.READY, Observation.EXECUTING),
    InstanceStatus.STOPPING: (Observation.READY, Observation.EXECUTING),
    InstanceStatus.REMOVING: (Observation.READY, Observation.EXECUTING),
    InstanceStatus.EVICTING: (Observation.READY, Observation.EXECUTING),
}


def is_as_known(member: Instance, machine: ObservedMachine) -> bool:
    """Whether a listing that may be older than what is known of the member shows no more than that. Anything else may
    be past: it was paused before it was let run, booted before it was ready, and was ready before it started again."""
    told = seen(member, machine)
    return all(
        isinstance(fact, Observed)
        and fact.observation in _AS_KNOWN.get(member.status, ())
        and fact.boot_id in ("", member.guest_boot)
        for fact in told
    )


def other_devices(member: Instance, machine: ObservedMachine) -> str:
    """How the devices of the member's machine differ from those that it has claimed; empty: they are the very ones."""
    claimed = {function.address for device in member.devices for function in device.functions}
    if machine.devices is None or set(machine.devices) == claimed:
        return ""
    if lost := sorted(claimed - set(machine.devices)):
        return f"its machine has lost {len(lost)} of {len(claimed)} device functions that it has claimed"
    return "its machine has a device that it has not claimed"


def let_run(member: Instance, machine: ObservedMachine) -> Sequence[Fact]:
    """The facts after a resume: a machine that is paused then was let run, and has stopped at once."""
    if machine.state is MachineState.PAUSED:
        return (Observed(member.uuid, member.attempt, Observation.RELAPSED, machine.why),)
    return seen(member, machine)


def words(report: GuestReport) -> str:
    """What a guest says of itself, in a sentence."""
    return f"{GUEST_SAYS} {report.stage}" + (f": {report.detail}" if report.detail else "")


def _said(member: Instance, report: GuestReport) -> Observed:
    """What a guest's newest report says of a member that executes, and why it does not serve where it did.

    What it once said is not true for ever: one that counts its looks and has fallen silent hangs. It is silent only
    where it would have been heard.
    """
    now = time.monotonic()
    age = now - report.received_at
    silent = now >= report.silent_at
    ready = report.stage == READY and not silent
    said = Observed(
        member.uuid,
        member.attempt,
        Observation.READY if ready else Observation.EXECUTING,
        address=report.address,
        epoch=report.epoch,
        answered_ms=report.answered * 1000 + int(age * 1000) if report.answered >= 0 else -1,
        engine_restarts=report.restarts,
        silent=silent,
        clash=report.clash,
        endpoint=report.endpoint,
        staging=Staging("", *report.weights) if report.weights is not None and not silent else None,
        # Only what is heard now: another replica may have heard of a later boot since.
        boot_id=report.boot_id if report.received_at >= report.heard_since else "",
    )
    if ready:
        return said
    if report.stage == FAILED and not silent:
        does = "starts no engine" if report.fault else "has given its engine up"
        told = f"its guest {does}: {report.detail}"
        return replace(said, observation=Observation.GIVEN_UP, reason=told, fault=report.fault)
    if silent:
        said = replace(said, reason=f"its guest has said nothing for {report.silent_after:.0f} s")
    elif member.status in (InstanceStatus.RUNNING, InstanceStatus.BOOTING):
        said = replace(said, reason=words(report))
    return replace(said, observation=Observation.UNREADY) if member.status is InstanceStatus.RUNNING else said


def seen(member: Instance, machine: ObservedMachine) -> Sequence[Fact]:
    """The facts of one observation. A tombstone or ghost in the member's place is not the member."""
    if machine.state is MachineState.MIGRATING:
        return ()  # somebody moves it by hand; where it goes on is seen when it does
    if machine.state is MachineState.GHOST:
        return (Observed(member.uuid, member.attempt, Observation.BURNT, "its host can neither run nor remove it"),)
    if machine.state.has_process and member.status in _STARTED and (why := other_devices(member, machine)):
        return (Observed(member.uuid, member.attempt, Observation.HALTED, why),)
    observation = _OBSERVATION.get(machine.state)
    if observation is None:
        return (Observed(member.uuid, member.attempt, Observation.REJECTED, "its machine cannot be used on this host"),)
    reason = ""
    if observation is Observation.EXECUTING:
        report = machine.report
        said = Observed(member.uuid, member.attempt, observation) if report is None else _said(member, report)
        reset, unheard = machine.reset_seconds, machine.unheard_seconds > UNHEARD_SECONDS
        news = reset is not None and reset < RESET_SECONDS
        if unheard or news:
            reset_ms = int(reset * 1000) if reset is not None and news else -1
            said = replace(said, unheard=unheard, reset_ms=reset_ms)
        if member.status is InstanceStatus.REMOVING and report is not None and report.stage == STOPPING:
            return (said, Quiesced(member.uuid, member.attempt))
        return (said,)
    if observation is Observation.PAUSED:
        reason = machine.why
    if observation is Observation.HALTED:
        reason = "its machine crashed" if machine.state is MachineState.CRASHED else "its machine stopped by itself"
        reason += f": {machine.why}" if machine.why else ""
        if member.status is InstanceStatus.STOPPING and machine.state is not MachineState.CRASHED:
            reason = ""  # as it was asked to
    return (Observed(member.uuid, member.attempt, observation, reason),)
