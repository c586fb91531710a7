"""Judges where members may be: alone on their hosts, so many a host at most, apart from other groups.

May not import anything of the service: what it expects is written down here a second time, on purpose.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Set
from typing import Any

Claims = Mapping[tuple[str, int, str, str], tuple[str, str, int]]
"""(instance, attempt, resource, host) -> (host, group, amount)."""


class Rules:
    """Asked whenever claims have changed. `adopted`: groups that an operator has adopted."""

    def __init__(
        self, rows: Callable[..., list[tuple[Any, ...]]], violated: Callable[[str, str], None], adopted: Set[str]
    ) -> None:
        self._rows, self._violated, self._adopted = rows, violated, adopted
        self._known: dict[str, Mapping[str, Any]] = {}

    def forget(self) -> None:
        """The database is another one."""
        self._known.clear()

    def check(self, claims: Claims, attempts: Mapping[str, int]) -> None:
        """I9 on committed claims: exclusive hosts, at most so many a host, apart from other groups.

        What an attempt left behind, paused and never to run, takes room until it is cleared away; it is no member.
        Groups that an operator has adopted are where their machines were found.
        """
        here: dict[str, set[tuple[str, str]]] = defaultdict(set)
        present: dict[tuple[str, str], set[str]] = defaultdict(set)
        for (instance, attempt, *_), (host, group, _) in claims.items():
            if group in self._adopted:
                continue
            here[host].add((group, instance))
            if attempts.get(instance) == attempt:
                present[host, group].add(instance)
        beside = {uuid for (uuid,) in self._rows("SELECT uuid FROM instances WHERE beside")}
        for host, seated in here.items():
            groups = {group for group, _ in seated}
            members = {group for group in groups if present[host, group]}
            for group in groups:
                rules = self.of(group)
                if rules["exclusive_hosts"] and len(groups) > 1:
                    self._violated("I9", f"group {group} shares its exclusive host {host}")
                mine = max(len(present[host, group] & beside), len(present[host, group] - beside))
                if rules["max_per_host"] and mine > rules["max_per_host"]:
                    self._violated("I9", f"group {group} has {mine} members on host {host}")
                if group in members and members & set(rules["anti_affinity_groups"]):
                    self._violated("I9", f"group {group} is together with one it is to be apart from on {host}")

    def of(self, group: str) -> Mapping[str, Any]:
        """The placement policy that the group was deployed with."""
        if group not in self._known:
            text = self._rows("SELECT spec FROM groups WHERE uuid = ?", group)[0][0]
            self._known[group] = json.loads(text)["placement"]
        return self._known[group]
