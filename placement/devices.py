"""Devices of a host that are given out whole, such as accelerators: which stand alike, and which nodes get which.

A node may want some of one NUMA cell, or of one partition (devices that their host joins by a fabric). What is alike
is a pool. Whether nodes fit the pools and cells of one host is decided exactly: choices of cells and partitions are
searched, and for each of them a flow divides the pools (Ford and Fulkerson 1956).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations, product

from placement.resources import MAX_AMOUNT, InvalidPlacementInput, checked_integer, checked_name

DEVICES = "gpu"
"""The resource of devices of any model; of one model it is ``gpu.<model>``."""
MAX_POOLS = 512
MAX_STEPS = 20_000
"""Choices that are looked at for one host until its nodes count as not decided."""


def is_device(resource: str) -> bool:
    """Whether the resource is counted in whole devices."""
    return resource == DEVICES or resource.startswith(f"{DEVICES}.")


def is_of(resource: str, wanted: str) -> bool:
    """Whether a device of this resource is one of those that are wanted."""
    return resource == wanted or resource.startswith(f"{wanted}.")


@dataclass(frozen=True, slots=True)
class Pool:
    """Devices of a host that stand alike: of one model, NUMA cell and partition.

    ``cell``: its position among the host's cells, None where it is not known. ``partition``: its name, empty: in none.
    """

    resource: str
    capacity: int
    used: int = 0
    cell: int | None = None
    partition: str = ""

    def __post_init__(self) -> None:
        checked_name("pool.resource", self.resource)
        if not self.resource.startswith(f"{DEVICES}."):
            raise InvalidPlacementInput("pool.resource", f"must be a model of devices, as {DEVICES}.a100 is")
        checked_integer("pool.capacity", self.capacity, 0, MAX_AMOUNT)
        checked_integer("pool.used", self.used, 0, MAX_AMOUNT)

    @property
    def free(self) -> int:
        """How many nobody has, never below zero."""
        return max(0, self.capacity - self.used)


@dataclass(frozen=True, slots=True)
class Devices:
    """``count`` devices that a node wants together: all of the cells that it is pinned to (``local``), all of one
    partition (``joint``), or both. They are part of its demand; the rest of that comes from wherever some are."""

    resource: str
    count: int
    local: bool = False
    joint: bool = False

    def __post_init__(self) -> None:
        checked_name("devices.resource", self.resource)
        if not is_device(self.resource):
            raise InvalidPlacementInput("devices.resource", f"must be {DEVICES} or a model such as {DEVICES}.a100")
        checked_integer("devices.count", self.count, 1, MAX_AMOUNT)


def checked_devices(devices: Sequence[Devices], demand: Mapping[str, int], cells: int) -> tuple[Devices, ...]:
    """A copy of what a node wants together, held to its demand."""
    for one in devices:
        wanted = sum(other.count for other in devices if other.resource == one.resource)
        if wanted > demand.get(one.resource, 0):
            raise InvalidPlacementInput("node.devices", f"name {wanted} {one.resource}, more than the demand does")
        if one.local and not cells:
            raise InvalidPlacementInput("node.devices", f"{one.resource} are to be of its cells, and it has none")
    return tuple(devices)


@dataclass(frozen=True, slots=True)
class Want:
    """What one node takes of the parts of a host: of each of so many ``cells`` its ``share``, its devices, and
    ``loose`` ones from wherever some are. ``chosen``: its cells, where they are settled."""

    cells: int = 0
    share: tuple[int, ...] = ()
    devices: tuple[Devices, ...] = ()
    loose: tuple[tuple[str, int], ...] = ()
    chosen: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """What is free in the parts of a host: of each cell by resource, of each pool."""

    cells: tuple[tuple[int, ...], ...]
    pools: tuple[Pool, ...]
    hashed: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hashed", hash((self.cells, self.pools)))

    def __hash__(self) -> int:
        """Worked out once: parts are looked up for every kind of every gang."""
        return self.hashed


@dataclass(frozen=True, slots=True)
class Got:
    """What one node gets: its cells, and (pool's position, count) of its devices that it wants together."""

    cells: tuple[int, ...]
    devices: tuple[tuple[int, int], ...] = ()


class Undecided(Exception):
    """The search for a division ended before it was known whether there is one."""


def loose_of(demand: Mapping[str, int], devices: Sequence[Devices]) -> tuple[tuple[str, int], ...]:
    """The devices of a node that may be anywhere on its host, by resource. Its demand of any model counts all of it."""
    left = {name: amount for name, amount in demand.items() if is_device(name)}
    if DEVICES in left:
        left[DEVICES] -= sum(amount for name, amount in left.items() if name != DEVICES)
    for one in devices:
        left[one.resource] -= one.count
    return tuple(sorted((name, amount) for name, amount in left.items() if amount > 0))


@lru_cache(maxsize=100_000)
def most(part: Part, want: Want, limit: int) -> int:
    """How many such nodes the host takes by its cells and pools, at most ``limit``. Raises ``Undecided``."""
    if not want.devices:
        return _by_cells(part, want, limit)
    if (quick := _counted(part, want)) is not None:
        return min(quick, limit)
    found = 0
    while found < limit and arrange(part, (want,) * (found + 1)) is not None:
        found += 1
    return found


def _seats(part: Part, want: Want) -> list[int]:
    """How many shares each cell gives."""
    return [
        min((have // size for have, size in zip(cell, want.share, strict=True) if size), default=MAX_AMOUNT)
        for cell in part.cells
    ]


def _by_cells(part: Part, want: Want, limit: int) -> int:
    """How many nodes without devices the cells take: so many that of each cell no more than one share of each node is
    taken, which is enough (Gale 1957)."""
    seats, found = _seats(part, want) if want.cells else [], limit
    while want.cells and (shares := sum(min(seat, found) for seat in seats)) < want.cells * found:
        found = shares // want.cells
    return found


def _counted(part: Part, want: Want) -> int | None:
    """The same by counting, where a node takes of one bin alone; None elsewhere."""
    if len(want.devices) != 1 or want.cells > 1 or (want.devices[0].resource == DEVICES and want.loose):
        return None
    one = want.devices[0]
    seats = _seats(part, want) if want.cells else []
    bins: dict[tuple[int | None, str], int] = {}
    for pool in part.pools:
        if is_of(pool.resource, one.resource) and (pool.partition or not one.joint):
            key = (pool.cell if one.local else None, pool.partition if one.joint else "")
            bins[key] = bins.get(key, 0) + pool.free
    if not one.local:
        devices = sum(free // one.count for free in bins.values())
        return min(devices, sum(seats)) if want.cells else devices
    of_cell: dict[int | None, int] = {}
    for (cell, _), free in bins.items():
        of_cell[cell] = of_cell.get(cell, 0) + free // one.count
    return sum(min(seat, of_cell.get(cell, 0)) for cell, seat in enumerate(seats))


def arrange(part: Part, wants: Sequence[Want]) -> tuple[Got, ...] | None:
    """What each of these nodes gets of one host, None where they do not all fit. Raises ``Undecided``."""
    order = sorted(range(len(wants)), key=lambda n: _largest_first(wants[n]))
    found = _Search(part, [wants[n] for n in order]).run()
    if found is None:
        return None
    got = dict(zip(order, found, strict=True))
    return tuple(got[n] for n in range(len(wants)))


def _largest_first(want: Want) -> tuple[object, ...]:
    together = sum(one.count for one in want.devices)
    return (not want.devices, not want.cells, -together, -want.cells, tuple(-size for size in want.share), repr(want))


Choice = tuple[tuple[int, ...], tuple[str, ...]]
"""A node's cells, and the partition of each of its requests (empty: of none)."""


@dataclass(slots=True)
class _Search:
    """Nodes that are alike stand beside each other and take their choices in one order, so that none is tried twice."""

    part: Part
    wants: Sequence[Want]
    steps: int = 0
    cells: list[list[int]] = field(default_factory=list)
    taken: list[Choice] = field(default_factory=list)

    def run(self) -> list[Got] | None:
        self.cells = [list(cell) for cell in self.part.cells]
        if not any(want.devices or want.cells for want in self.wants):
            return [Got(())] * len(self.wants)
        return self._next(0, 0)

    def _next(self, number: int, first: int) -> list[Got] | None:
        if number == len(self.wants):
            return self._divided(number)
        want = self.wants[number]
        for position, choice in enumerate(choices(self.part, want)):
            if position < first or not all(self._holds(cell, want) for cell in choice[0]):
                continue
            self.steps += 1
            if self.steps > MAX_STEPS:
                raise Undecided
            self._take(choice, want, 1)
            last = number + 1 == len(self.wants)
            if last or not want.devices or self._divided(number + 1) is not None:
                alike = not last and self.wants[number + 1] == want
                found = self._next(number + 1, position if alike else 0)
                if found is not None:
                    return found
            self._take(choice, want, -1)
        return None

    def _holds(self, cell: int, want: Want) -> bool:
        return all(have >= size for have, size in zip(self.cells[cell], want.share, strict=True))

    def _take(self, choice: Choice, want: Want, sign: int) -> None:
        for cell in choice[0]:
            self.cells[cell] = [have - sign * size for have, size in zip(self.cells[cell], want.share, strict=True)]
        if sign > 0:
            self.taken.append(choice)
        else:
            self.taken.pop()

    def _divided(self, count: int) -> list[Got] | None:
        """What the first of them get by the choices so far, with room left for what all of them take loose."""
        asks, whose = [], []
        for number, (want, (cells, partitions)) in enumerate(zip(self.wants[:count], self.taken, strict=True)):
            for one, partition in zip(want.devices, partitions, strict=True):
                asks.append((pools_for(self.part, one, cells, partition), one.count))
                whose.append(number)
        if any(one.resource == DEVICES for want in self.wants for one in want.devices):
            for want in self.wants:
                asks.extend((pools_for(self.part, Devices(name, 1), (), ""), amount) for name, amount in want.loose)
        given = divide([pool.free for pool in self.part.pools], asks)
        if given is None:
            return None
        devices: list[dict[int, int]] = [{} for _ in range(count)]
        for number, amounts in zip(whose, given, strict=False):
            for pool, amount in amounts.items():
                devices[number][pool] = devices[number].get(pool, 0) + amount
        return [Got(self.taken[n][0], tuple(sorted(devices[n].items()))) for n in range(count)]


@lru_cache(maxsize=10_000)
def choices(part: Part, want: Want) -> tuple[Choice, ...]:
    """What a node may choose of a host: the cells with the least room and the smallest partitions first."""
    real = [number for number, cell in enumerate(part.cells) if not cell or min(cell) >= 0]
    tightest = sorted(real, key=lambda cell: (part.cells[cell], cell))
    of = (want.chosen,) if want.chosen is not None else combinations(tightest, want.cells)
    return tuple(
        (tuple(sorted(cells)), partitions)
        for cells in of
        for partitions in product(*(_partitions(part, one, cells) for one in want.devices))
    )


def _partitions(part: Part, one: Devices, cells: Sequence[int]) -> Sequence[str]:
    if not one.joint:
        return ("",) if _free(part, one, cells, "") >= one.count else ()
    names = sorted({pool.partition for pool in part.pools if pool.partition})
    enough = [name for name in names if _free(part, one, cells, name) >= one.count]
    return sorted(enough, key=lambda name: (_free(part, one, (), name, anywhere=True), name))


def _free(part: Part, one: Devices, cells: Sequence[int], partition: str, anywhere: bool = False) -> int:
    wanted = Devices(one.resource, one.count, one.local and not anywhere, one.joint)
    return sum(part.pools[number].free for number in pools_for(part, wanted, cells, partition))


def pools_for(part: Part, one: Devices, cells: Sequence[int], partition: str) -> tuple[int, ...]:
    """The pools that a request may be served from."""
    return tuple(
        number
        for number, pool in enumerate(part.pools)
        if is_of(pool.resource, one.resource)
        and (not one.local or pool.cell in cells)
        and (not one.joint or pool.partition == partition)
    )


def divide(free: Sequence[int], asks: Sequence[tuple[Sequence[int], int]]) -> list[dict[int, int]] | None:
    """How much of each pool each ask gets, None where they do not all get theirs. ``asks``: (pools, count)."""
    left = list(free)
    given: list[dict[int, int]] = [{} for _ in asks]
    for number, (_, count) in enumerate(asks):
        missing = count
        while missing:
            path = _path(left, given, asks, number)
            if path is None:
                return None
            missing -= _pushed(left, given, path, missing)
    return given


def _path(
    left: Sequence[int], given: Sequence[Mapping[int, int]], asks: Sequence[tuple[Sequence[int], int]], start: int
) -> list[tuple[int, int]] | None:
    """(ask, pool) by turns to a pool that has some left: each ask takes of its pool what the next gives up there."""
    came: dict[int, tuple[int, int] | None] = {start: None}
    waiting = [start]
    for ask in waiting:
        for pool in asks[ask][0]:
            if left[pool]:
                return [*_back(came, ask), (ask, pool)]
            for other, amounts in enumerate(given):
                if other not in came and amounts.get(pool):
                    came[other] = (ask, pool)
                    waiting.append(other)
    return None


def _back(came: Mapping[int, tuple[int, int] | None], ask: int) -> list[tuple[int, int]]:
    steps: list[tuple[int, int]] = []
    while (step := came[ask]) is not None:
        steps.append(step)
        ask = step[0]
    return steps[::-1]


def _pushed(left: list[int], given: Sequence[dict[int, int]], path: Sequence[tuple[int, int]], missing: int) -> int:
    """Lets each of them take as much as all along the way can give; returns how much."""
    followers = [ask for ask, _ in path[1:]]
    amount = min([missing, left[path[-1][1]]])
    for (_, pool), other in zip(path, followers, strict=False):
        amount = min(amount, given[other][pool])
    for (ask, pool), other in zip(path, followers, strict=False):
        given[other][pool] -= amount
        given[ask][pool] = given[ask].get(pool, 0) + amount
    ask, pool = path[-1]
    given[ask][pool] = given[ask].get(pool, 0) + amount
    left[pool] -= amount
    return amount
