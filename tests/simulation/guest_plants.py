"""Bugs to plant in what is made of a guest's word, and of its silence. As `plants` has them."""

# ruff: noqa: E501  (pieces of source stand here as they stand in the program)

from __future__ import annotations

from tests.simulation.planting import Plant, one

SIGHT, SETTLING, MEMBERS = "service.reconcile.sight", "service.lifecycle.settling", "service.lifecycle.members"

GUESTS: tuple[Plant, ...] = (
    one("the silence of a guest counts for nothing", SIGHT,
        "    silent = now >= report.silent_at\n",
        "    silent = False\n", theme="guests"),
    one("Degraded is never entered", SETTLING,
        "        return GroupStatus.RUNNING if whole else GroupStatus.DEGRADED\n",
        "        return GroupStatus.RUNNING\n", theme="guests"),
    one("Degraded is never left", SETTLING,
        "        return GroupStatus.RUNNING if whole else GroupStatus.DEGRADED\n",
        "        return GroupStatus.RUNNING if whole and group.status is not GroupStatus.DEGRADED else GroupStatus.DEGRADED\n",
        theme="guests"),
    one("what a guest says of itself counts once", MEMBERS,
        "    (S.RUNNING, Observation.UNREADY): S.BOOTING,\n", "", theme="guests"),
    one("an answer of the old epoch counts", MEMBERS,
        "    return group.go and group.spec.tells and member.told_epoch < group.start_epoch\n",
        "    return False\n", theme="guests"),
)  # fmt: skip
