"""The steps on one machine: look, compare, act. They block; `driver` gives them their threads.

Before each step that has an effect a call checks whether its caller still waits, so that a step does not happen long
after its caller has given up or lost its lease.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import libvirt

from service.drivers.base import (
    HostRejected,
    MachineConflict,
    MachineGhost,
    MachineIdentity,
    MachineSpec,
    ObservedMachine,
    OutcomeUnknown,
    UuidTaken,
)
from service.drivers.libvirt import nodedev, reasons
from service.drivers.libvirt.channels import Channels
from service.drivers.libvirt.confinement import Confinement
from service.drivers.libvirt.connection import Work
from service.drivers.libvirt.domain_xml import Platform, machine_xml, tombstone_name, tombstone_xml
from service.drivers.libvirt.errors import ALREADY, GONE, TAKEN, Abandoned, connection_lost, describe, translate
from service.drivers.libvirt.filters import Filters
from service.drivers.libvirt.inventory import Inventory, Seen
from service.drivers.libvirt.storage import Storage
from service.drivers.libvirt.tags import Kind, Tag
from service.drivers.reports import GuestReport

_log = logging.getLogger(__name__)

_UNDEFINE_FLAGS = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)
# libvirt gives a process that does not die 30 s and then says so with this code.
_NOT_KILLED = frozenset({libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_ERR_SYSTEM_ERROR})
_GIVEN_UP_HERE = "this attempt of the machine was given up on this host"
_TAKEN_HERE = "the machine's uuid or name belongs to something else on this host"
_GHOST_HERE = "the host holds a machine that it can neither run nor remove"
# How often a machine is looked at while it goes.
_POLL_SECONDS = 0.05


class Machines:
    """One host's machines of one cluster."""

    def __init__(
        self,
        cluster: str,
        inventory: Inventory,
        channels: Channels,
        storage: Storage,
        filters: Filters,
        confinement: Confinement,
    ) -> None:
        self._cluster = cluster
        self._inventory = inventory
        self._channels = channels
        self._storage = storage
        self._filters = filters
        self._confinement = confinement

    # --- looking -----------------------------------------------------------------------------------------------------

    def observe(self, connection: Any, identity: MachineIdentity) -> ObservedMachine | None:
        """The machine as it stands, or None. Raises MachineConflict where the uuid is not ours."""
        seen = self._inventory.find(connection, identity)
        return None if seen is None else self.observed(connection, seen, self._our_tag(seen, identity))

    def observed(self, connection: Any, seen: Seen, tag: Tag) -> ObservedMachine:
        """In the words of `drivers.base`."""
        report = self._channels.report(seen.machine_uuid)
        return ObservedMachine(
            identity=tag.identity,
            machine_uuid=seen.machine_uuid,
            state=self._inventory.machine_state(seen, tag.kind),
            spec_hash=tag.spec_hash,
            report=report,
            unheard_seconds=self._channels.unheard_seconds(seen.machine_uuid) if seen.active else 0.0,
            reset_seconds=self._channels.reset_seconds(seen.machine_uuid) if seen.active else None,
            generation=tag.generation,
            resources=seen.record.held,
            name=seen.record.name,
            record=tag.record,
            why=reasons.words_for(seen.domain, seen.state, seen.reason),
            devices=nodedev.had_by(connection, seen),
            ailing=_ailing(report, seen) if report is not None and seen.active else {},
            console_from=tag.console_from,
        )

    def _our_tag(self, seen: Seen, identity: MachineIdentity) -> Tag:
        tag = seen.record.machine_of(self._cluster)
        if tag is None or tag.identity != identity:
            raise UuidTaken("the machine's uuid belongs to somebody else on this host", seen.record.name)
        return tag

    def _real(self, connection: Any, identity: MachineIdentity) -> Seen | None:
        """The machine itself; None where nothing or only its tombstone is there."""
        seen = self._inventory.find(connection, identity)
        if seen is None or self._our_tag(seen, identity).kind is Kind.TOMBSTONE:
            return None
        return seen

    # --- making ------------------------------------------------------------------------------------------------------

    def create_paused(self, work: Work, connection: Any, spec: MachineSpec, platform: Platform) -> ObservedMachine:
        """Volumes, definition, start. What a refused call made is removed again.

        A stopped machine is defined anew: it starts with the documents of this specification, on the disk that it has.
        """
        identity = spec.identity
        seen = self._inventory.find(connection, identity)
        if seen is not None:
            tag = self._our_tag(seen, identity)
            if tag.kind is Kind.TOMBSTONE:
                raise MachineConflict(_GIVEN_UP_HERE, seen.record.name)
            if self._inventory.is_ghost(seen):
                raise MachineGhost(_GHOST_HERE, seen.record.name)
            if seen.starting:
                # Another process creates it, or died while it did: it is not there until libvirt says so.
                raise OutcomeUnknown("the machine is still being created", seen.record.name)
            if seen.active:
                return self.observed(connection, seen, tag)
        self._inventory.creating(identity.machine_uuid, True)
        try:
            self._define_and_start(work, connection, spec, platform)
        except MachineConflict:
            # The name or uuid went to somebody else since we looked: only the volumes are ours.
            self._storage.delete_machine_volumes(connection, work, identity)
            raise
        except (libvirt.libvirtError, HostRejected) as error:
            refused = isinstance(error, HostRejected) or isinstance(translate(error, has_effect=True), HostRejected)
            # A machine that was there before keeps its disk: only its start was refused.
            if refused and seen is None:
                self._clean_up(work, connection, identity)
            raise
        finally:
            self._inventory.creating(identity.machine_uuid, False)
        made = self.observe(connection, identity)
        if made is None:
            raise HostRejected("internal", "the machine was gone right after it was made")
        return made

    def _define_and_start(self, work: Work, connection: Any, spec: MachineSpec, platform: Platform) -> None:
        boot = self._storage.prepare(connection, work, spec, has_firmware=platform.virt_type != "test")
        held_by = self._filters.hold(work, connection, spec)
        nodedev.check(connection, spec.devices)
        xml = partial(machine_xml, spec, platform, boot, network_filter=held_by)
        domain = self._confinement.define(connection, spec, lambda p: self._define(work, connection, spec, xml(p)))
        if held_by:
            # The last other machine of the group may have gone since, and its filter with it; from now on it stays.
            self._filters.hold(work, connection, spec)
        self._start_paused(work, connection, domain, spec, platform.virt_type)

    def _define(self, work: Work, connection: Any, spec: MachineSpec, xml: str) -> Any:
        work.check()
        try:
            return connection.defineXML(xml)
        except libvirt.libvirtError as error:
            if self._is_taken(connection, error, spec.identity, spec.identity.machine_name):
                raise MachineConflict(_TAKEN_HERE, describe(error)) from error
            raise

    def _is_taken(self, connection: Any, error: libvirt.libvirtError, identity: MachineIdentity, name: str) -> bool:
        """Whether a definition was refused because its uuid or name is something else's: the code stands for other
        failures too, so the host is asked who has them."""
        if error.get_error_code() not in TAKEN or connection_lost(error):
            return False
        seen = self._inventory.find(connection, identity)
        if seen is not None and seen.record.name != name:
            return True
        try:
            return bool(connection.lookupByName(name).UUIDString() != identity.machine_uuid)
        except libvirt.libvirtError as lookup:
            if lookup.get_error_code() in GONE:
                return False
            raise

    def _start_paused(self, work: Work, connection: Any, domain: Any, spec: MachineSpec, virt_type: str) -> None:
        self._channels.forget(domain.UUIDString())
        self._inventory.asked_to_stop(domain.UUIDString(), False)
        work.check()
        try:
            if virt_type == "test":  # it has no start flags
                domain.create()
                domain.suspend()
            else:
                domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in ALREADY or connection_lost(error):
                raise
            if domain.isActive():
                return
            # The same code: something that the machine needs is not active.
            idle = _inactive_networks(connection, spec)
            if idle:
                text = f"the host's network {idle[0]} is defined and not started"
                raise HostRejected("missing_network", text, describe(error)) from error
            raise

    def _clean_up(self, work: Work, connection: Any, identity: MachineIdentity) -> None:
        try:
            seen = self._real(connection, identity)
            if seen is not None and (seen.active or seen.starting):
                _log.warning("%s was refused here and started by another control plane: it stays", seen.record.name)
                return
            self.remove(work, connection, identity)
        except (libvirt.libvirtError, MachineConflict, MachineGhost, Abandoned) as error:
            # The first error is the one to tell; what is left bears our tag, and the sweep finds it.
            _log.warning("cleaning up after a refused machine: %s", error)

    def resume(self, work: Work, connection: Any, identity: MachineIdentity) -> ObservedMachine:
        """Lets a paused machine run."""
        seen = self._existing(connection, identity)
        if seen.state == libvirt.VIR_DOMAIN_PAUSED:
            work.check()
            # Whatever the code means, what is seen then is the answer.
            _ignoring(ALREADY, seen.domain.resume)
        return self._again(connection, identity)

    def _existing(self, connection: Any, identity: MachineIdentity) -> Seen:
        seen = self._real(connection, identity)
        if seen is None:
            raise HostRejected("absent", "the machine is not on the host")
        if self._inventory.is_ghost(seen):
            raise MachineGhost(_GHOST_HERE, seen.record.name)
        return seen

    def _again(self, connection: Any, identity: MachineIdentity) -> ObservedMachine:
        found = self.observe(connection, identity)
        if found is None:
            raise HostRejected("absent", "the machine is not on the host")
        return found

    def define_again(self, work: Work, connection: Any, identity: MachineIdentity) -> None:
        """Gives a machine that runs without a definition one that is what it runs by, values included that libvirt
        shows to its administrators alone."""
        seen = self._real(connection, identity)
        if seen is None or seen.state != libvirt.VIR_DOMAIN_RUNNING or seen.domain.isPersistent():
            return
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
        xml = seen.domain.XMLDesc(flags)
        work.check()
        connection.defineXML(xml)

    # --- ending ------------------------------------------------------------------------------------------------------

    def shutdown(self, work: Work, connection: Any, identity: MachineIdentity) -> None:
        """Presses the power button."""
        seen = self._real(connection, identity)
        if seen is None or not seen.active:
            return
        self._inventory.asked_to_stop(seen.machine_uuid, True)
        work.check()
        try:
            seen.domain.shutdown()
        except libvirt.libvirtError as error:
            if error.get_error_code() not in GONE | ALREADY or connection_lost(error):
                raise
            after = self._real(connection, identity)
            if after is not None and after.active:
                self._inventory.asked_to_stop(seen.machine_uuid, False)
                raise  # it runs, and was not asked

    def power_off(self, work: Work, connection: Any, identity: MachineIdentity) -> None:
        """Ends the process. Definition and volumes stay."""
        seen = self._real(connection, identity)
        if seen is not None and self._inventory.is_ghost(seen):
            # There is no process to end; libvirt would try for 30 s, longer than any call may take, and then give up.
            raise MachineGhost(_GHOST_HERE, seen.record.name)
        work.check()
        self._channels.hang_up(identity.machine_uuid)
        if seen is not None and seen.active:
            self._destroy(work, seen)
            self._wait_until_ended(work, connection, identity)
        self._channels.forget(identity.machine_uuid)
        self._inventory.asked_to_stop(identity.machine_uuid, False)

    def remove(self, work: Work, connection: Any, identity: MachineIdentity) -> None:
        """Destroy, see it gone, undefine, delete volumes. In this order, so that nothing running loses its definition
        (undefining a running domain leaves it running, and nobody's), and no volume goes before its user."""
        self.power_off(work, connection, identity)
        seen = self._real(connection, identity)
        if seen is not None:
            work.check()
            _undefine(seen.domain)
            if self._real(connection, identity) is not None:
                raise MachineConflict("the machine came back while it was removed", seen.record.name)
        self._inventory.forget(identity.machine_uuid)
        self._storage.delete_machine_volumes(connection, work, identity)
        self._filters.let_loose(work, connection, identity.group)

    def _destroy(self, work: Work, seen: Seen) -> None:
        # A QEMU that does not react is killed after ten seconds, and so long libvirt answers nobody who asks about that
        # domain, lists included.
        work.check()
        try:
            seen.domain.destroyFlags(0)
        except libvirt.libvirtError as error:
            code = error.get_error_code()
            if code in GONE | ALREADY and not connection_lost(error) and not _is_active(seen.domain):
                return
            if seen.starting and code in _NOT_KILLED and not connection_lost(error):
                raise MachineGhost(_GHOST_HERE, describe(error)) from error
            raise

    def _wait_until_ended(self, work: Work, connection: Any, identity: MachineIdentity) -> None:
        while True:
            seen = self._real(connection, identity)
            if seen is None or not seen.active:
                return
            work.pause(_POLL_SECONDS)

    # --- tombstones --------------------------------------------------------------------------------------------------

    def entomb(self, work: Work, connection: Any, identity: MachineIdentity, virt_type: str) -> None:
        """Takes the uuid with an inert domain."""
        seen = self._inventory.find(connection, identity)
        if seen is not None:
            if self._our_tag(seen, identity).kind is Kind.TOMBSTONE:
                return
            raise MachineConflict("the machine itself is on the host", seen.record.name)
        work.check()
        try:
            connection.defineXML(tombstone_xml(identity, virt_type))
        except libvirt.libvirtError as error:
            if self._is_taken(connection, error, identity, tombstone_name(identity)):
                raise MachineConflict("the machine itself is on the host", describe(error)) from error
            raise

    def clear_tombstone(self, work: Work, connection: Any, identity: MachineIdentity) -> None:
        """Gives the uuid free."""
        seen = self._inventory.find(connection, identity)
        if seen is None:
            return
        if self._our_tag(seen, identity).kind is not Kind.TOMBSTONE:
            raise MachineConflict("the machine itself is on the host", seen.record.name)
        if seen.active:  # somebody has started it by hand; it has nothing to run
            self._destroy(work, seen)
        work.check()
        _undefine(seen.domain)
        self._inventory.forget(identity.machine_uuid)


