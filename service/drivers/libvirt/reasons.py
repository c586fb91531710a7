"""Why a domain does not execute, in words: libvirt's state, its reason, and what QEMU says of its disks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import libvirt

from service.drivers.libvirt.errors import describe

_log = logging.getLogger(__name__)

NO_SPACE = "no space is left for its disk"
IO_ERROR = "its disk had an input or output error"

# (state, reason) -> what happened. A pause that somebody asked for has no words: a created machine waits in it.
_WORDS: Mapping[tuple[int, int], str] = {
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR): IO_ERROR,
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_WATCHDOG): "its watchdog saw no sign of the guest",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED): "the guest's kernel panicked",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SAVE): "somebody saves it",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_DUMP): "somebody dumps its memory",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT): "somebody takes a snapshot of it",
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED): "its live move broke off half-way",
    (libvirt.VIR_DOMAIN_CRASHED, libvirt.VIR_DOMAIN_CRASHED_PANICKED): "the guest's kernel panicked",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_FAILED): "its hypervisor process could not start",
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SAVED): "somebody saved it",
}
if hasattr(libvirt, "VIR_DOMAIN_PAUSED_API_ERROR"):  # since 9.2
    _WORDS = {**_WORDS, (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_API_ERROR): "an operation on it failed"}


def words_for(domain: Any, state: int, reason: int) -> str:
    """What happened, or nothing. QEMU is asked after an I/O error alone: it answers, since it has stopped by itself."""
    words = _WORDS.get((state, reason), "")
    if words is not IO_ERROR:
        return words
    try:
        errors = domain.diskErrors(0)
    except libvirt.libvirtError as error:
        _log.debug("disks of a paused machine: %s", describe(error))
        return words
    return NO_SPACE if libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE in errors.values() else words
