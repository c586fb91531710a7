"""The configuration file without what is wrong by itself, so that the rest can be checked and every mistake be told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any


@dataclass(slots=True)
class LeftOut:
    """What was left out of a file because it was wrong by itself.

    `entries`: whole entries of lists of tables, as the file has them, by section and index. `sections`: tables from
    which keys were taken out. `keys`: these keys; of a table that was left out as a whole none.
    """

    entries: dict[str, dict[int, Any]] = field(default_factory=dict)
    sections: set[str] = field(default_factory=set)
    keys: dict[str, set[str]] = field(default_factory=dict)

    def without(self, raw: Mapping[str, Any], places: Iterable[Sequence[int | str]]) -> dict[str, Any]:
        """The file without what is at these places (paths of keys and indices)."""
        rest = {name: dict(value) if isinstance(value, dict) else value for name, value in raw.items()}
        for section, *below in places:
            name = str(section)
            if below and isinstance(below[0], int):
                self.entries.setdefault(name, {})[below[0]] = raw[name][below[0]]
                continue
            self.sections.add(name)
            if below and isinstance(raw.get(name), dict):
                self.keys.setdefault(name, set()).add(str(below[0]))
                if isinstance(rest.get(name), dict):
                    rest[name].pop(below[0], None)
            else:
                rest.pop(name, None)
        for name, entries in self.entries.items():
            rest[name] = [entry for index, entry in enumerate(raw[name]) if index not in entries]
        return rest

    def may_be(self, section: str, *keys: str) -> bool:
        """Whether one of these keys of a table was left out, or one that may be meant for it."""
        gone = self.keys.get(section, set())
        return section in self.sections and (not gone or any(get_close_matches(one, keys) for one in gone))

    def index(self, section: str, position: int) -> int:
        """The index in the file of the entry that is at `position` now."""
        gone = self.entries.get(section, {})
        return [index for index in range(position + len(gone) + 1) if index not in gone][position]

    def names(self, section: str) -> set[str]:
        """Names and uuids of entries that were left out: other entries may name them."""
        told = [entry for entry in self.entries.get(section, {}).values() if isinstance(entry, dict)]
        return {str(entry[key]) for entry in told for key in ("name", "uuid") if key in entry}
