"""Instance groups as they are stored: groups and members, where they are, seats, and room in the making. Pure data.

Times are integers: milliseconds since the Unix epoch, UTC. Sizes are bytes. Uuids are 32 hex digits without dashes.

Stored as JSON under these very field names: a field is renamed or removed only with a migration (ARCHITECTURE, "Stored
JSON"); classes may move.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from placement.model import Explanation
from service.domain.causes import Explained
from service.domain.cells import with_cells
from service.domain.devices import HeldDevice
from service.domain.endpoints import Endpoint
from service.domain.leaving import Eviction, RoomEviction, RoomMove
from service.domain.shapes import PassedOver, Shapes
from service.domain.specs import GroupSpec, MayWait, NodeSpec, PlacementStrategy, RoomMoves
from service.domain.staging import Staging
from service.domain.updates import UpdateMode, UpdateStage


class GroupStatus(StrEnum):
    """What callers see; ZStack's own are the first six but `Waiting`, which is `Deploying` there."""

    WAITING = "Waiting"  # for hosts
    DEPLOYING = "Deploying"
    CONFIG_SETTING_UP = "ConfigSettingUp"
    SERVICE_BOOTING_UP = "ServiceBootingUp"
    STARTING = "Starting"
    RUNNING = "Running"
    UNKNOWN = "Unknown"
    STOPPING = "Stopping"
    STOPPED = "Stopped"
    DEGRADED = "Degraded"
    DELETING = "Deleting"
    FAILED = "Failed"
    DELETED = "Deleted"  # only ever seen as the last message of a stream


class GroupPhase(StrEnum):
    """Where the control plane stands with a group. See `lifecycle` for the transitions."""

    PLANNING = "planning"  # some member has no claim
    CREATING = "creating"  # all claimed; members are being created paused
    BOOTING = "booting"  # GO is committed; members are resumed and come up
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    CLEANING = "cleaning"  # failed; everything is being removed
    FAILED = "failed"  # final
    DELETING = "deleting"
    DELETED = "deleted"  # final


class InstanceStatus(StrEnum):
    """Where one member stands; shown to callers as it is."""

    PENDING = "Pending"  # no host
    CLAIMED = "Claimed"  # a host's capacity is committed; nothing was sent there since, but for a start before this one
    CREATING = "Creating"  # a create may have been sent
    CREATED = "Created"  # seen on the host, paused
    BOOTING = "Booting"  # let run, not ready yet
    RUNNING = "Running"  # ready: it answers
    STOPPING = "Stopping"
    STOPPED = "Stopped"  # powered off, definition, volumes and claim kept
    FAILING = "Failing"  # did not work out; being removed, then restarted, replaced or given up
    EVICTING = "Evicting"  # leaves its host, which is being emptied; is placed again once it was seen gone
    REMOVING = "Removing"  # being removed for good
    REMOVED = "Removed"  # seen absent, claim released


class MoveStage(StrEnum):
    """Where a member stands that leaves its host while it keeps running."""

    NONE = ""
    WANTED = "wanted"  # its host is being emptied, or it makes room; no other host is claimed for it yet
    GOING = "going"  # claimed on both hosts; the move may have begun
    ABORTING = "aborting"  # given up; the target must be without it before anything else may be done


