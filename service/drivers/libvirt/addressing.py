"""From an operator's fields to a libvirt URI, and what a host's `options` mean to this driver.

A libvirt URI can run programs (`?command=`, `?netcat=`) and read files (`test:///path`), so none is ever taken from
outside: every part is checked here and quoted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from service.domain.cells import PAGES
from service.domain.fleet import HostAddress
from service.drivers.base import HostRejected
from service.drivers.libvirt.numa import numbers

DEFAULT_POOL = "corral"
DEFAULT_POOL_PATH = "/var/lib/libvirt/corral"
VIRT_TYPES = ("auto", "kvm", "qemu")
MIGRATION_TRANSPORTS = ("tcp", "tls")
TRANSPORTS = ("unix", "tcp", "tls", "ssh", "test")

_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|\[?[0-9A-Fa-f:.]{2,45}\]?")
_USERNAME = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,31}")
_ABSOLUTE_PATH = re.compile(r"/[A-Za-z0-9._/+@:-]{1,200}")
_PROCESSORS = re.compile(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*")
_POOL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Options:
    """A host's `options` for this driver.

    `pool`, `pool_path`: storage pool, made as a directory pool where it is missing. `virt_type`: auto | kvm | qemu.
    `machine`: QEMU machine type, empty for libvirt's default. `translation_cache_mib`: a guest's cache under software
    emulation. `image_budget_gib`: what copies of images may take in the pool; 0: no limit.
    `ssh_key`: private key file for transport ssh. `migration_address`, `migration_transport` (tcp | tls): how other
    hypervisors reach this one for live moves; a host that is reached by tcp or tls itself needs neither.
    `huge_page`: bytes of the pages, set aside by the host's operator, that all of a machine's memory is of; 0: of none.
    `dedicated_cpus`: each processor of a machine is one of the host's that no other machine has; `emulator_cpus`: the
    numbers of the host's processors, given to no machine, that all of QEMU's own threads run on then; none: on the
    machine's own.
    """

    pool: str = DEFAULT_POOL
    pool_path: str = DEFAULT_POOL_PATH
    virt_type: str = "auto"
    machine: str = ""
    translation_cache_mib: int = 32
    image_budget_gib: int = 0
    ssh_key: str = ""
    migration_address: str = ""
    migration_transport: str = ""
    huge_page: int = 0
    dedicated_cpus: bool = False
    emulator_cpus: tuple[int, ...] = ()


def options_of(address: HostAddress) -> Options:
    """Reads `address.options`. Raises HostRejected `bad_request` that names the wrong option."""
    given = dict(address.options)
    options = Options(
        pool=_matching(_POOL_NAME, given.pop("pool", DEFAULT_POOL), "pool"),
        pool_path=_matching(_ABSOLUTE_PATH, given.pop("pool_path", DEFAULT_POOL_PATH), "pool_path"),
        virt_type=given.pop("virt_type", "auto"),
        machine=_optional(_POOL_NAME, given.pop("machine", ""), "machine"),
        image_budget_gib=_number(given.pop("image_budget_gib", "0"), "image_budget_gib", 0, 1 << 20),
        translation_cache_mib=_number(given.pop("translation_cache_mib", "32"), "translation_cache_mib", 1, 4096),
        ssh_key=_optional(_ABSOLUTE_PATH, given.pop("ssh_key", ""), "ssh_key"),
        migration_address=_optional(_HOSTNAME, given.pop("migration_address", ""), "migration_address"),
        migration_transport=given.pop("migration_transport", ""),
        huge_page=_page(given.pop("huge_pages", "")),
        dedicated_cpus=_whether(given.pop("dedicated_cpus", "false"), "dedicated_cpus"),
        emulator_cpus=_processors(given.pop("emulator_cpus", "")),
    )
    if options.emulator_cpus and not options.dedicated_cpus:
        raise _wrong("emulator_cpus", "empty where dedicated_cpus is not true, since machines run on all processors")
    if options.migration_transport not in ("", *MIGRATION_TRANSPORTS):
        raise _wrong("migration_transport", f"one of {', '.join(MIGRATION_TRANSPORTS)}")
    if options.virt_type not in VIRT_TYPES:
        raise _wrong("virt_type", f"one of {', '.join(VIRT_TYPES)}")
    if given:
        raise _wrong(min(given), "not an option of libvirt hosts")
    return options


def connection_uri(address: HostAddress) -> str:
    """The URI to open. Raises HostRejected `bad_request` that names the wrong field."""
    if address.transport not in TRANSPORTS:
        raise _wrong("transport", f"one of {', '.join(TRANSPORTS)}")
    if address.port and not 0 < address.port < 65536:
        raise _wrong("port", "1 to 65535")
    if address.transport == "test":
        return f"test://{_matching(_ABSOLUTE_PATH, address.socket or '/default', 'socket')}"
    if address.transport == "unix":
        if not address.socket:
            return "qemu:///system"
        path = _matching(_ABSOLUTE_PATH, address.socket, "socket")
        return f"qemu+unix:///system?socket={quote(path, safe='/')}"
    return _remote_uri(address)


@dataclass(frozen=True, slots=True)
class Route:
    """How another hypervisor reaches this one: its libvirtd by `uri`, its QEMU's listener by `stream_uri`.

    Empty `stream_uri`: the guest's memory goes through the libvirtd's own connection, which is encrypted.
    """

    uri: str
    stream_uri: str


def migration_route(address: HostAddress) -> Route | None:
    """The way for live moves to this host; None where the operator gave none."""
    options = options_of(address)
    transport = options.migration_transport or (address.transport if address.transport in MIGRATION_TRANSPORTS else "")
    name = options.migration_address or address.address
    if not transport or not name or address.transport == "test":
        return None
    host = _matching(_HOSTNAME, name, "migration_address")
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    # A port of the control plane's own way in is the hypervisors' too where the way is the same.
    port = f":{address.port}" if address.port and transport == address.transport else ""
    stream = f"tcp://{host}" if transport == "tcp" else ""
    return Route(f"qemu+{transport}://{host}{port}/system", stream)


def _remote_uri(address: HostAddress) -> str:
    host = _matching(_HOSTNAME, address.address, "address")
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    port = f":{address.port}" if address.port else ""
    user, query = "", ""
    if address.transport == "ssh":
        user = f"{_matching(_USERNAME, address.username, 'username')}@" if address.username else ""
        # There is nobody to answer a question about a password or an unknown host key.
        query = "?no_tty=1"
        key = options_of(address).ssh_key
        if key:
            query += f"&keyfile={quote(key, safe='/')}"
    return f"qemu+{address.transport}://{user}{host}{port}/system{query}"


def _matching(pattern: re.Pattern[str], value: str, field: str) -> str:
    if not pattern.fullmatch(value):
        raise _wrong(field, "malformed")
    return value


def _optional(pattern: re.Pattern[str], value: str, field: str) -> str:
    return _matching(pattern, value, field) if value else ""


def _number(value: str, field: str, low: int, high: int) -> int:
    if not value.isdecimal() or not low <= int(value) <= high:
        raise _wrong(field, f"a number from {low} to {high}")
    return int(value)


def _whether(value: str, field: str) -> bool:
    if value not in ("true", "false"):
        raise _wrong(field, "true or false")
    return value == "true"


def _page(value: str) -> int:
    if value and value not in PAGES:
        raise _wrong("huge_pages", f"one of {', '.join(PAGES)}")
    return PAGES.get(value, 0)


def _processors(value: str) -> tuple[int, ...]:
    if not value:
        return ()
    if not _PROCESSORS.fullmatch(value):
        raise _wrong("emulator_cpus", "numbers of processors, such as 0-1,8")
    return numbers(value)


def _wrong(field: str, allowed: str) -> HostRejected:
    return HostRejected("bad_request", f"host address: {field}: {allowed}")
