"""Conversion: nothing of a request is lost, every domain value has a name on the wire, events keep their bodies."""

from __future__ import annotations

import contextvars
import dataclasses
import json

import pytest
from corral.v1 import deploy_pb2, group_pb2, limits_pb2, placement_pb2
from google.protobuf.timestamp_pb2 import Timestamp

import placement.model
from service.contract.call import set_caller
from service.contract.convert import events, inventory, requests, specification
from service.domain.cells import NumaPolicy
from service.domain.events import Event, EventKind
from service.domain.groups import GroupStatus, InstanceStatus, PlacementRecord, Seat
from service.domain.roles import UNSET
from service.domain.specs import (
    CreationStrategy,
    DataDisk,
    FailurePolicy,
    GpuRequest,
    GroupSpec,
    HostLabel,
    MachineType,
    MayWait,
    NodeSpec,
    PlacementPolicy,
    PlacementStrategy,
    PreferredGroup,
    RoomMoves,
    Survive,
)
from service.domain.tenants import Caller
from tests.support import ROOT, builders

REFERENCE = (ROOT / "protos" / "REFERENCE.md").read_text()
UUIDS = {letter: letter * 32 for letter in "abcdef"}

NODE = NodeSpec(
    name="n",
    model_service_uuid=UUIDS["a"],
    zone_uuid=UUIDS["b"],
    cpu_num=2,
    memory_size=1 << 30,
    type=MachineType.BARE_METAL,
    is_initial_node=True,
    node_rank=0,
    timeout_ms=5,
    tensor_parallel_size=4,
    cluster_uuid=UUIDS["c"],
    description="d",
    environment_variables={"TOKEN": "secret"},
    startup_parameters="--x 1",
    root_disk_size=1 << 31,
    gpus=(GpuRequest("a100", 2),),
    labels={"k": "v"},
    model_uuid=UUIDS["f"],
    numa_cells=2,
    numa=NumaPolicy.REQUIRED,
    dedicated_cpus=True,
    isolate_emulator_threads=True,
    huge_pages="2MiB",
    data_disks=(DataDisk(1 << 20), DataDisk(0, UUIDS["d"])),
    role="decode",
    start_order=2,
    count=3,
)
SPEC = GroupSpec(
    name="g",
    nodes=(NODE,),
    creation_strategy=CreationStrategy.SEQUENTIAL,
    description="dd",
    system_tags=("s",),
    user_tags=("u",),
    tag_uuids=(UUIDS["d"],),
    failure_policy=FailurePolicy.FAIL_GROUP,
    failure_budget=0,
    placement=PlacementPolicy(
        strategy=PlacementStrategy.CLOSE,
        max_per_host=2,
        max_per_rack=3,
        exclusive_hosts=True,
        affinity_groups=(UUIDS["e"],),
        anti_affinity_groups=(UUIDS["f"],),
        max_per_zone=4,
        min_hosts=5,
        min_racks=6,
        min_zones=7,
        same_rack=True,
        same_zone=True,
        required_host_labels=(HostLabel("disk", ("ssd", "nvme")),),
        preferred_host_labels=(HostLabel("net", ("rdma",), 9),),
        preferred_affinity=(PreferredGroup(UUIDS["a"], 1),),
        preferred_anti_affinity=(PreferredGroup(UUIDS["b"], 8),),
        spare_hosts=10,
        max_racks=11,
        numa=NumaPolicy.REQUIRED,
        survive=Survive(4),
    ),
)
MESSAGE = deploy_pb2.DeployDistributedModelServiceRequest(
    model_services=[
        group_pb2.NodeSpec(
            is_initial_node=True,
            uuid=UUIDS["a"],
            zone_uuid=UUIDS["b"],
            cpu_num=2,
            name="n",
            type="BareMetal",
            memory_size=1 << 30,
            timeout=5,
            node_rank=0,
            tensor_parallel_size=4,
            cluster_uuid=UUIDS["c"],
            description="d",
            environment_variables={"TOKEN": "secret"},
            startup_parameters="--x 1",
            root_disk_size=1 << 31,
            gpus=[group_pb2.GpuRequest(model="a100", count=2)],
            labels={"k": "v"},
            model_uuid=UUIDS["f"],
            numa_cells=2,
            numa_policy=placement_pb2.NUMA_POLICY_REQUIRED,
            dedicated_cpus=True,
            isolate_emulator_threads=True,
            huge_pages="2MiB",
            data_disks=[group_pb2.DataDisk(size=1 << 20), group_pb2.DataDisk(image_uuid=UUIDS["d"])],
            role="decode",
            start_order=2,
            count=3,
        )
    ],
    service_creation_strategy="sequential",
    name="g",
    description="dd",
    system_tags=["s"],
    user_tags=["u"],
    resource_uuid=UUIDS["e"],
    tag_uuids=[UUIDS["d"]],
    request_id="r",
    placement_policy=group_pb2.PlacementPolicy(
        strategy=placement_pb2.PLACEMENT_STRATEGY_CLOSE,
        max_per_host=2,
        max_per_rack=3,
        exclusive_hosts=True,
        affinity_group_uuids=[UUIDS["e"]],
        anti_affinity_group_uuids=[UUIDS["f"]],
        max_per_zone=4,
        min_hosts=5,
        min_racks=6,
        min_zones=7,
        same_rack=True,
        same_zone=True,
        required_host_labels=[group_pb2.HostLabel(key="disk", values=["ssd", "nvme"])],
        preferred_host_labels=[group_pb2.PreferredHostLabel(key="net", values=["rdma"], weight=9)],
        preferred_affinity_groups=[group_pb2.PreferredGroup(group_uuid=UUIDS["a"])],
        preferred_anti_affinity_groups=[group_pb2.PreferredGroup(group_uuid=UUIDS["b"], weight=8)],
        spare_hosts=10,
        max_racks=11,
        numa=placement_pb2.NUMA_POLICY_REQUIRED,
        survive=group_pb2.Survive(racks=1, members=4),
    ),
    failure_policy=group_pb2.FailurePolicy(action=group_pb2.FAILURE_ACTION_FAIL_GROUP, budget=0),
    validate_only=True,
    make_room=group_pb2.MAKE_ROOM_RESTART,
    wait=group_pb2.Wait(for_ms=7),
    expected_end=Timestamp(seconds=5),
    priority=12,
    alternatives=[deploy_pb2.Alternative(model_services=[group_pb2.NodeSpec(uuid=UUIDS["a"], cpu_num=5)])],
)


