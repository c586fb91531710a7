"""Why a host or a whole request is ruled out: closed enums, counted and returned, never only logged."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why one host cannot take one node. Tried in this order; the first that holds is counted."""

    UNSCHEDULABLE = "unschedulable"
    EXCLUDED = "excluded"
    ZONE = "zone"
    LABEL = "label"
    HELD = "held"
    NOT_EMPTY = "not_empty"
    AFFINITY = "affinity"
    ANTI_AFFINITY = "anti_affinity"
    NUMA = "numa"
    RESOURCE_TOTAL = "resource_total"
    RESOURCE_FREE = "resource_free"
    DEVICE = "device"


class Family(StrEnum):
    """A family of constraints that an explanation may relax as a whole."""

    ZONE = "zone"
    LABELS = "labels"
    EXCLUDED = "excluded"
    UNSCHEDULABLE = "unschedulable"
    EXCLUSIVE = "exclusive"
    AFFINITY = "affinity"
    ANTI_AFFINITY = "anti_affinity"
    SPREAD = "spread"
    SPARE_HOSTS = "spare_hosts"
    NUMA = "numa"
    DEVICE = "device"
    CAPACITY = "capacity"
