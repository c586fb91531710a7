"""The kinds of hosts: one row each, and one folder with the driver. Everything else asks the row.

A row says how such a host is reached, what its operator may choose, and what the service must know before there is a
driver. The driver itself is imported when the first host needs it. The only module that names a concrete driver.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from service.domain.cleaning import Wipe
from service.domain.fleet import (
    BARE_METAL,
    GPU,
    VIRTUAL_MACHINE,
    Bmc,
    Host,
    HostAddress,
    Overcommit,
    given_once,
    resource_violations,
)
from service.drivers.base import HostDriver, HostRejected
from service.drivers.power import PowerSwitch
from service.drivers.seats import Seats
from service.drivers.unusable import UnusableDriver
from service.errors import FieldViolation

_NO_NAMES: frozenset[str] = frozenset()
_USERNAME = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,31}")
_FOUND = {
    "libvirt": "devices are found, and offered by the configuration's [[devices]]",
    "simulated": "devices are those of its options",
}
_UNIX_SOCKET = re.compile(r"/[A-Za-z0-9._/+@-]{1,106}")
_LOCAL = frozenset({"unix", "none", "test"})
"""Transports that lead to no other machine: they need no address, and take none."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What the service knows of one kind of host.

    `make(host, cluster_id)`: the driver. `check(address)`: looks at the values of options. Both raise HostRejected
    where the host's fields are not right for it.
    `transports`: how it is reached. `options`: what its operator may choose; `option_pattern`: further names of these.
    `file_transports`, `file_options`: those that lead to files or sockets of the service's machine, or are for trials:
    the configuration file alone may name them.
    `same_machine(address)`: what two entries have in common that lead to one and the same machine; empty: nothing that
    can be told from the entries alone.
    `boots_files`: whether the files of images must be on the service's machine.
    `in_memory(address)`: whether every process of the service would see a machine of its own.
    `counts_devices`: whether its operator says how many devices it has; of others they are found, one by one.
    `offers_devices`: whether a host itself says what its devices are, so that they need no rule.
    `machine_type(address)`: whether such a host is a hypervisor or bare metal.
    `make_seated(host, cluster_id, seats)`: the driver of a kind that remembers its machines' seats, in place of `make`.
    `takes_username`: whether its operator names an account, whatever the transport.
    """

    name: str
    make: Callable[[Host, str], HostDriver]
    check: Callable[[HostAddress], None]
    transports: tuple[str, ...]
    file_transports: tuple[str, ...] = ()
    options: frozenset[str] = _NO_NAMES
    option_pattern: re.Pattern[str] | None = None
    file_options: frozenset[str] = _NO_NAMES
    same_machine: Callable[[HostAddress], str] = lambda _address: ""
    boots_files: bool = True
    in_memory: Callable[[HostAddress], bool] = lambda _address: False
    counts_devices: bool = False
    offers_devices: bool = False
    machine_type: Callable[[HostAddress], str] = lambda _address: VIRTUAL_MACHINE
    make_seated: Callable[[Host, str, Seats], HostDriver] | None = None
    takes_username: bool = False

    def takes_option(self, name: str, *, in_file: bool) -> bool:
        """Whether the option may be set there."""
        if name in self.options or (in_file and name in self.file_options):
            return True
        return self.option_pattern is not None and self.option_pattern.fullmatch(name) is not None


def make_driver(host: Host, cluster_id: str, seats: Seats | None = None) -> HostDriver:
    """The driver that the host's fields name. `seats`: for kinds that need them. Raises HostRejected."""
    kind = KINDS.get(host.address.driver)
    if kind is None:
        raise HostRejected("unsupported", f"there is no driver {host.address.driver!r}")
    if kind.make_seated is not None and seats is not None:
        return kind.make_seated(host, cluster_id, seats)
    return kind.make(host, cluster_id)


