"""The server around the methods: health, reflection, limits, metrics, request ids, TLS, sockets, the graceful end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, fleet_pb2, group_pb2, placement_pb2
from google.protobuf import descriptor_pb2
from google.rpc import error_details_pb2
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from service.domain.tenants import Caller
from service.errors import Unauthenticated
from service.listening import AddressUnavailable, ListenAddress
from tests.service.rpc import lab
from tests.service.rpc.lab import deploy
from tests.support.certificates import certificate

pytestmark = pytest.mark.asyncio

SERVICE = "corral.v1.DistributedModelService"
GET = f"/{SERVICE}/GetInstanceGroup"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health_of(channel: grpc.aio.Channel) -> Any:
    """The health stub."""
    stub: Any = health_pb2_grpc.HealthStub
    return stub(channel)


def raw(channel: grpc.aio.Channel, path: str) -> Any:
    """A call of bytes to any path."""
    return channel.unary_unary(path)


def sample(server: lab.Lab, name: str, **labels: str) -> float:
    """One metric's value; 0 where it is not there."""
    return server.registry.get_sample_value(name, labels) or 0.0


async def counted(server: lab.Lab, value: float, name: str, **labels: str) -> None:
    """Wait until a metric has a value."""
    await lab.until(lambda: sample(server, name, **labels) == value, f"{name}{labels} == {value}")


async def reflect(channel: grpc.aio.Channel, version: str, *questions: Any) -> list[Any]:
    """The answers of one reflection stream."""
    method = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return [answer async for answer in method(iter(questions))]


def fields_of(messages: Any) -> list[Any]:
    """All fields of messages and of those inside them."""
    return [f for message in messages for f in (*message.field, *fields_of(message.nested_type))]


async def test_reflection_tells_the_json_names_that_the_runtime_uses() -> None:
    question = reflection_pb2.ServerReflectionRequest(file_by_filename="corral/v1/fleet.proto")
    async with lab.running() as server:
        (answer,) = await reflect(server.channel, "v1", question)
    told: dict[str, str] = {}
    for content in answer.file_descriptor_response.file_descriptor_proto:
        file = descriptor_pb2.FileDescriptorProto.FromString(content)
        told |= {f"{file.package}.{m.name}.{f.name}": f.json_name for m in file.message_type for f in m.field}
    known = {
        field.full_name: field.json_name
        for module in (deploy_pb2, group_pb2, placement_pb2, fleet_pb2)
        for message in module.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
    }
    assert {name: told[name] for name in known if name in told} == {n: known[n] for n in known if n in told}
    assert told["corral.v1.InstanceGroupEvent.group_uuid"] == "groupUuid"


async def test_health_is_told_for_the_server_and_each_service() -> None:
    async with lab.running() as server:
        health = health_of(server.channel)
        for name in ("", SERVICE, "corral.v1.FleetService"):
            assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="other"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        server.server.set_serving(False)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING


async def test_every_watcher_of_health_sees_every_change() -> None:
    async with lab.running() as server:
        health = health_of(server.channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest(service=SERVICE)) for _ in range(3)]
        assert [(await watch.read()).status for watch in watches] == [SERVING] * 3
        watches.pop().cancel()
        server.server.set_serving(False)
        assert [(await watch.read()).status for watch in watches] == [NOT_SERVING] * 2


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_describes_services_messages_and_methods(version: str) -> None:
    ask = reflection_pb2.ServerReflectionRequest
    async with lab.running() as server:
        answers = await reflect(
            server.channel,
            version,
            ask(list_services=""),
            ask(file_containing_symbol=SERVICE),
            ask(file_containing_symbol=f"{SERVICE}.DeployDistributedModelService"),
            ask(file_containing_symbol="corral.v1.NodeSpec.cpu_num"),
            ask(file_containing_symbol=f"grpc.reflection.{version}.ServerReflection"),
            ask(file_by_filename="corral/v1/placement.proto"),
            ask(
                file_containing_extension=reflection_pb2.ExtensionRequest(
                    containing_type="google.protobuf.FieldOptions", extension_number=50201
                )
            ),
            ask(all_extension_numbers_of_type="google.protobuf.FieldOptions"),
        )
        missing = await reflect(
            server.channel,
            version,
            ask(file_containing_symbol=f"{SERVICE}.Nothing"),
            ask(file_containing_symbol="corral.v1.Nothing"),
            ask(file_containing_symbol=""),
            ask(file_by_filename="/etc/passwd"),
            ask(all_extension_numbers_of_type="nothing"),
            ask(),
        )
    listed = [service.name for service in answers[0].list_services_response.service]
    assert {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= set(listed)
    assert listed == sorted(listed)
    for answer in answers[1:7]:
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(f)
            for f in answer.file_descriptor_response.file_descriptor_proto
        ]
        names = {file.name for file in files}
        assert all(set(file.dependency) <= names for file in files)
        assert names
        assert all(field.json_name for file in files for field in fields_of(file.message_type))
    assert 50201 in answers[7].all_extension_numbers_response.extension_number
    assert [answer.WhichOneof("message_response") for answer in missing] == ["error_response"] * 6


