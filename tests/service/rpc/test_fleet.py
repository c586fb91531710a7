"""FleetService over gRPC, on the whole service with simulated hosts."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, fleet_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2

from service.domain.fleet import Host
from service.drivers.base import HostFacts, HostUnreachable
from service.store import fleet_events
from tests.service.rpc.lab import detail, reason_of, refused, soon, status_of
from tests.support.whole import ENTRY, GIB, ZONE, config_text, whole

pytestmark = pytest.mark.asyncio

UNKNOWN = "e" * 32


# --- zones ---------------------------------------------------------------------------------------------------------


async def test_a_zone_is_made_once_however_often_its_request_id_comes(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        request = fleet_pb2.CreateZoneRequest(name="north", description="cold", request_id="one")
        made = (await lab.fleet.CreateZone(request)).inventory
        again = (await lab.fleet.CreateZone(request)).inventory
        assert made == again
        assert (made.name, made.description, made.host_count) == ("north", "cold", 0)
        other = fleet_pb2.CreateZoneRequest(name="south", request_id="one")
        await refused(lab.fleet.CreateZone(other), grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
        twin = fleet_pb2.CreateZoneRequest(name="twin", resource_uuid=made.uuid)
        await refused(lab.fleet.CreateZone(twin), grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
        listed = (await lab.fleet.ListZones(fleet_pb2.ListZonesRequest())).inventories
        assert [(z.name, z.host_count) for z in listed] == [("north", 0), ("zone-1", 2)]


async def test_a_zone_of_run_time_has_a_network_by_the_rules_of_the_file_and_plans_addresses(tmp_path: Path) -> None:
    network: dict[str, Any] = {"kind": "bridge", "source": "br0", "subnet": "10.8.0.0/24", "gateway": "10.8.0.1"}
    async with whole(tmp_path, config_text(hosts=0)) as lab:
        request = fleet_pb2.CreateZoneRequest(name="lan", network=fleet_pb2.ZoneNetwork(**network))
        zone = (await lab.fleet.CreateZone(request)).inventory
        assert zone.network.pool == "10.8.0.2-10.8.0.254"
        other = {**network, "subnet": "10.9.0.0/24", "gateway": "10.9.0.1", "pool": "10.9.0.7-10.9.0.9"}
        few = fleet_pb2.ZoneNetwork(**other)
        told = (await lab.fleet.CreateZone(fleet_pb2.CreateZoneRequest(name="few", network=few))).inventory
        assert told.network.pool == "10.9.0.7-10.9.0.9"
        await lab.add_host(zone_uuid=zone.uuid)
        node = {"uuid": ENTRY, "name": "n", "zone_uuid": zone.uuid, "type": "VirtualMachine"}
        group = await lab.up(model_services=[node])
        assert list(group.instances[0].addresses) == ["10.8.0.2"]
        assert group.instances[0].url == "http://10.8.0.2:8080"
        for wrong in ({"subnet": "10.8.0.0"}, {"source": ""}, {"gateway": "10.9.0.1"}, {"pool": "x"}, {"kind": "vlan"}):
            bad = fleet_pb2.CreateZoneRequest(name="bad", network=fleet_pb2.ZoneNetwork(**{**network, **wrong}))
            await refused(lab.fleet.CreateZone(bad), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


async def test_a_zone_with_hosts_and_one_of_the_file_stay_and_an_empty_one_goes(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        zone = (await lab.fleet.CreateZone(fleet_pb2.CreateZoneRequest(name="north"))).inventory
        host = await lab.add_host(zone_uuid=zone.uuid)
        wrong = grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE"
        error = await refused(lab.fleet.DeleteZone(fleet_pb2.DeleteZoneRequest(uuid=zone.uuid)), *wrong)
        assert "1 hosts" in (error.details() or "")
        error = await refused(lab.fleet.DeleteZone(fleet_pb2.DeleteZoneRequest(uuid=ZONE)), *wrong)
        assert "configuration file" in (error.details() or "")
        await lab.fleet.RemoveHost(fleet_pb2.RemoveHostRequest(uuid=host.uuid))
        stale = fleet_pb2.DeleteZoneRequest(uuid=zone.uuid, etag="no")
        await refused(lab.fleet.DeleteZone(stale), grpc.StatusCode.ABORTED, "CONFLICT")
        await lab.fleet.DeleteZone(fleet_pb2.DeleteZoneRequest(uuid=zone.uuid, validate_only=True))
        await lab.fleet.DeleteZone(fleet_pb2.DeleteZoneRequest(uuid=zone.uuid, etag=zone.etag))
        gone = fleet_pb2.DeleteZoneRequest(uuid=zone.uuid)
        await refused(lab.fleet.DeleteZone(gone), grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


# --- hosts ---------------------------------------------------------------------------------------------------------


async def test_a_host_that_is_added_at_run_time_carries_members_at_once(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=0)) as lab:
        host = await lab.add_host(
            labels={"tier": "gold"},
            resource_policies=[{"resource": "vcpu", "overcommit_ratio": 1.5, "reserved": 4}],
            request_id="add",
        )
        assert (host.state, host.status, dict(host.labels)) == ("Enabled", "Connected", {"tier": "gold"})
        by_name = {c.resource: c for c in host.capacities}
        vcpu = by_name["vcpu"]
        assert (vcpu.total, vcpu.reserved, vcpu.overcommit_ratio, vcpu.allocatable) == (64, 4, 1.5, 90)
        assert by_name["memory"].reserved == GIB, "the fleet's own reserve holds where the host names none"
        group = await lab.up()
        assert group.instances[0].host_uuid == host.uuid
        assert (await lab.host("added")).instance_count == 1
        again = await lab.add_host(
            labels={"tier": "gold"},
            resource_policies=[{"resource": "vcpu", "overcommit_ratio": 1.5, "reserved": 4}],
            request_id="add",
        )
        assert again.uuid == host.uuid


async def test_to_validate_a_host_reaches_it_and_leaves_nothing(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        before = await lab.service.store.read(fleet_events.newest)
        host = await lab.add_host(validate_only=True)
        assert host.status == "Connected"
        gone = fleet_pb2.GetHostRequest(uuid=host.uuid)
        await refused(lab.fleet.GetHost(gone), grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        assert await lab.service.store.read(fleet_events.newest) == before


async def test_a_host_is_reached_with_the_key_of_a_named_credential(tmp_path: Path) -> None:
    text = config_text() + '\n[[credentials]]\nname = "dc1"\nssh_key = "/etc/corral/dc1"\n'
    reached: list[Host] = []

    async def silent(host: Host) -> HostFacts:
        reached.append(host)
        raise HostUnreachable("nobody is there")

    ssh = {"transport": "ssh", "address": "hv1.test", "username": "corral", "credential": "dc1"}
    async with whole(tmp_path, text) as lab:
        lab.service.fleet._probe = silent
        await refused(lab.add_host(driver="libvirt", connection=ssh), grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
        assert [dict(host.address.options) for host in reached] == [{"ssh_key": "/etc/corral/dc1"}]
        tcp = {**ssh, "transport": "tcp", "username": ""}
        add = lab.add_host(driver="libvirt", connection=tcp)
        error = await refused(add, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
        assert "connection.credential" in (error.details() or "")
        other = lab.add_host(driver="libvirt", connection={**ssh, "credential": "dc2"})
        await refused(other, grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        assert len(reached) == 1


POLICY = "resource_policies[0]"
BAD_HOSTS: list[tuple[dict[str, Any], grpc.StatusCode | None, str]] = [
    ({"zone_uuid": UNKNOWN}, grpc.StatusCode.NOT_FOUND, "zone_uuid"),
    ({"driver": "xen"}, grpc.StatusCode.INVALID_ARGUMENT, "driver"),
    ({"driver": "ipmi", "connection": {"transport": "tls", "address": "b.test"}}, None, "driver"),
    ({"driver": "redfish", "connection": {"transport": "tls", "address": "b.test"}}, None, "connection.options"),
    ({"driver": "libvirt", "connection": {"transport": "none"}}, None, "connection.transport"),
    ({"driver": "simulated", "connection": {"transport": "unix"}}, None, "connection.transport"),
    ({"driver": "libvirt", "connection": {"transport": "tcp"}}, None, "connection.address"),
    ({"driver": "libvirt", "connection": {"transport": "tcp", "address": "a/b?command=x"}}, None, "connection.address"),
    ({"connection": {"transport": "none", "credential": "root"}}, grpc.StatusCode.NOT_FOUND, "connection.credential"),
    ({"resource_policies": [{"resource": "disk"}]}, None, "resource_policies[0].resource"),
    ({"resource_policies": [{"resource": "vcpu"}, {"resource": "vcpu"}]}, None, "resource_policies[1].resource"),
    ({"resource_policies": [{"resource": "vcpu", "overcommit_ratio": 0}]}, None, f"{POLICY}.overcommit_ratio"),
    ({"connection": {"transport": "none", "options": {"state_file": "/etc/passwd"}}}, None, "connection.options"),
    ({"connection": {"transport": "none", "options": {"pool": "images"}}}, None, "connection.options"),
    ({"connection": {"transport": "none", "options": {"cpu": "many"}}}, None, "connection.options"),
    ({"connection": {"transport": "none", "socket": "/run/libvirt/libvirt-sock"}}, None, "connection.socket"),
    ({"driver": "libvirt", "connection": {"transport": "unix", "socket": "/x?command=id"}}, None, "connection.socket"),
    ({"driver": "libvirt", "connection": {"transport": "unix", "socket": "run/sock"}}, None, "connection.socket"),
    ({"driver": "libvirt", "connection": {"transport": "unix", "port": 7}}, None, "connection.port"),
    ({"driver": "libvirt", "connection": {"transport": "unix", "username": "root"}}, None, "connection.username"),
    (
        {"driver": "libvirt", "connection": {"transport": "unix", "options": {"ssh_key": "/root/.ssh/id"}}},
        None,
        "connection.options",
    ),
    (
        {"driver": "libvirt", "connection": {"transport": "unix", "options": {"pool": "a/b"}}},
        None,
        "connection.options",
    ),
    ({"capacity": {"vcpu": -1}}, None, "capacity[vcpu]"),
    ({"state": "Broken"}, None, "state"),
    ({"bridge": "br 0"}, None, "bridge"),
    ({"name": ""}, None, "name"),
    ({"name": "two\nlines"}, None, "name"),
]  # fmt: skip


async def test_bad_hosts_are_refused_by_the_field_and_leave_nothing(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        before = await lab.service.store.read(fleet_events.newest)
        for changes, code, field in BAD_HOSTS:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await lab.add_host(**changes)
            expected = code or grpc.StatusCode.INVALID_ARGUMENT
            assert error.value.code() is expected, (changes, error.value.details())
            if expected is grpc.StatusCode.NOT_FOUND:
                info = detail(status_of(error.value), error_details_pb2.ErrorInfo)
                assert info.metadata["field"] == field
            else:
                bad = detail(status_of(error.value), error_details_pb2.BadRequest)
                assert [v.field for v in bad.field_violations] == [field], changes
        assert await lab.service.store.read(fleet_events.newest) == before


async def test_a_host_that_does_not_answer_is_not_added(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        connection = {"transport": "tcp", "address": "127.0.0.1", "port": 1}
        call = lab.add_host(driver="libvirt", connection=connection)
        error = await refused(call, grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
        # A class of cause, and for administrators, as its callers are, what libvirt said.
        told = "the host does not answer: the host's hypervisor does not answer; the host says: libvirt code 38 "
        assert (error.details() or "").startswith(told), error.details()
        hosts = (await lab.fleet.ListHosts(fleet_pb2.ListHostsRequest())).inventories
        assert [h.name for h in hosts] == ["host-1", "host-2"]


async def test_a_silent_host_says_what_was_said_behind_its_reason_until_it_answers(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        driver = lab.driver("host-1")

        async def call(budget_seconds: float) -> None:
            raise HostUnreachable("the host's hypervisor does not answer", "code 38: no socket, password=hunter2")

        driver._call = call  # type: ignore[method-assign]
        lab.service.reconciler.monitors[lab.uuid_of("host-1")].suspect()

        async def silent() -> bool:
            return (await lab.host("host-1")).status == "Disconnected"

        await soon(silent)
        host = await lab.host("host-1")
        assert (host.reason, host.cause) == (
            "the host's hypervisor does not answer",
            "code 38: no socket, password=[secret]",
        )
        del driver._call

        async def answers() -> bool:
            now = await lab.host("host-1")
            return (now.status, now.reason, now.cause) == ("Connected", "", "")

        await soon(answers)


async def test_an_update_changes_what_the_mask_names_and_counts_at_once(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        host = await lab.add_host(labels={"a": "b"}, rack="r1", description="old")
        request = fleet_pb2.UpdateHostRequest(
            uuid=host.uuid,
            name="renamed",
            rack="r9",
            resource_policies=[fleet_pb2.ResourcePolicy(resource="vcpu", overcommit_ratio=1)],
            update_mask=FieldMask(paths=["name", "labels", "resource_policies"]),
            etag=host.etag,
        )
        changed = (await lab.fleet.UpdateHost(request)).inventory
        assert (changed.name, changed.rack, changed.description, dict(changed.labels)) == ("renamed", "r1", "old", {})
        assert {c.resource: c.allocatable for c in changed.capacities}["vcpu"] == 64
        await refused(lab.fleet.UpdateHost(request), grpc.StatusCode.ABORTED, "CONFLICT")
        without_mask = fleet_pb2.UpdateHostRequest(uuid=host.uuid, rack="r2")
        again = (await lab.fleet.UpdateHost(without_mask)).inventory
        assert (again.name, again.rack, again.description) == ("renamed", "r2", "old")
        for paths, value in ((["state"], "x"), (["name"], "")):
            bad = fleet_pb2.UpdateHostRequest(uuid=host.uuid, name=value, update_mask=FieldMask(paths=paths))
            await refused(lab.fleet.UpdateHost(bad), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")

        async def followed() -> bool:
            return lab.service.reconciler.monitors[host.uuid].host.name == "renamed"

        await soon(followed)


async def test_the_policy_of_a_host_holds_for_claims_from_the_moment_of_its_change(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=0)) as lab:
        host = await lab.add_host()
        request = fleet_pb2.UpdateHostRequest(
            uuid=host.uuid,
            resource_policies=[fleet_pb2.ResourcePolicy(resource="vcpu", overcommit_ratio=1, reserved=61)],
        )
        await lab.fleet.UpdateHost(request)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.up()
        assert reason_of(error.value) in ("NO_CAPACITY", "UNSATISFIABLE")


async def test_a_host_that_carries_members_stays_and_an_empty_one_goes(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=0)) as lab:
        host = await lab.add_host()
        group = await lab.up(2)
        wrong = grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE"
        remove = fleet_pb2.RemoveHostRequest(uuid=host.uuid)
        assert "2 members" in ((await refused(lab.fleet.RemoveHost(remove), *wrong)).details() or "")
        maintain = fleet_pb2.MaintainHostRequest(uuid=host.uuid)
        assert "2 members" in ((await refused(lab.fleet.MaintainHost(maintain), *wrong)).details() or "")
        delete = deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)
        assert [a async for a in lab.deploy.DeleteInstanceGroup(delete)]
        assert (await lab.fleet.MaintainHost(maintain)).inventory.state == "Maintenance"
        await lab.fleet.RemoveHost(remove)
        await refused(lab.fleet.RemoveHost(remove), grpc.StatusCode.NOT_FOUND, "NOT_FOUND")

        async def forgotten() -> bool:
            return host.uuid not in lab.service.reconciler.monitors

        await soon(forgotten)


async def test_a_disabled_host_gets_nothing_new_and_keeps_what_it_has(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        group = await lab.up()
        first = lab.service.directory.hosts[group.instances[0].host_uuid].name
        disabled = (await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=lab.uuid_of(first)))).inventory
        assert (disabled.state, disabled.instance_count) == ("Disabled", 1)
        for _ in range(2):
            assert (await lab.up()).instances[0].host_uuid != lab.uuid_of(first)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lab.up()
        assert reason_of(error.value) == "NO_CAPACITY"
        enable = fleet_pb2.EnableHostRequest(uuid=lab.uuid_of(first), etag=disabled.etag)
        assert (await lab.fleet.EnableHost(enable)).inventory.state == "Enabled"
        await refused(lab.fleet.EnableHost(enable), grpc.StatusCode.ABORTED, "CONFLICT")
        assert (await lab.up()).instances[0].host_uuid == lab.uuid_of(first)


async def test_pages_of_hosts_are_by_name_complete_and_belong_to_their_filter(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=0)) as lab:
        names = ["b", "a", "a", "ä", "x" * 255, "x" * 254 + "y", "Z"]
        made = {(await lab.add_host(name=name, request_id=str(i))).uuid for i, name in enumerate(names)}
        seen: list[fleet_pb2.Host] = []
        token = ""
        for _ in itertools.count():
            page = await lab.fleet.ListHosts(fleet_pb2.ListHostsRequest(page_size=2, page_token=token))
            seen += page.inventories
            token = page.next_page_token
            assert len(token) <= 512
            if not token:
                break
        assert [h.name[:64] for h in seen] == sorted(name[:64] for name in names)
        assert {h.uuid for h in seen} == made
        first = await lab.fleet.ListHosts(fleet_pb2.ListHostsRequest(page_size=2))
        for bad in (
            fleet_pb2.ListHostsRequest(page_token="nonsense"),
            fleet_pb2.ListHostsRequest(page_token=first.next_page_token, states=["Disabled"]),
        ):
            await refused(lab.fleet.ListHosts(bad), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
        other = fleet_pb2.ListZonesRequest(page_token=first.next_page_token)
        await refused(lab.fleet.ListZones(other), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
        await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=seen[0].uuid))
        disabled = (await lab.fleet.ListHosts(fleet_pb2.ListHostsRequest(states=["Disabled"]))).inventories
        assert [h.uuid for h in disabled] == [seen[0].uuid]
        none = fleet_pb2.ListHostsRequest(statuses=["Disconnected"])
        assert not (await lab.fleet.ListHosts(none)).inventories


async def test_capacity_is_the_sum_of_the_hosts_that_take_members(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        await lab.up()
        await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=lab.uuid_of("host-2")))
        answer = await lab.fleet.GetCapacity(fleet_pb2.GetCapacityRequest())
        (alone,) = [await lab.host("host-1")]
        assert (answer.hosts, answer.unavailable_hosts) == (1, 1)
        assert list(answer.capacities) == list(alone.capacities)
        await lab.fleet.EnableHost(fleet_pb2.EnableHostRequest(uuid=lab.uuid_of("host-2")))
        both = await lab.fleet.GetCapacity(fleet_pb2.GetCapacityRequest(zone_uuid=ZONE))
        vcpu = {c.resource: c for c in both.capacities}["vcpu"]
        assert (vcpu.total, vcpu.allocatable, vcpu.claimed, vcpu.available) == (2, 20, 4, 16)
        assert vcpu.overcommit_ratio == 10
        empty = (await lab.fleet.CreateZone(fleet_pb2.CreateZoneRequest(name="empty"))).inventory
        nothing = await lab.fleet.GetCapacity(fleet_pb2.GetCapacityRequest(zone_uuid=empty.uuid))
        assert (nothing.hosts, list(nothing.capacities)) == (0, [])
        asked: dict[str, Any] = {"cpu_num": 3, "memory_size": GIB}
        room = (await lab.fleet.GetCapacity(fleet_pb2.GetCapacityRequest(**asked))).room
        assert (room.count, room.bound, dict(room.by_zone)) == (5, 5, {ZONE: 5}), "6 of 10, and 10, in threes"
        assert not (await lab.fleet.GetCapacity(fleet_pb2.GetCapacityRequest(zone_uuid=empty.uuid, **asked))).room.count
        asked["memory_size"] = 1 << 40
        assert not (await lab.fleet.GetCapacity(fleet_pb2.GetCapacityRequest(**asked))).room.count, "of no host's size"
        assert not both.HasField("room")
        half = fleet_pb2.GetCapacityRequest(cpu_num=3)
        await refused(lab.fleet.GetCapacity(half), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
        unknown = fleet_pb2.GetCapacityRequest(zone_uuid=UNKNOWN)
        await refused(lab.fleet.GetCapacity(unknown), grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


# --- the configuration file and run time -----------------------------------------------------------------------------


async def test_what_was_changed_at_run_time_outlives_a_restart_until_the_file_says_something_else(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/corral.db"
    async with whole(tmp_path, config_text(url=url)) as lab:
        uuid = lab.uuid_of("host-1")
        added = (await lab.add_host(name="mine")).uuid
        await lab.fleet.UpdateHost(fleet_pb2.UpdateHostRequest(uuid=uuid, rack="r7"))
        await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=uuid))
        wrong = grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE"
        await refused(lab.fleet.RemoveHost(fleet_pb2.RemoveHostRequest(uuid=uuid)), *wrong)
    async with whole(tmp_path, config_text(url=url)) as lab:
        kept = await lab.host("host-1")
        assert (kept.rack, kept.state) == ("r7", "Disabled")
        assert (await lab.host("mine")).uuid == added
        assert (await lab.host("mine")).status == "Connected"
    changed = config_text(url=url).replace('name = "host-1"', 'name = "host-1"\nrack = "r8"')
    async with whole(tmp_path, changed) as lab:
        told = await lab.host("host-1")
        assert (told.rack, told.state) == ("r8", "Disabled"), "the file has the last word, but not about the state"
    async with whole(tmp_path, config_text(hosts=0, url=url)) as lab:
        await lab.fleet.RemoveHost(fleet_pb2.RemoveHostRequest(uuid=uuid))
