"""Alternatives of a deploy: each is checked as the request itself is, and counts as it would alone."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from service.app.group_intents import new_instance
from service.domain.catalog import ModelService
from service.domain.groups import Group, Instance
from service.domain.shapes import PassedOver, Shape, Shapes, told, variants
from service.domain.specs import GroupSpec, NodeSpec
from service.errors import (
    CorralError,
    FieldViolation,
    InvalidArgument,
    NoAddresses,
    NoCapacity,
    NotFound,
    QuotaExceeded,
    Undecided,
    Unsatisfiable,
)

T = TypeVar("T")
NOT_NOW = (NoCapacity, Unsatisfiable, Undecided, QuotaExceeded, NoAddresses)


def admitted(
    group: Group,
    asked: Sequence[tuple[NodeSpec, ...]],
    admit: Callable[[GroupSpec], GroupSpec],
    catalogue: Mapping[str, ModelService],
    now: int,
    past: int,
) -> Group:
    """The group with its alternatives, each of which `admit` has accepted. Raises InvalidArgument, NotFound."""
    if not asked:
        return group
    shapes = [_shape(group.spec, group.instances)]
    for number, nodes in enumerate(asked):
        spec = _named(number, lambda nodes=nodes: admit(replace(group.spec, nodes=nodes)))  # type: ignore[misc]
        made = [new_instance(group.uuid, node, catalogue, now, past=past) for node in spec.nodes]
        members = [replace(m, uuid=uuids.uuid5(uuids.UUID(m.uuid), f"alternative {number}").hex) for m in made]
        shapes.append(_shape(spec, members))
    return replace(group, shapes=Shapes(tuple(shapes)))


def first_that(group: Group, fits: Callable[[Group], T]) -> T:
    """What `fits` says of the first of the group's gangs for which it raises nothing. Raises what it did for the first
    one where it does for all, and where there are several with what it said of each."""
    first: CorralError | None = None
    why: list[PassedOver] = []
    for variant in list(variants(group)) or [group]:
        try:
            return fits(variant)
        except NOT_NOW as error:
            first = first or error
            why.append(passed_over(error))
    assert first is not None
    raise first if len(why) == 1 else all_of(first, why)


def passed_over(error: CorralError) -> PassedOver:
    """Why that gang was not taken."""
    return PassedOver(error.reason, error.message, not isinstance(error, Undecided))


def all_of(first: CorralError, why: Sequence[PassedOver]) -> CorralError:
    """The error that the first gang got, with why no other one fits."""
    first.message = told(why)
    first.args = (first.message,)
    return first


def _shape(spec: GroupSpec, members: Sequence[Instance]) -> Shape:
    return Shape(
        spec.nodes,
        spec.workers_first,
        spec.model_uuid,
        spec.model_service_type,
        spec.support_metrics,
        spec.scope,
        tuple(m.uuid for m in members),
        tuple(m.service_port for m in members),
        tuple(m.stop_grace_ms for m in members),
    )


def _named(number: int, admit: Callable[[], GroupSpec]) -> GroupSpec:
    """Raises with the field as the caller wrote it."""
    path = f"alternatives[{number}]."
    try:
        return admit()
    except InvalidArgument as error:
        raise InvalidArgument(
            [FieldViolation(path + one.field, one.description) for one in error.violations]
        ) from error
    except NotFound as error:
        raise NotFound(error.resource_type, error.resource_name, path + error.field) from error
