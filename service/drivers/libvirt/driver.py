"""`HostDriver` over libvirt: gives every call its connection, thread and deadline. The steps stand in `machines`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import libvirt

from service.domain.fleet import HostAddress
from service.domain.isolation import GroupFilter, Isolation
from service.domain.ownership import OwnerMark
from service.drivers.base import (
    HostDriver,
    HostFacts,
    HostRejected,
    HostUnreachable,
    Listing,
    LogPiece,
    LogSource,
    MachineHint,
    MachineIdentity,
    MachineSpec,
    ObservedMachine,
)
from service.drivers.libvirt import filters, guest_agent, marks, migration, numa, probing
from service.drivers.libvirt.addressing import connection_uri, migration_route, options_of
from service.drivers.libvirt.channels import Channels
from service.drivers.libvirt.confinement import Confinement
from service.drivers.libvirt.connection import Lane, Opener, Work
from service.drivers.libvirt.copy_calls import CopyCalls
from service.drivers.libvirt.domain_events import DomainEvents
from service.drivers.libvirt.domain_xml import Platform, check_spec
from service.drivers.libvirt.filters import Filters
from service.drivers.libvirt.inventory import Inventory, Seen
from service.drivers.libvirt.live_moves import LiveMoves
from service.drivers.libvirt.machines import Machines
from service.drivers.libvirt.nodedev import NodeDevices
from service.drivers.libvirt.overhead import Overhead, Taken
from service.drivers.libvirt.silence import Silence
from service.drivers.libvirt.storage import Storage
from service.drivers.libvirt.strangers import Strangers
from service.drivers.libvirt.tags import Kind, Tag, check_identity

Result = TypeVar("Result")


class LibvirtDriver(CopyCalls, HostDriver):
    """One hypervisor. `cluster` tells this control plane's machines from others'.

    One connection for what must always get through (lists, events, progress channels), and up to four for the work,
    whose calls may hang with a sick guest. They are opened when they are first needed and again when they broke.
    """

    def __init__(self, host_id: str, cluster: str, address: HostAddress, *, opener: Opener = libvirt.open) -> None:
        """Connects to nothing yet. Raises HostRejected `bad_request` for a malformed address."""
        uri = connection_uri(address)
        self._host_id = host_id
        self._cluster = cluster
        self._options = options_of(address)
        self._storage = Storage(self._options)
        self._inventory = Inventory(cluster)
        self._devices = NodeDevices()
        self._events = DomainEvents(host_id, self._inventory, lambda m: self._channels.was_reset(m), self._devices)
        self._overhead = Overhead(self._options.translation_cache_mib << 20)
        self._channels = Channels(self._events.changed)
        self._silence = Silence(self._channels, self._events.changed)
        self._strangers = Strangers(cluster)
        self._filters = Filters(cluster, self._inventory)
        self._confinement = Confinement(self._options)
        self._machines = Machines(
            cluster, self._inventory, self._channels, self._storage, self._filters, self._confinement
        )
        self._virtualisation: tuple[str, probing.Virtualisation] | None = None
        self._hypervisor: str | None = None
        self._admitted = ""
        # The test driver's state belongs to one connection, so there is only one.
        self._control = Lane(
            uri, calls_at_a_time=1, prepare=self._events.listen, closed=self._control_closed, opener=opener
        )
        self._lonely = address.transport == "test"
        self._work = self._control if self._lonely else Lane(uri, opener=opener, check=self._check_hypervisor)
        self._route = migration_route(address)
        # A move's call lasts as long as the move: it must not take the place of other work.
        moving = self._control if self._lonely else Lane(uri, opener=opener, check=self._check_hypervisor)
        # Nor must a slice of an upload. One at a time: two would share the same link.
        slices = Lane(uri, calls_at_a_time=1, opener=opener, check=self._check_hypervisor)
        self._uploads = self._control if self._lonely else slices
        self._moves = LiveMoves(cluster, self._inventory, self._storage, moving, self._act)

    @property
    def host_id(self) -> str:
        """The host's uuid in Corral."""
        return self._host_id

    # --- reading -----------------------------------------------------------------------------------------------------

    async def probe(self, *, budget_seconds: float) -> HostFacts:
        """See HostDriver. The first one after a host's boot may boot a probe guest, for up to six seconds."""
        return await self._read("probe", self._probe, budget_seconds)

    def _probe(self, work: Work, connection: Any) -> HostFacts:
        boot_id = probing.boot_id(connection, work)
        virtualisation = self._detected(work, connection, boot_id)
        seen = self._inventory.read_all(connection)
        foreign, taken = self._held(connection, seen, virtualisation.type)
        return HostFacts(
            host_uuid=self._host_id,
            hostname=connection.getHostname(),
            boot_id=boot_id,
            architecture=virtualisation.architecture,
            total=probing.totals(connection, self._options.huge_page, self._options.emulator_cpus),
            foreign=foreign,
            virt_type=virtualisation.type,
            virt_note=virtualisation.note,
            hypervisor_version=probing.version_text(connection),
            hypervisor=self._hypervisor_of(connection),
            mark=marks.read(connection),
            beside={"memory": taken.each} if taken is not None and not self._options.huge_page else {},
            guests=taken.ours if taken is not None else 0,
            used=taken.used if taken is not None else {},
            functions=self._devices.read(connection, seen, self._inventory.foreign_devices(seen)),
            isolation=self._filters.works(work, connection) or "",
            addresses=() if virtualisation.type == "test" else self._strangers.read(connection, seen),
        )

    def _held(self, connection: Any, seen: list[Seen], virt_type: str) -> tuple[dict[str, int], Taken | None]:
        """`foreign` of HostFacts, and what guests take; None of a hypervisor that runs none."""
        foreign = self._inventory.foreign(seen, huge_pages=bool(self._options.huge_page))
        if virt_type == "test":
            return foreign, None
        taken = self._overhead.measure(connection, seen, self._cluster, emulated=virt_type == "qemu")
        foreign["memory"] += 0 if self._options.huge_page else taken.each * taken.others  # else of other memory
        return foreign, taken

    def _hypervisor_of(self, connection: Any) -> str:
        if self._hypervisor is None:
            self._hypervisor = marks.hypervisor_uuid(connection)
        return self._hypervisor

    async def leave_mark(self, mark: OwnerMark, *, take_over: bool = False, budget_seconds: float) -> OwnerMark:
        """See HostDriver. From now on calls go to this very hypervisor, or nowhere."""
        whole = Work(budget_seconds)
        admitted = await self._read("identify", lambda _work, c: self._hypervisor_of(c), whole.remaining)
        self._admitted = admitted
        return await self._act(
            "mark",
            lambda work, c: marks.leave(c, work, mark, self._platform(work, c).virt_type, take_over=take_over),
            whole.remaining,
        )

    async def clear_mark(self, mark: OwnerMark, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await self._act("clear mark", lambda work, c: marks.clear(c, work, mark), budget_seconds)

    def _check_hypervisor(self, connection: Any) -> None:
        """Another hypervisor may answer at the same address. Raises HostUnreachable."""
        if self._admitted and marks.hypervisor_uuid(connection) != self._admitted:
            raise HostUnreachable("another hypervisor answers at the host's address")

    def _detected(self, work: Work, connection: Any, boot_id: str) -> probing.Virtualisation:
        if self._virtualisation is not None and self._virtualisation[0] == boot_id:
            return self._virtualisation[1]
        found = probing.detect(connection, work, self._options.virt_type, self._cluster, self._storage)
        self._virtualisation = (boot_id, found)
        return found

    async def list_machines(self, *, budget_seconds: float) -> Listing:
        """See HostDriver. Opens progress channels of executing machines that nobody listens to."""
        self._silence.watch()
        return await self._read("list", self._list, budget_seconds)

    def _list(self, work: Work, connection: Any) -> Listing:
        boot_id = probing.boot_id(connection, work)
        ours: list[tuple[Seen, Tag]] = []
        for seen in self._inventory.read_all(connection):
            tag = seen.record.machine_of(self._cluster)
            if tag is not None:
                ours.append((seen, tag))
        self._channels.keep_only({seen.machine_uuid for seen, _ in ours})
        for seen, tag in ours:
            if seen.active and not seen.starting and tag.progress_channel:
                self._channels.listen(connection, seen.domain, seen.machine_uuid, tag.progress_channel, take_over=False)
        transient = {d.UUIDString() for d in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT)}
        observed = (self._machines.observed(connection, seen, tag) for seen, tag in ours)
        return Listing(boot_id, tuple(replace(m, undefined=m.machine_uuid in transient) for m in observed))

    async def survey(self, *, budget_seconds: float) -> Listing:
        """See HostDriver."""

        def look(work: Work, connection: Any) -> Listing:
            tagged = [(seen, seen.record.tag) for seen in self._inventory.read_all(connection)]
            machines = [
                self._machines.observed(connection, s, t)
                for s, t in tagged
                if t is not None and t.kind is not Kind.PROBE
            ]
            return Listing(probing.boot_id(connection, work), tuple(machines))

        return await self._read("survey", look, budget_seconds)

    async def told(self, identity: MachineIdentity, *, budget_seconds: float) -> str:
        """See HostDriver. Empty under `nocloud`, where the document is a file in the NoCloud volume."""
        check_identity(identity)
        return await self._read(
            "told", lambda work, c: self._storage.document(c, work, identity, "rendezvous"), budget_seconds
        )

    async def observe(self, identity: MachineIdentity, *, budget_seconds: float) -> tuple[str, ObservedMachine | None]:
        """See HostDriver."""
        check_identity(identity)

        def look(work: Work, connection: Any) -> tuple[str, ObservedMachine | None]:
            return probing.boot_id(connection, work), self._machines.observe(connection, identity)

        return await self._read("observe", look, budget_seconds)

    async def read_log(
        self, identity: MachineIdentity, source: LogSource, *, start: int, most: int, budget_seconds: float
    ) -> LogPiece:
        """See HostDriver. After a live move it begins anew, on the host that the machine has come to."""
        check_identity(identity)
        return await self._read(
            "read-log", lambda work, c: self._storage.log(c, work, identity, source, start, most), budget_seconds
        )

    async def agent_answers(self, identity: MachineIdentity, *, budget_seconds: float) -> bool:
        """See HostDriver. Not on the connection that lists: an agent that hangs takes its time."""
        check_identity(identity)
        found, most = self._inventory.find, budget_seconds / 2
        ask = partial(guest_agent.answers, cluster=self._cluster, seconds=most)
        return await self._act("agent", lambda _work, c: ask(found(c, identity)), budget_seconds)

    # --- acting ------------------------------------------------------------------------------------------------------

    async def create_paused(self, spec: MachineSpec, *, budget_seconds: float) -> ObservedMachine:
        """See HostDriver."""
        check_identity(spec.identity)
        check_spec(spec)
        return await self._act(
            "create",
            lambda work, connection: self._machines.create_paused(
                work, connection, spec, self._platform(work, connection)
            ),
            budget_seconds,
        )

    def _platform(self, work: Work, connection: Any) -> Platform:
        found = self._detected(work, connection, probing.boot_id(connection, work))
        return Platform(found.type, found.architecture, self._options.machine, self._options.translation_cache_mib)

    async def resume(self, identity: MachineIdentity, *, budget_seconds: float) -> ObservedMachine:
        """See HostDriver. Takes the progress channel over from whoever reads it."""
        check_identity(identity)
        whole = Work(budget_seconds)
        await self._read(
            "listen", lambda _work, connection: self._listen(connection, identity, new_run=True), whole.remaining
        )
        return await self._act(
            "resume", lambda work, connection: self._machines.resume(work, connection, identity), whole.remaining
        )

    def _listen(self, connection: Any, identity: MachineIdentity, *, new_run: bool = False) -> bool:
        """Takes the channel over from whoever reads it. False where there is one and it cannot be had; a guest without
        it runs all the same, and reports nothing."""
        seen = self._inventory.find(connection, identity)
        tag = None if seen is None else seen.record.machine_of(self._cluster)
        if seen is None or tag is None or not seen.active or not tag.progress_channel:
            return True
        name = tag.progress_channel
        return self._channels.listen(connection, seen.domain, seen.machine_uuid, name, take_over=True, new_run=new_run)

    async def shutdown(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        check_identity(identity)
        await self._act("shutdown", lambda work, c: self._machines.shutdown(work, c, identity), budget_seconds)

    async def power_off(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        check_identity(identity)
        await self._act("power-off", lambda work, c: self._machines.power_off(work, c, identity), budget_seconds)

    async def remove(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        check_identity(identity)
        await self._act("remove", lambda work, c: self._machines.remove(work, c, identity), budget_seconds)

    async def entomb(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        check_identity(identity)
        await self._act(
            "entomb",
            lambda work, connection: self._machines.entomb(
                work, connection, identity, self._platform(work, connection).virt_type
            ),
            budget_seconds,
        )

    async def tell(self, identity: MachineIdentity, text: str, *, budget_seconds: float) -> None:
        """See HostDriver. By the channel that is open for reading: only one client can have it."""
        check_identity(identity)

        def tell(work: Work, connection: Any) -> None:
            self._listen(connection, identity)
            self._channels.tell(work, identity.machine_uuid, text)

        await self._read("tell", tell, budget_seconds)

    async def hear(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        check_identity(identity)

        def hear(_work: Work, connection: Any) -> None:
            if not self._listen(connection, identity):
                raise HostRejected("absent", "the guest's progress channel cannot be read")

        await self._read("hear", hear, budget_seconds)

    async def define_again(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        check_identity(identity)
        await self._act(
            "define-again",
            lambda work, connection: self._machines.define_again(work, connection, identity),
            budget_seconds,
        )

    async def clear_tombstone(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        check_identity(identity)
        await self._act(
            "clear-tombstone",
            lambda work, connection: self._machines.clear_tombstone(work, connection, identity),
            budget_seconds,
        )

    # --- live moves --------------------------------------------------------------------------------------------------

    def can_migrate(self, spec: MachineSpec, target: HostDriver) -> bool:
        """See HostDriver. Machines that live in memory alone, between hosts of one kind with a way to each other."""
        if not isinstance(target, LibvirtDriver) or target is self or target._route is None or self._lonely:
            return False
        binds = self._confinement.binds or target._confinement.binds
        if binds or self._virtualisation is None or target._virtualisation is None:
            return False
        here, there = self._virtualisation[1], target._virtualisation[1]
        return (here.type, here.architecture) == (there.type, there.architecture) and migration.movable(spec)

    async def migrate(self, spec: MachineSpec, target: HostDriver, *, budget_seconds: float) -> bool:
        """See HostDriver. The call to libvirt has a thread of its own for as long as the move takes."""
        check_identity(spec.identity)
        if not self.can_migrate(spec, target) or not isinstance(target, LibvirtDriver):
            raise HostRejected("unsupported", "the machine cannot be moved live between these hosts")
        return await self._moves.move(
            spec.identity,
            lambda left_seconds: target.prepare_arrival(spec, budget_seconds=left_seconds),
            budget_seconds=budget_seconds,
        )

    async def prepare_arrival(self, spec: MachineSpec, *, budget_seconds: float) -> migration.Arrival:
        """Make ready what a machine needs that comes here live. Raises HostRejected where there is no way here."""
        route = self._route
        if route is None:
            raise HostRejected("unsupported", "the host takes no live moves")

        def prepare(work: Work, connection: Any) -> migration.Arrival:
            pinning = numa.pinning(connection.getCapabilities(), spec.cells) if spec.cells else None
            boot = self._storage.prepare(connection, work, spec)
            held_by = self._filters.hold(work, connection, spec)
            return migration.Arrival(route, boot, spec.interfaces, pinning, held_by)

        return await self._act("prepare-arrival", prepare, budget_seconds)

    async def abort_migration(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """See HostDriver."""
        check_identity(identity)
        await self._moves.abort(identity, budget_seconds=budget_seconds)

    async def list_volumes(self, *, budget_seconds: float) -> tuple[str, ...]:
        """See HostDriver."""
        return await self._read(
            "list-volumes",
            lambda _work, connection: self._storage.machine_volumes(connection, self._cluster),
            budget_seconds,
        )

    async def delete_volume(self, name: str, *, budget_seconds: float) -> None:
        """See HostDriver. Raises HostRejected `bad_request` for a name that `list_volumes` would not give."""
        await self._act(
            "delete-volume",
            lambda work, connection: self._storage.delete(connection, work, self._cluster, name),
            budget_seconds,
        )

    async def list_filters(self, *, budget_seconds: float) -> tuple[GroupFilter, ...]:
        """See HostDriver."""
        return await self._read("list-filters", lambda _work, c: self._filters.list(c), budget_seconds)

    async def set_filter(self, isolation: Isolation, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await self._act(
            "set-filter", lambda work, c: filters.set_filter(c, work, self._cluster, isolation), budget_seconds
        )

    async def remove_filter(self, group: str, *, budget_seconds: float) -> None:
        """See HostDriver."""
        await self._act("remove-filter", lambda work, c: self._filters.let_loose(work, c, group), budget_seconds)

    async def _read(self, what: str, function: Callable[[Work, Any], Result], budget_seconds: float) -> Result:
        self._events.begin()
        return await self._control.call(function, budget_seconds=budget_seconds, has_effect=False, what=what)

    async def _act(self, what: str, function: Callable[[Work, Any], Result], budget_seconds: float) -> Result:
        self._events.begin()
        return await self._work.call(function, budget_seconds=budget_seconds, has_effect=True, what=what)

    # --- news --------------------------------------------------------------------------------------------------------

    def subscribe(self, hint: MachineHint) -> None:
        """See HostDriver. Events come once a first call has connected."""
        self._events.subscribe(hint)

    def _control_closed(self) -> None:
        self._channels.connection_lost()
        self._inventory.forget_all()
        self._hypervisor = None
        self._events.all_changed()

    async def close(self) -> None:
        """See HostDriver."""
        self._events.unsubscribe_all()
        self._silence.end()
        # Streams hold their connection open: they are let go of first. Closing it ends them on the host.
        self._channels.connection_lost()
        await self._control.close()
        await self._work.close()
        await self._uploads.close()
        await self._moves.close()
