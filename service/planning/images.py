"""Hosts that have a member's image already are preferred: a wish of the least weight, never against a rule. Pure.

Only large images count (`service/store/copies.py` tells their hosts): another one is there sooner than it is worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from placement.constraints import Prefer, Selector
from placement.model import Request
from placement.resources import MAX_CONSTRAINTS
from service.domain.catalog import ModelService, version_key
from service.domain.fleet import Host
from service.domain.groups import Group, Instance

WEIGHT = 1
"""Of the wish: as much as the least of a caller's own wishes."""
_LABEL = "corral.image."


def labels(host: Host) -> dict[str, str]:
    """What the planner sees of the images that a host has."""
    return {_label(one): "yes" for one in host.images}


def preferring(
    asked: Request, group: Group, hosts: Mapping[str, Host], catalogue: Mapping[str, ModelService]
) -> Request:
    """The request, with a wish for each large image that some of the open hosts have, and some do not."""
    there = [frozenset(host.images) for host in hosts.values() if host.schedulable]
    if not any(there):
        return asked
    decisive = frozenset().union(*there) - frozenset.intersection(*there)
    wanted: dict[str, set[str]] = {}
    placed = {node.id for node in asked.nodes}
    for member in group.instances:
        if member.uuid in placed:
            for one in _sums(catalogue, member) & decisive:
                wanted.setdefault(one, set()).add(member.uuid)
    wishes = [
        Prefer(_label(one), ("yes",), Selector(frozenset(members)), WEIGHT) for one, members in sorted(wanted.items())
    ]
    room = MAX_CONSTRAINTS - len(asked.constraints)
    return replace(asked, constraints=(*asked.constraints, *wishes[:room])) if wishes else asked


def _sums(catalogue: Mapping[str, ModelService], member: Instance) -> frozenset[str]:
    spec = member.spec
    admitted = version_key(spec.model_service_uuid, spec.model_service_version)
    entry = catalogue.get(admitted) or catalogue.get(spec.model_service_uuid)
    # Where its entry is gone the create says so.
    images = [*([entry.image] if entry is not None else []), *(d.image for d in spec.data_disks if d.image is not None)]
    return frozenset(one.lower() for image in images for one in image.sha256.values())


def _label(sum_: str) -> str:
    return _LABEL + sum_[:32]