def _ailing(report: GuestReport, seen: Seen) -> dict[str, str]:
    """Of the host's functions that the domain has those that its guest says fail. An address that it has not is its own
    affair, unless it has one device alone: firmware may have numbered its buses otherwise."""
    seats = seen.record.seats
    alone = seen.record.devices[0] if len(seen.record.devices) == 1 else ""
    return {host: why for address, why in report.ailing if (host := seats.get(address, alone))}


def _is_active(domain: Any) -> bool:
    try:
        return bool(domain.isActive())
    except libvirt.libvirtError as error:
        if error.get_error_code() not in GONE:
            raise
        return False


def _inactive_networks(connection: Any, spec: MachineSpec) -> list[str]:
    """Names of the machine's libvirt networks that are defined and not started."""
    found = []
    for name in sorted({i.source for i in spec.interfaces if i.kind == "network"}):
        try:
            if not connection.networkLookupByName(name).isActive():
                found.append(name)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_NETWORK:
                raise
    return found


def _undefine(domain: Any) -> None:
    """With all that libvirt keeps of it; plainly where an older or simpler hypervisor does not know the flags."""
    try:
        _ignoring(GONE, domain.undefineFlags, _UNDEFINE_FLAGS)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_INVALID_ARG:
            raise
        _ignoring(GONE, domain.undefineFlags, 0)


def _ignoring(codes: frozenset[int], call: Any, *arguments: Any) -> None:
    try:
        call(*arguments)
    except libvirt.libvirtError as error:
        if error.get_error_code() not in codes or connection_lost(error):
            raise
