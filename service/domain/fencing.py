"""When a silent hypervisor may be switched off so that its members are placed anew, and what is on record of it. Pure.

Its power is cut for good reason alone: silence of the host may be a fault of the network, of this process, or of many
hosts at once, and then nothing is switched off (ARCHITECTURE mechanism 18).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

SILENT_SECONDS = 60.0
"""So long a host has not answered anybody before it is given up."""
ANSWERED_SECONDS = 10.0
"""A host that answered so lately is a witness that this process and its network are well."""
FEWEST_HOSTS = 3
"""A zone of fewer hosts has no majority that could be a witness."""
MOST_SILENT = 2
"""More hosts than so many that are silent at a time are a fault of the network, or of their power."""
KNOCKS = 3
"""So often in a row, at looks of their own, a host's kernel says nothing before the host is given up."""
ANSWER_LAG_MS = 10_000
"""An answer of a model that came so shortly after a host fell silent may have been made before."""
MOST_IN_AN_HOUR = 2
HOUR_MS = 3_600_000
AGAIN_MS = 1_800_000
"""After a fence that failed its host is left to an operator for so long."""
DEADLINE_MS = 600_000
"""A fence that is not proven in this time has failed; its members stay Unknown."""


class FenceState(StrEnum):
    """Where a fence stands. Ordered and Sending are open; the others are final."""

    ORDERED = "Ordered"  # on record; nothing was sent to the BMC
    SENDING = "Sending"  # the BMC is, or may have been, told to cut the power
    FENCED = "Fenced"  # seen off twice; its members are placed anew
    WITHDRAWN = "Withdrawn"  # it answers again, or nothing was left to be done
    FAILED = "Failed"  # not proven off in its time: nothing is concluded
    REHEARSED = "Rehearsed"  # dry: what would have been done


OPEN = frozenset({FenceState.ORDERED, FenceState.SENDING})


class FenceCause(StrEnum):
    """Who wanted it."""

    OPERATOR = "Operator"
    SILENCE = "Silence"  # the service itself
    DRY = "Dry"


@dataclass(frozen=True, slots=True)
class Fence:
    """One host that is switched off by its BMC. `machine`: the hypervisor's own uuid, as it was while it answered.
    `orders`: how often the BMC was told. Times: ms since the epoch, by the database; 0: not yet."""

    uuid: str
    host: str
    cause: FenceCause
    state: FenceState
    machine: str
    principal: str = ""
    reason: str = ""
    orders: int = 0
    asked_at: int = 0
    ended_at: int = 0


class Rule(StrEnum):
    """Why a silent host is, or is not, switched off."""

    FENCE = "Fence"
    WAITING = "Waiting"  # not silent for long enough
    HEARD = "Heard"  # another replica reaches it
    MAINTENANCE = "Maintenance"
    EMPTY = "Empty"  # no member would be placed anew
    ALIVE = "Alive"  # its kernel answers, or its members are at work: its hypervisor alone says nothing
    UNKNOWN_MACHINE = "UnknownMachine"  # its own uuid was never seen
    OLD_DATABASE = "OldDatabase"
    SMALL_ZONE = "SmallZone"
    NETWORK_FAULT = "NetworkFault"  # too few hosts of its zone answer
    TOO_MANY_SILENT = "TooManySilent"
    ONE_AT_A_TIME = "OneAtATime"
    TOO_OFTEN = "TooOften"
    FAILED_LATELY = "FailedLately"


ALARMING = frozenset({Rule.NETWORK_FAULT, Rule.TOO_MANY_SILENT, Rule.TOO_OFTEN, Rule.FAILED_LATELY})
"""Where fencing stops although a host is silent for long: an operator has to come."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is done about a silent host, and why, in a sentence."""

    rule: Rule
    reason: str


