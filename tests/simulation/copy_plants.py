"""Planted bugs about copies of images on hosts."""

# ruff: noqa: E501  (pieces of source stand here as they stand in the program)

from __future__ import annotations

from tests.simulation.planting import Edit, Plant, one

SWEEP = "service.reconcile.copy_sweep"

COPIES: tuple[Plant, ...] = (
    one(
        "a copy is deleted as soon as it is withdrawn",
        SWEEP,
        "WITHDRAWN_MS = 180_000\n",
        "WITHDRAWN_MS = 0\n",
        theme="copies",
    ),
    one(
        "a copy that the host was not told to withdraw is deleted",
        SWEEP,
        "        if row.whole and seen.whole:\n",
        "        if False:\n",
        theme="copies",
    ),
    one(
        "what machines stand on is deleted",
        SWEEP,
        "            if row.whole and not row.withdrawn_at and not seen[row.volume].used and not needed & {row.sha256, row.image}\n",
        "            if row.whole and not row.withdrawn_at\n",
        Edit(SWEEP, "        if row.whole and (needed or seen.used):\n", "        if False:\n"),
        Edit(SWEEP, "        if needed or seen.used or now < since + patience", "        if now < since + patience"),
        theme="copies",
    ),
)
