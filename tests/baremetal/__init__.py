"""Bare metal for real: machines of libvirt behind sushy-tools' Redfish emulator, booted by BIOS and by UEFI."""
