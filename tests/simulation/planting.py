"""What a planted bug is: an exact piece of source, and what to put in its place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace `old`, which must stand in the module exactly once, by `new`."""

    module: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Plant:
    """One bug. `theme`: of which seeds it is looked for in; empty: of all."""

    name: str
    edits: tuple[Edit, ...]
    theme: str = ""


def one(name: str, module: str, old: str, new: str, *more: Edit, theme: str = "") -> Plant:
    """A plant of one edit, or of a few that only together take the guard away."""
    return Plant(name, (Edit(module, old, new), *more), theme)
