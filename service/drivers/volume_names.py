"""Whose a volume is, which follows from its name."""

from __future__ import annotations

import re

# A log that its host has cut stands beside the newest as NAME.0, NAME.1, …
_VOLUME_NAME = re.compile(r"corral\.[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.([0-9]{1,9})\.[a-z-]+(?:\.[0-9]{1,3})?")


def volume_owner(name: str) -> tuple[str, int] | None:
    """(instance, attempt) that a machine's volume belongs to, by its name; None for a name of another form.

    Every driver names volumes `corral.<cluster>.<instance>.<attempt>.<role>`; a role is lower-case letters and hyphens.
    """
    match = _VOLUME_NAME.fullmatch(name)
    return (match[1], int(match[2])) if match else None
