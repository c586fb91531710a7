"""Every method that changes something leaves one audit row in the transaction of its change, whichever face it came by.

Which methods change something follows from the contract: a new method fails here until it is called below.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from corral.v1 import catalog_pb2, deploy_pb2, fleet_pb2, project_pb2, secret_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from sqlalchemy import Connection, select

from service.contract.roles import ROLES
from service.domain.catalog import configured_image_uuid
from service.errors import Unavailable
from service.http.bindings import rules
from service.reconcile import sweep
from service.store import audit, schema
from tests.service.http.zstack.lab import lab as zstack_lab
from tests.service.rpc.lab import soon
from tests.service.rpc.test_evacuation import cut_off, is_silent
from tests.service.rpc.test_quarantine import forget
from tests.support.secrets import a_key
from tests.support.source import source
from tests.support.whole import ENTRY, GIB, ZONE, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

SERVICES = [
    service
    for module in (deploy_pb2, fleet_pb2, catalog_pb2, project_pb2, secret_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]
METHODS: Mapping[str, MethodDescriptor] = {method.name: method for service in SERVICES for method in service.methods}
# A GET changes nothing; a plan is a POST because its request is large.
PLANS = {"PlanDistributedModelService", "PlanRoom", "PlanRebalance", "PlanRoll"}
CHANGING = {rule.method for rule in rules(SERVICES) if rule.verb != "GET"} - PLANS
NODE = {"uuid": ENTRY, "zone_uuid": ZONE, "cpu_num": 1, "memory_size": GIB, "name": "n", "type": "VirtualMachine"}

STUBS = {
    "DistributedModelService": "deploy",
    "FleetService": "fleet",
    "CatalogService": "catalog",
    "SecretService": "secrets",
}

Row = tuple[str, str, str, str]
"""Principal, method, subject, the request id that the caller chose."""


async def rows_of(store: Any) -> list[Row]:
    """All audit rows, oldest first."""

    def read(connection: Connection) -> list[Row]:
        found = connection.execute(select(schema.audit).order_by(schema.audit.c.id))
        return [(row.principal, row.method, row.subject, row.client_request_id) for row in found]

    rows: list[Row] = await store.read(read)
    return rows


@dataclass
class Recorder:
    """Calls methods and looks what rows each of them left."""

    lab: Whole
    seen: set[str] = field(default_factory=set)

    async def call(self, name: str, subject: str = "", /, **fields: Any) -> Any:
        """The last answer of a call that must leave exactly one row, where a check alone leaves none.

        `subject`: of the row; empty for the uuid of what the call made.
        """
        request: Any = message_factory.GetMessageClass(METHODS[name].input_type)(**fields)
        if "validate_only" in request.DESCRIPTOR.fields_by_name:
            before = await rows_of(self.lab.service.store)
            checked = type(request).FromString(request.SerializeToString())
            checked.validate_only = True
            await self._answer(name, checked)
            assert await rows_of(self.lab.service.store) == before, f"{name} that only checks"
        before = await rows_of(self.lab.service.store)
        answer = await self._answer(name, request)
        made = (await rows_of(self.lab.service.store))[len(before) :]
        expected = subject or _made(answer)
        assert made == [("anonymous", name, expected, getattr(request, "request_id", ""))], name
        self.seen.add(name)
        return answer

    async def _answer(self, name: str, request: Any) -> Any:
        service = METHODS[name].containing_service.name
        stub = STUBS[service]
        streamed = METHODS[name].client_streaming
        call = getattr(getattr(self.lab, stub), name)(iter([request]) if streamed else request)
        if not METHODS[name].server_streaming:
            return await call
        return [answer async for answer in call][-1]


def _made(answer: Any) -> str:
    told = answer.event if hasattr(answer, "event") else answer
    return str((told.final if hasattr(told, "final") else told.inventory).uuid)


async def groups(calls: Recorder) -> None:
    """The life of a group."""
    deployed = await calls.call(
        "DeployDistributedModelService",
        model_services=[NODE],
        service_creation_strategy="parallel",
        name="group",
        request_id="deploy-1",
    )
    uuid = _made(deployed)
    await calls.call("UpdateInstanceGroup", uuid, uuid=uuid, name="other", request_id="update-1")
    await calls.call("ScaleInstanceGroup", uuid, uuid=uuid, model_services=[NODE], request_id="scale-1")
    change = [{"startup_parameters": "--fast"}]
    await calls.call("RolloutInstanceGroup", uuid, uuid=uuid, changes=change, request_id="rollout-1")
    await calls.call("RollBackInstanceGroup", uuid, uuid=uuid, request_id="back-1")
    await calls.call("StopInstanceGroup", uuid, uuid=uuid)
    await calls.call("StartInstanceGroup", uuid, uuid=uuid)
    await calls.call("RestartInstanceGroup", uuid, uuid=uuid)
    await calls.call("DeleteInstanceGroup", uuid, uuid=uuid)


async def the_fleet(calls: Recorder) -> None:
    """The life of a zone and of a host in it."""
    zone = _made(await calls.call("CreateZone", resource_uuid="a" * 32, name="north", request_id="zone-1"))
    cluster = _made(await calls.call("CreateCluster", resource_uuid="e" * 32, name="row", zone_uuid=zone))
    await calls.call("UpdateZone", zone, uuid=zone, description="the room to the north")
    await calls.call("UpdateCluster", cluster, uuid=cluster, name="rows")
    await calls.call("DeleteCluster", cluster, uuid=cluster)
    added = await calls.call(
        "AddHost",
        resource_uuid="b" * 32,
        name="added",
        zone_uuid=zone,
        driver="simulated",
        connection={"transport": "none"},
        request_id="host-1",
    )
    host = _made(added)
    await calls.call("UpdateHost", host, uuid=host, rack="r1")
    await calls.call("DisableHost", host, uuid=host)
    await calls.call("EnableHost", host, uuid=host)
    await calls.call("MaintainHost", host, uuid=host)
    await calls.call("EnableHost", host, uuid=host)
    await calls.call("DrainHost", host, uuid=host, request_id="drain-1")
    await soon(lambda: _has_monitor(calls.lab, host))
    cut_off(calls.lab.driver("added"))
    await soon(lambda: is_silent(calls.lab, "added"))
    await calls.call("FenceHost", host, uuid=host)
    await calls.call("RemoveHost", host, uuid=host)
    await calls.call("DeleteZone", zone, uuid=zone)


async def a_rebalance(calls: Recorder) -> None:
    """Two hosts of which one is full: a member moves, and what is over is called off; so is a roll."""
    lab = calls.lab
    await lab.fleet.DisableHost(other := fleet_pb2.DisableHostRequest(uuid=lab.uuid_of("host-2")))
    group = await lab.up(2)
    await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=other.uuid))
    begun = _made(await calls.call("RebalanceHosts", request_id="even-1"))
    await calls.call("CallOffRebalance", begun, uuid=begun)
    begun = _made(await calls.call("RollHosts", host_uuids=[other.uuid], request_id="roll-1"))
    await calls.call("CallOffRoll", begun, uuid=begun)
    async for _ in lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)):
        pass


async def _has_monitor(lab: Whole, host: str) -> bool:
    return host in lab.service.reconciler.monitors and host in lab.service.directory.hosts


async def the_catalogue(calls: Recorder) -> None:
    """The life of an image and of a model service that boots from it."""
    registered = await calls.call(
        "RegisterImage", resource_uuid="c" * 32, name="own", format="raw", file_name="disk", request_id="image-1"
    )
    image = _made(registered)
    sent = {"name": "sent", "format": "raw", "size": 512, "sha256": sha256(bytes(512)).hexdigest(), "data": bytes(512)}
    await calls.call("UploadImage", resource_uuid="9" * 32, request_id="upload-1", **sent)
    with source() as mirror:
        mirror.files["/disk"] = bytes(1024)
        said = {"url": mirror.url("/disk"), "sha256": sha256(bytes(1024)).hexdigest(), "name": "fetched"}
        await calls.call("ImportImage", resource_uuid="8" * 32, request_id="import-1", **said)
    entry = _made(await calls.call("CreateModelService", resource_uuid="d" * 32, name="own", image_uuid=image))
    await calls.call("UpdateModelService", entry, uuid=entry, description="more")
    await calls.call("DeleteModelService", entry, uuid=entry)
    await calls.call("DeleteImage", image, uuid=image)


async def the_secrets(calls: Recorder) -> None:
    """The life of a secret."""
    secret = _made(await calls.call("CreateSecret", name="token", value="one", request_id="secret-1"))
    await calls.call("RotateSecret", secret, uuid=secret, value="two")
    await calls.call("DeleteSecret", secret, uuid=secret)


A_DEVICE = """
[[hosts]]
name = "gpus"
zone = "zone-1"
state = "Disabled"
driver = "simulated"
transport = "none"
options = { "gpu.h100" = "1" }
[[hosts]]
name = "metal"
zone = "zone-1"
driver = "simulated"
transport = "none"
options = { bare_metal = "yes", clean = "erase" }"""


async def the_quarantine(calls: Recorder) -> None:
    """A host with another's mark is claimed; of two groups that nobody knows one is adopted, one's machine is ended."""
    lab = calls.lab
    driver = lab.driver("host-1")
    host = driver.host_id
    await soon(lambda: _has_monitor(lab, host))
    assert driver.host.mark is not None
    driver.host.mark = replace(driver.host.mark, database="d" * 32)
    lab.service.reconciler.monitors[host].suspect()
    await soon(lambda: _is(lab, "host-1", "Foreign"))
    await calls.call("ClaimHost", host, uuid=host)
    await soon(lambda: _is(lab, "host-1", "Connected"))
    await soon(lambda: _has_a_device(lab))
    (device,), its, metal = (await lab.host("gpus")).devices, lab.uuid_of("gpus"), lab.uuid_of("metal")
    named = f"{device.key} on host {its}"
    await calls.call("QuarantineDevice", named, host_uuid=its, key=device.key, reason="it is hot")
    await calls.call("ReleaseDevice", named, host_uuid=its, key=device.key)
    await soon(lambda: _is(lab, "metal", "Connected"))
    await calls.call("CleanHost", metal, uuid=metal)
    uuids: list[str] = []
    for _ in range(2):
        request: Any = deploy_pb2.DeployDistributedModelServiceRequest(
            name="lost", service_creation_strategy="parallel"
        )
        request.model_services.add(**NODE)
        events = [answer.event async for answer in lab.deploy.DeployDistributedModelService(request)]
        uuids.append(events[-1].final.uuid)
        await lab.service.store.write(partial(forget, group_uuid=uuids[-1]))
    await soon(lambda: _are_held(lab, uuids))
    await calls.call("AdoptQuarantined", uuids[0], group_uuid=uuids[0])
    (held,) = (await lab.fleet.ListQuarantine(fleet_pb2.ListQuarantineRequest())).inventories
    # The last call: what it orders leaves a row of its own.
    await calls.call(
        "RemoveQuarantined", f"{held.key} on host {held.host_uuid}", host_uuid=held.host_uuid, key=held.key
    )


async def _has_a_device(lab: Whole) -> bool:
    return len((await lab.host("gpus")).devices) == 1


async def _is(lab: Whole, name: str, status: str) -> bool:
    return bool((await lab.host(name)).status == status)


async def _are_held(lab: Whole, groups: Sequence[str]) -> bool:
    found = await lab.fleet.ListQuarantine(fleet_pb2.ListQuarantineRequest())
    return {one.group_uuid for one in found.inventories} == set(groups)


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Whole]:
    (directory / "images").mkdir()
    (directory / "images" / "disk").write_bytes(bytes(512))
    text = config_text(extra=A_DEVICE + a_key(directory))
    async with whole(directory, text.replace("[catalog]\n", '[catalog]\nimport_networks = ["127.0.0.0/8"]\n')) as lab:
        yield lab


async def test_every_changing_method_of_the_role_table_leaves_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "EVERY_SECONDS", 0.2)
    monkeypatch.setattr("service.reconcile.rolling.Roller.once", lambda _: asyncio.sleep(0))  # it enables by itself
    assert {path.split("/")[1] for path in ROLES if path.startswith("corral.")} == set(METHODS)
    async with running(tmp_path) as lab:
        calls = Recorder(lab)
        for life in (groups, a_rebalance, the_fleet, the_catalogue, the_secrets, the_quarantine):
            await life(calls)
        assert calls.seen == CHANGING


async def test_a_call_that_changes_nothing_leaves_no_row(tmp_path: Path) -> None:
    async with running(tmp_path) as lab:
        request = fleet_pb2.CreateZoneRequest(name="north", request_id="one")
        zone = (await lab.fleet.CreateZone(request)).inventory
        before = await rows_of(lab.service.store)
        assert (await lab.fleet.CreateZone(request)).inventory == zone, "a repeat"
        host = lab.uuid_of("host-1")
        await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=host))  # it is enabled already
        await lab.fleet.UpdateHost(fleet_pb2.UpdateHostRequest(uuid=host, name="host-1"))
        for refused in (
            lab.fleet.DeleteZone(fleet_pb2.DeleteZoneRequest(uuid=ZONE)),
            lab.fleet.RemoveHost(fleet_pb2.RemoveHostRequest(uuid=host)),
            lab.fleet.FenceHost(fleet_pb2.FenceHostRequest(uuid=host)),
            lab.catalog.DeleteImage(catalog_pb2.DeleteImageRequest(uuid=configured_image_uuid("guest"))),
        ):
            with pytest.raises(grpc.aio.AioRpcError):
                await refused
        assert await rows_of(lab.service.store) == before


async def test_a_change_whose_row_can_not_be_written_does_not_happen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_connection: Connection, **_row: Any) -> None:
        raise Unavailable("no room for another row")

    async with running(tmp_path) as lab:
        host = lab.uuid_of("host-1")
        monkeypatch.setattr(audit, "record", broken)
        for call in (
            lab.fleet.CreateZone(fleet_pb2.CreateZoneRequest(name="north")),
            lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=host)),
            lab.fleet.UpdateHost(fleet_pb2.UpdateHostRequest(uuid=host, rack="r1")),
            lab.catalog.UpdateModelService(catalog_pb2.UpdateModelServiceRequest(uuid=ENTRY, name="other")),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        zones = (await lab.fleet.ListZones(fleet_pb2.ListZonesRequest())).inventories
        assert [zone.name for zone in zones] == ["zone-1"]
        after = await lab.host("host-1")
        assert (after.state, after.rack) == ("Enabled", "")
        request = catalog_pb2.GetModelServiceRequest(uuid=ENTRY)
        assert (await lab.catalog.GetModelService(request)).inventory.name == "default"


async def test_changes_that_come_as_json_leave_the_same_rows(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as lab,
        httpx.AsyncClient(base_url=f"http://{lab.http_address}/corral/v1", trust_env=False, timeout=120) as http,
    ):
        host = lab.uuid_of("host-2")
        answers: Sequence[httpx.Response] = [
            await http.post("/zones", json={"name": "north", "resourceUuid": "a" * 32, "requestId": "zone-1"}),
            await http.post(f"/hosts/{host}:disable", json={}),
            await http.patch(f"/hosts/{host}", json={"rack": "r1"}),
            await http.patch(f"/model-services/{ENTRY}", json={"description": "more"}),
            await http.delete(f"/zones/{'a' * 32}"),
        ]
        assert [answer.status_code for answer in answers] == [200] * 5, [answer.text for answer in answers]
        assert await rows_of(lab.service.store) == [
            ("anonymous", "CreateZone", "a" * 32, "zone-1"),
            ("anonymous", "DisableHost", host, ""),
            ("anonymous", "UpdateHost", host, ""),
            ("anonymous", "UpdateModelService", ENTRY, ""),
            ("anonymous", "DeleteZone", "a" * 32, ""),
        ]


async def test_changes_by_zstacks_clients_leave_the_same_rows_with_the_accounts_name() -> None:
    async with zstack_lab() as zstack:
        hosts = (await zstack.get("/hosts")).json()["inventories"]
        host = str(hosts[0]["uuid"])
        who = {"Authorization": f"OAuth {zstack.session}"}
        body = {"params": {"name": "north", "resourceUuid": "a" * 32}}
        made = await zstack.http.post("/zstack/v1/zones", json=body, headers=who)
        job = made.json()["location"].rpartition("/")[2]
        assert (await zstack.ended(made)).status_code == 200
        change = {"changeHostState": {"stateEvent": "disable"}}
        assert (await zstack.ended(await zstack.put(f"/hosts/{host}/actions", change))).status_code == 200
        gone = await zstack.http.delete(f"/zstack/v1/zones/{'a' * 32}", headers=who)
        assert (await zstack.ended(gone)).status_code == 200
        legacy = {
            "org.zstack.header.host.APIChangeHostStateMsg": {
                "uuid": host,
                "stateEvent": "enable",
                "session": {"uuid": zstack.session},
            }
        }
        accepted = await zstack.http.post("/zstack/api", json=legacy)
        result = f"/zstack/api/result/{accepted.json()['uuid']}"

        async def done() -> bool:
            return bool((await zstack.http.get(result)).json()["state"] == "Done")

        await soon(done)
        assert await rows_of(zstack.service.store) == [
            ("admin", "CreateZone", "a" * 32, f"zstack-job/{job}"),
            ("admin", "DisableHost", host, ""),
            ("admin", "DeleteZone", "a" * 32, ""),
            ("admin", "EnableHost", host, ""),
        ]