@dataclass(frozen=True, slots=True)
class Instance(Explained):
    """One member as stored. `attempt` rises when the member is placed anew; `restarts` counts starts on the host.

    `deadline_at`: of the present status (boot, or the grace of a stop); 0 = none. `was_resumed`: this attempt may have
    executed guest code. `unknown_since`: since when its host does not answer; 0 = it does. `joining`, `leaving`: of a
    scaling in progress. `beside`: of the group's second gang, while an update goes on (`Update.gang`).
    `stop_asked`: the guest was asked to stop, or (FAILING) the failure has been counted.
    `cells`: the NUMA cells of its host that it is pinned to, `target_cells` of the host that it is moved to live; none:
    it floats. `devices`: those of its host that it has claimed and its machine is given.
    `move`: of a live move from `host_uuid` to `target_host_uuid`, which is empty unless capacity is claimed there;
    `move_deadline_at`: it is given up then; 0 = it has not begun. `moved_at`: when it last came to another host, by
    a live move or as it was placed anew; 0 = never. `room`: the room that it makes for another group by leaving its
    host, as the `room_order`th of that room's moves; empty for none.
    `pauses`: how often its hypervisor stopped it in the middle of its work, the last time at `paused_at`; 0 = never.
    `told_epoch`: the newest start of the group that its guest says it knows; 0 = it has said nothing.
    `last_answer_at`: when the model last answered its canary rightly; 0 = never. `engine_restarts`: how often its
    supervisor has started the engine again in this run of the machine. `silent_since`: since when a guest that reported
    says nothing, while its host shows it running; 0 = it reports, or never has. `guest_boot`: which boot its
    guest said last that it is in; empty = it has not said. `endpoint`: the group's address, where it is called there;
    `holds`: what its guest says that it has beside its own; None: it takes none. `last_lines`: what its machine said
    last when it failed the last time, without values of secrets (`log_text.kept`).
    `staging`: of one that is being created, how far its image has come that its host does not have yet.
    """

    uuid: str
    group_uuid: str
    spec: NodeSpec
    status: InstanceStatus = InstanceStatus.PENDING
    reason: str = ""
    host_uuid: str = ""
    host_name: str = ""
    zone_uuid: str = ""
    machine_uuid: str = ""
    service_port: int = 0
    attempt: int = 1
    restarts: int = 0
    address: str = ""
    mac: str = ""
    unknown_since: int = 0
    deadline_at: int = 0
    boot_timeout_ms: int = 300_000
    stop_grace_ms: int = 5_000
    was_resumed: bool = False
    stop_asked: bool = False
    joining: bool = False
    leaving: bool = False
    beside: bool = False
    move: MoveStage = MoveStage.NONE
    target_host_uuid: str = ""
    target_host_name: str = ""
    move_deadline_at: int = 0
    moved_at: int = 0
    room: str = ""
    room_order: int = 0
    pauses: int = 0
    paused_at: int = 0
    told_epoch: int = 0
    last_answer_at: int = 0
    engine_restarts: int = 0
    silent_since: int = 0
    guest_boot: str = ""
    endpoint: str = ""
    holds: str | None = None
    cells: tuple[int, ...] = ()
    target_cells: tuple[int, ...] = ()
    devices: tuple[HeldDevice, ...] = ()
    last_lines: str = ""
    staging: Staging | None = None
    created_at: int = 0
    updated_at: int = 0
    cause: str = ""
    cause_of: str = ""

    @property
    def rank(self) -> int:
        """The member's rank; 0 is the initial node."""
        return self.spec.node_rank


@dataclass(frozen=True, slots=True)
class AddressShortage:
    """Which zone's pools had how many free addresses for how many that were asked for."""

    zone: str
    pool: str
    asked: int
    free: int


