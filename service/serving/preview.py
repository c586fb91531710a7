"""What the members of a group that was only planned would be told. Pure.

Values of environment variables are withheld: whoever may plan is not thereby told what the catalogue keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from service.domain.catalog import ModelService
from service.domain.environment import NoSecrets
from service.domain.fleet import Host, Zone
from service.domain.groups import Group, PlacementRecord
from service.domain.network import mac_address
from service.serving.rendezvous import rendezvous, texts

WITHHELD = "(withheld)"


def seated(group: Group, record: PlacementRecord, addresses: Mapping[int, str]) -> Group:
    """The planned group with its members where the plan puts them. `addresses`: by rank, where zones plan them."""
    seats = {seat.rank: seat for seat in record.assignments}
    return replace(
        group,
        instances=tuple(
            replace(
                m,
                host_uuid=seats[m.rank].host_uuid,
                host_name=seats[m.rank].host_name,
                zone_uuid=seats[m.rank].zone_uuid,
                address=addresses.get(m.rank, ""),
                mac=mac_address(addresses.get(m.rank, ""), m.uuid),
                spec=replace(m.spec, environment_variables=_withheld(m.spec.environment_variables)),
            )
            for m in group.instances
        ),
    )


def preview(
    group: Group,
    rank: int,
    hosts: Mapping[str, Host],
    zones: Mapping[str, Zone],
    catalogue: Mapping[str, ModelService],
) -> dict[str, str]:
    """The documents of one member of a group that `seated` answered. `catalogue`: what `without_values` answered."""
    member = next(m for m in group.instances if m.rank == rank)
    document = rendezvous(group, member, hosts[member.host_uuid], zones, catalogue, NoSecrets())
    return texts(document, group, member)


def without_values(catalogue: Mapping[str, ModelService]) -> dict[str, ModelService]:
    """The catalogue with its variables' values withheld."""
    return {key: replace(entry, environment=_withheld(entry.environment)) for key, entry in catalogue.items()}


def _withheld(values: Mapping[str, str]) -> dict[str, str]:
    return dict.fromkeys(values, WITHHELD)