async def test_the_admin_listener_serves_channelz_and_the_public_one_does_not() -> None:
    async with lab.running(admin=True) as server:
        assert server.server.admin_address is not None
        stub: Any = channelz_pb2_grpc.ChannelzStub
        async with grpc.aio.insecure_channel(str(server.server.admin_address)) as admin:
            servers = await stub(admin).GetServers(channelz_pb2.GetServersRequest())
            assert len(servers.server) >= 2
            assert (await health_of(admin).Check(health_pb2.HealthCheckRequest())).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub(server.channel).GetServers(channelz_pb2.GetServersRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("path", ["/nothing", "/corral.v1.Nothing/Do", f"/{SERVICE}/Nothing", "/", "/a/b/c/d"])
async def test_a_path_that_nothing_serves_is_unimplemented_and_shares_one_series(path: str) -> None:
    async with lab.running() as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(server.channel, path)(b"anything")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert lab.reason_of(caught.value) == "METHOD_UNIMPLEMENTED"
        labels = {"grpc_type": "unary", "grpc_service": "unknown", "grpc_method": "unknown"}
        await counted(server, 1, "grpc_server_handled_total", grpc_code="Unimplemented", **labels)


@pytest.mark.parametrize("body", [b"\xff", b"\x0a\x05abc", b"\x0a\x02\xff\xfe", b"\x0b" * 200])
async def test_bytes_that_are_no_message_are_an_invalid_argument(body: bytes) -> None:
    async with lab.running() as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(server.channel, GET)(body)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert lab.reason_of(caught.value) == "INVALID_ARGUMENT"


async def test_an_unexpected_exception_tells_the_request_id_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with lab.running() as server:

        async def broken(*_: Any) -> Any:
            raise RuntimeError("password=hunter2 at /srv/secret")

        monkeypatch.setattr(server.groups, "get", broken)
        request = deploy_pb2.GetInstanceGroupRequest(uuid="a" * 32)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.stub.GetInstanceGroup(request, metadata=(("x-request-id", "my-id"),))
        error = caught.value
        assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")
        (packed,) = lab.status_of(error).details
        info = error_details_pb2.ErrorInfo()
        packed.Unpack(info)
        assert (info.reason, info.domain, dict(info.metadata)) == ("INTERNAL", "corral", {"request_id": "my-id"})
        assert "hunter2" not in str(error)


async def test_a_request_id_comes_back_and_an_unfit_one_is_replaced() -> None:
    async with lab.running() as server:
        for sent, kept in (("abc-1", True), ("a" * 200, False), ("a b", False)):
            call = server.stub.ListInstanceGroups(
                deploy_pb2.ListInstanceGroupsRequest(), metadata=(("x-request-id", sent),)
            )
            await call
            returned = dict(await call.trailing_metadata())["x-request-id"]
            assert (returned == sent) is kept
            assert len(returned) <= 128


async def test_every_method_is_shown_from_the_start_and_counted() -> None:
    labels = {"grpc_service": SERVICE, "grpc_method": "ListInstanceGroups", "grpc_type": "unary"}
    deploy_labels = {
        "grpc_service": SERVICE,
        "grpc_method": "DeployDistributedModelService",
        "grpc_type": "server_stream",
    }
    async with lab.running() as server:
        assert server.registry.get_sample_value("grpc_server_started_total", labels) == 0
        await server.stub.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest())
        with pytest.raises(grpc.aio.AioRpcError):
            await server.stub.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest(page_size=-1))
        events = await lab.call(server.stub, "DeployDistributedModelService", deploy())
        await counted(server, 2, "grpc_server_started_total", **labels)
        await counted(server, 1, "grpc_server_handled_total", grpc_code="OK", **labels)
        await counted(server, 1, "grpc_server_handled_total", grpc_code="InvalidArgument", **labels)
        await counted(server, 2, "grpc_server_msg_received_total", **labels)
        await counted(server, 1, "grpc_server_msg_sent_total", **labels)
        await counted(server, len(events), "grpc_server_msg_sent_total", **deploy_labels)
        await counted(server, 2, "grpc_server_handling_seconds_count", **labels)