@dataclass(frozen=True, slots=True)
class QuotaViolation:
    """Whose quota of which resource would be exceeded, and by what sum. Amounts in the resource's own unit.

    `held`: how much of the sum there was before; None: not known.
    """

    subject: str
    resource: str
    limit: int
    requested: int
    held: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a group failed. `code` is an error `reason` (errors.py); `explanation` is the planner's; `addresses`: where
    that is what there was too little of."""

    code: str
    message: str
    explanation: Explanation | None = None
    quota: QuotaViolation | None = None
    addresses: AddressShortage | None = None


@dataclass(frozen=True, slots=True)
class Seat:
    """One member's place on a host, from the plan to the claim. `resources`: the vector that it claims there (`vcpu`
    count, `memory` bytes, …); `cells`: NUMA cells of the host that it is pinned to, of which it claims its part as
    well; `attempt`: of the member, 0 in records of a version that did not keep it.

    `machine_uuid`, the `devices` that it gets, and `address` and `mac` where the zone plans addresses, are set by the
    claim.
    """

    instance_uuid: str
    rank: int
    name: str
    host_uuid: str
    host_name: str
    zone_uuid: str
    resources: Mapping[str, int]
    attempt: int = 0
    machine_uuid: str = ""
    address: str = ""
    mac: str = ""
    cells: tuple[int, ...] = ()
    devices: tuple[HeldDevice, ...] = ()

    @property
    def claimed(self) -> dict[str, int]:
        """All that it claims: of the host, and of its cells."""
        return with_cells(self.resources, self.cells)


@dataclass(frozen=True, slots=True)
class PlacementRecord:
    """The Decision that the present claims came from: the members it placed and how good it is proven to be.

    `strategy` defines the objective; `proof`: optimal | gap. `duration_ms`: of the planning. `penalty`: the weight of
    the wishes that it misses, `penalty_bound`: what no placement is below. `alternative`, `passed_over`: which of the
    deploy's gangs that is, and why not one before it.
    """

    assignments: tuple[Seat, ...]
    strategy: PlacementStrategy
    objective: float
    lower_bound: float
    upper_bound: float
    proof: str
    stage: str
    duration_ms: float = 0.0
    claim_tries: int = 1
    penalty: int = 0
    penalty_bound: int = 0
    alternative: int = 0
    passed_over: tuple[PassedOver, ...] = ()


@dataclass(frozen=True, slots=True)
class RoomPlan:
    """Room in the making. `placement`: where the group goes once the moves are made; `fellows`: where its other members
    were when that was planned, host uuids by theirs. `patience_ms`: how long it may take.

    `moved`, `lower_bound`: bytes of memory; `proof`: optimal | gap. `arrived`: members that have left their hosts.
    `evictions`: groups that end where moves alone are not enough; `moved` and `lower_bound` are of these alone then.
    """

    uuid: str
    moves: tuple[RoomMove, ...]
    placement: PlacementRecord
    fellows: Mapping[str, str]
    moved: int
    lower_bound: int
    proof: str
    patience_ms: int
    arrived: tuple[str, ...] = ()
    evictions: tuple[RoomEviction, ...] = ()


@dataclass(frozen=True, slots=True)
class RoomWish:
    """Members of other groups may be moved so that this one fits; those of other projects with `everybody` alone.

    `tries`: how often that was begun; `refused`: members, and groups, that did not go. `plan`: what is going on.
    `refusals`: how often it was called off because somebody did not go; until `asks_again_at` (ms) a group that waits
    is planned around those.
    """

    moves: RoomMoves = RoomMoves.LIVE
    everybody: bool = False
    tries: int = 0
    refused: tuple[str, ...] = ()
    plan: RoomPlan | None = None
    refusals: int = 0
    asks_again_at: int = 0


@dataclass(frozen=True, slots=True)
class KeptSeat:
    """A seat that nobody behind a group in line may take from its member; `cells` as of a Seat."""

    instance_uuid: str
    host_uuid: str
    cells: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class KeptRoom:
    """Where the first in line will go. Until `starts_at` (ms), when all who go by then are gone, others may use it.

    `starts_at` 0: nobody has said when he goes. Then it is kept because the group has waited for long, and what
    becomes free there is left free.
    """

    seats: tuple[KeptSeat, ...]
    starts_at: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long a group may wait for hosts where it does not fit now, and how that stands.

    `until`: it is given up then; `length`: ms, as far ahead as that is ever set; 0: it is a time of the caller's own.
    `since`: when it was first seen not to fit; 0 = it was not so far. Of the last look: `failure`, why it did not fit,
    which is told where it is given up; `looked`: how often room had been given back by then (`store/waiting.py`);
    `looked_at`: when that was; `position`: among those that wait, from 1; `starts_at`: by when the ends that running
    groups have stated make room for it, proven; 0 = not known; `promised_at`: the first such time that it was told;
    `kept`: the room that those behind it leave it.
    """

    until: int
    length: int = 0
    since: int = 0
    looked: int = 0
    looked_at: int = 0
    position: int = 0
    starts_at: int = 0
    promised_at: int = 0
    kept: KeptRoom | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Gang:
    """What a second gang has of its own beside its members (`Instance.beside`). Each field as in Group."""

    spec: GroupSpec
    phase: GroupPhase = GroupPhase.PLANNING
    status: GroupStatus = GroupStatus.DEPLOYING
    reason: str = ""
    failure: Failure | None = None
    placement: PlacementRecord | None = None
    start_epoch: int = 0
    starts: int = 0
    go: bool = False
    served: bool = False
    failures: int = 0
    retry_at: int = 0
    running_since: int = 0
    restarting: bool = False
    excluded_hosts: tuple[str, ...] = ()
    deadline_at: int = 0
    cause: str = ""
    cause_of: str = ""


