"""The checked sections of a configuration file as the makers of domain types read them, and what they find wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from service.config import schema
from service.config.left_out import LeftOut
from service.errors import FieldViolation


@dataclass(slots=True)
class Sections:
    """`directory`: where the file's relative paths start; `problems`: in the file's own words, in the order found."""

    checked: schema.Configuration
    directory: Path
    left_out: LeftOut
    problems: list[str] = field(default_factory=list)

    def at(self, section: str, position: int) -> str:
        """The place in the file of the entry that is at `position` now."""
        return f"{section}[{self.left_out.index(section, position)}]"

    def require_unique(self, section: str, key: str, values: list[str]) -> None:
        """No two entries have the same value."""
        first: dict[str, int] = {}
        for index, value in enumerate(values):
            if value in first:
                here, there = self.at(section, index), self.at(section, first[value])
                self.problems.append(f"{here}.{key}: {value} is taken by {there}")
            first.setdefault(value, index)

    def tell(self, where: str, found: Iterable[FieldViolation]) -> None:
        """What the domain's rules say of the entry at `where`."""
        for wrong in found:
            key = re.sub(r"\[([^\]]*)\]", r".\1", wrong.field)  # a map's key, as the file writes it
            self.problems.append(f"{where}.{key}: {wrong.description}")

    def path(self, text: str) -> Path:
        """The path that the file means."""
        return (self.directory / Path(text).expanduser()).resolve()

    def path_text(self, text: str) -> str:
        """As `path`; "" stays so."""
        return str(self.path(text)) if text else ""


def known(names: Iterable[str]) -> str:
    """What a name that is not known could have been."""
    listed = ", ".join(sorted(names))
    return f"known: {listed}" if listed else "none is configured"
