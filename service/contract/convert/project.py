"""What projects use and who changed what, as messages, and requests about it as domain types."""

from __future__ import annotations

from corral.v1 import project_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from service.contract.convert.inventory import timestamp
from service.domain.tenants import AuditEvent, AuditFilter, Usage


def usage(value: Usage) -> project_pb2.ProjectUsage:
    """What one project uses."""
    names = sorted({*value.claimed, *value.waiting, *value.limits})
    return project_pb2.ProjectUsage(
        project=value.project,
        group_count=value.groups,
        instance_count=value.members,
        resources=[_resource(value, name) for name in names],
    )


def _resource(value: Usage, name: str) -> project_pb2.ResourceUsage:
    claimed, waiting, limit = value.claimed.get(name, 0), value.waiting.get(name, 0), value.limits.get(name)
    return project_pb2.ResourceUsage(
        resource=name,
        claimed=claimed,
        waiting=waiting,
        limit=limit,
        available=None if limit is None else max(0, limit - claimed - waiting),
    )


def audit_event(value: AuditEvent) -> project_pb2.AuditEvent:
    """One change."""
    return project_pb2.AuditEvent(
        id=value.id,
        time=timestamp(value.time),
        principal=value.principal,
        project=value.project,
        method=value.method,
        subject=value.subject,
        request_id=value.request_id,
        client_request_id=value.client_request_id,
        peer=value.peer,
    )


def audit_filter(message: project_pb2.ListAuditEventsRequest) -> AuditFilter:
    """Which changes are asked for."""
    return AuditFilter(
        project=message.project,
        principal=message.principal,
        method=message.method,
        subject=message.subject,
        request_id=message.request_id,
        start=_milliseconds(message.start_time),
        end=_milliseconds(message.end_time),
    )


def _milliseconds(value: Timestamp) -> int:
    """The first whole millisecond at or after it, as changes are stored by."""
    return value.seconds * 1000 + -(-value.nanos // 1_000_000)
