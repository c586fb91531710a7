"""What guests say of the devices that their machines have. Pure."""

from __future__ import annotations

import re
from enum import StrEnum

from service.domain.devices import Device, DeviceState


class ReportKind(StrEnum):
    """What a guest says ails a device of its machine."""

    ECC = "ecc"  # memory of the card that could not be corrected
    XID = "xid"  # another error of the card itself, by NVIDIA's number
    UNKNOWN = "unknown"


REPORTED = "its guest reports "
"""How the reason begins for which a device is out of service by a report; what ails it follows."""
_XID = re.compile(r"Xid ([0-9]+)")
_ECC_XIDS = frozenset({48, 64, 95, 140})
"""NVIDIA's Xid catalog (docs.nvidia.com/deploy/xid-errors): double bit ECC error, a page or row that could not be
retired for one, an uncontained ECC error, an unrecovered one."""


def kind_of_report(ails: str) -> ReportKind:
    """Of what a guest says: `Xid 79`, `ECC …`, or words that are its own."""
    if found := _XID.match(ails):
        return ReportKind.ECC if int(found[1]) in _ECC_XIDS else ReportKind.XID
    return ReportKind.ECC if "ecc" in re.split("[^a-z]+", ails.lower()) else ReportKind.UNKNOWN


def reported_kind(device: Device) -> ReportKind | None:
    """For what a device is out of service by its guest's word; None where it is not, or by another's."""
    by_report = device.state is DeviceState.QUARANTINED and device.reason.startswith(REPORTED)
    return kind_of_report(device.reason.removeprefix(REPORTED)) if by_report else None
