"""What callers see of DistributedModelService: order of events, plans, pages, watches, deletes, errors with details."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, fleet_pb2, fleet_pb2_grpc, placement_pb2
from corral.v1.group_pb2 import NodeSpec
from google.protobuf import json_format
from google.rpc import error_details_pb2

from service.domain.tenants import Caller
from tests.service.rpc import lab
from tests.service.rpc.lab import deploy, events_of, failure, node

pytestmark = pytest.mark.asyncio

DOCUMENTED = """{"modelServices":[{"isInitialNode":false,"uuid":"f1e135835fee363c9f57ed8232023886",
"zoneUuid":"7a007a391d483c9f843bf1df4b7e5d8f","cpuNum":8,"name":"model-service","type":"VirtualMachine",
"memorySize":17179869184,"timeout":0}],"serviceCreationStrategy":"parallel","name":"distributed-model-service"}"""


async def collected(stub: Any, request: Any, events: list[Any]) -> grpc.aio.AioRpcError:
    """The error that a deploy ends on; its events before go into `events`."""
    try:
        async for answer in stub.DeployDistributedModelService(request):
            events.append(answer.event)
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the deploy did not fail")


async def test_the_documented_request_streams_from_accepted_to_the_running_inventory() -> None:
    request = json_format.Parse(DOCUMENTED, deploy_pb2.DeployDistributedModelServiceRequest())
    async with lab.running() as server:
        events = await events_of(server.stub, request)
        kinds = [event.WhichOneof("change") for event in events]
        assert (kinds[:3], kinds[-1]) == (["accepted", "planned", "claimed"], "final")
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert [event.revision for event in events] == sorted({event.revision for event in events})
        assert all(event.time.seconds for event in events)
        final = events[-1].final
        assert (final.status, final.name, final.type) == ("Running", "distributed-model-service", "VirtualMachine")
        assert {event.group_uuid for event in events} == {final.uuid}
        (member,) = final.instances
        assert (member.status, member.is_initial_node, member.cpu_num, member.memory_size) == (
            "Running",
            True,
            8,
            17179869184,
        )
        assert member.url == f"http://{member.addresses[0]}:8080"
        # The last message is the stored state.
        stored = await server.stub.GetInstanceGroup(deploy_pb2.GetInstanceGroupRequest(uuid=final.uuid))
        assert stored.inventory == final


async def test_the_inventory_holds_every_member_in_the_order_of_the_ranks() -> None:
    nodes = [node(name="w1"), node(name="leader", is_initial_node=True), node(name="w2")]
    async with lab.running() as server:
        final = (await events_of(server.stub, deploy(model_services=nodes)))[-1].final
    assert [(m.node_rank, m.name, m.is_initial_node) for m in final.instances] == [
        (0, "leader", True),
        (1, "w1", False),
        (2, "w2", False),
    ]


async def test_what_a_node_leaves_out_is_the_catalogues() -> None:
    async with lab.running() as server:
        bare = deploy(model_services=[{"uuid": lab.ENTRY}])
        (member,) = (await events_of(server.stub, bare))[-1].final.instances
    assert (member.cpu_num, member.memory_size, member.name) == (1, lab.GIB, "distributed-model-service-0")


async def test_a_placement_event_tells_hosts_bounds_and_proof() -> None:
    async with lab.running() as server:
        events = await events_of(server.stub, deploy(model_services=[node(), node(name="w")]))
        planned, claimed = events[1].planned, events[2].claimed
    assert [a.node_rank for a in planned.assignments] == [0, 1]
    assert {a.host_uuid for a in planned.assignments} <= set(lab.HOSTS)
    assert all(a.host_name and a.zone_uuid == lab.ZONE for a in planned.assignments)
    assert planned.lower_bound <= planned.objective <= planned.upper_bound
    assert planned.proof in (placement_pb2.PLACEMENT_PROOF_OPTIMAL, placement_pb2.PLACEMENT_PROOF_GAP)
    assert [dict(c.resources) for c in claimed.instances] == [{"vcpu": 8, "memory": 17179869184}] * 2
    assert claimed.attempts == 1


async def test_a_plan_answers_with_the_placement_and_writes_nothing() -> None:
    async with lab.running() as server:
        request = deploy_pb2.PlanDistributedModelServiceRequest.FromString(deploy().SerializeToString())
        plan = await server.stub.PlanDistributedModelService(request)
        assert [a.host_uuid in lab.HOSTS for a in plan.placement.assignments] == [True]
        assert not any((await server.left_behind()).values())


async def test_a_deploy_that_only_validates_sends_one_planned_event_and_writes_nothing() -> None:
    async with lab.running() as server:
        (event,) = await events_of(server.stub, deploy(validate_only=True))
        assert (event.WhichOneof("change"), event.revision) == ("planned", 0)
        assert not any((await server.left_behind()).values())


async def test_a_gang_that_does_not_fit_is_explained_live_and_in_the_plan() -> None:
    nodes = [node(name="small", memory_size=lab.GIB), node(name="big", memory_size=60 * lab.GIB, is_initial_node=True)]
    nodes += [node(name="big", memory_size=60 * lab.GIB)] * 2
    async with lab.running() as server:
        events: list[Any] = []
        live = await collected(server.stub, deploy(model_services=nodes), events)
        assert events[0].WhichOneof("change") == "accepted"
        assert events[-1].final.status == "Failed"
        plan = deploy_pb2.PlanDistributedModelServiceRequest.FromString(
            deploy(model_services=nodes).SerializeToString()
        )
        dry = await failure(server.stub, "PlanDistributedModelService", plan)
        assert (await server.left_behind())["claims"] == 0
    for error in (live, dry):
        status = lab.status_of(error)
        assert lab.reason_of(error) in ("NO_CAPACITY", "UNSATISFIABLE")
        explained = lab.detail(status, placement_pb2.PlacementFailure)
        assert explained.requested == 4
        # Told by the caller's own positions: the big nodes are the second, third and fourth of the list.
        assert {funnel.field for funnel in explained.funnels} <= {f"model_services[{i}]" for i in range(4)}
        assert any(funnel.field == "model_services[1]" for funnel in explained.funnels)


async def test_a_request_id_answers_with_the_same_group_and_refuses_another_body() -> None:
    async with lab.running() as server:
        first = (await events_of(server.stub, deploy(request_id="r-1")))[-1].final
        again = (await events_of(server.stub, deploy(request_id="r-1")))[-1].final
        assert again == first
        error = await failure(server.stub, "DeployDistributedModelService", deploy(request_id="r-1", name="another"))
        assert (error.code(), lab.reason_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
        assert (await server.left_behind())["groups"] == 1


async def test_a_uuid_that_is_taken_already_exists() -> None:
    async with lab.running() as server:
        await events_of(server.stub, deploy(resource_uuid="c" * 32))
        error = await failure(server.stub, "DeployDistributedModelService", deploy(resource_uuid="c" * 32))
        assert error.code() is grpc.StatusCode.ALREADY_EXISTS
        assert lab.detail(lab.status_of(error), error_details_pb2.ResourceInfo).resource_name == "c" * 32


async def test_a_delete_streams_until_the_group_is_gone() -> None:
    async with lab.running() as server:
        final = (await events_of(server.stub, deploy()))[-1].final
        request = deploy_pb2.DeleteInstanceGroupRequest(uuid=final.uuid, etag=final.etag)
        events = [r.event for r in await lab.call(server.stub, "DeleteInstanceGroup", request)]
        assert events[-1].final.status == "Deleted"
        assert (await server.left_behind())["claims"] == 0
        error = await failure(server.stub, "GetInstanceGroup", deploy_pb2.GetInstanceGroupRequest(uuid=final.uuid))
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_a_stale_etag_aborts_with_a_hint_when_to_retry() -> None:
    async with lab.running() as server:
        final = (await events_of(server.stub, deploy()))[-1].final
        for validate_only in (False, True):
            request = deploy_pb2.DeleteInstanceGroupRequest(uuid=final.uuid, etag="old", validate_only=validate_only)
            error = await failure(server.stub, "DeleteInstanceGroup", request)
            assert error.code() is grpc.StatusCode.ABORTED
            assert lab.detail(lab.status_of(error), error_details_pb2.RetryInfo).HasField("retry_delay")


async def test_a_delete_that_only_validates_deletes_nothing() -> None:
    async with lab.running() as server:
        final = (await events_of(server.stub, deploy()))[-1].final
        request = deploy_pb2.DeleteInstanceGroupRequest(uuid=final.uuid, validate_only=True)
        (answer,) = await lab.call(server.stub, "DeleteInstanceGroup", request)
        assert answer.event.group == final
        stored = await server.stub.GetInstanceGroup(deploy_pb2.GetInstanceGroupRequest(uuid=final.uuid))
        assert stored.inventory == final


async def test_a_delete_wins_over_a_deploy_in_progress() -> None:
    async with lab.running() as server:
        server.hold_hosts()
        deploying = server.stub.DeployDistributedModelService(deploy())
        uuid = (await deploying.read()).event.group_uuid
        deleting = server.stub.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=uuid))
        first = (await deleting.read()).event
        server.going.set()
        ends = [(await lab.rest_of(stream))[-1].event.final for stream in (deploying, deleting)]
    assert first.group_uuid == uuid
    assert [end.status for end in ends] == ["Deleted", "Deleted"]


async def test_a_method_that_is_not_served_says_so_with_a_reason() -> None:
    stub: Any = fleet_pb2_grpc.FleetServiceStub
    async with lab.running() as server:
        for call in (
            stub(server.channel).ListHosts(fleet_pb2.ListHostsRequest()),
            stub(server.channel).WatchFleet(fleet_pb2.WatchFleetRequest()).read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert lab.reason_of(caught.value) == "METHOD_UNIMPLEMENTED"


async def test_an_update_changes_what_the_mask_names_and_nothing_else() -> None:
    async with lab.running() as server:
        before = (await events_of(server.stub, deploy(description="old", user_tags=["t"])))[-1].final
        request = deploy_pb2.UpdateInstanceGroupRequest(uuid=before.uuid, name="new", etag=before.etag)
        request.update_mask.paths.extend(["name", "user_tags"])
        after = (await server.stub.UpdateInstanceGroup(request)).inventory
        assert (after.name, after.description, list(after.user_tags)) == ("new", "old", [])
        assert after.etag != before.etag
        error = await failure(server.stub, "UpdateInstanceGroup", request)
        assert error.code() is grpc.StatusCode.ABORTED
        request.ClearField("etag")
        request.update_mask.paths.append("status")
        error = await failure(server.stub, "UpdateInstanceGroup", request)
        assert lab.detail(lab.status_of(error), error_details_pb2.BadRequest).field_violations[0].field == "update_mask"


async def test_an_update_with_a_request_id_is_made_once() -> None:
    async with lab.running() as server:
        uuid = (await events_of(server.stub, deploy()))[-1].final.uuid
        request = deploy_pb2.UpdateInstanceGroupRequest(uuid=uuid, name="one", request_id="r")
        first = (await server.stub.UpdateInstanceGroup(request)).inventory
        assert (await server.stub.UpdateInstanceGroup(request)).inventory == first, "nothing was written again"
        between = deploy_pb2.UpdateInstanceGroupRequest(uuid=uuid, name="two", request_id="s")
        await server.stub.UpdateInstanceGroup(between)
        late = (await server.stub.UpdateInstanceGroup(request)).inventory
        assert late.name == "two", "a repeat that comes late undoes nothing"
        other = deploy_pb2.UpdateInstanceGroupRequest(uuid=uuid, name="three", request_id="r")
        error = await failure(server.stub, "UpdateInstanceGroup", other)
        assert lab.reason_of(error) == "REQUEST_ID_REUSED"
        checked = deploy_pb2.UpdateInstanceGroupRequest(uuid=uuid, name="four", request_id="t", validate_only=True)
        await server.stub.UpdateInstanceGroup(checked)
        checked.validate_only = False
        assert (await server.stub.UpdateInstanceGroup(checked)).inventory.name == "four"


async def test_a_group_stops_starts_and_restarts() -> None:
    async with lab.running() as server:
        uuid = (await events_of(server.stub, deploy()))[-1].final.uuid

        async def final(method: str) -> str:
            answers = await lab.call(server.stub, method, lab.request_type(method)(uuid=uuid))
            return str(answers[-1].event.final.status)

        assert await final("StopInstanceGroup") == "Stopped"
        wrong = await failure(server.stub, "StopInstanceGroup", deploy_pb2.StopInstanceGroupRequest(uuid=uuid))
        assert wrong.code() is grpc.StatusCode.FAILED_PRECONDITION
        violation = lab.detail(lab.status_of(wrong), error_details_pb2.PreconditionFailure).violations[0]
        assert uuid in violation.subject
        assert await final("StartInstanceGroup") == "Running"
        assert await final("RestartInstanceGroup") == "Running"


async def test_workers_join_and_leave_all_or_none() -> None:
    async with lab.running() as server:
        group = (await events_of(server.stub, deploy()))[-1].final
        joining = [NodeSpec(**node(name=name, memory_size=lab.GIB)) for name in ("w1", "w2")]
        request = deploy_pb2.ScaleInstanceGroupRequest(uuid=group.uuid, model_services=joining)
        grown = (await lab.call(server.stub, "ScaleInstanceGroup", request))[-1].event.final
        assert [(m.node_rank, m.name) for m in grown.instances] == [(0, "model-service"), (1, "w1"), (2, "w2")]
        giant = deploy_pb2.ScaleInstanceGroupRequest(
            uuid=group.uuid, model_services=[NodeSpec(**node(memory_size=size)) for size in (lab.GIB, 1 << 40)]
        )
        error = await failure(server.stub, "ScaleInstanceGroup", giant)
        explained = lab.detail(lab.status_of(error), placement_pb2.PlacementFailure)
        assert "model_services[1]" in {funnel.field for funnel in explained.funnels}
        request = deploy_pb2.ScaleInstanceGroupRequest(
            uuid=group.uuid, remove_instance_uuids=[grown.instances[1].uuid, grown.instances[2].uuid]
        )
        shrunk = (await lab.call(server.stub, "ScaleInstanceGroup", request))[-1].event.final
        assert [m.node_rank for m in shrunk.instances] == [0]


async def test_another_tenants_group_is_not_found() -> None:
    async def identify(context: Any) -> Caller:
        metadata = dict(context.invocation_metadata())
        return Caller(principal="p", project=metadata.get("project", "mine"), role="operator")

    async with lab.running(identify=identify) as server:
        final = (await events_of(server.stub, deploy()))[-1].final
        request = deploy_pb2.GetInstanceGroupRequest(uuid=final.uuid)
        assert (await server.stub.GetInstanceGroup(request)).inventory.uuid == final.uuid
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.stub.GetInstanceGroup(request, metadata=(("project", "theirs"),))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