def test_every_field_of_a_request_arrives() -> None:
    converted = requests.deploy_request(MESSAGE)
    assert converted.spec == SPEC
    assert (converted.resource_uuid, converted.request_id) == (UUIDS["e"], "r")
    assert converted.make_room is RoomMoves.RESTART
    assert (converted.wait, converted.ends_at) == (MayWait(for_ms=7), 5000)
    assert converted.priority == 12
    assert [[n.cpu_num for n in one] for one in converted.alternatives] == [[5]]
    for message in (MESSAGE, MESSAGE.model_services[0], MESSAGE.placement_policy):
        assert {field.name for field, _ in message.ListFields()} == {field.name for field in message.DESCRIPTOR.fields}


def test_what_a_request_leaves_out_is_left_to_the_use_case() -> None:
    bare = deploy_pb2.DeployDistributedModelServiceRequest(
        name="g", service_creation_strategy="parallel", model_services=[group_pb2.NodeSpec(uuid=UUIDS["a"])]
    )
    expected = GroupSpec(name="g", nodes=(NodeSpec("", UUIDS["a"], "", 0, 0, start_order=UNSET),))
    assert requests.deploy_request(bare).spec == expected


def test_positions_follow_the_ranks_or_put_the_initial_node_first() -> None:
    def node(**fields: object) -> group_pb2.NodeSpec:
        return group_pb2.NodeSpec(**fields)  # type: ignore[arg-type]

    assert requests.positions_by_rank([node(), node(is_initial_node=True), node()]) == {0: 1, 1: 0, 2: 2}
    assert requests.positions_by_rank([node(node_rank=2), node(node_rank=0), node(node_rank=1)]) == {2: 0, 0: 1, 1: 2}
    assert requests.path_as_written("model_services[1].uuid", {0: 1, 1: 0}) == "model_services[0].uuid"
    assert requests.path_as_written("model_services[7]", {0: 1}) == "model_services[7]"
    assert requests.path_as_written("name", {0: 1}) == "name"


