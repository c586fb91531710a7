"""The planner's explanation of a failure as an error detail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from corral.v1 import placement_pb2

from placement.model import Cure, Explanation, Funnel, NearestMiss, Shortage
from placement.outcome import CureKind
from placement.reasons import Reason
from service.contract.convert.requests import path_as_written
from service.domain.amounts import in_words
from service.errors import PlacementError

# The detail travels in HTTP/2 headers, whose size is limited, and a person reads a few kinds of nodes at most.
MAX_FUNNELS = 8
MAX_CURES = 8


def in_callers_order(error: PlacementError, positions: Mapping[int, int]) -> PlacementError:
    """The error with its nodes named as the caller listed them: `model_services[position]` instead of by rank.

    `positions` maps a rank to a position in the caller's list.
    """
    explanation = error.explanation
    if explanation is None:
        return error

    def rename(node: str) -> str:
        return path_as_written(node, positions)

    nearest = explanation.nearest
    renamed = replace(
        explanation,
        funnels=tuple(replace(funnel, node=rename(funnel.node)) for funnel in explanation.funnels),
        nearest=replace(nearest, node=rename(nearest.node)) if nearest else None,
    )
    return type(error)(error.message, renamed)


def placement_failure(explanation: Explanation) -> placement_pb2.PlacementFailure:
    """All that the planner said, but for more than MAX_FUNNELS kinds of nodes and cures: then the first ones."""
    message = placement_pb2.PlacementFailure(
        funnels=[_funnel(funnel) for funnel in explanation.funnels[:MAX_FUNNELS]],
        missing=_amounts(explanation.shortages),
        requested=explanation.total,
        placeable=explanation.placeable,
        placeable_bound=explanation.placeable_bound,
        conflicts=[family.value for family in explanation.conflict],
        cures=[_cure(cure) for cure in explanation.cures[:MAX_CURES]],
        permanent=explanation.permanent,
    )
    if explanation.nearest is not None:
        message.nearest_miss.CopyFrom(_nearest(explanation.nearest))
    return message


def hints(explanation: Explanation) -> Iterator[str]:
    """In words what came nearest and which change would do, the first of the cures."""
    nearest = explanation.nearest
    if nearest is not None and nearest.shortages:
        where = f"host {nearest.host_name or nearest.host}" if nearest.host else "the nearest host"
        yield f"{where} lacks {_words(nearest.shortages)}" + (f" for {nearest.node}" if nearest.node else "")
    for cure in explanation.cures[:1]:
        yield f"it would fit {_cure_in_words(cure, explanation.total)}"


def _cure_in_words(cure: Cure, total: int) -> str:
    match cure.kind:
        case CureKind.RELAX:
            return f"without the rules of {cure.family.value if cure.family else 'its policy'}"
        case CureKind.ADD_HOSTS:
            return f"with {cure.count} more hosts like {cure.host_name or cure.host or 'the largest'}"
        case CureKind.FREE:
            return f"with {_words(cure.amounts)} more free on host {cure.host_name or cure.host or 'in question'}"
        case CureKind.SHRINK:
            return f"with {cure.count} members instead of {total}"
        case CureKind.WAIT:
            return "once other guests are gone"


def _words(shortages: Iterable[Shortage]) -> str:
    return ", ".join(
        in_words(short.resource, short.missing) + (f" of {short.where}" if short.where else "") for short in shortages
    )


def _funnel(funnel: Funnel) -> placement_pb2.HostFunnel:
    detailed: Mapping[Reason, list[placement_pb2.RuledOut]] = {reason: [] for reason, _, _ in funnel.resources}
    for reason, resource, hosts in funnel.resources:
        detailed[reason].append(placement_pb2.RuledOut(reason=reason.value, resource=resource, hosts=hosts))
    ruled_out: list[placement_pb2.RuledOut] = []
    for reason, hosts in funnel.ruled_out:
        if hosts:
            ruled_out += detailed.get(reason) or [placement_pb2.RuledOut(reason=reason.value, hosts=hosts)]
    return placement_pb2.HostFunnel(
        field=funnel.node,
        members=funnel.alike,
        hosts=funnel.hosts,
        ruled_out=ruled_out,
        candidates=funnel.candidates,
    )


def _nearest(nearest: NearestMiss) -> placement_pb2.NearestMiss:
    return placement_pb2.NearestMiss(
        host_uuid=nearest.host,
        host_name=nearest.host_name,
        field=nearest.node,
        missing=_amounts(nearest.shortages),
    )


def _cure(cure: Cure) -> placement_pb2.Cure:
    return placement_pb2.Cure(
        kind=cure.kind.value,
        family=cure.family.value if cure.family else "",
        host_uuid=cure.host or "",
        host_name=cure.host_name,
        count=cure.count,
        amounts=_amounts(cure.amounts),
    )


def _amounts(shortages: Iterable[Shortage]) -> dict[str, int]:
    return dict(sum((Counter({short.resource: short.missing}) for short in shortages), Counter()))
