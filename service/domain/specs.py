"""What a caller asks for, as it is kept: a group's specification, its nodes, its placement policy. Pure data.

Times are integers: milliseconds. Sizes are bytes. Uuids are 32 hex digits without dashes.

Stored as JSON under these very field names: a field is renamed or removed only with a migration (ARCHITECTURE, "Stored
JSON"); classes may move.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from service.domain.catalog import Image
from service.domain.cells import NumaPolicy
from service.domain.fleet import GPU


class MachineType(StrEnum):
    """ZStack's node types that Corral launches."""

    VIRTUAL_MACHINE = "VirtualMachine"
    BARE_METAL = "BareMetal"


class CreationStrategy(StrEnum):
    """Order of the start once all members are created paused."""

    PARALLEL = "parallel"
    SEQUENTIAL = "sequential"


class FailurePolicy(StrEnum):
    """What happens when a member cannot be created, does not come up, or is lost."""

    FAIL_GROUP = "fail_group"
    RESTART_MEMBER = "restart_member"
    REPLACE_MEMBER = "replace_member"


class PlacementStrategy(StrEnum):
    """The planner's objective; the values are the planner's own."""

    LEAST_LOST_VALUE = "least_lost_value"
    FEWEST_HOSTS = "fewest_hosts"
    SPREAD = "spread"
    CLOSE = "close"


class RoomMoves(StrEnum):
    """How members of other groups may be moved so that a group fits."""

    LIVE = "live"  # as they run, or not at all
    RESTART = "restart"  # those that no other host takes as they run are stopped and started elsewhere
    EVICT = "evict"  # as with restart; where no moves do, groups of a lower priority end


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """`count` devices of `model`: the resource `gpu.<model>`. Without a model: of any, and not always of one.

    `numa`: whether they are of the member's own NUMA cell; None: as its group's policy says of the member.
    `same_partition`: whether they are all of one partition of their host.
    """

    model: str
    count: int
    numa: NumaPolicy | None = None
    same_partition: bool = False


@dataclass(frozen=True, slots=True)
class DataDisk:
    """A disk beside the root disk: a copy of `image`'s disk, empty without one. `size`: bytes; 0: the image's own.

    `image_uuid` is what was asked for; `image`, what that was at admission, is what the disk is made of.
    """

    size: int = 0
    image_uuid: str = ""
    image: Image | None = None