async def late_after_an_answer(server: lab.Lab) -> None:
    """A watch that ends by its deadline. A busy server may never see one of a short time: that one was not begun."""
    for seconds in (0.3, 1, 3, 9, 27):
        watch = server.stub.WatchInstanceGroups(deploy_pb2.WatchInstanceGroupsRequest(), timeout=seconds)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await watch.read()
            with pytest.raises(grpc.aio.AioRpcError):
                await lab.rest_of(watch)
            assert await watch.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return
    raise AssertionError("no watch answered in 27 s")


async def test_a_call_that_the_client_gives_up_is_counted_as_cancelled_or_late() -> None:
    labels = {"grpc_service": SERVICE, "grpc_method": "WatchInstanceGroups", "grpc_type": "server_stream"}
    async with lab.running() as server:
        watch = server.stub.WatchInstanceGroups(deploy_pb2.WatchInstanceGroupsRequest())
        await watch.read()
        watch.cancel()
        await late_after_an_answer(server)
        await lab.until_ended(server)
        # The client resets the stream at its deadline, and which of the two the server sees first is open.
        codes = ("Canceled", "DeadlineExceeded")

        def ended() -> float:
            return sum(sample(server, "grpc_server_handled_total", grpc_code=code, **labels) for code in codes)

        await lab.until(lambda: ended() >= 2, "both calls counted")


async def test_draining_ends_every_stream_with_unavailable_and_a_hint() -> None:
    async with lab.running() as server:
        server.hold_hosts()
        health = health_of(server.channel)
        watch = server.stub.WatchInstanceGroups(deploy_pb2.WatchInstanceGroupsRequest())
        watched = health.Watch(health_pb2.HealthCheckRequest())
        deploying = server.stub.DeployDistributedModelService(deploy())
        for stream in (watch, watched, deploying):
            await stream.read()
        server.server.drain()
        for stream in (watch, watched, deploying):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await lab.rest_of(stream)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert lab.detail(lab.status_of(caught.value), error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
        # The deploy itself goes on: only its view has ended.
        server.going.set()
        async with asyncio.timeout(60):
            while True:
                page = await server.stub.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest())
                if page.inventories[0].status == "Running":
                    break


async def test_an_address_that_is_taken_is_refused_instead_of_shared() -> None:
    async with lab.running() as server:
        with pytest.raises(AddressUnavailable, match=str(server.server.address)):
            async with lab.running(address=server.server.address):
                pass


async def test_a_unix_socket_is_served_private_and_taken_over_only_when_nobody_listens(tmp_path: Path) -> None:
    address = ListenAddress(path=str(tmp_path / "corral.sock"))
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(address.path)
    async with lab.running(address=address) as server:
        assert (tmp_path / "corral.sock").stat().st_mode & 0o777 == 0o600
        assert (await health_of(server.channel).Check(health_pb2.HealthCheckRequest())).status == SERVING
        with pytest.raises(AddressUnavailable, match="in use"):
            async with lab.running(address=address):
                pass
        assert (await health_of(server.channel).Check(health_pb2.HealthCheckRequest())).status == SERVING


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("keep")
    with pytest.raises(AddressUnavailable, match="not a socket"):
        async with lab.running(address=ListenAddress(path=str(file))):
            pass
    assert file.read_text() == "keep"


async def test_the_identity_comes_from_the_call_and_a_refused_one_goes_no_further() -> None:
    seen: list[str] = []

    async def identify(context: Any) -> Caller:
        token = dict(context.invocation_metadata()).get("authorization", "")
        seen.append(token)
        if token != "Bearer right":
            raise Unauthenticated("no valid credentials")
        return Caller(principal="me")

    async with lab.running(identify=identify) as server:
        request = deploy_pb2.ListInstanceGroupsRequest()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.stub.ListInstanceGroups(request)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert lab.reason_of(caught.value) == "UNAUTHENTICATED"
        await server.stub.ListInstanceGroups(request, metadata=(("authorization", "Bearer right"),))
    assert seen == ["", "Bearer right"]


async def test_with_credentials_only_tls_is_served() -> None:
    public, private = certificate()
    credentials = grpc.ssl_server_credentials([(private, public)])
    async with lab.running(credentials=credentials) as server:
        target = f"localhost:{server.server.address.port}"
        trusting = grpc.ssl_channel_credentials(root_certificates=public)
        async with grpc.aio.secure_channel(target, trusting) as channel:
            assert (await health_of(channel).Check(health_pb2.HealthCheckRequest())).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_of(server.channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
