"""Options of `corral deploy` and `corral plan` that say how members are placed, over what the request's file says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
from corral.v1 import deploy_pb2, group_pb2, placement_pb2

from service.cli.values import Read

Request = deploy_pb2.DeployDistributedModelServiceRequest | deploy_pb2.PlanDistributedModelServiceRequest

_NUMBERS = {
    "max_per_host": "at most N members on one host",
    "max_per_rack": "at most N members in one rack",
    "max_per_zone": "at most N members in one zone",
    "min_hosts": "on at least N hosts",
    "min_racks": "in at least N racks",
    "min_zones": "in at least N zones",
    "max_racks": "in at most N racks",
    "spare_hosts": "leave at least N hosts empty",
}
_FLAGS = {
    "same_rack": "all members in one rack",
    "same_zone": "all members in one zone",
    "exclusive_hosts": "no other group's members on the hosts",
}
NUMA = {
    name.removeprefix("NUMA_POLICY_").lower(): number for name, number in placement_pb2.NumaPolicy.items() if number
}
_STRATEGIES = {
    name.removeprefix("PLACEMENT_STRATEGY_").lower().replace("_", "-"): number
    for name, number in placement_pb2.PlacementStrategy.items()
    if number
}


def options(function: Any) -> Any:
    """All options of a policy."""
    lists = (
        ("--prefer-apart", _preferred_group, "GROUP[:WEIGHT]", "rather no host of this group"),
        ("--apart", str, "GROUP", "no host of this group"),
        ("--prefer-near", _preferred_group, "GROUP[:WEIGHT]", "rather hosts of this group"),
        ("--near", str, "GROUP", "only hosts of this group"),
        ("--prefer-host-label", _preferred_label, "KEY=VALUE[,VALUE][:WEIGHT]", "rather hosts with this label"),
        ("--host-label", _label, "KEY=VALUE[,VALUE]", "only hosts with this label"),
    )
    for name, read, metavar, text in lists:
        told = f"Placement: {text} (repeatable, added to the request's)."
        function = click.option(name, type=Read(metavar, read), multiple=True, metavar=metavar, help=told)(function)
    for name, text in reversed(_FLAGS.items()):
        function = click.option(f"--{name.replace('_', '-')}", is_flag=True, help=f"Placement: {text}.")(function)
    for name, text in reversed(_NUMBERS.items()):
        option = click.option(f"--{name.replace('_', '-')}", type=int, metavar="N", help=f"Placement: {text}.")
        function = option(function)
    told = "Placement: at least N members are left whichever rack is lost."
    function = click.option("--survive-rack", type=int, metavar="N", help=told)(function)
    told = "Placement: whether each member is pinned to one NUMA cell of its host."
    function = click.option("--numa", type=click.Choice(sorted(NUMA)), help=told)(function)
    told = "Placement: which one is better than another."
    return click.option("--strategy", type=click.Choice(sorted(_STRATEGIES)), help=told)(function)


def apply(options: Mapping[str, Any], request: Request) -> None:
    """Put what the options say into the request's policy; what they do not say stays."""
    policy = request.placement_policy if request.HasField("placement_policy") else group_pb2.PlacementPolicy()
    before = policy.SerializeToString(deterministic=True)
    if options["strategy"]:
        policy.strategy = _STRATEGIES[options["strategy"]]
    if options["numa"]:
        policy.numa = NUMA[options["numa"]]
    if options["survive_rack"] is not None:
        policy.survive.CopyFrom(group_pb2.Survive(racks=1, members=options["survive_rack"]))
    for name in _NUMBERS:
        if options[name] is not None:
            setattr(policy, name, options[name])
    for name in _FLAGS:
        if options[name]:
            setattr(policy, name, True)
    policy.required_host_labels.extend(options["host_label"])
    policy.preferred_host_labels.extend(options["prefer_host_label"])
    policy.affinity_group_uuids.extend(options["near"])
    policy.anti_affinity_group_uuids.extend(options["apart"])
    policy.preferred_affinity_groups.extend(options["prefer_near"])
    policy.preferred_anti_affinity_groups.extend(options["prefer_apart"])
    if policy.SerializeToString(deterministic=True) != before:
        request.placement_policy.CopyFrom(policy)


def _label(text: str) -> group_pb2.HostLabel:
    key, values = _key_and_values(text, text)
    return group_pb2.HostLabel(key=key, values=values)


def _preferred_label(text: str) -> group_pb2.PreferredHostLabel:
    rest, weight = _weighted(text)
    key, values = _key_and_values(rest, text)
    return group_pb2.PreferredHostLabel(key=key, values=values, weight=weight)


def _preferred_group(text: str) -> group_pb2.PreferredGroup:
    uuid, weight = _weighted(text)
    return group_pb2.PreferredGroup(group_uuid=uuid, weight=weight)


def _key_and_values(text: str, whole: str) -> tuple[str, Sequence[str]]:
    key, equals, values = text.partition("=")
    if not (key and equals and values):
        raise ValueError(f"{whole!r} is not KEY=VALUE")
    return key, values.split(",")


def _weighted(text: str) -> tuple[str, int]:
    rest, colon, weight = text.rpartition(":")
    if not colon or not weight.isdecimal():
        return text, 0
    return rest, int(weight)
