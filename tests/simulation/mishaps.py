"""What befalls a live move while it goes on: hosts, the service, the database or its clock, at the worst moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation import faults

if TYPE_CHECKING:
    from tests.simulation.hosts import SimulatedMachineHost
    from tests.simulation.moves import Move
    from tests.simulation.world import World

SHARE = 0.6
"""So many of the moves of the theme have a mishap."""


def draw(move: Move) -> None:
    """Choose what happens to this move, and when."""
    world = move.world
    if world.theme not in ("moves", "room", "balance") or not world.faulty or world.random.random() >= SHARE:
        return
    kind = world.random.choice(tuple(_KINDS))
    world.stats[f"mishap {kind}"] += 1
    world.note("mishap", kind, move.source.name, move.target.name)
    if kind in ("answer lost", "source stays"):
        move.ends_badly = kind
    else:
        world.loop.outside(world.random.uniform(0.0, 6.5), _befall, move, kind)


def _befall(move: Move, kind: str) -> None:
    if move.world.faulty:
        _KINDS[kind](move)


def _source_dies(move: Move) -> None:
    _dies(move.world, move.source)


def _target_dies(move: Move) -> None:
    _dies(move.world, move.target)


def _both_die(move: Move) -> None:
    _dies(move.world, move.source)
    _dies(move.world, move.target)


def _target_silent(move: Move) -> None:
    move.world.vanish(move.target)


def _service_dies(move: Move) -> None:
    for replica in move.world.replicas:
        replica.crash(move.world.random.uniform(0.3, 25.0))


def _service_stops(move: Move) -> None:
    for replica in move.world.replicas:
        if replica.process.alive:
            replica.freeze(move.world.random.choice((5.0, 20.0, 50.0, 65.0)))


def _clock_leaps(move: Move) -> None:
    """Over the whole time that a move is given, or back."""
    faults.set_clock(move.world, move.world.random.choice((-faults.HOUR, -90.0, 90.0, faults.HOUR)))


def _at_the_switch(move: Move) -> None:
    """See `Move`: it comes at a moment of the move's own."""


def _dies(world: World, host: SimulatedMachineHost) -> None:
    if host.up:
        host.power_off("mishap")
        world.loop.outside(world.random.choice((3.0, 15.0, 40.0)), host.boot, "mishap")


_KINDS = {
    "source dies": _source_dies,
    "target dies": _target_dies,
    "both die": _both_die,
    "target silent": _target_silent,
    "service dies": _service_dies,
    "service stops": _service_stops,
    "clock leaps": _clock_leaps,
    "answer lost": _at_the_switch,
    "source stays": _at_the_switch,
}
