"""Requests about zones, from messages."""

from __future__ import annotations

from corral.v1 import fleet_pb2

from service.app.zones import NewZone, ZoneChange
from service.contract.rules import network_wish
from service.domain.network import network_of


def new_zone(message: fleet_pb2.CreateZoneRequest) -> NewZone:
    """A zone to make."""
    attached, _ = network_of(network_wish(message.network))
    return NewZone(
        message.name,
        message.description,
        message.resource_uuid,
        message.request_id,
        attached,
        message.image_copies_budget if message.HasField("image_copies_budget") else None,
        message.seed_url,
        message.report_url,
    )


def zone_change(message: fleet_pb2.UpdateZoneRequest) -> ZoneChange:
    """What to change: the fields that the mask names, or without a mask those that are not empty."""
    names = ("description", "pools", "isolation", "reachable", "seed_url", "report_url")
    told = message.image_copies_budget if message.HasField("image_copies_budget") else None
    budget = ("image_copies_budget",) if told is not None else ()
    named = tuple(message.update_mask.paths) or (*(n for n in names if getattr(message, n)), *budget)
    return ZoneChange(
        description=message.description if "description" in named else None,
        image_copies_budget=(told,) if "image_copies_budget" in named else None,
        pools=tuple(message.pools) if "pools" in named else None,
        isolation=message.isolation if "isolation" in named else None,
        reachable=tuple(message.reachable) if "reachable" in named else None,
        seed_url=message.seed_url if "seed_url" in named else None,
        report_url=message.report_url if "report_url" in named else None,
    )
