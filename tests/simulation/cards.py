"""Devices of the simulated fleet, and the judge of who has them (D1 to D8), without code of the service.

D1: a device has one owner. D2: a claim has as many devices as its amount says, and hosts are counted so.
D3: all of an IOMMU group goes to one machine. D4: no machine is let run with other devices than its member's.
D5: a device is let go once its machine was seen gone. D6: what has a device is never moved live, and its host promises
its memory once. D7: what is foreign, blocked, gone, or in quarantine, by itself or with the machine that has it, is
given to nobody. D8: what nothing cleans waits for an operator after each member.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.simulation.hosts import EXECUTING, TOMBSTONE, Machine, SimulatedMachineHost, Slot

Query = Callable[..., Sequence[tuple[Any, ...]]]
Key = tuple[str, str]
THEME = "devices"
SHARE = 0.2
"""Of the seeds without a theme, how many have devices."""
BIG, SMALL, SOUND, USB = "10de:2330", "10de:20b0", "10de:22bc", "10de:1ad8"
MODELS = {BIG: "big", SMALL: "small"}
UNCLEAN = "small"
SEATED = frozenset({"Claimed", "Creating", "Created", "Booting", "Running"})
PULLED_SECONDS = 150.0
"""A resume that was sent while all was there may arrive so much later, when something was pulled out meanwhile."""


@dataclass(frozen=True, slots=True)
class Row:
    """A device as the database has it. `held`: a machine in quarantine has it."""

    model: str
    functions: tuple[str, ...]
    clean: str
    state: str
    quarantine: str
    held: bool


class Cards:
    """Which seeds have devices, and what must hold there of every commit and every machine (ARCHITECTURE I19)."""

    def __init__(
        self,
        rows: Query,
        now: Callable[[], float],
        hosts: Mapping[str, SimulatedMachineHost],
        violated: Callable[[str, str], None],
    ) -> None:
        self._rows = rows
        self._now = now
        self._hosts = hosts
        self._violated = violated
        self._dice: random.Random | None = None
        self.twice = False
        self._themed = False
        self._known: dict[Key, Row] = {}
        self._claims: dict[Key, tuple[str, int]] = {}
        self._unclean: set[Key] = set()
        self.pulled: dict[tuple[str, str], float] = {}

    @property
    def drawn(self) -> bool:
        """Whether there are any."""
        return self._dice is not None

    def draw(self, seed: int, theme: str) -> None:
        """Whether this seed has devices, with dice of its own, so that all other seeds stay as they are. In some a host
        promises its memory twice."""
        dice = random.Random(f"devices {seed}")
        if dice.random() < {THEME: 1.0, "": SHARE}.get(theme, 0.0):
            self._dice = dice
            self._themed = theme == THEME
            self.twice = dice.random() < 0.15

    def fill(self, host: SimulatedMachineHost) -> Mapping[str, int]:
        """Put devices into a host; what it may give out of each model."""
        if self._dice is None:
            return {}
        host.slots = {}
        for number in range(self._dice.choice((0, 2, 2, 3, 4))):
            ids = self._dice.choice((BIG, BIG, SMALL) if self._themed else (BIG, BIG, BIG, SMALL))
            address = f"0000:{number + 1:02x}:00"
            host.slots[f"{address}.0"] = Slot(f"{address}.0", ids, "030200", number)
            if self._dice.random() < 0.6:
                host.slots[f"{address}.1"] = Slot(f"{address}.1", SOUND, "040300", number)
        count = Counter(MODELS[s.ids] for s in host.slots.values() if s.ids in MODELS)
        # Another device may come into a slot: never more of a model than slots.
        return {f"gpu.{model}": count.total() for model in MODELS.values()}

    def wants(self, name: str, ranks: int) -> list[tuple[str, int]]:
        """(model, how many) of each member of the group of this name; no model: of any."""
        dice = random.Random(f"devices of {name}")
        asked: tuple[tuple[str, int], ...] = ((("", 0),) * 3) + (("big", 1),) * 4 + (("big", 2), ("small", 1), ("", 1))
        if self._themed:  # what nothing cleans is asked for again and again
            asked += (("small", 1),) * 3
        return [dice.choice(asked) if self.drawn else ("", 0) for _ in range(ranks)]

    # --- the database -----------------------------------------------------------------------------------------------

    def committed(self) -> None:
        """After every transaction."""
        if self._dice is None:
            return
        known = self._read()
        claims = {
            (host, key): (instance, attempt)
            for host, key, instance, attempt in self._rows(
                "SELECT host_uuid, key, instance_uuid, attempt FROM device_claims"
            )
        }
        for key, owner in sorted(claims.items()):
            if self._claims.get(key) != owner:
                self._taken(key, owner)
        for key, owner in sorted(self._claims.items()):
            if claims.get(key) != owner:
                self._let_go(key, owner)
        # Nobody but an operator takes out of quarantine; what is forgotten there is another device from then on.
        for key in sorted(self._unclean):
            if key not in known or (self._known[key].quarantine and not known[key].quarantine):
                self._unclean.discard(key)
        self._owners(claims, known)
        self._counted(claims, known)
        self._known, self._claims = known, claims

    def _read(self) -> dict[Key, Row]:
        held = {
            (host, address)
            for host, text in self._rows("SELECT host_uuid, document FROM quarantine WHERE holding = 'machine'")
            for address in json.loads(text).get("devices", ())
        }
        return {
            (host, key): Row(
                model, functions, clean, state, quarantine, any((host, address) in held for address in functions)
            )
            for host, key, model, text, clean, state, quarantine in self._rows(
                "SELECT host_uuid, key, model, functions, clean, state, quarantine FROM devices"
            )
            for functions in [tuple(f["address"] for f in json.loads(text))]
        }

    def _taken(self, key: Key, owner: tuple[str, int]) -> None:
        before = self._known.get(key)
        if before is None or before.state != "available" or before.quarantine or before.held:
            self._violated("D7", f"{owner} was given device {key}, which was {before}")
        if key in self._unclean:
            self._violated("D8", f"{owner} was given device {key}, which another had and nobody has cleaned")
        if self.twice:
            self._violated("D6", f"{owner} was given device {key} of a host whose memory is promised twice")

    def _let_go(self, key: Key, owner: tuple[str, int]) -> None:
        if (row := self._known.get(key)) is not None and row.clean == "none":
            self._unclean.add(key)
        host = self._hosts.get(key[0])
        for machine in host.machines.values() if host is not None else ():
            has = (machine.instance, machine.attempt) == owner and key[1] in {address for address, _ in machine.devices}
            if has and machine.state != TOMBSTONE and not machine.late and not machine.tampered:
                self._violated("D5", f"device {key} of {owner} was let go, whose machine is {machine.state}")

    def _owners(self, claims: Mapping[Key, tuple[str, int]], known: Mapping[Key, Row]) -> None:
        """D1, D2: every member has what it has claimed, and nobody else has any of it."""
        counts: Counter[tuple[str, int, str, str]] = Counter()
        functions: Counter[Key] = Counter()
        for (host, key), (instance, attempt) in claims.items():
            if (host, key) in known:
                counts[instance, attempt, host, known[host, key].model] += 1
                functions.update((host, address) for address in known[host, key].functions)
        for uuid, attempt, status, host, text in self._rows(
            "SELECT uuid, attempt, status, host_uuid, devices FROM instances WHERE devices != '[]'"
        ):
            for device in json.loads(text) if status in SEATED else ():
                if claims.get((host, device["key"])) != (uuid, attempt):
                    self._violated("D1", f"{uuid} has device {device['key']} of {host}, and claims it not")
        for function, times in functions.items():
            if times > 1:
                self._violated("D1", f"function {function} is in {times} devices that are claimed")
        for instance, attempt, host, resource, amount in self._rows(
            "SELECT instance_uuid, attempt, host_uuid, resource, amount FROM claims WHERE resource LIKE 'gpu.%'"
        ):
            has = counts.pop((instance, attempt, host, resource.removeprefix("gpu.")), 0)
            if has != amount:
                self._violated("D2", f"{instance} attempt {attempt} claims {amount} {resource} of {host} and has {has}")
        for (instance, attempt, host, model), has in counts.items():
            self._violated("D2", f"{instance} attempt {attempt} has {has} {model} of {host} and claims none")

    def _counted(self, claims: Mapping[Key, tuple[str, int]], known: Mapping[Key, Row]) -> None:
        """What is said to be there, and not to be had, is so: plans, lists and gauges are made of these amounts."""
        there: Counter[tuple[str, str]] = Counter()
        out: Counter[tuple[str, str]] = Counter()
        for key, row in known.items():
            if key in claims or row.state != "gone":
                there[key[0], row.model] += 1
                free = row.state == "available" and not row.quarantine and not row.held
                out[key[0], row.model] += key not in claims and not free
        for host, resource, total, foreign in self._rows(
            "SELECT host_uuid, resource, total, foreign_used FROM host_resources WHERE resource LIKE 'gpu.%'"
        ):
            of = (host, resource.removeprefix("gpu."))
            if (total, foreign) != (there[of], out[of]):
                self._violated("D2", f"of {of} {total} are counted, {foreign} out: it has {there[of]}, {out[of]} out")

    # --- the hosts --------------------------------------------------------------------------------------------------

    def changed(self, host: SimulatedMachineHost, before: Machine | None, after: Machine | None, cause: str) -> None:
        """A machine is not as it was."""
        if self._dice is None or after is None or not after.devices:
            return
        if before is None and not after.tampered:
            self._whole_groups(host, after)
        if after.arriving or (after.state == "migrating" and not after.tampered):
            self._violated("D6", f"{after.instance} is moved live with {len(after.devices)} device functions")
        ran = before is not None and before.state in EXECUTING
        if after.state in EXECUTING and not ran and not after.tampered and cause.endswith(" resume"):
            self._runs(host, after)

    def _whole_groups(self, host: SimulatedMachineHost, machine: Machine) -> None:
        has = {address for address, _ in machine.devices}
        groups: dict[int, set[str]] = defaultdict(set)
        for slot in host.slots.values():
            groups[slot.group].add(slot.address)
        for group in groups.values():
            if group & has and not group <= has and not machine.mistaken:
                self._violated("D3", f"{machine.instance} has {sorted(group & has)} of the group {sorted(group)}")

    def _runs(self, host: SimulatedMachineHost, machine: Machine) -> None:
        owner = (machine.instance, machine.attempt)
        claimed = {
            address
            for key, holder in self._claims.items()
            if holder == owner and key[0] == host.uuid and key in self._known
            for address in self._known[key].functions
        }
        has = set(host.really_had(machine))
        late = {a for a in claimed - has if self._now() - self.pulled.get((host.uuid, a), -1e9) < PULLED_SECONDS}
        if claimed and has != claimed - late:
            self._violated("D4", f"{owner} runs on {host.uuid} with {sorted(has)}, its member has {sorted(claimed)}")