@dataclass(frozen=True, slots=True)
class Update:
    """The newest change of what a group runs; the record by which it goes on after a crash, and is taken back.

    `number`: from 1, of the group's updates. `before`, `after`: what ran, and what is to run. `gang`: the second one,
    while there is one. `needs`: what it takes beside what the group has. `reason`, `failure`: why it was taken back,
    and what failed. `undoes`: the number of the update that this one takes back.
    """

    number: int
    mode: UpdateMode
    stage: UpdateStage
    before: GroupSpec
    after: GroupSpec
    gang: Gang | None = None
    needs: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    failure: Failure | None = None
    undoes: int = 0
    began_at: int = 0
    ended_at: int = 0

    @property
    def active(self) -> bool:
        """Whether it goes on."""
        return self.stage not in (UpdateStage.DONE, UpdateStage.TAKEN_BACK)


@dataclass(frozen=True, slots=True)
class Group(Explained):
    """One instance group as stored, with its members in rank order.

    `sequence`: number of the newest event (from 1, without gaps). `version`: rises with every write; etags are made
    from it.
    `revision`: of the newest event.
    `go`: GO is committed for the present start; `starts`: how often it was. `start_epoch`: rises at each GO, and
    whenever members of a group that runs are made anew while its engines cannot do without each other. `served`: was
    Running since GO. `failures`: since it last ran for a while; `retry_at`: nothing is placed or sent before;
    `running_since`: 0 = it does not run.
    `restarting`: the stop in progress is the first half of a restart. `epoch`: of the control plane's lease.
    `room`: while its members wait for hosts, what may be moved for them. `waiting`: until it has hosts for the first
    time, how long it may wait for them; None: not at all. `ends_at`: by when its caller says that it will be gone;
    nothing is done then; 0 = not said. `priority`: in line; the higher goes first. `update`: the newest change of what
    it runs. `may_wait`: how long it was deployed to wait for hosts, which it may again where it is evicted; `eviction`:
    it is to end for another group, or ends. `shapes`: where its deploy named alternatives. `endpoint`: once a surge has
    handed on its first head's address; until then it is that head's like any other.
    """

    uuid: str
    spec: GroupSpec
    phase: GroupPhase = GroupPhase.PLANNING
    status: GroupStatus = GroupStatus.DEPLOYING
    reason: str = ""
    failure: Failure | None = None
    placement: PlacementRecord | None = None
    room: RoomWish | None = None
    waiting: Waiting | None = None
    ends_at: int = 0
    priority: int = 0
    update: Update | None = None
    may_wait: MayWait | None = None
    eviction: Eviction | None = None
    shapes: Shapes | None = None
    endpoint: Endpoint | None = None
    project: str = "default"
    principal: str = "anonymous"
    instances: tuple[Instance, ...] = ()
    start_epoch: int = 0
    starts: int = 0
    go: bool = False
    served: bool = False
    failures: int = 0
    retry_at: int = 0
    running_since: int = 0
    restarting: bool = False
    excluded_hosts: tuple[str, ...] = ()
    sequence: int = 0
    version: int = 0
    revision: int = 0
    epoch: int = 0
    deadline_at: int = 0
    created_at: int = 0
    updated_at: int = 0
    cause: str = ""
    cause_of: str = ""
    others: tuple[Instance, ...] = field(default=(), compare=False, repr=False)  # of one gang alone: the other's

    @property
    def updating(self) -> bool:
        """Whether an update goes on."""
        return self.update is not None and self.update.active

    @property
    def serving(self) -> tuple[Instance, ...]:
        """The members of the gang whose answers the group's are, in rank order."""
        return tuple(m for m in self.instances if not m.beside)

    def instance(self, uuid: str) -> Instance:
        """The member with this uuid. Raises KeyError."""
        for member in self.instances:
            if member.uuid == uuid:
                return member
        raise KeyError(uuid)
