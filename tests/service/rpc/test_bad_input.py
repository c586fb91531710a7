"""Bad input, one row each: a typed error that names the field, and nothing is left behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, group_pb2
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

from service.contract.frame import CallLimits
from tests.service.rpc import lab
from tests.service.rpc.lab import deploy, node

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
MIB = 1 << 20
PIB = 1 << 50
NOWHERE = "f" * 32


@dataclass(frozen=True)
class Row:
    """A request and the code, reason and path that it must be answered with."""

    name: str
    request: deploy_pb2.DeployDistributedModelServiceRequest
    path: str
    says: str = ""
    code: grpc.StatusCode = INVALID
    reason: str = "INVALID_ARGUMENT"


def of_node(name: str, path: str, says: str = "", /, **fields: Any) -> Row:
    """A row whose second node is wrong."""
    request = deploy(model_services=[node(), node(**fields)])
    return Row(name, request, f"model_services[1].{path}", says)


def of_group(name: str, path: str, says: str = "", /, **fields: Any) -> Row:
    """A row whose group is wrong."""
    return Row(name, deploy(**fields), path, says)


HOSTILE_NAMES = {
    "vertical tab": "a\x0bb",
    "nul": "a\x00b",
    "escape": "a\x1b[31mb",
    "delete": "a\x7fb",
    "c1 control": "a\x9bb",
    "newline": "a\nb",
    "carriage return": "a\rb",
    "tab": "a\tb",
    "next line": "a\x85b",
    "line separator": "a\u2028b",
    "paragraph separator": "a\u2029b",
    "non-character": "a\ufffeb",
}

TABLE = [
    of_group("no nodes", "model_services", "required", model_services=[]),
    of_group("10,000 nodes", "model_services", "1024", model_services=[{"uuid": lab.ENTRY}] * 10_000),
    of_group("1,025 nodes", "model_services", "1024", model_services=[{"uuid": lab.ENTRY}] * 1025),
    of_group("no strategy", "service_creation_strategy", "required", service_creation_strategy=""),
    of_group("unknown strategy", "service_creation_strategy", "parallel, sequential", service_creation_strategy="x"),
    of_group("strategy in capitals", "service_creation_strategy", "parallel", service_creation_strategy="Parallel"),
    of_group("no name", "name", "required", name=""),
    of_group("blank name", "name", "required", name=" \t "),
    of_group("1 MiB name", "name", "255", name="n" * MIB),
    of_group("256 characters", "name", "255", name="n" * 256),
    *(of_group(f"name with {what}", "name", "", name=text) for what, text in HOSTILE_NAMES.items()),
    *(of_node(f"node name with {what}", "name", "", name=text) for what, text in HOSTILE_NAMES.items()),
    of_node("1 MiB node name", "name", "255", name="n" * MIB),
    of_group("1 MiB description", "description", "2048", description="d" * MIB),
    of_group("description with nul", "description", "U+0000", description="a\x00b"),
    of_node("no catalogue entry", "uuid", "required", uuid=""),
    of_node("malformed uuid", "uuid", "32 hexadecimal", uuid="not-a-uuid"),
    of_node("uuid one digit short", "uuid", "32 hexadecimal", uuid="f" * 31),
    of_node("uuid with path", "uuid", "32 hexadecimal", uuid="../../etc/passwd"),
    of_node("malformed zone", "zone_uuid", "32 hexadecimal", zone_uuid="zone-1"),
    of_node("zero CPUs", "cpu_num", "from 1 to 4096", cpu_num=0),
    of_node("negative CPUs", "cpu_num", "from 1 to 4096", cpu_num=-8),
    of_node("100,000 CPUs", "cpu_num", "from 1 to 4096", cpu_num=100_000),
    of_node("zero memory", "memory_size", "from 16777216", memory_size=0),
    of_node("negative memory", "memory_size", "from 16777216", memory_size=-1),
    of_node("one byte of memory", "memory_size", "from 16777216", memory_size=1),
    of_node("1 PiB of memory", "memory_size", str(PIB), memory_size=PIB),
    of_node("most bytes there are", "memory_size", "", memory_size=2**63 - 1),
    of_node("negative timeout", "timeout", "from 0", timeout=-1),
    of_node("timeout of a year", "timeout", "from 0", timeout=365 * 86_400_000),
    of_node("1 PiB of root disk", "root_disk_size", "", root_disk_size=PIB),
    of_node("negative root disk", "root_disk_size", "", root_disk_size=-1),
    of_node("Container", "type", "VirtualMachine, BareMetal", type="Container"),
    of_node("hostile type", "type", "VirtualMachine, BareMetal", type="\x1b[31m" * 100),
    of_node("no GPUs", "gpus[0].count", "required", gpus=[{"model": "a100"}]),
    of_node("1,000 GPUs", "gpus[0].count", "from 1 to 64", gpus=[{"model": "a100", "count": 1000}]),
    of_node("a GPU model twice", "gpus[1].model", "already", gpus=[{"model": "x", "count": 1}] * 2),
    of_node("variable name", "environment_variables", "environment variable", environment_variables={"A B": "1"}),
    of_node("variable value", "environment_variables[A]", "U+0000", environment_variables={"A": "\x00"}),
    of_node("300 variables", "environment_variables", "256", environment_variables={f"V{i}": "" for i in range(300)}),
    of_node("label key", "labels", "one line", labels={"a\nb": "1"}),
    of_node("parameters in two lines", "startup_parameters", "one line", startup_parameters="--a\n--b"),
    of_node("role of two words", "role", "", role="a b"),
    of_node("negative order", "start_order", "from 0", role="a", start_order=-1),
    of_node("nine cells", "numa_cells", "from 0 to 8", numa_cells=9),
    of_node("pinned bare metal", "numa_policy", "BareMetal", type="BareMetal", numa_policy="NUMA_POLICY_REQUIRED"),
    of_node("a part of bare metal", "dedicated_cpus", "BareMetal", type="BareMetal", dedicated_cpus=True),
    of_node("pages of another size", "huge_pages", "2MiB", huge_pages="4KiB"),
    of_node("nine data disks", "data_disks", "8", data_disks=[{"size": 1}] * 9),
    of_node("a data disk of no size", "data_disks[1].size", "required", data_disks=[{"size": 1}, {}]),
    of_node("1 PiB of data disk", "data_disks[0].size", "", data_disks=[{"size": PIB}]),
    of_node("an image by its name", "data_disks[0].image_uuid", "32 hexadecimal", data_disks=[{"image_uuid": "a"}]),
    of_node("bare metal's disks", "data_disks", "BareMetal", type="BareMetal", data_disks=[{"size": 1}]),
    of_node("threads apart alone", "isolate_emulator_threads", "dedicated_cpus", isolate_emulator_threads=True),
    of_node("10,000 alike", "count", "from 0", count=10_000),
    of_node("malformed model", "model_uuid", "32 hexadecimal", model_uuid="llama"),
    of_node("tensor parallel", "tensor_parallel_size", "from 0", tensor_parallel_size=-1),
    Row(
        "two initial nodes",
        deploy(model_services=[node(is_initial_node=True), node(), node(is_initial_node=True)]),
        "model_services[2].is_initial_node",
        "model_services[0] is already",
    ),
    Row(
        "a rank twice",
        deploy(model_services=[node(node_rank=0), node(node_rank=0)]),
        "model_services[1].node_rank",
        "model_services[0] already",
    ),
    Row(
        "a rank without its place",
        deploy(model_services=[node(node_rank=0), node(node_rank=2)]),
        "model_services[1].node_rank",
        "from 0 to 1",
    ),
    of_group("neither for nor until", "wait", "exactly one", wait=group_pb2.Wait()),
    of_group("for and until", "wait", "exactly one", wait=group_pb2.Wait(for_ms=1, until=Timestamp(seconds=5 * 10**9))),
    of_group("a wait below 0", "wait.for_ms", "", wait=group_pb2.Wait(for_ms=-1)),
    of_group("a wait of years", "wait.for_ms", "", wait=group_pb2.Wait(for_ms=10**12)),
    of_group("until no time", "wait.until", "years", wait=group_pb2.Wait(until=Timestamp(seconds=-1))),
    of_group("until the past", "wait.until", "in the future", wait=group_pb2.Wait(until=Timestamp(seconds=1))),
    of_group("an end in the past", "expected_end", "in the future", expected_end=Timestamp(seconds=1)),
    of_group("an end at no time", "expected_end", "years", expected_end=Timestamp(nanos=-1)),
    Row("a rank for one only", deploy(model_services=[node(node_rank=0), node()]), "model_services[1].node_rank"),
    Row(
        "initial node of rank 1",
        deploy(model_services=[node(node_rank=1, is_initial_node=True), node(node_rank=0)]),
        "model_services[0].node_rank",
        "must be 0",
    ),
    of_group("a priority above all", "priority", "1000", priority=1001),
    of_group("a priority that its project may not use", "priority", "at most 0", priority=1),
    of_group("malformed resource uuid", "resource_uuid", "32 hexadecimal", resource_uuid="x"),
    of_group("a tag uuid twice", "tag_uuids[1]", "already", tag_uuids=["a" * 32] * 2),
    of_group("malformed tag uuid", "tag_uuids[0]", "32 hexadecimal", tag_uuids=["tag"]),
    of_group("101 tags", "user_tags", "100", user_tags=["t"] * 101),
    of_group("tag in two lines", "system_tags[0]", "one line", system_tags=["a\nb"]),
    of_group("empty tag", "user_tags[0]", "empty", user_tags=[" "]),
    of_group("request id with spaces", "request_id", "printable ASCII", request_id="a b"),
    of_group("long request id", "request_id", "128", request_id="r" * 129),
    of_group(
        "unknown policy", "placement_policy.strategy", "PLACEMENT_STRATEGY_PACK", placement_policy={"strategy": 99}
    ),
    of_group("survive no rack", "placement_policy.survive.racks", "", placement_policy={"survive": {"members": 1}}),
    of_group(
        "survive two racks",
        "placement_policy.survive.racks",
        "",
        placement_policy={"survive": {"racks": 2, "members": 1}},
    ),
    of_group("survive with none", "placement_policy.survive.members", "", placement_policy={"survive": {"racks": 1}}),
    of_group(
        "survive with all",
        "placement_policy.survive.members",
        "is lost",
        placement_policy={"survive": {"racks": 1, "members": 9}},
    ),
    of_group("unknown numa", "placement_policy.numa", "NUMA_POLICY_REQUIRED", placement_policy={"numa": 9}),
    of_group("negative spread", "placement_policy.max_per_host", "from 0", placement_policy={"max_per_host": -1}),
    of_group("unknown failure action", "failure_policy.action", "FAILURE_ACTION", failure_policy={"action": 99}),
    of_group("negative budget", "failure_policy.budget", "from 0", failure_policy={"budget": -1}),
    of_group(
        "near and away at once",
        "placement_policy.anti_affinity_group_uuids[0]",
        "near",
        placement_policy={"affinity_group_uuids": ["a" * 32], "anti_affinity_group_uuids": ["a" * 32]},
    ),
]

UNKNOWN = [
    Row(what, deploy(model_services=[node(), node(**fields)]), path, NOWHERE, NOT_FOUND, "NOT_FOUND")
    for what, path, fields in (
        ("unknown entry", "model_services[1].uuid", {"uuid": NOWHERE}),
        ("unknown zone", "model_services[1].zone_uuid", {"zone_uuid": NOWHERE}),
    )
]


async def refused(server: lab.Lab, request: deploy_pb2.DeployDistributedModelServiceRequest) -> grpc.aio.AioRpcError:
    """The error of the deploy, after checking that the plan of the same request ends on the same one."""
    with pytest.raises(grpc.aio.AioRpcError) as live:
        async for _ in server.stub.DeployDistributedModelService(request):
            pass
    plan = deploy_pb2.PlanDistributedModelServiceRequest.FromString(request.SerializeToString())
    with pytest.raises(grpc.aio.AioRpcError) as dry:
        await server.stub.PlanDistributedModelService(plan)
    assert (dry.value.code(), dry.value.details()) == (live.value.code(), live.value.details())
    return live.value


@pytest.mark.asyncio
async def test_bad_input_is_refused_by_name_and_leaves_nothing() -> None:
    # One server for the whole table: that it goes on serving is part of what is tested.
    async with lab.running(limits=CallLimits(max_message_bytes=8 * MIB)) as server:
        for row in TABLE:
            error = await refused(server, row.request)
            assert error.code() is row.code, (row.name, error)
            status = lab.status_of(error)
            violations = lab.detail(status, error_details_pb2.BadRequest).field_violations
            assert [v.field for v in violations] == [row.path], (row.name, violations)
            assert row.says in violations[0].description, (row.name, violations)
            assert lab.reason_of(error) == row.reason, row.name
        assert not any((await server.left_behind()).values())


@pytest.mark.asyncio
@pytest.mark.parametrize("row", UNKNOWN, ids=lambda row: row.name)
async def test_what_does_not_exist_is_not_found_by_name(row: Row) -> None:
    async with lab.running() as server:
        error = await refused(server, row.request)
        assert error.code() is row.code
        status = lab.status_of(error)
        info = lab.detail(status, error_details_pb2.ErrorInfo)
        resource = lab.detail(status, error_details_pb2.ResourceInfo)
        assert (info.reason, info.metadata["field"]) == (row.reason, row.path)
        assert (resource.resource_name, row.path in resource.description) == (row.says, True)
        assert not any((await server.left_behind()).values())


@pytest.mark.asyncio
async def test_text_that_only_looks_dangerous_is_kept_as_it_is() -> None:
    name = """<domain type='kvm'>]]>&amp;"'; DROP TABLE groups; -- ${jndi:ldap://x} 模型 🚀"""
    async with lab.running() as server:
        request = deploy(name=name, model_services=[node(name=name)])
        final = [r.event async for r in server.stub.DeployDistributedModelService(request)][-1].final
    assert (final.name, final.instances[0].name) == (name, name)


