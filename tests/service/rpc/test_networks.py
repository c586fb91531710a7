"""A zone's addresses and whom its groups may talk with: changed at run time, exhausted, and had by strangers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import fleet_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from service.domain.groups import InstanceStatus
from service.domain.isolation import EVERYBODY, NWFILTER, GroupFilter, Isolation, isolation_of, let_loose
from service.domain.network import DOMAIN, ForeignAddress
from service.reconcile.filter_sweep import FilterSweep
from service.store import addresses, fleet, groups, retired
from tests.service.rpc.lab import refused
from tests.support.whole import ENTRY, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

LAN: dict[str, Any] = {"kind": "bridge", "source": "br0", "subnet": "10.8.0.0/24", "gateway": "10.8.0.1"}
INVALID = grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"
SHORT = grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_ADDRESSES"


async def zone_of(lab: Whole, name: str, *pools: str, **changes: Any) -> fleet_pb2.Zone:
    network = fleet_pb2.ZoneNetwork(**{**LAN, **changes}, pools=pools)
    zone: fleet_pb2.Zone = (
        await lab.fleet.CreateZone(fleet_pb2.CreateZoneRequest(name=name, network=network))
    ).inventory
    await lab.add_host(name=f"host-of-{name}", zone_uuid=zone.uuid)
    return zone


def node(number: int, zone: str = "") -> dict[str, Any]:
    return {"uuid": ENTRY, "name": f"n{number}", "zone_uuid": zone, "type": "VirtualMachine"}


def change(zone: fleet_pb2.Zone, *mask: str, **fields: Any) -> fleet_pb2.UpdateZoneRequest:
    return fleet_pb2.UpdateZoneRequest(uuid=zone.uuid, update_mask=FieldMask(paths=mask), **fields)


async def test_pools_change_at_run_time_without_overlap_and_addresses_stay_their_members(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=0)) as lab:
        zone = await zone_of(lab, "lan", "10.8.0.10-10.8.0.10", "10.8.0.20-10.8.0.21")
        await zone_of(lab, "other", "10.8.0.100-10.8.0.199", gateway="")
        group = await lab.up(model_services=[node(n, zone.uuid) for n in range(2)])
        assert sorted(m.addresses[0] for m in group.instances) == ["10.8.0.10", "10.8.0.20"]
        seen = {z.name: z for z in (await lab.fleet.ListZones(fleet_pb2.ListZonesRequest())).inventories}["lan"]
        assert [(p.first, p.size, p.held, p.foreign, p.free) for p in seen.pools] == [
            ("10.8.0.10", 1, 1, 0, 0),
            ("10.8.0.20", 2, 1, 0, 1),
        ]
        for pools, mask in (
            (["10.8.0.20-10.8.0.30", "10.8.0.25-10.8.0.40"], "pools"),  # each other
            (["10.8.0.90-10.8.0.100"], "pools"),  # the other zone's
            (["10.8.0.1-10.8.0.30"], "pools"),  # the gateway
            ([], "pools"),
            (["10.8.0.30-10.8.0.31"], "network"),
        ):
            await refused(lab.fleet.UpdateZone(change(zone, mask, pools=pools)), *INVALID)
        left = change(zone, "pools", pools=["10.8.0.20-10.8.0.30"])
        error = await refused(lab.fleet.UpdateZone(left), grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
        assert "10.8.0.10" in (error.details() or "")
        stale = change(zone, "pools", pools=["10.8.0.20-10.8.0.30"], etag="no")
        await refused(lab.fleet.UpdateZone(stale), grpc.StatusCode.ABORTED, "CONFLICT")
        wider = change(zone, pools=["10.8.0.10-10.8.0.12", "10.8.0.20-10.8.0.30"], description="wider")
        made = (await lab.fleet.UpdateZone(wider)).inventory
        assert (list(made.network.pools), made.description) == (list(wider.pools), "wider")
        more = await lab.up(name="more", model_services=[node(n, zone.uuid) for n in range(3)])
        assert sorted(m.addresses[0] for m in more.instances) == ["10.8.0.11", "10.8.0.12", "10.8.0.21"]


async def test_who_finds_too_few_addresses_is_told_so_before_anything_is_planned(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=0)) as lab:
        small = await zone_of(lab, "small", "10.8.0.10-10.8.0.11")
        error = await refused(lab.up(model_services=[node(n, small.uuid) for n in range(3)]), *SHORT)
        for word in ("small", "10.8.0.10-10.8.0.11", "2 free", "3 are needed"):
            assert word in (error.details() or "")
        error = await refused(lab.up(model_services=[node(n) for n in range(3)]), *SHORT)
        assert await lab.service.store.read(lambda c: groups.counts(c)[0]) == {}, "nothing was begun"
        # Where another zone has enough the gang goes there, however much better it would fit into the small one.
        large = await zone_of(lab, "large", "10.8.1.10-10.8.1.99", subnet="10.8.1.0/24", gateway="")
        group = await lab.up(model_services=[node(n) for n in range(3)])
        assert {m.zone_uuid for m in group.instances} == {large.uuid}


async def test_an_address_that_somebody_else_has_is_told_and_given_to_nobody(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=0)) as lab:
        zone = await zone_of(lab, "lan", "10.8.0.10-10.8.0.12")
        network = await lab.service.store.read(lambda c: fleet.zone(c, zone.uuid).network)
        (host,) = await lab.service.store.read(fleet.hosts)
        seen = [ForeignAddress("10.8.0.10", "52:54:00:aa:00:01", DOMAIN), ForeignAddress("10.9.0.1", "", DOMAIN)]
        for news in (True, False):
            assert news is await lab.service.store.write(
                lambda c: addresses.seen_on_host(c, zone.uuid, network, host, seen, 5)
            )
        await refused(lab.up(model_services=[node(n, zone.uuid) for n in range(3)]), *SHORT)
        group = await lab.up(model_services=[node(n, zone.uuid) for n in range(2)])
        assert sorted(m.addresses[0] for m in group.instances) == ["10.8.0.11", "10.8.0.12"]
        shown = {z.name: z for z in (await lab.fleet.ListZones(fleet_pb2.ListZonesRequest())).inventories}["lan"]
        assert [(p.held, p.foreign, p.free) for p in shown.pools] == [(2, 1, 0)]
        (told,) = shown.foreign_addresses
        assert (told.address, told.hardware_address, told.how, told.seen_by) == (
            "10.8.0.10",
            "52:54:00:aa:00:01",
            "domain",
            host,
        )
        await lab.service.store.write(lambda c: addresses.seen_on_host(c, zone.uuid, network, host, [], 6))
        await lab.up(name="again", model_services=[node(1, zone.uuid)])


async def test_whom_groups_may_talk_with_follows_from_zone_and_members(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=0)) as lab:
        zone = await zone_of(lab, "lan", "10.8.0.8-10.8.0.20", reachable=["10.8.0.53"])
        await zone_of(lab, "other", "10.7.0.8-10.7.0.20", subnet="10.7.0.0/24", gateway="")
        group = await lab.up(model_services=[node(n, zone.uuid) for n in range(2)])
        stored = await lab.service.store.read(lambda c: groups.load(c, group.uuid))

        async def held() -> Isolation | None:
            zones = await lab.service.store.read(fleet.zones)
            return isolation_of(stored, zones[zone.uuid], zones)

        assert await held() == Isolation(
            group.uuid,
            ("10.8.0.1/32", "10.8.0.8/31", "10.8.0.53/32"),
            ("10.7.0.0/24", "10.8.0.0/24"),
            (("10.8.0.8", 8080), ("10.8.0.9", 8080)),
            routed=True,
        )
        await lab.fleet.UpdateZone(change(zone, "reachable"))
        found = await held()
        assert found is not None
        assert "10.8.0.53/32" not in found.peers
        await refused(lab.fleet.UpdateZone(change(zone, "reachable", reachable=["router"])), *INVALID)
        await lab.fleet.UpdateZone(change(zone, isolation="off"))
        assert await held() is None


async def test_members_with_addresses_of_ipv6_are_held_as_others_are(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=0)) as lab:
        six = {"subnet": "fd77::/64", "gateway": "fd77::1"}
        zone = await zone_of(lab, "six", "fd77::8-fd77::20", **six, reachable=["fd77::53"])
        await zone_of(lab, "four", "10.7.0.8-10.7.0.20", subnet="10.7.0.0/24", gateway="")
        group = await lab.up(model_services=[node(n, zone.uuid) for n in range(2)])
        stored = await lab.service.store.read(lambda c: groups.load(c, group.uuid))
        zones = await lab.service.store.read(fleet.zones)
        assert isolation_of(stored, zones[zone.uuid], zones) == Isolation(
            group.uuid,
            ("fd77::1/128", "fd77::8/127", "fd77::53/128"),
            ("fd77::/64", "fe80::/10"),
            (("fd77::8", 8080), ("fd77::9", 8080)),
            routed=True,
        )
        assert let_loose(group.uuid, zones[zone.uuid].network).is_ipv6
        await refused(lab.fleet.UpdateZone(change(zone, "reachable", reachable=["10.7.0.53"])), *INVALID)


async def test_nothing_is_promised_where_nothing_can_be_held(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=0)) as lab:
        for kind in ({"kind": "bridge", "source": "br0"}, {"kind": "user"}, {"kind": "none"}):
            for wish in ("auto", "off"):
                network = fleet_pb2.ZoneNetwork(**kind, isolation=wish)
                await refused(
                    lab.fleet.CreateZone(fleet_pb2.CreateZoneRequest(name="z", network=network)),
                    *INVALID,
                )
            made = await lab.fleet.CreateZone(
                fleet_pb2.CreateZoneRequest(name=kind["kind"], network=fleet_pb2.ZoneNetwork(**kind))
            )
            await refused(lab.fleet.UpdateZone(change(made.inventory, "isolation", isolation="off")), *INVALID)


class Filtering:
    """A host with filters, as the sweep sees one."""

    def __init__(self, host: Any) -> None:
        self.host, self.driver, self.facts = host, self, self
        self.isolation = NWFILTER
        self.there: dict[str, GroupFilter] = {}
        self.wanted: dict[str, Isolation] = {}

    async def list_filters(self, *, budget_seconds: float) -> tuple[GroupFilter, ...]:
        return tuple(self.there.values())

    async def set_filter(self, isolation: Isolation, *, budget_seconds: float) -> None:
        self.wanted[isolation.group] = isolation
        self.there[isolation.group] = GroupFilter(isolation.group, isolation.digest, self.there[isolation.group].used)

    async def remove_filter(self, group: str, *, budget_seconds: float) -> None:
        del self.there[group]


async def test_filters_follow_their_groups_and_go_only_by_a_record_and_without_a_machine(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=0)) as lab:
        zone = await zone_of(lab, "lan", "10.8.0.8-10.8.0.20")
        group = await lab.up(model_services=[node(n, zone.uuid) for n in range(2)])
        hosts = await lab.service.store.read(fleet.hosts)
        uuid, host = next(iter(hosts.items()))
        there, sweep = Filtering(host), FilterSweep(lab.service.store, lab.service.metrics)
        unknown, let_go = "d" * 32, "e" * 32
        there.there = {g: GroupFilter(g, "old", used=False) for g in (group.uuid, unknown, let_go)}
        await lab.service.store.write(lambda c: retired.retire(c, [("f" * 32, 1, uuid)], let_go, "it ended", 1))
        there.there[let_go] = GroupFilter(let_go, "old", used=True)
        for _ in range(3):
            await sweep.sweep(there, early=False)  # type: ignore[arg-type]
        assert set(there.there) == {group.uuid, unknown, let_go}, "a machine refers to it"
        assert there.wanted[group.uuid].peers == ("10.8.0.1/32", "10.8.0.8/31")
        there.there[let_go] = GroupFilter(let_go, "old", used=False)
        await sweep.sweep(there, early=True)  # type: ignore[arg-type]
        await sweep.sweep(there, early=True)  # type: ignore[arg-type]
        assert let_go in there.there, "too early after the start"
        await sweep.sweep(there, early=False)  # type: ignore[arg-type]
        assert set(there.there) == {group.uuid, unknown}, "what nobody knows stays"
        await lab.fleet.UpdateZone(change(zone, isolation="off"))
        await sweep.sweep(there, early=False)  # type: ignore[arg-type]
        assert there.wanted[group.uuid].peers == EVERYBODY
        stored = await lab.service.store.read(lambda c: groups.load(c, group.uuid))
        assert {m.status for m in stored.instances} == {InstanceStatus.RUNNING}