def test_every_domain_value_has_its_place_on_the_wire() -> None:
    assert set(requests.STRATEGIES) == set(placement_pb2.PlacementStrategy.values())
    assert set(requests.STRATEGIES.values()) == set(PlacementStrategy)
    assert set(inventory._STRATEGIES) == set(PlacementStrategy)
    for strategy, number in inventory._STRATEGIES.items():
        assert requests.STRATEGIES[number] is strategy
    assert set(requests.FAILURE_POLICIES) == set(group_pb2.FailureAction.values())
    assert set(requests.FAILURE_POLICIES.values()) == set(FailurePolicy)
    assert set(inventory._PROOFS) == {proof.value for proof in placement.model.Proof} - {"none"}


def _allowed(message: str, field: str) -> set[str]:
    module = deploy_pb2 if message in deploy_pb2.DESCRIPTOR.message_types_by_name else group_pb2
    described = module.DESCRIPTOR.message_types_by_name[message].fields_by_name[field]
    return set(described.GetOptions().Extensions[limits_pb2.limits].allowed)


def test_the_allowed_words_are_those_of_the_domain() -> None:
    strategies = _allowed("DeployDistributedModelServiceRequest", "service_creation_strategy")
    assert strategies == {strategy.value for strategy in CreationStrategy}
    assert _allowed("NodeSpec", "type") == {kind.value for kind in MachineType}
    stored = {status.value for status in GroupStatus} - {GroupStatus.DELETED.value}
    assert _allowed("ListInstanceGroupsRequest", "statuses") == stored


@pytest.mark.parametrize(
    "status", [*GroupStatus, *InstanceStatus], ids=lambda status: f"{type(status).__name__}.{status}"
)
def test_the_reference_explains_every_status(status: GroupStatus | InstanceStatus) -> None:
    message = "InstanceGroup" if isinstance(status, GroupStatus) else "Instance"
    section = REFERENCE.split(f"### {message}\n", 1)[1].split("\n### ", 1)[0]
    (row,) = [line for line in section.splitlines() if line.startswith("| `status`")]
    assert f"`{status.value}`" in row


def test_the_specification_as_yaml_tells_names_of_variables_and_no_values() -> None:
    text = specification.as_yaml(SPEC)
    assert "secret" not in text
    assert '    environmentVariables:\n      - "TOKEN"\n' in text
    assert f'  - nodeRank: 0\n    isInitialNode: true\n    uuid: "{UUIDS["a"]}"\n' in text
    assert '    gpus:\n      - model: "a100"\n        count: 2\n' in text


def test_the_specification_as_yaml_quotes_whatever_a_caller_wrote() -> None:
    hostile = 'a: b\n- c "d" # e \\ 模型'
    spec = dataclasses.replace(
        SPEC, description=hostile, nodes=(dataclasses.replace(NODE, labels={"- x: y": hostile}),)
    )
    lines = specification.as_yaml(spec).splitlines()
    (description,) = [line for line in lines if line.startswith("description: ")]
    # A double-quoted YAML scalar of one line is read like a JSON string.
    assert json.loads(description.removeprefix("description: ")) == hostile
    (label,) = [line.strip() for line in lines if "- x: y" in line]
    assert label == f"{json.dumps('- x: y')}: {json.dumps(hostile, ensure_ascii=False)}"


