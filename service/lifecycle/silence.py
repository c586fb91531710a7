"""Guests that served, run, and say nothing any more: after a while they are taken to hang. Pure."""

from __future__ import annotations

from service.domain.groups import Group, Instance
from service.lifecycle.members import LAUNCHING, S

HANGS_MS = 5_000
"""A guest that has been found silent for so long is taken to hang for good."""


def hangs(group: Group, member: Instance) -> bool:
    """Whether the silence of a guest counts: one of a group that has served, on a host that answers."""
    runs = member.status in (S.BOOTING, S.RUNNING) and not member.target_host_uuid
    return bool(member.silent_since) and runs and group.served and not member.unknown_since


def hang_at(group: Group) -> list[int]:
    """When members are taken to hang (ms)."""
    return [m.silent_since + HANGS_MS for m in group.instances if hangs(group, m)] if group.phase in LAUNCHING else []
