"""Errors as libvirt raises them, by code."""

from __future__ import annotations

import libvirt


def error(
    code: int, domain: int = libvirt.VIR_FROM_QEMU, text: str = "planted", number: int = 0
) -> libvirt.libvirtError:
    """An error as libvirt-python raises it. `number` is the errno of VIR_ERR_SYSTEM_ERROR."""
    made = libvirt.libvirtError(text)
    made.err = (code, domain, text, libvirt.VIR_ERR_ERROR, None, None, None, number, 0)
    return made


def lost() -> libvirt.libvirtError:
    """What a call gets when libvirtd dies under it."""
    return error(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC, "Cannot recv data: Connection reset by peer")
