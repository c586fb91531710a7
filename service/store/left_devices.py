"""Devices that were out of service as their host was taken out of the fleet, as rows.

A card that failed is no better for that: where its hypervisor is added again, under whatever name and uuid, it is out
of service from its first look on, for the reason of before, until an operator releases it.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, and_, bindparam, delete, insert, or_, select

from service.domain.devices import HeldFunction
from service.store import schema
from service.store.codec import decode
from service.store.statement import Statement

_LEFT, _DEVICES = schema.left_devices, schema.devices
_OUT = select(_DEVICES.c.key, _DEVICES.c.functions, _DEVICES.c.quarantine).where(
    _DEVICES.c.host_uuid == bindparam("of"), _DEVICES.c.quarantine != ""
)
_FUNCTIONS = tuple[HeldFunction, ...]
# By the machine's own uuid where both are known, or else by the host's: a configuration file gives a host of the same
# name the same one again.
_SAME_MACHINE = and_(_LEFT.c.hypervisor != "", _LEFT.c.hypervisor == bindparam("hypervisor"))
_SAME_HOST = and_(_LEFT.c.host_uuid == bindparam("of"), or_(_LEFT.c.hypervisor == "", bindparam("hypervisor") == ""))
_OF = or_(_SAME_MACHINE, _SAME_HOST)
_FIND = Statement(select(_LEFT).where(_OF).order_by(_LEFT.c.left_at, _LEFT.c.host_uuid))
_FORGET = delete(_LEFT).where(_OF, _LEFT.c.key == bindparam("what"))


def keep(connection: Connection, host_uuid: str, hypervisor: str, now: int) -> tuple[str, ...]:
    """Keep which devices of a host are out of service, before it is forgotten; returns their keys.

    `hypervisor`: the machine's own uuid, empty where it is not known. `now`: ms.
    """
    rows = [
        {
            "host_uuid": host_uuid,
            "key": row.key,
            "hypervisor": hypervisor,
            "ids": _ids(row.functions, row.key),
            "reason": row.quarantine,
            "left_at": now,
        }
        for row in connection.execute(_OUT, {"of": host_uuid})
    ]
    if rows:  # nothing is kept of these, since the host has shown them
        connection.execute(insert(_LEFT), rows)
    return tuple(sorted(row["key"] for row in rows))


def out_again(
    connection: Connection, host_uuid: str, hypervisor: str, shown: Mapping[str, tuple[HeldFunction, ...]]
) -> Mapping[str, str]:
    """Key -> why it is out of service, of devices that a host shows for the first time; nothing is kept of these any
    more. One whose place another kind of device has was replaced, and is not out of service. `shown`: key -> functions.
    """
    of = {"of": host_uuid, "hypervisor": hypervisor}
    found = {}
    for row in _FIND.all(connection, of):
        if row.key in shown:
            connection.execute(_FORGET, {**of, "what": row.key})
            if any(one.address == row.key and one.ids == row.ids for one in shown[row.key]):
                found[row.key] = row.reason
    return found


def _ids(functions: str, key: str) -> str:
    """vendor:product of the device itself, of what was stored of all its functions; empty: it never was there."""
    return next((one.ids for one in decode(_FUNCTIONS, functions) if one.address == key), "")
