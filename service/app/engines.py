"""What an engine asks of the group that it is to serve in, checked before anything is stored. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from service.domain.catalog import ModelService
from service.domain.fleet import Zone
from service.domain.presets import CUSTOM, preset_of
from service.domain.specs import NodeSpec
from service.errors import FieldViolation, InvalidArgument
from service.serving import engine


def check(
    nodes: Sequence[NodeSpec], catalogue: Mapping[str, ModelService], zones: Mapping[str, Zone], framework: str
) -> None:
    """Raises InvalidArgument where the nodes cannot be members of a group of this framework, naming their fields."""
    if wrong := list(_problems(nodes, catalogue, zones, framework)):
        raise InvalidArgument(wrong)


def _problems(
    nodes: Sequence[NodeSpec], catalogue: Mapping[str, ModelService], zones: Mapping[str, Zone], framework: str
) -> Iterator[FieldViolation]:
    preset = preset_of(framework)
    for position, node in enumerate(nodes):
        path = f"model_services[{position}]"
        own = catalogue[node.model_service_uuid].framework
        if own != framework:
            yield FieldViolation(f"{path}.uuid", f"is of framework {own}, and the initial node's of {framework}")
        try:
            engine.words(node.startup_parameters)
        except ValueError:
            yield FieldViolation(f"{path}.startup_parameters", "has a quotation that does not end")
        meant = [zones[node.zone_uuid]] if node.zone_uuid else list(zones.values())
        if preset.needs_addresses and not all(zone.network.plans_addresses for zone in meant):
            told = "plans no addresses" if node.zone_uuid else "must name one that plans addresses: not all do"
            yield FieldViolation(f"{path}.zone_uuid", f"{told}, and members of {framework} are told each other's")


def check_count(count: int, framework: str, field: str) -> None:
    """Raises InvalidArgument where a group of this framework cannot have so many members."""
    most = preset_of(framework).most_members
    if count > most:
        raise InvalidArgument.of(field, f"makes {count} members; {framework} takes at most {most}")


def check_ranks(ranks: Sequence[int], framework: str, field: str) -> None:
    """Raises InvalidArgument where a scaling would leave ranks that the framework's members cannot count to."""
    if framework != CUSTOM and sorted(ranks) != list(range(len(ranks))):
        raise InvalidArgument.of(field, f"would leave a gap in the ranks, which {framework} does not take")
