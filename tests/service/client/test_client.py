"""The Python client against the real service on simulated hosts."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator

import httpx
import pytest
from corral.v1 import deploy_pb2, group_pb2

from service.client import ActionError, CallFailed, CorralClient, DeployDistributedModelServiceAction
from tests.support.builders import ENTRY, ZONE
from tests.support.process import CONFIGURATION, CorralProcess


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections: taken, so that nobody else listens there meanwhile, and not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def corral(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CorralProcess]:
    process = CorralProcess(tmp_path_factory.mktemp("corral"), CONFIGURATION)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def client(corral: CorralProcess) -> Iterator[CorralClient]:
    with CorralClient(f"127.0.0.1:{corral.port}") as made:
        yield made


def node(cpu: int = 1) -> group_pb2.NodeSpec:
    return group_pb2.NodeSpec(uuid=ENTRY, zone_uuid=ZONE, cpu_num=cpu, memory_size=1 << 30)


def test_deploy_and_wait_returns_the_running_group_and_delete_and_wait_ends_it(client: CorralClient) -> None:
    kinds: list[str | None] = []
    group = client.deploy_and_wait(
        "by client", [node(), node()], on_event=lambda e: kinds.append(e.WhichOneof("change"))
    )
    assert group.status == "Running"
    assert (kinds[0], kinds[-1]) == ("accepted", "final")
    assert client.get(group.uuid) == group
    assert group.uuid in {g.uuid for g in client.list(name="by client")}
    assert client.delete_and_wait(group.uuid).status == "Deleted"
    with pytest.raises(CallFailed) as missing:
        client.get(group.uuid)
    assert missing.value.reason == "NOT_FOUND"


def test_a_refusal_names_the_field_and_a_lack_of_room_says_why(client: CorralClient) -> None:
    with pytest.raises(CallFailed) as refused:
        client.deploy_and_wait("bad", [node(cpu=100_000)])
    assert "model_services[0].cpu_num" in refused.value.fields
    request = deploy_pb2.PlanDistributedModelServiceRequest(
        name="big", model_services=[node(cpu=90)], service_creation_strategy="parallel"
    )
    with pytest.raises(CallFailed) as no_room:
        client.plan(request)
    assert no_room.value.placement is not None
    assert no_room.value.placement.requested == 1


def test_a_deploy_is_followed_over_a_killed_and_restarted_service(corral: CorralProcess) -> None:
    pauses: list[float] = []

    def restart_meanwhile(seconds: float) -> None:
        if not pauses:
            corral.start()
        pauses.append(seconds)

    with CorralClient(f"127.0.0.1:{corral.port}", pause=restart_meanwhile) as client:
        request = deploy_pb2.DeployDistributedModelServiceRequest(
            name="over a kill", model_services=[node()], service_creation_strategy="parallel"
        )
        sequences = []
        last = None
        for event in client.deploy(request):
            sequences.append(event.sequence)
            if event.HasField("claimed"):
                corral.kill()
            last = event
    assert pauses
    assert sequences == list(range(1, len(sequences) + 1)), "no event is lost or told twice"
    assert last is not None
    assert last.final.status == "Running"


def test_zstacks_action_deploys_with_a_session_and_tells_errors_in_its_words(corral: CorralProcess) -> None:
    password = hashlib.sha512(b"secret").hexdigest()
    login = {"logInByAccount": {"accountName": "alice", "password": password}}
    session = httpx.put(f"{corral.http}/zstack/v1/accounts/login", json=login, timeout=60).json()["inventory"]["uuid"]
    action = DeployDistributedModelServiceAction(
        modelServices=[
            {
                "isInitialNode": False,
                "uuid": ENTRY,
                "zoneUuid": ZONE,
                "cpuNum": 1,
                "name": "model-service",
                "type": "VirtualMachine",
                "memorySize": 1 << 30,
                "timeout": 0,
            }
        ],
        serviceCreationStrategy="parallel",
        name="distributed-model-service",
        sessionId=session,
        endpoint=corral.http,
    )
    result = action.call()
    assert result.success
    assert result.inventory is not None
    assert (result.inventory["name"], result.inventory["status"]) == ("distributed-model-service", "Running")
    action.serviceCreationStrategy = "whatever"
    refused = action.call()
    assert refused.error is not None
    assert refused.error["code"] == "SYS.1007"


def test_an_action_without_a_service_raises(closed_port: int) -> None:
    action = DeployDistributedModelServiceAction(endpoint=f"http://127.0.0.1:{closed_port}", name="x")
    with pytest.raises(ActionError):
        action.call()
