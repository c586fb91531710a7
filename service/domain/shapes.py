"""Alternatives of a deploy: other gangs that would do as well, in the caller's order, of which the first that fits is
taken for good. Pure.

Stored as JSON under these very field names (ARCHITECTURE, "Stored JSON").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from service.domain.specs import NodeSpec

if TYPE_CHECKING:
    from service.domain.groups import Group


@dataclass(frozen=True, slots=True)
class Shape:
    """One of the gangs: its nodes and what follows from its initial node's catalogue entry, as a `GroupSpec` has them.

    `ports`, `graces_ms`: of each member in rank order.
    """

    nodes: tuple[NodeSpec, ...]
    workers_first: bool
    model_uuid: str
    model_service_type: str
    support_metrics: tuple[str, ...]
    scope: str
    uuids: tuple[str, ...]
    ports: tuple[int, ...]
    graces_ms: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Why a gang before the chosen one was not taken: `reason` of an error, its message; `proven`: that it does not
    fit."""

    reason: str
    message: str
    proven: bool


@dataclass(frozen=True, slots=True)
class Shapes:
    """`all`: what may be chosen from, none once the group was placed; `chosen`: which one the group is, from 0."""

    all: tuple[Shape, ...]
    chosen: int = 0
    passed_over: tuple[PassedOver, ...] = ()


def told(why: Sequence[PassedOver]) -> str:
    """Why none of them fits, in a sentence each."""
    return "; ".join(f"{_name(number)}: {one.message}" for number, one in enumerate(why))


def _name(number: int) -> str:
    return f"alternatives[{number - 1}]" if number else "model_services"


def variants(group: Group) -> Iterator[Group]:
    """The group as each of its gangs, in the caller's order."""
    for number in range(len(group.shapes.all) if group.shapes is not None else 0):
        yield group if group.shapes is not None and number == group.shapes.chosen else as_shape(group, number)


def as_shape(group: Group, number: int, passed_over: tuple[PassedOver, ...] = ()) -> Group:
    """The group as that one of its gangs: with other members, none of which has a seat yet."""
    assert group.shapes is not None
    shape, model = group.shapes.all[number], group.instances[0]
    members = tuple(
        replace(
            model,
            uuid=uuid,
            spec=node,
            zone_uuid=node.zone_uuid,
            service_port=port,
            boot_timeout_ms=node.timeout_ms,
            stop_grace_ms=grace,
        )
        for uuid, node, port, grace in zip(shape.uuids, shape.nodes, shape.ports, shape.graces_ms, strict=True)
    )
    spec = replace(
        group.spec,
        nodes=shape.nodes,
        workers_first=shape.workers_first,
        model_uuid=shape.model_uuid,
        model_service_type=shape.model_service_type,
        support_metrics=shape.support_metrics,
        scope=shape.scope,
    )
    shapes = replace(group.shapes, chosen=number, passed_over=passed_over)
    return replace(group, spec=spec, instances=members, shapes=shapes)
