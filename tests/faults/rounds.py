"""Mishaps one after the other on one installation, and the table of what came of them."""

from __future__ import annotations

import math
import random
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import by_hand, custody, resources
from tests.faults.scenario import crashed, fleet, left_over, rest
from tests.faults.signs import Expected, Mishap, Sign, Times
from tests.faults.site import PATIENCE, Site, open_site
from tests.faults.stores import open_store
from tests.lab.fleet import Lab

MISHAPS: Mapping[str, Mishap] = {
    mishap.__name__: mishap
    for mishap in (
        custody.database_restored,
        custody.database_lost,
        custody.host_renamed,
        custody.hypervisor_named_twice,
        custody.second_installation,
        custody.machine_copied,
        by_hand.foreign_machine_has_the_name,
        by_hand.foreign_machine_has_the_uuid,
        by_hand.destroyed,
        by_hand.undefined,
        by_hand.reset,
        by_hand.hypervisor_rebooted,
        resources.database_full,
        resources.pool_full,
        resources.clock_forward,
        resources.clock_back,
        resources.clock_in_a_boot,
    )
}


@dataclass
class Table:
    """Mishap or kill -> what came of it, over all rounds."""

    rows: dict[str, Times] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """How many faults there were."""
        return sum(row.done for row in self.rows.values())

    def lines(self) -> list[str]:
        """As a table in Markdown."""
        head = "| fault | run | machines lost | s until an operator sees it, p50 / max | where |"
        return [head, "|---|---:|---:|---:|---|", *(_line(name, row) for name, row in sorted(self.rows.items()))]


def _line(name: str, row: Times) -> str:
    seen = sorted(row.seen)
    times = f"{seen[(len(seen) - 1) // 2]:.1f} / {seen[-1]:.1f}" if seen else "—"
    return f"| {name.replace('_', ' ')} | {row.done} | {row.lost} | {times} | {row.words} |"


def run(
    lab: Lab,
    manifest: Path,
    table: Table,
    *,
    names: Iterable[str],
    kind: str,
    seed: int,
    count: int,
    until: float = math.inf,
) -> None:
    """These mishaps, in this order, on a new installation of `count` replicas on a database of this kind.

    `until`: none begins later (s of the monotonic clock).
    """
    directory = Path(tempfile.mkdtemp(prefix="corral-mishaps-"))
    try:
        with open_store(kind) as store, open_site(
            lab, store, fleet(lab, manifest), directory, seed, count=count
        ) as site:  # fmt: skip
            for name in names:
                if time.monotonic() < until:
                    once(site, name, table)
            table.violations += crashed(site.replicas) + _end(site)
    finally:
        shutil.rmtree(directory)


def _end(site: Site) -> list[str]:
    """Everything is deleted; what is left then."""
    site.delete(site.steady)
    site.delete(site.mover)
    return rest(lambda: left_over(site.lab, site.store, site.store.name), PATIENCE)


def order(seed: int) -> Iterator[str]:
    """Every mishap once, in an order that the seed gives, and again in another one, without end."""
    rng = random.Random(seed)
    while True:
        names = sorted(MISHAPS)
        rng.shuffle(names)
        yield from names


def once(site: Site, name: str, table: Table) -> None:
    """One mishap from a state at rest to a state at rest. What is wrong stands in the table's violations."""
    row = table.rows.setdefault(name, Times())
    census, before = site.census, len(site.census.lost)
    began = time.monotonic()
    census.doing = name
    census.keep()
    site.follower.told.clear()
    found: list[str] = []
    try:
        _carry_out(site, MISHAPS[name], row, found)
    except Exception:
        found.append(traceback.format_exc(limit=-6))
        site.revive()
    found += site.settle()
    census.look()
    row.done += 1
    row.lost += len(census.lost) - before
    found += [f"I15 lost: {one}" for one in census.lost[before:]] + census.violations
    census.violations.clear()
    table.violations += [f"{name}: {one}" for one in found]
    told = f"{row.seen[-1]:.1f} s" if row.seen and not found else "; ".join(found)
    print(f"{name}: {told}; {time.monotonic() - began:.0f} s in all", flush=True)


def _carry_out(site: Site, mishap: Mishap, row: Times, found: list[str]) -> None:
    steps = mishap(site)
    expected = next(steps)
    row.words = "; ".join(sign.words for sign in expected.signs)
    unseen = _look_for(expected)
    if unseen:
        found += [f"nobody was told: {sign.words}" for sign in unseen]
    else:
        row.seen.append(time.monotonic() - expected.since)
    while time.monotonic() < expected.since + expected.watch:
        time.sleep(0.2)
    for _ in steps:
        raise AssertionError("a mishap yields once")


def _look_for(expected: Expected) -> Sequence[Sign]:
    """The signs that were not there within half of PATIENCE. Each has to be seen once."""
    unseen = list(expected.signs)
    deadline = expected.since + PATIENCE / 2
    while unseen:
        unseen = [sign for sign in unseen if not sign.there()]
        if time.monotonic() > deadline:
            break
        if unseen:
            time.sleep(0.2)
    return unseen
