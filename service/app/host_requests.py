"""What callers ask of hosts, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.app.capacity import HostView
from service.domain.fleet import Bmc, Host, Overcommit


@dataclass(frozen=True, slots=True)
class BmcWish:
    """By what a host's power is to be switched: None by nothing. `credential`: a configured name; empty: the one that
    it has."""

    bmc: Bmc | None
    credential: str = ""


@dataclass(frozen=True, slots=True)
class NewHost:
    """A host to take into the fleet. `host.uuid` is empty for a new one; `credential`, `bmc_credential`: configured
    names, by which the host and its BMC are logged in to."""

    host: Host
    credential: str = ""
    request_id: str = ""
    bmc_credential: str = ""


@dataclass(frozen=True, slots=True)
class HostChange:
    """What to change in a host; None leaves it. `allow_broken_rules`: even where members on it are left in a place that
    their groups' rules forbid."""

    name: str | None = None
    description: str | None = None
    rack: str | None = None
    overcommit: Overcommit | None = None
    labels: Mapping[str, str] | None = None
    cluster_uuid: str | None = None
    bmc: BmcWish | None = None
    allow_broken_rules: bool = False


@dataclass(frozen=True, slots=True)
class HostUpdate:
    """A host as it was changed, and which rules of groups with members on it that has broken, in words."""

    view: HostView
    broken_rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HostFilter:
    """Which hosts a listing shows; empty fields do not filter."""

    zone_uuid: str = ""
    states: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    project: str = ""
