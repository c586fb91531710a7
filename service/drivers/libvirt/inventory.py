"""What domains a host has, whose they are, and in what state. Reads each domain's XML once, and its state each time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import libvirt

from service.domain.cells import resource_in
from service.drivers.base import MachineIdentity, MachineState
from service.drivers.libvirt.errors import GONE
from service.drivers.libvirt.tags import DomainRecord, Kind, read_domain

_log = logging.getLogger(__name__)

# Events tell of changed definitions; this catches those that were missed.
REREAD_SECONDS = 60.0
# A create takes well under a second. A domain that has been starting for this long, and nobody creates it, never runs.
GHOST_SECONDS = 20.0
# With devices of its host, or in huge pages, all of a machine's memory is touched and held as it starts; on a busy host
# that may be as slow as this.
LEAST_BYTES_A_SECOND = 1 << 30

_STATES = {
    libvirt.VIR_DOMAIN_NOSTATE: MachineState.RUNNING,  # not known to be stopped, so it may be running
    libvirt.VIR_DOMAIN_RUNNING: MachineState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: MachineState.RUNNING,
    libvirt.VIR_DOMAIN_PMSUSPENDED: MachineState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: MachineState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: MachineState.STOPPING,
    libvirt.VIR_DOMAIN_SHUTOFF: MachineState.STOPPED,
    libvirt.VIR_DOMAIN_CRASHED: MachineState.CRASHED,
}
_BY_REASON = {
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION): MachineState.MIGRATING,
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED): MachineState.CRASHED,
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED): MachineState.CRASHED,
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_FAILED): MachineState.CRASHED,
}
_INACTIVE = frozenset({libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED})


@dataclass(frozen=True, slots=True)
class Seen:
    """One domain as the host showed it. `state`, `reason`: libvirt's numbers."""

    domain: Any
    machine_uuid: str
    record: DomainRecord
    state: int
    reason: int

    @property
    def active(self) -> bool:
        """Whether it has a QEMU process, as far as libvirt knows."""
        return self.state not in _INACTIVE

    @property
    def starting(self) -> bool:
        """Whether a create has begun and not ended."""
        return (self.state, self.reason) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)


