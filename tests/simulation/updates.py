"""Updates of what groups run: what callers ask for, and what must never happen, judged from rows and hosts alone.

What is judged may not use code of the service: what it expects is written down here a second time, on purpose.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

from service.domain.updates import MemberChange, UpdateMode
from tests.simulation.endpoints import Endpoints, Machines

Query = Callable[..., Sequence[tuple[Any, ...]]]
THEME = "update"
SHARE = 0.1
"""Of the seeds without a theme, how many are about updates."""
GOING_ON = frozenset({"coming", "switched", "changing", "taking_back"})
_HOLDS = frozenset({"Claimed", "Creating", "Created", "Booting", "Running", "Stopping", "Stopped", "Failing"})


def drawn(seed: int) -> bool:
    """Whether a seed without a theme has this one. Of dice of its own, so that all others stay as they are."""
    return random.Random(f"update {seed}").random() < SHARE


def change(dice: random.Random) -> tuple[list[MemberChange], UpdateMode]:
    """What a caller asks for."""
    cpu = dice.choice((0, 0, 1, 2))
    return [MemberChange(startup_parameters=f"--{dice.randrange(1000)}", cpu_num=cpu)], dice.choice(tuple(UpdateMode))


class Updates:
    """Told of every commit."""

    def __init__(
        self,
        rows: Query,
        violated: Callable[[str, str], None],
        runs: Callable[[str, str, int], bool],
        machines: Machines,
    ) -> None:
        """`runs(host, instance, attempt)`: whether that very machine executes there now."""
        self._rows = rows
        self._violated = violated
        self._runs = runs
        self.endpoints = Endpoints(rows, violated, machines)
        self._serving: dict[str, frozenset[str]] = {}
        self._gone: set[str] = set()
        self.gangs: Mapping[str, Mapping[str, Any]] = {}

    def forget(self) -> None:
        """The database is another one."""
        self._serving, self._gone = {}, set()

    def committed(self) -> None:
        """Look at all groups that were updated."""
        found = self._rows("SELECT uuid, rollout, phase FROM groups WHERE rollout IS NOT NULL")
        self.gangs = {}
        for group, text, phase in found:
            update = json.loads(text)
            if update["gang"] is not None:
                self.gangs = {**self.gangs, group: update["gang"]}
            self._judge(group, update, phase)
        if len(self._serving) != len(found):
            known = {group for group, *_ in found}
            self._serving = {group: serving for group, serving in self._serving.items() if group in known}

    def _judge(self, group: str, update: Mapping[str, Any], phase: str) -> None:
        members = self._rows(
            "SELECT uuid, status, beside, host_uuid, attempt, spec FROM instances WHERE group_uuid = ?", group
        )
        serving = frozenset(uuid for uuid, status, beside, *_ in members if not beside and status != "Removed")
        was = self._serving.get(group, serving)
        if was and serving and not was & serving:
            self._switched(group, members)
        self._serving[group] = serving or was
        gang = update["gang"]
        if gang is not None and gang["go"] and update["stage"] == "coming":
            if group not in self._gone:
                up = ("Created", "Booting", "Running")
                early = [uuid for uuid, status, beside, *_ in members if beside and status not in up]
                if early:
                    self._violated("I4", f"GO of the second gang of {group} is committed, {early} are not created")
            self._gone.add(group)
        else:
            self._gone.discard(group)
        if gang is None and any(beside for _, _, beside, *_ in members):
            self._violated("I3", f"members beside the gang of {group} are of no gang")
        for uuid, status, _, host, attempt, spec in members:
            node = json.loads(spec)
            if status in _HOLDS and host and node["type"] == "VirtualMachine" and phase not in ("deleting", "cleaning"):
                self._holds(uuid, attempt, host, node["cpu_num"])

    def _holds(self, uuid: str, attempt: int, host: str, cpus: int) -> None:
        """A machine is never larger than its claim."""
        where = "instance_uuid = ? AND attempt = ? AND host_uuid = ? AND resource = 'vcpu'"
        held = self._rows(f"SELECT amount FROM claims WHERE {where}", uuid, attempt, host)
        if held and held[0][0] < cpus:
            self._violated("I2", f"{uuid} has {cpus} vCPUs and has claimed {held[0][0]}")

    def _switched(self, group: str, members: Sequence[tuple[Any, ...]]) -> None:
        """Another gang serves than before: all of it is ready, and runs."""
        for uuid, status, beside, host, attempt, _ in members:
            if not beside and (status != "Running" or not self._runs(host, uuid, attempt)):
                self._violated("I4", f"{group} went over to {uuid}, which is {status} and may not answer")

    def epoch(self, group: str, beside: int, epoch: int) -> int:
        """The start that members of that gang are of, where the row's own is `epoch`."""
        gang = self.gangs.get(group)
        return int(gang["start_epoch"]) if beside and gang is not None else epoch

    def started_before(self, instance: str, served: Set[tuple[str, int]]) -> list[str]:
        """I18: those of a lower order in its gang that have not been ready in this start. `served`: (member, start)."""
        fellows = self._rows(
            "SELECT f.uuid, f.spec, f.leaving, g.start_epoch, g.uuid, f.beside FROM instances i"
            " JOIN groups g ON g.uuid = i.group_uuid"
            " JOIN instances f ON f.group_uuid = g.uuid AND f.beside = i.beside WHERE i.uuid = ?",
            instance,
        )
        order = {uuid: json.loads(spec).get("start_order", 0) for uuid, spec, *_ in fellows}
        return [
            uuid
            for uuid, _, leaving, start, group, beside in fellows
            if order[uuid] < order[instance] and not leaving and (uuid, self.epoch(group, beside, start)) not in served
        ]

    def under_way(self) -> Iterator[tuple[str, str]]:
        """What is not at rest: the group, and what of it."""
        for group, text in self._rows("SELECT uuid, rollout FROM groups WHERE rollout IS NOT NULL"):
            if (stage := json.loads(text)["stage"]) in GOING_ON:
                yield group, f"the update of {group} is {stage}"
        for uuid, group in self._rows("SELECT uuid, group_uuid FROM instances WHERE beside"):
            yield group, f"{uuid} is of a second gang of {group}"