def test_an_unreachable_hosts_member_is_unknown_and_keeps_the_rest() -> None:
    member = dataclasses.replace(
        builders.group(1).instances[0],
        status=InstanceStatus.RUNNING,
        unknown_since=5,
        address="fd00::5",
        service_port=80,
    )
    told = inventory.instance(member, lambda _zone: True)
    assert (told.status, told.internal_url, told.url) == ("Unknown", "http://[fd00::5]:80", "http://[fd00::5]:80")
    assert inventory.instance(member, lambda _zone: False).url == ""


RECORD = PlacementRecord(
    assignments=(
        Seat("1" * 32, 1, "b", UUIDS["a"], "host-a", UUIDS["b"], {"vcpu": 1}),
        Seat("0" * 32, 0, "a", UUIDS["a"], "host-a", UUIDS["b"], {"vcpu": 2}),
    ),
    strategy=PlacementStrategy.SPREAD,
    objective=4,
    lower_bound=2,
    upper_bound=4,
    proof="gap",
    stage="greedy",
    duration_ms=1.5,
    claim_tries=3,
)


def test_a_placement_tells_its_gap_and_stands_in_the_order_of_the_ranks() -> None:
    told = inventory.placement(RECORD)
    assert [a.node_rank for a in told.assignments] == [0, 1]
    assert (told.gap, told.proof, told.duration.ToMicroseconds()) == (0.5, placement_pb2.PLACEMENT_PROOF_GAP, 1500)
    assert all(a.instance_uuid for a in told.assignments)
    assert not any(a.instance_uuid for a in inventory.placement(RECORD, planned_only=True).assignments)
    claimed = inventory.claim(RECORD)
    assert ([dict(c.resources) for c in claimed.instances], claimed.attempts) == ([{"vcpu": 2}, {"vcpu": 1}], 3)


@pytest.mark.parametrize("kind", list(EventKind))
def test_every_kind_of_event_tells_its_body_and_none_goes_without(kind: EventKind) -> None:
    group = builders.group(2)
    bare = Event(7, group.uuid, 3, kind, 1_700_000_000_123, "default")
    with pytest.raises(ValueError, match="no body"):
        events.event(bare, lambda _zone: True)
    whole = dataclasses.replace(bare, group=group, instance=group.instances[0], placement=RECORD)
    told = events.event(whole, lambda _zone: True)
    assert (told.WhichOneof("change"), told.revision, told.sequence) == (kind.value, 7, 3)
    assert told.time.ToMilliseconds() == 1_700_000_000_123
    if kind in (EventKind.ACCEPTED, EventKind.GROUP, EventKind.FINAL):
        assert getattr(told, kind.value).revision == 7


def test_what_a_guest_says_of_its_model_is_told_and_one_that_was_never_asked_tells_nothing() -> None:
    told = inventory.instance(
        dataclasses.replace(builders.group(1).instances[0], last_answer_at=5_000, engine_restarts=2), lambda _zone: True
    )
    assert (told.last_answer.seconds, told.engine_restarts) == (5, 2)
    assert not inventory.instance(builders.group(1).instances[0], lambda _zone: True).HasField("last_answer")


def test_an_event_is_made_into_a_message_once_for_all_who_are_told_the_same_of_it() -> None:
    member = dataclasses.replace(builders.group(1).instances[0], zone_uuid="2" * 32, address="192.0.2.7")
    told = Event(7, "1" * 32, 1, EventKind.INSTANCE, 1_000, "default", instance=member)
    reachable: set[str] = set()
    messages = events.EventMessages(reachable.__contains__)
    first = messages.change(told)
    assert first == events.change(told, reachable.__contains__)
    assert messages.change(told) is first

    def by_an_administrator() -> object:
        set_caller(Caller())
        return messages.change(told)

    assert contextvars.copy_context().run(by_an_administrator) is not first  # one who may be told more
    reachable.add("2" * 32)
    later = messages.change(told)
    assert later == events.change(told, reachable.__contains__)
    for revision in range(100):
        messages.change(dataclasses.replace(told, revision=1_000 + revision))
    assert messages.change(told) == later
    assert messages.change(told) is not later  # nothing is kept for ever