@pytest.mark.asyncio
async def test_white_space_around_strings_and_dashes_in_uuids_are_accepted() -> None:
    dashed = "F1E13583-5fee-363c-9f57-ed8232023886"
    request = deploy(name="  padded\n", model_services=[node(uuid=f" {dashed}\t", zone_uuid=lab.ZONE.upper())])
    async with lab.running() as server:
        events = [r.event async for r in server.stub.DeployDistributedModelService(request)]
    assert events[-1].final.name == "padded"
    assert events[-1].final.model_service_uuid == lab.ENTRY


@pytest.mark.asyncio
async def test_many_faults_are_told_together_up_to_a_bound() -> None:
    async with lab.running() as server:
        error = await refused(server, deploy(model_services=[node(cpu_num=0, memory_size=0, uuid="x")] * 100))
        violations = lab.detail(lab.status_of(error), error_details_pb2.BadRequest).field_violations
        assert 3 <= len(violations) <= 16
        assert [v.field for v in violations[:3]] == [
            f"model_services[0].{n}" for n in ("uuid", "cpu_num", "memory_size")
        ]


@pytest.mark.asyncio
@pytest.mark.parametrize("factor", [1.5, 3.5])
async def test_a_request_above_the_message_limit_names_the_field_that_is_too_big(factor: float) -> None:
    limit = 64 << 10
    async with lab.running(limits=CallLimits(max_message_bytes=limit)) as server:
        error = await refused(server, deploy(description="d" * int(limit * factor)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = lab.status_of(error)
        info = lab.detail(status, error_details_pb2.ErrorInfo)
        assert (info.reason, info.metadata["field"]) == ("MESSAGE_TOO_LARGE", "description")
        assert lab.detail(status, error_details_pb2.BadRequest).field_violations[0].field == "description"
        assert not any((await server.left_behind()).values())


@pytest.mark.asyncio
async def test_a_request_far_above_the_message_limit_is_refused_by_the_transport() -> None:
    limit = 64 << 10
    async with lab.running(limits=CallLimits(max_message_bytes=limit)) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in server.stub.DeployDistributedModelService(deploy(description="d" * limit * 5)):
                pass
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not any((await server.left_behind()).values())


@dataclass(frozen=True)
class OtherRow:
    """A bad request of another method."""

    method: str
    request: Message
    path: str
    code: grpc.StatusCode = INVALID
    fields: dict[str, Any] = field(default_factory=dict)


OTHERS = [
    OtherRow("GetInstanceGroup", deploy_pb2.GetInstanceGroupRequest(), "uuid"),
    OtherRow("GetInstanceGroup", deploy_pb2.GetInstanceGroupRequest(uuid="x"), "uuid"),
    OtherRow("ListInstanceGroups", deploy_pb2.ListInstanceGroupsRequest(page_size=-1), "page_size"),
    OtherRow("ListInstanceGroups", deploy_pb2.ListInstanceGroupsRequest(page_token="x"), "page_token"),
    OtherRow("ListInstanceGroups", deploy_pb2.ListInstanceGroupsRequest(page_token="é"), "page_token"),
    OtherRow("ListInstanceGroups", deploy_pb2.ListInstanceGroupsRequest(statuses=["running"]), "statuses[0]"),
    OtherRow("ListInstanceGroups", deploy_pb2.ListInstanceGroupsRequest(zone_uuid="z"), "zone_uuid"),
    OtherRow("WatchInstanceGroups", deploy_pb2.WatchInstanceGroupsRequest(start_revision=-1), "start_revision"),
    OtherRow("WatchInstanceGroups", deploy_pb2.WatchInstanceGroupsRequest(uuid="x"), "uuid"),
    OtherRow("DeleteInstanceGroup", deploy_pb2.DeleteInstanceGroupRequest(), "uuid"),
    OtherRow("DeleteInstanceGroup", deploy_pb2.DeleteInstanceGroupRequest(uuid="f" * 32, etag="a b"), "etag"),
]


@pytest.mark.asyncio
async def test_bad_input_of_the_other_methods_is_refused_by_name() -> None:
    async with lab.running() as server:
        for row in OTHERS:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await lab.call(server.stub, row.method, row.request)
            assert caught.value.code() is row.code, row
            violations = lab.detail(lab.status_of(caught.value), error_details_pb2.BadRequest).field_violations
            assert [v.field for v in violations] == [row.path], row


@pytest.mark.asyncio
@pytest.mark.parametrize("method", ["GetInstanceGroup", "DeleteInstanceGroup", "WatchInstanceGroups"])
async def test_an_unknown_group_is_not_found(method: str) -> None:
    async with lab.running() as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await lab.call(server.stub, method, lab.request_type(method)(uuid=NOWHERE))
        assert caught.value.code() is NOT_FOUND
        assert lab.detail(lab.status_of(caught.value), error_details_pb2.ResourceInfo).resource_name == NOWHERE


def test_every_node_field_that_a_caller_sets_has_a_bad_row() -> None:
    covered = {row.path.split("].", 1)[1].split("[")[0].split(".")[0] for row in TABLE if "]." in row.path}
    free = {"cluster_uuid", "description"}  # same format and limits as zone_uuid and the group's description
    assert {f.name for f in group_pb2.NodeSpec.DESCRIPTOR.fields} - free <= covered
