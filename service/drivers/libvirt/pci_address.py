"""Addresses of PCI functions, as libvirt's XML says them and as they are written: domain:bus:slot.function."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree


def address_of(element: ElementTree.Element) -> str:
    """The address that an element's attributes say; what is left out is 0."""
    return text(*(int(element.get(part, "0"), 0) for part in ("domain", "bus", "slot", "function")))


def text(domain: int, bus: int, slot: int, function: int) -> str:
    """Such as 0000:3b:00.0, in lower-case hexadecimal digits."""
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"
