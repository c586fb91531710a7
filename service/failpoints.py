"""Named points at which tests kill, freeze or disturb the process; in production each is a look at one variable.

A leaf: anyone may call `failpoint`, and nothing of ours is imported here. Every name stands in NAMES, and at one place
of the program.
"""

from __future__ import annotations

from collections.abc import Callable

NAMES = frozenset({
    # the store: around every transaction
    "transaction.begun", "transaction.worked", "transaction.committed",
    # one change of a group
    "change.loaded", "change.decided", "change.released", "change.told", "change.stored",
    # changes of several groups
    "together.decided", "together.told", "together.stored",
    "intent.stored", "intent.told", "intent.remembered", "intent.committed",
    "claim.checked", "claim.hosts_open", "claim.used", "claim.taken", "claim.picked", "claim.alone",
    "claim.addressed",
    "release.deleted", "release.given_back",
    # a worker
    "worker.started", "worker.renewed", "worker.outcomes", "worker.applied", "worker.starting", "worker.dispatched",
    "worker.planned", "worker.claimed", "worker.resting", "worker.given_back",
    "lease.found", "lease.taken",
    # a call to a host, by the effect that it carries out
    "create.before", "create.after", "resume.before", "resume.after", "observe.before", "observe.after",
    "tell.before", "tell.after", "take.before", "take.after", "quiesce.before", "quiesce.after",
    "shutdown.before", "shutdown.after", "poweroff.before", "poweroff.after", "remove.before", "remove.after",
    "migrate.before", "migrate.after", "abortmove.before", "abortmove.after",
    # a live move
    "move.planned", "move.claimed", "move.sending", "move.answered", "move.stopped", "move.barred", "move.carrying_on",
    "move.clearing", "move.entombed", "move.seen",
    # room that is made by moves
    "room.planned", "room.booked", "room.asking", "room.begun", "room.looked", "room.taken", "room.given_back",
    "room.target", "room.closed", "eviction.due", "eviction.begun",
    # a rebalance
    "rebalance.kept", "rebalance.asking",
    # a roll
    "roll.kept", "roll.looking", "roll.closing", "roll.emptying", "roll.enabling",
    # an update
    "update.planned", "claim.resized",
    # what is seen of a host
    "monitor.probed", "monitor.judged", "monitor.recorded", "monitor.listed", "monitor.silent", "monitor.absent_once",
    "monitor.absent_twice",
    # the sweep
    "sweep.listed", "sweep.compared", "sweep.removing", "sweep.removed", "sweep.entombed", "sweep.releasing",
    "sweep.released", "sweep.clearing", "sweep.deleting_volume",
    # the cleaning of a machine of bare metal
    "clean.beginning", "clean.begun", "clean.creating", "clean.created", "clean.resumed", "clean.removed", "clean.done",
    "clean.failing", "clean.again",
    # a fence by a BMC
    "fence.leading", "fence.asking", "fence.asked", "fence.ordering", "fence.ordered", "fence.sent", "fence.proven",
    "fence.done",
    # an image on its way to a host
    "staging.taking", "staging.sending", "staging.proven",
    # a copy of an image that goes
    "copies.withdrawing", "copies.deleting", "copies.deleted",
    # the feed
    "feed.read",
})  # fmt: skip

_hook: Callable[[str], None] | None = None


def failpoint(name: str) -> None:
    """Nothing, unless a test has put a hook here."""
    if _hook is not None:
        _hook(name)


def install(hook: Callable[[str], None] | None) -> None:
    """Call `hook` with every name that is passed, on whatever thread passes it; None: never again."""
    global _hook
    _hook = hook
