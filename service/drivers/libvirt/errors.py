"""libvirt's errors in the words of `drivers.base`: a class of cause for everybody. Its own text goes to `detail` alone,
because it may quote paths."""

from __future__ import annotations

import errno

import libvirt

from service.drivers.base import DriverError, HostRejected, HostUnreachable, OutcomeUnknown


class Abandoned(Exception):
    """Nobody waits for this call any more: its next step must not happen."""


# The machine or object is not there: the caller decides what that means, most often success.
GONE = frozenset({libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_STORAGE_VOL})
# The object is already as it was asked to be (started, stopped), or something else that the call needs is not active:
# whoever ignores it must look which.
ALREADY = frozenset({libvirt.VIR_ERR_OPERATION_INVALID})
# Name or uuid is taken, or an operation failed in another way: which of them must be looked at too.
TAKEN = frozenset({libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_ERR_DOM_EXIST, libvirt.VIR_ERR_STORAGE_VOL_EXIST})

# libvirt code -> (our code, what a tenant may read)
_REJECTIONS: dict[int, tuple[str, str]] = {
    libvirt.VIR_ERR_NO_MEMORY: ("no_memory", "the host has not enough memory"),
    libvirt.VIR_ERR_NO_SUPPORT: ("unsupported", "the hypervisor does not support the operation"),
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: ("unsupported", "the hypervisor does not support the configuration"),
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: ("unsupported", "the hypervisor does not support the operation"),
    libvirt.VIR_ERR_NO_NETWORK: ("missing_network", "the host does not have the network"),
    libvirt.VIR_ERR_NO_STORAGE_POOL: ("missing_image", "the host does not have the storage pool"),
    libvirt.VIR_ERR_NO_STORAGE_VOL: ("missing_image", "the host does not have the volume"),
    libvirt.VIR_ERR_XML_ERROR: ("bad_request", "the hypervisor refused the machine's definition"),
    libvirt.VIR_ERR_XML_DETAIL: ("bad_request", "the hypervisor refused the machine's definition"),
    libvirt.VIR_ERR_INVALID_ARG: ("bad_request", "the hypervisor refused the machine's definition"),
    libvirt.VIR_ERR_OS_TYPE: ("unsupported", "the hypervisor cannot run this kind of machine"),
    libvirt.VIR_ERR_OPERATION_DENIED: ("denied", "the host does not allow the operation"),
    libvirt.VIR_ERR_ACCESS_DENIED: ("denied", "the host does not allow the operation"),
}
# VIR_ERR_SYSTEM_ERROR carries the errno of the call that failed on the host.
_SYSTEM_REJECTIONS: dict[int, tuple[str, str]] = {
    errno.ENODEV: ("missing_network", "the host does not have the bridge"),
    errno.ENOENT: ("missing_image", "the host does not have a file of the machine"),
    errno.ENOMEM: ("no_memory", "the host has not enough memory"),
    errno.ENOSPC: ("no_space", "the host's storage pool is full"),
    errno.EDQUOT: ("no_space", "the host's storage pool is full"),
    errno.EACCES: ("denied", "the host does not allow the use of a file of the machine"),
    errno.EPERM: ("denied", "the host does not allow the use of a file of the machine"),
    errno.EIO: ("internal", "the host's storage had an input or output error"),
    errno.EMFILE: ("internal", "the host has too many files open"),
    errno.ENFILE: ("internal", "the host has too many files open"),
    errno.EADDRINUSE: ("internal", "a port that the machine needs is taken on the host"),
}
# What libvirt says of a PCI device, in errors of several codes: of one in use it has the code for "already active".
_DEVICES_WORDS = {
    "is in use by driver": ("device_busy", "a device of the machine is in use by another one on the host"),
    "Unable to reset PCI device": ("device_reset", "the host cannot clean a device of the machine"),
    "not found: could not access /sys/bus/pci": ("device_gone", "the host has a claimed device no more"),
    "is not viable": ("device_group", "the host keeps a device that goes with one of the machine's"),
}
# What QEMU, qemu-img and libvirt's helpers say, the only sign that there is where libvirt has no code for it.
_PROGRAMS_WORDS = {
    "Cannot allocate memory": _SYSTEM_REJECTIONS[errno.ENOMEM],
    "cannot set up guest memory": _SYSTEM_REJECTIONS[errno.ENOMEM],
    "No space left on device": _SYSTEM_REJECTIONS[errno.ENOSPC],
    "Permission denied": _SYSTEM_REJECTIONS[errno.EACCES],
    "No such file or directory": _SYSTEM_REJECTIONS[errno.ENOENT],
    "No such device": _SYSTEM_REJECTIONS[errno.ENODEV],
    "Input/output error": _SYSTEM_REJECTIONS[errno.EIO],
    "Address already in use": _SYSTEM_REJECTIONS[errno.EADDRINUSE],
    'Failed to get "write" lock': ("internal", "a disk of the machine is in use by another"),
    "Could not access KVM": ("unsupported", "the host cannot run machines with KVM"),
    "failed to initialize kvm": ("unsupported", "the host cannot run machines with KVM"),
}
# Which part of libvirt failed, where neither code nor words say more.
_PARTS: dict[int, tuple[str, str]] = {
    **dict.fromkeys(
        (
            libvirt.VIR_FROM_NETWORK,
            libvirt.VIR_FROM_NET,
            libvirt.VIR_FROM_INTERFACE,
            libvirt.VIR_FROM_NWFILTER,
            libvirt.VIR_FROM_FIREWALL,
            libvirt.VIR_FROM_FIREWALLD,
        ),
        ("internal", "the host's network could not take the machine"),
    ),
    libvirt.VIR_FROM_STORAGE: ("internal", "the host's storage failed"),
    **dict.fromkeys(
        (libvirt.VIR_FROM_SECURITY, libvirt.VIR_FROM_ACCESS, libvirt.VIR_FROM_POLKIT),
        ("denied", "the host's security rules do not allow the machine"),
    ),
    **dict.fromkeys(
        (libvirt.VIR_FROM_CGROUP, libvirt.VIR_FROM_SYSTEMD, libvirt.VIR_FROM_DBUS, libvirt.VIR_FROM_RESCTRL),
        ("internal", "the host's resource control could not take the machine"),
    ),
    **dict.fromkeys(
        (libvirt.VIR_FROM_CPU, libvirt.VIR_FROM_CAPABILITIES),
        ("unsupported", "the host's processor cannot run the machine"),
    ),
    **dict.fromkeys(
        (libvirt.VIR_FROM_LOCKING, libvirt.VIR_FROM_LOCKSPACE),
        ("internal", "a disk of the machine is in use by another"),
    ),
    **dict.fromkeys(
        (libvirt.VIR_FROM_QEMU, libvirt.VIR_FROM_DOMAIN, libvirt.VIR_FROM_DOM),
        ("internal", "the host's virtualisation software could not run the machine"),
    ),
}
_INTERNAL = ("internal", "the hypervisor refused it for a reason that has no class here")
# libvirt's own client side of the wire.
_WIRE = frozenset({libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE})
_LOST = frozenset(
    {
        libvirt.VIR_ERR_SYSTEM_ERROR,
        libvirt.VIR_ERR_INTERNAL_ERROR,
        libvirt.VIR_ERR_RPC,
        libvirt.VIR_ERR_GNUTLS_ERROR,
    }
)


