"""A machine's record: what its metadata holds so that a lost database can be written again from its hosts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any

from service.domain.catalog import ModelService
from service.domain.environment import secret_of
from service.domain.groups import Group, Instance
from service.domain.recovery import MachineRecord, ranges
from service.domain.specs import NodeSpec

MOST_BYTES = 64 << 10
"""A record that would be longer leaves out its catalogue entry, and all that is only for people. Libvirt takes a
domain's XML of up to 4 MiB (libvirt 9.0, VIR_NET_MESSAGE_STRING_MAX)."""


def machine_record(group: Group, member: Instance, entry: ModelService, epoch: int) -> str:
    """The record as JSON text of ASCII characters, without fields that have their default value.

    Its size does not depend on how many members the group has.
    """
    record = MachineRecord(
        group=Group(
            uuid=group.uuid,
            spec=replace(group.spec, nodes=()),
            project=group.project,
            principal=group.principal,
            created_at=group.created_at,
        ),
        member=Instance(
            uuid=member.uuid,
            group_uuid=group.uuid,
            spec=_without_values(member.spec),
            zone_uuid=member.zone_uuid,
            service_port=member.service_port,
            attempt=member.attempt,
            restarts=member.restarts,
            address=member.address,
            mac=member.mac,
            boot_timeout_ms=member.boot_timeout_ms,
            stop_grace_ms=member.stop_grace_ms,
            created_at=member.created_at,
        ),
        entry=replace(entry, environment=_references(entry.environment)),
        epoch=epoch,
        ranks=ranges(tuple(sorted(m.rank for m in group.instances))),
        environment=_withheld(member.spec.environment_variables),
        entry_environment=_withheld(entry.environment),
        has_parameters=bool(member.spec.startup_parameters),
    )
    text = _text(record)
    if len(text) > MOST_BYTES:
        spec = replace(record.group.spec, description="", system_tags=(), user_tags=(), tag_uuids=())
        text = _text(replace(record, entry=None, group=replace(record.group, spec=spec)))
    return text


def _without_values(node: NodeSpec) -> NodeSpec:
    return replace(node, environment_variables=_references(node.environment_variables), startup_parameters="")


def _references(values: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if secret_of(value) is not None}


def _withheld(values: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted(set(values) - set(_references(values))))


def _text(record: MachineRecord) -> str:
    return json.dumps(_sparse(record), separators=(",", ":"))


def _sparse(value: Any) -> Any:
    if is_dataclass(value):
        held = ((f, getattr(value, f.name)) for f in fields(value))
        return {f.name: _sparse(v) for f, v in held if f.name == "version" or not _is_default(f, v)}
    if isinstance(value, Mapping):
        return {key: _sparse(one) for key, one in value.items()}
    if isinstance(value, tuple | frozenset):
        return [_sparse(one) for one in value]
    return value


def _is_default(of: Any, value: Any) -> bool:
    if of.default is not MISSING:
        return bool(of.default == value)
    return of.default_factory is not MISSING and bool(of.default_factory() == value)
