"""A change of what a group runs: its words, and what it makes of the members' specifications. Pure data.

Stored as JSON under these very field names and values (ARCHITECTURE, "Stored JSON").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from service.domain.specs import GpuRequest, NodeSpec


class UpdateMode(StrEnum):
    """How what a group runs is changed."""

    SURGE = "surge"  # a second gang is brought up beside the first, which ends once the second one answers
    IN_PLACE = "in_place"  # the members' machines are defined anew where they are, on the disks that they have


class UpdateStage(StrEnum):
    """Where an update stands. See `lifecycle.updating` for the transitions."""

    COMING = "coming"  # surge: the second gang is on its way; the first one serves
    SWITCHED = "switched"  # surge: the new gang serves; the old one is being ended
    CHANGING = "changing"  # in place: members stop, and start as what they are to be
    TAKING_BACK = "taking_back"  # the second gang is being removed, or members become again what they were
    DONE = "done"  # final
    TAKEN_BACK = "taken_back"  # final


@dataclass(frozen=True, slots=True)
class MemberChange:
    """What members are to be made from. What is None, or empty, stays as it is; their catalogue entries are always
    taken as they are now.

    `role`: of which members; None: of all. `environment`: variables to set, `dropped`: those to take away.
    """

    role: str | None = None
    model_service_uuid: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    startup_parameters: str | None = None
    cpu_num: int = 0
    memory_size: int = 0
    root_disk_size: int = 0
    gpus: tuple[GpuRequest, ...] | None = None
    timeout_ms: int = 0


def changed(nodes: Sequence[NodeSpec], changes: Sequence[MemberChange]) -> tuple[NodeSpec, ...]:
    """The nodes after all changes, in order. What of another entry has no value of its own gets that entry's later."""
    found = list(nodes)
    for change in changes:
        found = [_changed(node, change) if change.role in (None, node.role) else node for node in found]
    return tuple(found)


def _changed(node: NodeSpec, change: MemberChange) -> NodeSpec:
    kept = {name: value for name, value in node.environment_variables.items() if name not in change.dropped}
    told = change.startup_parameters
    return replace(
        node,
        model_service_uuid=change.model_service_uuid or node.model_service_uuid,
        environment_variables={**kept, **change.environment},
        startup_parameters=node.startup_parameters if told is None else told,
        cpu_num=change.cpu_num or node.cpu_num,
        memory_size=change.memory_size or node.memory_size,
        root_disk_size=change.root_disk_size or node.root_disk_size,
        timeout_ms=change.timeout_ms or node.timeout_ms,
        gpus=node.gpus if change.gpus is None else change.gpus,
        devices=(),
    )


def described(nodes: Sequence[NodeSpec]) -> tuple[NodeSpec, ...]:
    """The nodes as far as a machine is made from them: without what their devices were where they were placed last."""
    return tuple(replace(node, devices=()) for node in nodes)
