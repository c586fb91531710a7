"""What the page is told of hosts, groups and members: short documents, because it is told of all of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import json_format

from service.app.capacity import HostView, ResourceAmounts, amounts, cell_amounts, quarantined
from service.app.zones import ZoneView
from service.contract.convert.explanation import placement_failure
from service.contract.convert.inventory import UNKNOWN, Reachable, service_url
from service.domain.fleet import MEMORY, VCPU, Host
from service.domain.groups import Failure, Group, GroupStatus, Instance, Update, Waiting

_FIRST = (VCPU, MEMORY)
"""What every host has is drawn first."""


def zone(view: ZoneView) -> dict[str, Any]:
    """A zone."""
    return {"uuid": view.zone.uuid, "name": view.zone.name, "hosts": view.hosts}


def host(view: HostView, *, causes: bool) -> dict[str, Any]:
    """A host. `resources`: name -> [total, reserved, allocatable, claimed, foreign, available], in the resource's unit.

    `cells`: number -> the same of each NUMA cell. `stale`: how many claims of members that were placed elsewhere it
    still carries. `quarantined`: name -> what of it counts as foreign until an operator has looked. `causes`: as of
    `group`. `fencing`: what of its BMC an operator has to know, where it has one.
    """
    value = view.host
    return {
        "uuid": value.uuid,
        "name": value.name,
        "zone": value.zone_uuid,
        "cluster": value.cluster_uuid,
        "rack": value.rack,
        "driver": value.address.driver,
        "type": value.machine_type,
        "state": value.state.value,
        "status": value.status.value,
        "reason": value.status_reason,
        "cause": value.status_cause if causes else "",
        "schedulable": value.schedulable,
        "labels": dict(value.labels),
        "isolation": value.isolation,
        "firmware": value.firmware,
        "secureBoot": value.secure_boot,
        **({"cleaning": _cleaning(value)} if value.bare_metal else {}),
        "members": view.load.members,
        "stale": view.load.stale_claims,
        "resources": _resources(amounts(view)),
        "cells": {str(number): _resources(of_cell) for number, of_cell in cell_amounts(view)},
        "quarantined": {name: amount for name, amount in quarantined(view).items() if amount},
        **({"fencing": _fencing(view)} if value.bmc is not None else {}),
    }


def _cleaning(host: Host) -> dict[str, str]:
    """`mode`: how it is cleaned; `state`, `why`: how far that is; `project`: who was there since."""
    known = host.cleaning
    return {"mode": host.wipe.value, "state": known.state.value, "why": known.reason, "project": known.served}


def _fencing(view: HostView) -> dict[str, Any]:
    """`verdict`, `why`: of its silence, empty while it answers; `fence`: the last one, empty where there was none."""
    verdict, last = view.verdict, view.fence
    return {
        "mode": view.host.fencing.value,
        "verdict": verdict.rule.value if verdict is not None else "",
        "why": verdict.reason if verdict is not None else "",
        "fence": {"cause": last.cause.value, "state": last.state.value, "reason": last.reason} if last else {},
    }


def _resources(of: Iterable[ResourceAmounts]) -> dict[str, list[int]]:
    return {
        one.resource: [one.total, one.reserved, one.allocatable, one.claimed, one.foreign, one.available]
        for one in sorted(of, key=lambda one: (one.resource not in _FIRST, one.resource != VCPU, one.resource))
    }


def group(value: Group, *, causes: bool) -> dict[str, Any]:
    """A group without its members. Times are milliseconds since the Unix epoch. `causes`: for a caller who is told
    what hosts themselves said. `why`: where it failed, or waits, because it does not fit."""
    failure = value.waiting.failure if value.waiting is not None and value.waiting.since else value.failure
    return {
        "uuid": value.uuid,
        "name": value.spec.name,
        "project": value.project,
        "status": value.status.value,
        "reason": value.reason,
        "cause": value.told_cause if causes else "",
        "nodes": len(value.spec.nodes),
        "created": value.created_at,
        "updated": value.updated_at,
        "ended": value.status is GroupStatus.DELETED,
        "priority": value.priority,
        "eviction": _eviction(value),
        "waiting": _waiting(value.waiting),
        "update": _update(value.update) if value.update is not None else None,
        "why": _why_not(failure),
    }


def _eviction(value: Group) -> dict[str, Any] | None:
    """That it ends for another group; whose that is, where it is of the same project."""
    asked = value.eviction
    if asked is None:
        return None
    by = asked.by_name if asked.by_project == value.project else ""
    return {
        "at": asked.at,
        "becomes": asked.becomes.value,
        "priority": asked.by_priority,
        "by": by,
        "begun": asked.begun,
    }


def _update(value: Update) -> dict[str, Any]:
    return {
        "number": value.number,
        "mode": value.mode.value,
        "stage": value.stage.value,
        "reason": value.reason,
        "undoes": value.undoes,
        "needs": dict(value.needs),
        "began": value.began_at,
        "ended": value.ended_at,
        "why": _why_not(value.failure),
    }


def _why_not(failure: Failure | None) -> dict[str, Any] | None:
    """Why it does not fit and what would make it fit, as the error of a plan tells it; None where that is not why."""
    if failure is None or failure.explanation is None:
        return None
    told = json_format.MessageToDict(placement_failure(failure.explanation))
    return {"message": failure.message, "failure": told}


def _waiting(value: Waiting | None) -> dict[str, Any] | None:
    """How a group waits for hosts; None where it does not."""
    if value is None or not value.since:
        return None
    kept = len({seat.host_uuid for seat in value.kept.seats}) if value.kept is not None else 0
    told = {"position": value.position, "since": value.since, "until": value.until, "starts": value.starts_at}
    return {**told, "kept": kept}


def member(value: Instance, reachable: Reachable, *, causes: bool) -> dict[str, Any]:
    """A member. `memory` in bytes; `host` and `zone` are uuids, empty until it is placed. `causes`: as of `group`."""
    zone_uuid = value.zone_uuid or value.spec.zone_uuid
    url = service_url(value)
    return {
        "uuid": value.uuid,
        "group": value.group_uuid,
        "name": value.spec.name,
        "rank": value.rank,
        "status": UNKNOWN if value.unknown_since else value.status.value,
        "reason": value.reason,
        "cause": value.told_cause if causes else "",
        "host": value.host_uuid,
        "cells": list(value.cells),
        "target": value.target_host_uuid,
        "zone": zone_uuid,
        "cpu": value.spec.cpu_num,
        "memory": value.spec.memory_size,
        "gpus": sum(request.count for request in value.spec.gpus),
        "devices": [{"key": device.key, "model": device.model} for device in value.devices],
        "attempt": value.attempt,
        "beside": value.beside,
        "url": url if url and reachable(zone_uuid) else "",
    }