def describe(error: libvirt.libvirtError) -> str:
    """For logs: code, domain and text."""
    return f"libvirt code {error.get_error_code()} domain {error.get_error_domain()}: {error.get_error_message()}"


def connection_lost(error: libvirt.libvirtError) -> bool:
    """The connection broke, so that it is not known whether the host acted on the request."""
    code = error.get_error_code()
    if code in (libvirt.VIR_ERR_INVALID_CONN, libvirt.VIR_ERR_NO_CONNECT):
        return True
    return code in _LOST and error.get_error_domain() in _WIRE


def translate(error: libvirt.libvirtError, *, has_effect: bool) -> DriverError:
    """The typed error for what libvirt said in a call. `has_effect`: the call may have changed something there."""
    detail = describe(error)
    code = error.get_error_code()
    if connection_lost(error):
        if has_effect:
            return OutcomeUnknown("the connection to the host was lost during the operation", detail)
        return HostUnreachable("the connection to the host was lost", detail)
    if code in (libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_RESOURCE_BUSY):
        return OutcomeUnknown("the hypervisor did not finish the operation in time", detail)
    return HostRejected(*_class_of(error, code), detail)


def _class_of(error: libvirt.libvirtError, code: int) -> tuple[str, str]:
    """The class of cause: by the code, by the number of the system's error, by words, by the part that failed."""
    said = error.get_error_message() or ""
    if (of_device := next((known for words, known in _DEVICES_WORDS.items() if words in said), None)) is not None:
        return of_device
    if code in _REJECTIONS:
        return _REJECTIONS[code]
    if code == libvirt.VIR_ERR_SYSTEM_ERROR and (number := error.get_int1() or 0) in _SYSTEM_REJECTIONS:
        return _SYSTEM_REJECTIONS[number]
    found = next((known for words, known in _PROGRAMS_WORDS.items() if words in said), None)
    return found or _PARTS.get(error.get_error_domain(), _INTERNAL)


def translate_open(error: libvirt.libvirtError) -> DriverError:
    """The typed error for a connection that could not be opened. Nothing was sent that could have had an effect."""
    return HostUnreachable("the host's hypervisor does not answer", describe(error))
