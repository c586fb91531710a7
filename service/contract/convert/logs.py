"""Logs of members: what is asked for, and their lines."""

from __future__ import annotations

from collections.abc import Mapping

from corral.v1 import deploy_pb2

from service.app.logs import LogAsk, LogText
from service.drivers.base import LogSource

_SOURCES: Mapping[LogSource, deploy_pb2.InstanceLogSource.ValueType] = {
    LogSource.CONSOLE: deploy_pb2.INSTANCE_LOG_SOURCE_CONSOLE,
    LogSource.ENGINE: deploy_pb2.INSTANCE_LOG_SOURCE_ENGINE,
}
_ASKED = {number: source for source, number in _SOURCES.items()}


def ask(message: deploy_pb2.GetInstanceLogRequest) -> LogAsk:
    """Whose logs."""
    return LogAsk(
        message.uuid, tuple(message.node_ranks), _ASKED.get(message.source), message.tail_lines, message.follow
    )


def lines(text: LogText) -> deploy_pb2.GetInstanceLogResponse:
    """Lines of one log."""
    return deploy_pb2.GetInstanceLogResponse(
        node_rank=text.rank,
        instance_uuid=text.instance_uuid,
        name=text.name,
        source=_SOURCES[text.source],
        text=text.text,
        kept=text.kept,
        gap=text.gap,
        note=text.note,
    )
