"""libvirt's errors in the words of `drivers.base`. Its own text goes to `detail` alone: it may quote paths."""

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
}
_PROGRAMS_WORDS = {
    "Cannot allocate memory": _SYSTEM_REJECTIONS[errno.ENOMEM],
    "No space left on device": _SYSTEM_REJECTIONS[errno.ENOSPC],
}
_INTERNAL = ("internal", "the hypervisor failed")
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
    if code == libvirt.VIR_ERR_SYSTEM_ERROR:
        return HostRejected(*_SYSTEM_REJECTIONS.get(error.get_int1() or 0, _INTERNAL), detail)
    if code == libvirt.VIR_ERR_INTERNAL_ERROR:
        # The words of QEMU and of qemu-img, the only sign that there is for it.
        for words, rejection in _PROGRAMS_WORDS.items():
            if words in (error.get_error_message() or ""):
                return HostRejected(*rejection, detail)
    return HostRejected(*_REJECTIONS.get(code, _INTERNAL), detail)


def translate_open(error: libvirt.libvirtError) -> DriverError:
    """The typed error for a connection that could not be opened. Nothing was sent that could have had an effect."""
    return HostUnreachable("the host's hypervisor does not answer", describe(error))