def make_switch(bmc: Bmc) -> PowerSwitch:
    """By what a hypervisor's power is switched. Raises HostRejected."""
    try:
        from service.drivers.redfish.switch import RedfishSwitch
    except ImportError as error:
        raise HostRejected("unsupported", "sushy, which speaks Redfish, is not installed here", str(error)) from error

    return RedfishSwitch(bmc.address)


def bmc_violations(host: Host, *, in_file: bool = False) -> Iterator[FieldViolation]:
    """What is wrong with the BMC that a host names: the same rules for the file and for calls."""
    if host.bmc is None:
        return
    if host.bare_metal:
        yield FieldViolation("bmc", "must be empty for bare metal, which is reached by its BMC as it is")
        return
    if host.address.driver != "libvirt":
        yield FieldViolation("bmc", f"must be empty for {host.address.driver}: only hypervisors of libvirt are fenced")
        return
    address = host.bmc.address
    if not address.address:
        yield FieldViolation("bmc.address", "is required")
    if not _USERNAME.fullmatch(address.username):
        yield FieldViolation("bmc.username", "must be letters, digits and ._-, a letter or _ first, at most 32 long")
    if not address.options.get("password_file"):
        way = "bmc.password_file" if in_file else "bmc.credential"
        yield FieldViolation(way, "is required: the file with the account's password, or a credential that names one")
    from service.drivers.redfish.addressing import access_of

    try:
        if address.username:
            access_of(address)
    except HostRejected as problem:
        yield FieldViolation("bmc", f"must be right for a BMC: {problem.public}")


def violations(address: HostAddress, *, in_file: bool = False) -> Iterator[FieldViolation]:
    """What is wrong with how a host is reached, field by field: the same rules for the file and for calls.

    `in_file`: whether the configuration file says it, which may name files of this machine.
    """
    kind = KINDS.get(address.driver)
    if kind is None:
        yield FieldViolation("driver", f"must be one of {', '.join(KINDS)}")
        return
    transport = address.transport
    allowed = (*kind.transports, *(kind.file_transports if in_file else ()))
    if transport not in allowed:
        yield FieldViolation("transport", f"must be one of {', '.join(allowed)} for {kind.name}")
        return
    local = transport in _LOCAL
    if not local and not address.address:
        yield FieldViolation("address", f"is required for {transport}")
    if local and address.address:
        yield FieldViolation("address", f"must be empty for {transport}")
    if local and address.port:
        yield FieldViolation("port", f"must be 0 for {transport}")
    if address.username and transport != "ssh" and not kind.takes_username:
        yield FieldViolation("username", f"must be empty for {transport}")
    elif address.username and not _USERNAME.fullmatch(address.username):
        yield FieldViolation("username", "must be letters, digits and ._-, a letter or _ first, at most 32 long")
    yield from _socket_violations(address)
    yield from _option_violations(kind, address, in_file)


def capacity_violations(driver: str, capacity: Iterable[str]) -> Iterator[FieldViolation]:
    """What is wrong with amounts that an operator says a host has: names that nobody can claim, devices of hosts that
    tell theirs one by one."""
    names = tuple(capacity)
    yield from resource_violations(names, "capacity")
    kind = KINDS.get(driver)
    if kind is None or kind.counts_devices:
        return
    for name in sorted(names):
        if name.startswith(GPU):
            yield FieldViolation(f"capacity[{name}]", f"must not be given for {driver}, whose {_FOUND[driver]}")


def machine_type(address: HostAddress) -> str:
    """What the host is for, by its entry alone: the type of the members that it takes."""
    kind = KINDS.get(address.driver)
    return VIRTUAL_MACHINE if kind is None else kind.machine_type(address)


def whole_violations(
    address: HostAddress, overcommit: Overcommit, bridge: str, policies: str = "resource_policies"
) -> Iterator[FieldViolation]:
    """What an operator may not say of a host as a whole: of bare metal, that it has shares to set a policy for, or a
    bridge; of others, that a policy promises to several what one of them gets. `policies`: the name of the field that
    has the policy."""
    for name in given_once(address):
        if overcommit.ratios.get(name, 1) > 1:
            text = f"must not give out {name} above once where its options give each machine its own"
            yield FieldViolation(policies, text)
    if machine_type(address) != BARE_METAL:
        return
    if overcommit.ratios or overcommit.reserved:
        yield FieldViolation(policies, "must be empty for bare metal, which is given out as a whole")
    if bridge:
        yield FieldViolation("bridge", "must be empty for bare metal, which has its own network cards")


