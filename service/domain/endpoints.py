"""The address that a group keeps for whoever leads it. Pure data, stored as JSON under these very field names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address at which a group is called whichever member leads it: its first head's own, which a surge hands on.

    In this zone. `holder`: the only member that may have it; empty: nobody now. `since`: it is this one's from then on.
    `kept`: it is in the group's own name, since a surge went over to another head.
    """

    zone_uuid: str
    address: str
    holder: str = ""
    since: int = 0
    kept: bool = False