@dataclass(frozen=True, slots=True)
class Sight:
    """A hypervisor as one process sees it. `silent_seconds`: for how long attempts in a row got no answer; 0: it
    answers. `answered_seconds`: how long ago it last answered; None: it never did. `maintenance`: by its operator."""

    host: str
    zone: str
    silent_seconds: float = 0.0
    answered_seconds: float | None = None
    maintenance: bool = False


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What else is known of the host that is judged. `disconnected_seconds`: for how long the database has said,
    without a break, that nobody reaches it; 0: somebody does. `members`: seated on it. `machine`: its own uuid.
    `old_database`: a host has seen what this database does not know. `open_fences`: of other hosts. `lately`: fences
    without an operator's word in the last hour, rehearsals among them where this is one. `failed_ago_ms`: since its
    last fence that failed; None: there is none. `alive`: what was seen of it in the last SILENT_SECONDS, while its
    hypervisor said nothing, that a dead host does not do; empty: nothing. `knocks`: how often in a row its kernel was
    asked and said nothing; None: there is no way to ask it."""

    disconnected_seconds: float
    maintenance: bool
    members: int
    machine: str
    old_database: bool = False
    open_fences: int = 0
    lately: int = 0
    failed_ago_ms: int | None = None
    alive: str = ""
    knocks: int | None = None


def judge(subject: Sight, fleet: Sequence[Sight], known: Circumstances) -> Verdict:
    """Whether the host is switched off now. `fleet`: all hypervisors, this one among them.

    Those under maintenance are no witnesses, of either kind.
    """
    if known.maintenance:
        return Verdict(Rule.MAINTENANCE, "it is under maintenance, which is an operator's work")
    if known.disconnected_seconds <= 0:
        return Verdict(Rule.HEARD, "another replica reaches it")
    if known.old_database:
        return Verdict(Rule.OLD_DATABASE, "a host has seen what this database does not know: everything waits")
    return _by_witnesses(subject, fleet) or _by_itself(subject, known) or _by_rate(subject, known)


def _by_witnesses(subject: Sight, fleet: Sequence[Sight]) -> Verdict | None:
    """Whether it is this host alone, and not the network, that is silent."""
    zone = [one for one in fleet if one.zone == subject.zone and not one.maintenance]
    answering = sum(1 for one in zone if _answers(one))
    if len(zone) < FEWEST_HOSTS:
        return Verdict(
            Rule.SMALL_ZONE, f"its zone has {len(zone)} hosts: {FEWEST_HOSTS} at least are needed to tell a fault of it"
        )
    if 2 * answering <= len(zone):
        return Verdict(
            Rule.NETWORK_FAULT,
            f"only {answering} of the {len(zone)} hosts of its zone answered in the last {ANSWERED_SECONDS:g} s: the "
            "network is at fault, or this replica's way to it",
        )
    silent = sum(1 for one in fleet if one.silent_seconds > 0 and not one.maintenance)
    if silent > MOST_SILENT:
        return Verdict(
            Rule.TOO_MANY_SILENT,
            f"{silent} hosts are silent at a time, more than {MOST_SILENT}: a fault of what they share",
        )
    return None


def _answers(one: Sight) -> bool:
    return one.silent_seconds <= 0 and one.answered_seconds is not None and one.answered_seconds <= ANSWERED_SECONDS


def _by_itself(subject: Sight, known: Circumstances) -> Verdict | None:
    if not known.machine:
        return Verdict(Rule.UNKNOWN_MACHINE, "its own uuid was never seen, by which its BMC would be known")
    if not known.members:
        return Verdict(Rule.EMPTY, "it carries no members that could be placed anew")
    if known.alive:
        return Verdict(Rule.ALIVE, f"its hypervisor is silent, and it is not dead: {known.alive}")
    silent = min(subject.silent_seconds, known.disconnected_seconds)
    if silent < SILENT_SECONDS:
        return Verdict(Rule.WAITING, f"it is silent for less than {SILENT_SECONDS:g} s")
    if known.knocks is not None and known.knocks < KNOCKS:
        return Verdict(Rule.WAITING, f"its kernel was asked {known.knocks} times in a row, of {KNOCKS}")
    if known.failed_ago_ms is not None and known.failed_ago_ms < AGAIN_MS:
        return Verdict(Rule.FAILED_LATELY, "its last fence failed: an operator has to look at it")
    return None


def _by_rate(subject: Sight, known: Circumstances) -> Verdict:
    if known.open_fences:
        return Verdict(Rule.ONE_AT_A_TIME, "another host is being fenced")
    if known.lately >= MOST_IN_AN_HOUR:
        return Verdict(Rule.TOO_OFTEN, f"{known.lately} hosts were fenced in the last hour, which is the most")
    return Verdict(Rule.FENCE, f"it is silent for {SILENT_SECONDS:g} s, and most of its zone answers")
