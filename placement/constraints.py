"""Rules that tie several nodes together: affinity, anti-affinity, spread, spare hosts; and wishes for a kind of host.

A rule with ``weight=None`` is hard; with a weight it is a wish, and each unit by which it is missed costs that weight.
Wishes come before the strategy: a decision first misses as little as possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from placement.resources import (
    MAX_NODES,
    checked_integer,
    checked_labels,
    checked_name,
    checked_names,
)

MAX_WEIGHT = 1_000_000


class Scope(StrEnum):
    """The domain that a rule counts in. A host without a rack is a rack of its own."""

    HOST = "host"
    RACK = "rack"
    ZONE = "zone"


@dataclass(frozen=True, slots=True)
class Selector:
    """Which nodes and which members a rule speaks of: those named, and those that bear all the labels.

    An empty selector means every node of the request and every staying member of it.
    """

    nodes: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", checked_names("selector.nodes", self.nodes))
        object.__setattr__(self, "labels", checked_labels("selector.labels", self.labels))

    @property
    def everything(self) -> bool:
        """Whether it selects the request as a whole."""
        return not self.nodes and not self.labels

    def bears(self, labels: Mapping[str, str]) -> bool:
        """Whether something with these labels is selected by its labels."""
        return bool(self.labels) and all(labels.get(key) == value for key, value in self.labels.items())


EVERYTHING = Selector()


def _checked_weight(weight: int | None) -> None:
    if weight is not None:
        checked_integer("constraint.weight", weight, 1, MAX_WEIGHT)


@dataclass(frozen=True, slots=True)
class AtMost:
    """No domain holds more than ``limit`` of the selected (anti-affinity is limit 1). Missed by each one above it."""

    select: Selector = EVERYTHING
    limit: int = 1
    scope: Scope = Scope.HOST
    weight: int | None = None

    def __post_init__(self) -> None:
        checked_integer("constraint.limit", self.limit, 1, MAX_NODES)
        _checked_weight(self.weight)


@dataclass(frozen=True, slots=True)
class Together:
    """All of the selected are in one domain (affinity). Missed by each domain beyond the first.

    Where members are selected that live in the fleet already, new nodes must join a domain that holds one of them.
    """

    select: Selector = EVERYTHING
    scope: Scope = Scope.HOST
    weight: int | None = None

    def __post_init__(self) -> None:
        _checked_weight(self.weight)


@dataclass(frozen=True, slots=True)
class Apart:
    """No domain holds both one of ``first`` and one of ``second``. Missed by each domain that does.

    What is selected by both counts as ``first`` alone.
    """

    first: Selector
    second: Selector
    scope: Scope = Scope.HOST
    weight: int | None = None

    def __post_init__(self) -> None:
        _checked_weight(self.weight)


@dataclass(frozen=True, slots=True)
class Near:
    """Each domain that holds a new node of ``first`` also holds one of ``second``. Missed by each domain that does
    not.

    What is selected by both counts as ``first`` alone.
    """

    first: Selector
    second: Selector
    scope: Scope = Scope.HOST
    weight: int | None = None

    def __post_init__(self) -> None:
        _checked_weight(self.weight)


@dataclass(frozen=True, slots=True)
class SpreadOver:
    """The selected are in at least ``minimum`` different domains. Missed by each domain short of it."""

    select: Selector = EVERYTHING
    scope: Scope = Scope.RACK
    minimum: int = 2
    weight: int | None = None

    def __post_init__(self) -> None:
        checked_integer("constraint.minimum", self.minimum, 1, MAX_NODES)
        _checked_weight(self.weight)


@dataclass(frozen=True, slots=True)
class Within:
    """The selected are in at most ``maximum`` different domains. Missed by each domain above it that new nodes open.

    Where members are selected that live in the fleet already, their domains count too.
    """

    select: Selector = EVERYTHING
    scope: Scope = Scope.RACK
    maximum: int = 1
    weight: int | None = None

    def __post_init__(self) -> None:
        checked_integer("constraint.maximum", self.maximum, 1, MAX_NODES)
        _checked_weight(self.weight)


@dataclass(frozen=True, slots=True)
class SpareHosts:
    """At least ``count`` schedulable hosts stay empty afterwards, as room for those of a host that fails."""

    count: int = 1
    weight: int | None = None

    def __post_init__(self) -> None:
        checked_integer("constraint.count", self.count, 1, MAX_NODES)
        _checked_weight(self.weight)


@dataclass(frozen=True, slots=True)
class Prefer:
    """The selected are on hosts whose label ``key`` has one of ``values``. Missed by each new one that is on another.

    Without a weight it says of the selected what ``Node.host_labels`` says of one node.
    """

    key: str
    values: tuple[str, ...]
    select: Selector = EVERYTHING
    weight: int | None = 1

    def __post_init__(self) -> None:
        checked_name("constraint.key", self.key)
        checked_labels("constraint.values", dict.fromkeys(self.values, ""))
        object.__setattr__(self, "values", tuple(sorted(set(self.values))))
        _checked_weight(self.weight)

    @property
    def scope(self) -> Scope:
        """Each host is looked at by itself."""
        return Scope.HOST


Constraint = AtMost | Together | Apart | Near | SpreadOver | Within | SpareHosts | Prefer