def credential_violation(address: HostAddress) -> str:
    """Why a host is not logged in to by the credential that its options have; empty where it is."""
    if address.driver == "redfish":
        return "" if address.options.get("password_file") else "must have a password_file for redfish"
    if address.transport != "ssh":
        return "is for transport ssh and driver redfish; others log in by what libvirt has"
    return "" if address.options.get("ssh_key") else "must have an ssh_key for ssh"


def is_this_machine(address: HostAddress) -> bool:
    """Whether guests of the host run on the very machine that this process runs on, as far as its entry tells."""
    return address.driver == "libvirt" and address.transport == "unix"


def twin_of(host: Host, others: Iterable[Host]) -> Host | None:
    """Another host whose entry leads to the same machine, whose capacity would be given out twice. Two names of one
    machine that the entries do not show are found when it answers."""
    kind = KINDS.get(host.address.driver)
    machine = kind.same_machine(host.address) if kind is not None else ""
    if kind is None or not machine:
        return None
    for other in others:
        same_kind = other.address.driver == kind.name and other.uuid != host.uuid
        if same_kind and kind.same_machine(other.address) == machine:
            return other
    return None


def _socket_violations(address: HostAddress) -> Iterator[FieldViolation]:
    if not address.socket:
        return
    if address.transport not in ("unix", "test"):
        yield FieldViolation("socket", f"must be empty for {address.transport}")
    elif not _UNIX_SOCKET.fullmatch(address.socket):
        yield FieldViolation("socket", "must be an absolute path of letters, digits and ._/+@-, at most 107 long")


def _option_violations(kind: Kind, address: HostAddress, in_file: bool) -> Iterator[FieldViolation]:
    for name in sorted(address.options):
        if not kind.takes_option(name, in_file=in_file):
            names = sorted(kind.options | (kind.file_options if in_file else _NO_NAMES))
            yield FieldViolation("options", f"may only name {', '.join(names)} for {kind.name}, not {name}")
            return
    try:
        kind.check(address)
    except HostRejected as problem:
        yield FieldViolation("options", f"must be right for {kind.name}: {problem.public}")


# --- libvirt ---------------------------------------------------------------------------------------------------------

_LIBVIRT_SOCKET = "/var/run/libvirt/libvirt-sock"
_LIBVIRT_PORTS = {"tcp": 16509, "tls": 16514, "ssh": 22}


def _libvirt(host: Host, cluster_id: str) -> HostDriver:
    try:
        from service.drivers.libvirt.driver import LibvirtDriver
    except ImportError as error:
        raise HostRejected("unsupported", "libvirt's Python module is not installed here", str(error)) from error

    return LibvirtDriver(host.uuid, cluster_id, host.address)


def _check_libvirt(address: HostAddress) -> None:
    from service.drivers.libvirt.addressing import options_of

    options_of(address)


def _same_libvirt(address: HostAddress) -> str:
    if address.transport == "unix":
        return f"unix:{(address.socket or _LIBVIRT_SOCKET).replace('/var/run/', '/run/', 1)}"
    if address.transport == "test":
        return ""  # each connection to libvirt's test driver is a host of its own
    name = address.address.lower().rstrip(".")
    # One address may stand for several machines, each at a port of its own; the usual ports are one machine's.
    return name if address.port in (0, _LIBVIRT_PORTS.get(address.transport)) else f"{name}:{address.port}"


# --- redfish ---------------------------------------------------------------------------------------------------------


def _redfish(host: Host, cluster_id: str, seats: Seats) -> HostDriver:
    try:
        from service.drivers.redfish.driver import RedfishDriver
    except ImportError as error:
        raise HostRejected("unsupported", "sushy, which speaks Redfish, is not installed here", str(error)) from error

    return RedfishDriver(host.uuid, host.address, seats)