class Inventory:
    """The domains of one host. Safe to use from any thread."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._records: dict[str, DomainRecord] = {}
        self._read_at = 0.0
        self._starting_since: dict[str, float] = {}
        self._creating: set[str] = set()
        self._asked_to_stop: set[str] = set()
        self._no_bulk_states = False

    # --- reading -----------------------------------------------------------------------------------------------------

    def read_all(self, connection: Any) -> list[Seen]:
        """Every domain of the host, whoever made it."""
        with self._lock:
            if time.monotonic() - self._read_at > REREAD_SECONDS:
                self._records.clear()
                self._read_at = time.monotonic()
        states = self._states(connection)
        with self._lock:
            self._records = {uuid: self._records[uuid] for uuid in states.keys() & self._records.keys()}
            self._starting_since = {u: t for u, t in self._starting_since.items() if u in states}
            self._asked_to_stop &= states.keys()
        seen = (self._look(domain, state, reason) for domain, state, reason in states.values())
        return [one for one in seen if one is not None]

    def _states(self, connection: Any) -> dict[str, tuple[Any, int, int]]:
        if not self._no_bulk_states:
            try:
                # NOWAIT: a QEMU that hangs must not hold up the answer about all the others.
                found = connection.getAllDomainStats(
                    libvirt.VIR_DOMAIN_STATS_STATE, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
                )
                return {d.UUIDString(): (d, s.get("state.state", 0), s.get("state.reason", 0)) for d, s in found}
            except libvirt.libvirtError as error:
                if error.get_error_code() not in (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_INVALID_ARG):
                    raise
                self._no_bulk_states = True
        one_by_one: dict[str, tuple[Any, int, int]] = {}
        for domain in connection.listAllDomains():
            try:
                state, reason = domain.state(0)
            except libvirt.libvirtError as error:
                if error.get_error_code() in GONE:
                    continue
                raise
            one_by_one[domain.UUIDString()] = (domain, state, reason)
        return one_by_one

    def find(self, connection: Any, identity: MachineIdentity) -> Seen | None:
        """The domain with the identity's uuid, read afresh, whatever it is."""
        try:
            domain = connection.lookupByUUIDString(identity.machine_uuid)
            state, reason = domain.state(0)
        except libvirt.libvirtError as error:
            if error.get_error_code() in GONE:
                return None
            raise
        self.forget(identity.machine_uuid)
        return self._look(domain, state, reason)

    def _look(self, domain: Any, state: int, reason: int) -> Seen | None:
        machine_uuid = domain.UUIDString()
        with self._lock:
            record = self._records.get(machine_uuid)
        if record is None:
            try:
                record = read_domain(domain.XMLDesc(0))
            except libvirt.libvirtError as error:
                if error.get_error_code() in GONE:
                    return None
                raise
            with self._lock:
                self._records[machine_uuid] = record
        seen = Seen(domain, machine_uuid, record, state, reason)
        with self._lock:
            if seen.starting:
                self._starting_since.setdefault(machine_uuid, time.monotonic())
            else:
                self._starting_since.pop(machine_uuid, None)
        return seen

    def forget(self, machine_uuid: str) -> None:
        """Its definition may have changed."""
        with self._lock:
            self._records.pop(machine_uuid, None)

    def forget_all(self) -> None:
        """Events may have been missed."""
        with self._lock:
            self._records.clear()

    def identity_of(self, machine_uuid: str) -> MachineIdentity | None:
        """Whose the domain is, if it was read and is this cluster's."""
        with self._lock:
            record = self._records.get(machine_uuid)
        tag = record.machine_of(self._cluster) if record is not None else None
        return None if tag is None else tag.identity

    # --- what this process does --------------------------------------------------------------------------------------

    def creating(self, machine_uuid: str, begins: bool) -> None:
        """A create of this process begins or has ended."""
        with self._lock:
            (self._creating.add if begins else self._creating.discard)(machine_uuid)

    def asked_to_stop(self, machine_uuid: str, asked: bool) -> None:
        """The guest was asked to shut down, or is no longer in that run."""
        with self._lock:
            (self._asked_to_stop.add if asked else self._asked_to_stop.discard)(machine_uuid)

    def is_ghost(self, seen: Seen) -> bool:
        """Starting for too long, and nobody here is creating it."""
        with self._lock:
            since = self._starting_since.get(seen.machine_uuid)
            if not seen.starting or since is None or seen.machine_uuid in self._creating:
                return False
            return time.monotonic() - since >= GHOST_SECONDS + _touching_seconds(seen.record)

    def machine_state(self, seen: Seen, kind: Kind) -> MachineState:
        """The state in the words of `drivers.base`."""
        if kind is Kind.TOMBSTONE:
            return MachineState.TOMBSTONE
        if self.is_ghost(seen):
            return MachineState.GHOST
        state = _BY_REASON.get((seen.state, seen.reason)) or _STATES.get(seen.state, MachineState.RUNNING)
        with self._lock:
            asked = seen.machine_uuid in self._asked_to_stop
        return MachineState.STOPPING if asked and state is MachineState.RUNNING else state

    # --- what others hold --------------------------------------------------------------------------------------------

    def foreign(self, seen: Iterable[Seen], *, huge_pages: bool = False) -> dict[str, int]:
        """What domains without this cluster's tag hold: `vcpu` (count), `memory` (bytes, of huge pages or beside them,
        of whatever size those are), and of the NUMA cells that they are pinned to.

        A stopped one counts when it starts by itself with the host.
        """
        held = {"vcpu": 0, "memory": 0}
        for one in self._others(seen):
            for name, amount in one.record.held.items():
                if one.record.huge_pages is huge_pages or resource_in(name) != "memory":
                    held[name] = held.get(name, 0) + amount
        return held

    def foreign_devices(self, seen: Iterable[Seen]) -> frozenset[str]:
        """The addresses of the host's functions that such domains have."""
        return frozenset(address for one in self._others(seen) for address in one.record.devices)

    def _others(self, seen: Iterable[Seen]) -> Iterator[Seen]:
        for one in seen:
            tag = one.record.tag
            if tag is not None and tag.identity.cluster == self._cluster:
                continue
            if one.active or _starts_by_itself(one.domain):
                yield one


def _touching_seconds(record: DomainRecord) -> float:
    """What a domain's start may take longer because it has all of its memory before it runs."""
    return record.memory / LEAST_BYTES_A_SECOND if record.devices or record.huge_pages else 0.0


def _starts_by_itself(domain: Any) -> bool:
    try:
        return bool(domain.autostart())
    except libvirt.libvirtError as error:
        if error.get_error_code() in GONE or error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
            return False  # gone, or transient
        raise