def data_disk_serial(position: int) -> str:
    """By which a guest knows its data disks, whatever its kernel calls them: virtio's serial, of 20 characters."""
    return f"corral-data-{position}"


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One requested member. `model_service_uuid` is the contract's `uuid`: a catalogue entry.

    Empty `zone_uuid`: any zone. `cpu_num`, `memory_size`, `root_disk_size`, `timeout_ms` 0: the catalogue's default.
    `model_service_version`: of the entry at admission; the member is made from it however the entry changes.
    `model_uuid`: what it serves; empty: what its entry does.
    `role`: what the member is in its group (`router`, `prefill`, …), empty for none; it starts once all members of a
    lower `start_order` are running. As a face hands it in `start_order` -1 is unset, and `count` says how many alike
    members are meant; each stored one is one.
    `devices`: what the devices of any model are on the host that the member was placed on last.
    `numa_cells`: over how many NUMA cells of its host it is spread; 0: as `numa` says; that None: as its group's policy
    does. `dedicated_cpus`, `isolate_emulator_threads`: whether its processors, and others than QEMU's own threads, are
    its alone; `huge_pages`: a name of `cells.PAGES`, empty: of whatever pages. `data_disks`: beside the root disk.
    """

    name: str
    model_service_uuid: str
    zone_uuid: str
    cpu_num: int
    memory_size: int
    type: MachineType = MachineType.VIRTUAL_MACHINE
    is_initial_node: bool = False
    node_rank: int = -1
    timeout_ms: int = 0
    tensor_parallel_size: int = 0
    cluster_uuid: str = ""
    description: str = ""
    environment_variables: Mapping[str, str] = field(default_factory=dict)
    startup_parameters: str = ""
    root_disk_size: int = 0
    gpus: tuple[GpuRequest, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    model_service_version: int = 0
    model_uuid: str = ""
    role: str = ""
    start_order: int = 0
    count: int = 1
    devices: tuple[GpuRequest, ...] = ()
    numa_cells: int = 0
    numa: NumaPolicy | None = None
    dedicated_cpus: bool = False
    isolate_emulator_threads: bool = False
    huge_pages: str = ""
    data_disks: tuple[DataDisk, ...] = ()

    @property
    def held_gpus(self) -> tuple[GpuRequest, ...]:
        """The devices of a placed member, each with its model; of one that never was, as it asks for them."""
        if not self.devices:
            return self.gpus
        held = {gpu.model: gpu for gpu in self.gpus if gpu.model}
        any_model = next((gpu for gpu in self.gpus if not gpu.model), None)
        for gpu in self.devices:
            known = held.get(gpu.model)
            if known is None:
                held[gpu.model] = replace(gpu, numa=any_model.numa if any_model else None)
            else:
                held[gpu.model] = replace(known, count=known.count + gpu.count)
        return tuple(held.values())


def on_host(node: NodeSpec, claimed: Mapping[str, int]) -> NodeSpec:
    """The node as a host has it that claimed these amounts for it: its devices of any model are those of the claim."""
    if all(gpu.model for gpu in node.gpus):
        return node
    left = {name.removeprefix(GPU): amount for name, amount in claimed.items() if name.startswith(GPU)}
    for gpu in node.gpus:
        if gpu.model:
            left[gpu.model] = left.get(gpu.model, 0) - gpu.count
    return replace(node, devices=tuple(GpuRequest(model, left[model]) for model in sorted(left) if left[model] > 0))


@dataclass(frozen=True, slots=True)
class HostLabel:
    """A label of hosts: one of these values will do. `weight`: of a wish, what each member elsewhere counts."""

    key: str
    values: tuple[str, ...]
    weight: int = 1


@dataclass(frozen=True, slots=True)
class PreferredGroup:
    """Another group that it is wished to be near to or apart from; each host where it is not so counts `weight`."""

    group_uuid: str
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Survive:
    """Whichever rack is lost, so many `members` of the group are left."""

    members: int

    def most_in_a_rack(self, size: int) -> int:
        """How many of a group of `size` members may be in one rack."""
        return size - self.members


@dataclass(frozen=True, slots=True)
class PlacementPolicy:
    """How the gang is placed, now and whenever a member of it is placed again.

    `anti_affinity_groups` / `affinity_groups`: uuids of groups to keep away from / near to. `max_per_host`,
    `max_per_rack`, `max_per_zone`: 0 = no limit. `exclusive_hosts`: no other group's members on the chosen hosts.
    `max_racks`: in how many different ones the members are at most; 0 = any number.
    `min_hosts`, `min_racks`, `min_zones`: in how many different ones the members are at least; 0 = any number.
    `spare_hosts`: how many empty hosts a placement leaves at least. `numa`: whether each member is pinned to one cell
    of its host. `survive`: how many members the loss of a rack leaves. What is `preferred_` is a wish: the sum of the
    missed ones' weights is made small before the strategy's objective is.
    """

    strategy: PlacementStrategy = PlacementStrategy.LEAST_LOST_VALUE
    max_per_host: int = 0
    max_per_rack: int = 0
    exclusive_hosts: bool = False
    affinity_groups: tuple[str, ...] = ()
    anti_affinity_groups: tuple[str, ...] = ()
    max_per_zone: int = 0
    min_hosts: int = 0
    min_racks: int = 0
    min_zones: int = 0
    same_rack: bool = False
    same_zone: bool = False
    required_host_labels: tuple[HostLabel, ...] = ()
    preferred_host_labels: tuple[HostLabel, ...] = ()
    preferred_affinity: tuple[PreferredGroup, ...] = ()
    preferred_anti_affinity: tuple[PreferredGroup, ...] = ()
    spare_hosts: int = 0
    max_racks: int = 0
    numa: NumaPolicy = NumaPolicy.NONE
    survive: Survive | None = None


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """A whole request. As a face hands it in, what the caller left out is 0 or "" (`node_rank`: -1).

    As `app` stores it, all is filled in: ranks are 0..n-1, the nodes stand in that order, rank 0 is the initial node,
    and sizes are the catalogue's where the caller gave none. `workers_first`, `model_uuid`, `model_service_type`,
    `support_metrics`: copied from the initial node's catalogue entry by `app`, `scope` (`member`, `head`, `group`:
    what starts again after a fault of one member) from its preset; empty in groups of a version that did not know it.
    """

    name: str
    nodes: tuple[NodeSpec, ...]
    creation_strategy: CreationStrategy = CreationStrategy.PARALLEL
    description: str = ""
    system_tags: tuple[str, ...] = ()
    user_tags: tuple[str, ...] = ()
    tag_uuids: tuple[str, ...] = ()
    failure_policy: FailurePolicy = FailurePolicy.REPLACE_MEMBER
    failure_budget: int = 3
    placement: PlacementPolicy = field(default_factory=PlacementPolicy)
    deadline_ms: int = 0
    workers_first: bool = False
    model_uuid: str = ""
    model_service_type: str = ""
    support_metrics: tuple[str, ...] = ()
    scope: str = ""

    @property
    def tells(self) -> bool:
        """Whether members that run are told of a new start, because their engines cannot do without each other."""
        return self.scope not in ("", "member")


@dataclass(frozen=True, slots=True)
class MayWait:
    """How long a deploy waits for hosts where it does not fit: `for_ms`, or `until` a time (ms); the other is 0."""

    for_ms: int = 0
    until: int = 0


@dataclass(frozen=True, slots=True)
class DeployRequest:
    """A deploy as the faces hand it to `app`. Without `resource_uuid` one is made; without `request_id` a repeat is
    another deploy. `make_room`: how others may be moved for it; None: not at all. `wait`: None: it does not.
    `ends_at`: ms, by when the caller says that it will be gone; 0: not said. `priority`: in line; the higher goes
    first. `alternatives`: the nodes of other gangs that would do as well, the best first."""

    spec: GroupSpec
    resource_uuid: str = ""
    request_id: str = ""
    make_room: RoomMoves | None = None
    wait: MayWait | None = None
    ends_at: int = 0
    priority: int = 0
    alternatives: tuple[tuple[NodeSpec, ...], ...] = ()
