"""Facts: what the lifecycle is told. Pure data; nouns, never commands."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from service.domain.groups import Failure, Instance, KeptRoom, PlacementRecord, RoomPlan, RoomWish, Update
from service.domain.leaving import Eviction
from service.domain.shapes import PassedOver
from service.domain.staging import Staging


class Observation(StrEnum):
    """What was learned about one member's machine."""

    DISPATCHED = "dispatched"  # we are about to send the first create
    NOT_SENT = "not_sent"  # the create certainly never left
    PAUSED = "paused"
    RELAPSED = "relapsed"  # let run, and paused again before it was looked at
    EXECUTING = "executing"
    READY = "ready"  # executing, and the guest says that it answers
    UNREADY = "unready"  # executing, and a guest that was ready says that it does not serve, or has fallen silent
    GIVEN_UP = "given_up"  # executing, and its guest starts its engine no more: it never lasted
    HALTED = "halted"  # there, not executing: shut off or crashed
    GONE = "gone"  # two complete listings without it (ARCHITECTURE mechanism 7)
    REJECTED = "rejected"  # the host cannot do it
    BURNT = "burnt"  # listed, never executed, and the host can neither run nor remove it: the uuid is used up there
    EXPIRED = "expired"  # the deadline of its status passed


@dataclass(frozen=True, slots=True)
class Placed:
    """Claims of these seats, one for every pending member, are being committed with this change."""

    placement: PlacementRecord


@dataclass(frozen=True, slots=True)
class NotPlaced:
    """The pending members get no seats: the planner has proven that they do not fit, or a quota forbids it.

    `looked`, `position`, `starts_at`, `kept`: of a group that may wait, as `Waiting` has them. `beside`: of the second
    gang.
    """

    failure: Failure
    looked: int = 0
    position: int = 0
    starts_at: int = 0
    kept: KeptRoom | None = None
    beside: bool = False


@dataclass(frozen=True, slots=True)
class ShapeChosen:
    """Of the gangs that the deploy named this one fits now, and those before it do not (`passed_over`)."""

    number: int
    passed_over: tuple[PassedOver, ...]


@dataclass(frozen=True, slots=True)
class NotDecided:
    """The planner had no answer in its time, neither yes nor no, or may not be asked yet: that is done again.

    `reason`: why not, safe for callers; empty where it was asked. `beside`: of the second gang.
    """

    reason: str = ""
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Observed:
    """One member's machine was observed. A fact about an older attempt is ignored. `reason` is safe for callers.

    `detail`: what the host itself said of it, without secrets, for those who see hosts.
    `barred`, of one that is gone: a tombstone stands in its place, so that no create of the attempt makes it again.
    Of a guest that reports: `epoch`, the start of the group that it knows (0: it says nothing of itself);
    `answered_ms`, how long ago the model answered rightly, -1: never; `engine_restarts`. `silent`: it has reported,
    runs, and says nothing any more; `unheard`: what it says reaches nobody here; `clash`: the
    hardware address of another machine that answers for the member's address; `boot_id`: which boot of its own it is
    in, empty where it does not say so now; `endpoint`: which address beside its own it has, None: it takes none;
    `reset_ms`: how long ago its host told of a reset, -1: not lately.
    `last_lines`: what its machine said last, where it does not serve (`log_text.kept`). `staging`: how far the weights
    have come that it fetches now; `fault`: one of `domain.staging.FAULTS`, where it can never start its engine.
    """

    instance_uuid: str
    attempt: int
    observation: Observation
    reason: str = ""
    address: str = ""
    barred: bool = False
    epoch: int = 0
    answered_ms: int = -1
    engine_restarts: int = 0
    silent: bool = False
    unheard: bool = False
    clash: str = ""
    boot_id: str = ""
    endpoint: str | None = None
    reset_ms: int = -1
    detail: str = ""
    last_lines: str = ""
    staging: Staging | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Staged:
    """The image of a member that is being created is on its way to its host, and has come so far."""

    instance_uuid: str
    attempt: int
    staging: Staging


@dataclass(frozen=True, slots=True)
class LastLines:
    """What the machine of a member said last (`log_text.kept`) whose time to become ready is over; `said`: what its
    guest says of itself now, safe for callers."""

    instance_uuid: str
    attempt: int
    text: str
    said: str = ""


@dataclass(frozen=True, slots=True)
class HostSilent:
    """A host does not answer: its members are unknown, neither failed nor gone."""

    host_uuid: str


@dataclass(frozen=True, slots=True)
class HostAnswers:
    """A host answers again; its members' states are what is observed next."""

    host_uuid: str


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The guest was asked to shut down."""

    instance_uuid: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Quiesced:
    """The guest that had the group's address answers nobody any more, or cannot be asked to end its answers."""

    instance_uuid: str
    attempt: int


