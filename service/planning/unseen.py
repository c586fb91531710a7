"""Hosts of which nobody has found out yet, since the service's start or since they were added, whether they answer."""

from __future__ import annotations

from collections.abc import Mapping

from service.domain.fleet import Host, HostState, HostStatus

_MOST_NAMED = 3


def waits_for(hosts: Mapping[str, Host]) -> tuple[Host, ...]:
    """Those that may take members as soon as they answer, by name. Each is known to answer or not within one probe."""
    unseen = (h for h in hosts.values() if h.status is HostStatus.CONNECTING and h.state is HostState.ENABLED)
    return tuple(sorted(unseen, key=lambda h: h.name))


def told(unseen: tuple[Host, ...]) -> str:
    """Why nothing is ruled out yet."""
    names = ", ".join(h.name for h in unseen[:_MOST_NAMED])
    more = f" and {len(unseen) - _MOST_NAMED} more" if len(unseen) > _MOST_NAMED else ""
    return f"the hosts that answer have no room for it, and {names}{more} are not known to answer or not yet: ask again"
