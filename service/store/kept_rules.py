"""Which rules of groups a change of a host breaks for the members that are on it, or on their way there."""

from __future__ import annotations

from sqlalchemy import Connection

from service.domain.fleet import Host
from service.domain.kept_rules import RULED_BY, worsened
from service.store import fleet, groups


def broken_by(connection: Connection, host: Host, wanted: Host) -> tuple[str, ...]:
    """In words, by group; rules that are broken already are left out.

    The host's row is locked: a claim that comes later sees the labels and the cluster that it has by then.
    """
    if all(getattr(host, name) == getattr(wanted, name) for name in RULED_BY):
        return ()
    there = {group for _, group, *_ in groups.on_host(connection, host.uuid)}
    there |= {group for _, group, _ in groups.arriving(connection, host.uuid)}
    found: list[str] = []
    for group_uuid in sorted(there):
        group = groups.load(connection, group_uuid)
        places = {uuid for member in group.instances for uuid in (member.host_uuid, member.target_host_uuid) if uuid}
        hosts = fleet.hosts(connection, sorted(places))
        found += worsened(group, hosts, {**hosts, host.uuid: wanted})
    return tuple(found)