@dataclass(frozen=True, slots=True)
class DeleteRequested:
    """The caller wants the group gone. Wins over everything else."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The caller wants the group powered off, seats kept; with `restart` it is started again afterwards."""

    restart: bool = False


@dataclass(frozen=True, slots=True)
class StartRequested:
    """The caller wants a stopped group up again."""


@dataclass(frozen=True, slots=True)
class ScaleRequested:
    """The caller wants members added and removed, all or nothing. `added`: pending members with free ranks.

    `room`: what may be moved for them.
    """

    added: tuple[Instance, ...]
    removed: frozenset[str]
    room: RoomWish | None = None


@dataclass(frozen=True, slots=True)
class UpdateRequested:
    """The caller wants the group to run something else. `added`: the pending members of a second gang, of a surge."""

    update: Update
    added: tuple[Instance, ...] = ()


@dataclass(frozen=True, slots=True)
class TakeBackRequested:
    """The caller wants the update that goes on called off."""


@dataclass(frozen=True, slots=True)
class Evicted:
    """The operator empties a host: its members leave it and are placed elsewhere. That is no failure of theirs.

    `live`: those that run are moved as they run, where that is possible.
    """

    host_uuid: str
    live: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """The operator does not empty the host any more: members that have not begun to leave it stay."""

    host_uuid: str


@dataclass(frozen=True, slots=True)
class MoveClaimed:
    """Capacity for a member's live move to this host is being committed with this change; `cells`: as of a seat."""

    instance_uuid: str
    attempt: int
    host_uuid: str
    host_name: str
    cells: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class MoveImpossible:
    """No host takes the member live, or its move was refused or broke off. `reason` is safe for callers; `detail`: what
    the host itself said, without secrets, for those who see hosts."""

    instance_uuid: str
    attempt: int
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class MoveAborted:
    """The target does not have the member and cannot get it any more. `absent`: that was seen there."""

    instance_uuid: str
    attempt: int
    absent: bool


@dataclass(frozen=True, slots=True)
class Moved:
    """The member was seen executing on its target, and gone from where it was."""

    instance_uuid: str
    attempt: int


@dataclass(frozen=True, slots=True)
class RoomBegun:
    """Members of other groups are asked to leave their hosts so that the group's fit; all seats are being booked with
    this change."""

    plan: RoomPlan


@dataclass(frozen=True, slots=True)
class RoomSeen:
    """These members have left their hosts, which makes room for the group."""

    arrived: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoomCalledOff:
    """The room cannot be made as it was planned; what was booked for the group is given back with this change.

    `refused`: members that stayed. `reason` is safe for callers.
    """

    reason: str
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RoomAsked:
    """The member is to leave its host for a seat that is booked for it with this change. `live`: as it runs; `why`: in
    words for its callers."""

    instance_uuid: str
    attempt: int
    room: str
    order: int
    live: bool
    why: str = "it makes room for another group"


@dataclass(frozen=True, slots=True)
class EvictionAsked:
    """The group is to end so that another one fits; what it leaves is booked with this change."""

    eviction: Eviction


@dataclass(frozen=True, slots=True)
class EvictionBegun:
    """Its notice is over, and the room is still wanted: its members leave their hosts."""

    room: str


@dataclass(frozen=True, slots=True)
class RoomClosed:
    """Nobody wants this room any more: members that have not left their hosts stay."""

    room: str


@dataclass(frozen=True, slots=True)
class RoomRefused:
    """These members, which were stopped to make room, cannot take the seats that were booked for them."""

    instances: frozenset[str]


@dataclass(frozen=True, slots=True)
class Fenced:
    """The operator states that a host is powered off: what it carried does not run any more."""

    host_uuid: str


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time passed; deadlines are looked at, and times that cannot be so far ahead are held to the present."""


@dataclass(frozen=True, slots=True)
class ClockLeapt:
    """The database's clock was set ahead by so many ms, while no more time than usual passed."""

    by_ms: int


@dataclass(frozen=True, slots=True)
class TimeLost:
    """The database was an older copy, and goes on by its operator's word: what was over by the time that it lost was
    never waited for."""


Intent = DeleteRequested | StopRequested | StartRequested | ScaleRequested | UpdateRequested | TakeBackRequested
MoveFact = MoveClaimed | MoveImpossible | MoveAborted | Moved
RoomFact = RoomBegun | RoomSeen | RoomCalledOff | RoomAsked | RoomClosed | RoomRefused
EvictionFact = EvictionAsked | EvictionBegun
Fact = (
    Placed
    | NotPlaced
    | NotDecided
    | ShapeChosen
    | Observed
    | LastLines
    | Staged
    | HostSilent
    | HostAnswers
    | StopAsked
    | Quiesced
    | Ticked
    | ClockLeapt
    | TimeLost
    | Evicted
    | Kept
    | Fenced
    | MoveFact
    | RoomFact
    | EvictionFact
    | Intent
)
