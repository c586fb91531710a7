"""Options of `corral deploy` and `corral plan` that say how members are placed, over what the request's file says."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from corral.v1 import deploy_pb2, group_pb2, placement_pb2

Request = deploy_pb2.DeployDistributedModelServiceRequest | deploy_pb2.PlanDistributedModelServiceRequest

_NUMBERS = {
    "max_per_host": "at most N members on one host",
    "max_per_rack": "at most N members in one rack",
    "max_per_zone": "at most N members in one zone",
    "min_hosts": "on at least N hosts",
    "min_racks": "in at least N racks",
    "min_zones": "in at least N zones",
    "spare_hosts": "leave at least N hosts empty",
}
_FLAGS = {
    "same_rack": "all members in one rack",
    "same_zone": "all members in one zone",
    "exclusive_hosts": "no other group's members on the hosts",
}
_STRATEGIES = {
    name.removeprefix("PLACEMENT_STRATEGY_").lower().replace("_", "-"): number
    for name, number in placement_pb2.PlacementStrategy.items()
    if number
}


def add_options(command: argparse.ArgumentParser) -> None:
    """All options of a policy."""
    group = command.add_argument_group("placement", "over what the request says; lists are added to it")
    group.add_argument("--strategy", choices=sorted(_STRATEGIES), help="which placement is better than another")
    for name, text in _NUMBERS.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=text)
    for name, text in _FLAGS.items():
        group.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=text)
    for option, kind, metavar, text in (
        ("--host-label", _label, "KEY=VALUE[,VALUE]", "only hosts with this label"),
        ("--prefer-host-label", _preferred_label, "KEY=VALUE[,VALUE][:WEIGHT]", "rather hosts with this label"),
        ("--near", str, "GROUP", "only hosts of this group"),
        ("--prefer-near", _preferred_group, "GROUP[:WEIGHT]", "rather hosts of this group"),
        ("--apart", str, "GROUP", "no host of this group"),
        ("--prefer-apart", _preferred_group, "GROUP[:WEIGHT]", "rather no host of this group"),
    ):
        group.add_argument(option, type=kind, action="append", default=[], metavar=metavar, help=f"{text} (repeatable)")


def apply(options: argparse.Namespace, request: Request) -> None:
    """Put what the options say into the request's policy; what they do not say stays."""
    policy = request.placement_policy if request.HasField("placement_policy") else group_pb2.PlacementPolicy()
    before = policy.SerializeToString(deterministic=True)
    if options.strategy:
        policy.strategy = _STRATEGIES[options.strategy]
    for name in _NUMBERS:
        if getattr(options, name) is not None:
            setattr(policy, name, getattr(options, name))
    for name in _FLAGS:
        if getattr(options, name):
            setattr(policy, name, True)
    policy.required_host_labels.extend(options.host_label)
    policy.preferred_host_labels.extend(options.prefer_host_label)
    policy.affinity_group_uuids.extend(options.near)
    policy.anti_affinity_group_uuids.extend(options.apart)
    policy.preferred_affinity_groups.extend(options.prefer_near)
    policy.preferred_anti_affinity_groups.extend(options.prefer_apart)
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
        raise argparse.ArgumentTypeError(f"{whole!r} is not KEY=VALUE")
    return key, values.split(",")


def _weighted(text: str) -> tuple[str, int]:
    rest, colon, weight = text.rpartition(":")
    if not colon or not weight.isdecimal():
        return text, 0
    return rest, int(weight)