def _without_seats(host: Host, cluster_id: str) -> HostDriver:
    return UnusableDriver(host.uuid, "who sits on a machine stands in the database alone: nothing is recovered from it")


def _check_redfish(address: HostAddress) -> None:
    from service.drivers.redfish.addressing import options_of

    options_of(address)
    wipe = _wipe(address, Wipe.METADATA)
    named = bool(address.options.get("clean_image"))
    if wipe is not Wipe.NONE and not named:
        what = "the image that the machine is cleaned by between two projects; or say clean = none"
        raise HostRejected("bad_request", f"option 'clean_image' is required: {what}")
    if wipe is Wipe.NONE and named:
        raise HostRejected("bad_request", "option 'clean_image' changes nothing where clean is none")


def _wipe(address: HostAddress, otherwise: Wipe) -> Wipe:
    said = address.options.get("clean", otherwise.value)
    if said not in {one.value for one in Wipe}:
        raise HostRejected("bad_request", f"option 'clean' is not one of {', '.join(Wipe)}")
    return Wipe(said)


def _same_redfish(address: HostAddress) -> str:
    name = address.address.lower().rstrip(".")
    return f"{name}:{address.port or 443}/{address.options.get('system', '')}"


# --- simulated -------------------------------------------------------------------------------------------------------


def _simulated(host: Host, cluster_id: str) -> HostDriver:
    from service.drivers.simulated import SharedHost, SimulatedDriver, SimulatedHost, SimulationOptions

    options = SimulationOptions.read(host.address.options)
    if options.state_file:
        shared = SharedHost(host.name, options, time.monotonic, Path(options.state_file))
        return SimulatedDriver(host.uuid, shared)
    return SimulatedDriver(host.uuid, SimulatedHost(host.name, options, time.monotonic))


def _check_simulated(address: HostAddress) -> None:
    from service.drivers.simulated import SimulationOptions

    SimulationOptions.read(address.options)


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "libvirt",
            _libvirt,
            _check_libvirt,
            transports=("unix", "tcp", "tls", "ssh"),
            file_transports=("test",),
            options=frozenset(
                {
                    *("pool", "pool_path", "virt_type", "machine", "translation_cache_mib", "image_budget_gib"),
                    *("migration_address", "migration_transport"),
                    *("huge_pages", "dedicated_cpus", "emulator_cpus"),
                }
            ),
            file_options=frozenset({"ssh_key"}),
            same_machine=_same_libvirt,
        ),
        Kind(
            "redfish",
            _without_seats,
            _check_redfish,
            transports=("tls",),
            options=frozenset({"seed_url", "report_url", "fingerprint", "system", "clean", "clean_image"}),
            file_options=frozenset({"ca_file", "password_file"}),
            same_machine=_same_redfish,
            boots_files=False,
            counts_devices=True,
            machine_type=lambda _address: BARE_METAL,
            make_seated=_redfish,
            takes_username=True,
        ),
        Kind(
            "simulated",
            _simulated,
            _check_simulated,
            offers_devices=True,
            transports=("none",),
            file_transports=("unix", "test"),
            options=frozenset(
                {
                    *("cpu", "memory", "boot_ms", "call_ms", "foreign_cpu", "foreign_memory"),
                    *("migrate_ms", "live_migration", "numa", "bare_metal", "busy", "clean"),
                    *("dedicated_cpus", "huge_pages"),
                }
            ),
            option_pattern=re.compile(r"gpu\.[A-Za-z0-9._-]{1,60}"),
            file_options=frozenset({"state_file"}),
            same_machine=lambda address: address.options.get("state_file", ""),
            boots_files=False,
            in_memory=lambda address: not address.options.get("state_file"),
            machine_type=lambda a: BARE_METAL if a.options.get("bare_metal") == "yes" else VIRTUAL_MACHINE,
        ),
    )
}
