"""Clusters over gRPC: rows of their own, which hosts and nodes name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, fleet_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from service.config.file import ConfigError, parse
from tests.service.rpc.lab import refused
from tests.support.whole import ENTRY, GIB, ZONE, Whole, config_text, whole

INVALID = grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"
NOT_FOUND = grpc.StatusCode.NOT_FOUND, "NOT_FOUND"
WRONG_STATE = grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE"
OF_FILE, NOWHERE = "c" * 32, "d" * 32
ROWS = f"""
[[clusters]]
uuid = "{OF_FILE}"
name = "rows"
zone = "zone-1"
"""


async def make(lab: Whole, name: str = "row", zone: str = ZONE, **fields: Any) -> fleet_pb2.Cluster:
    """A cluster of run time."""
    request = fleet_pb2.CreateClusterRequest(name=name, zone_uuid=zone, **fields)
    inventory: fleet_pb2.Cluster = (await lab.fleet.CreateCluster(request)).inventory
    return inventory


@pytest.mark.asyncio
async def test_a_cluster_is_made_once_listed_by_name_renamed_and_removed(tmp_path: Path) -> None:
    async with whole(tmp_path) as lab:
        made = await make(lab, "south", description="cold", request_id="one", resource_uuid="a" * 32)
        assert (made.uuid, made.name, made.description, made.zone_uuid) == ("a" * 32, "south", "cold", ZONE)
        assert await make(lab, "south", description="cold", request_id="one", resource_uuid="a" * 32) == made
        north = await make(lab, "north")
        twin = fleet_pb2.CreateClusterRequest(name="x", zone_uuid=ZONE, resource_uuid=made.uuid)
        await refused(lab.fleet.CreateCluster(twin), grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
        nowhere = fleet_pb2.CreateClusterRequest(name="x", zone_uuid=NOWHERE)
        await refused(lab.fleet.CreateCluster(nowhere), *NOT_FOUND)

        first = await lab.fleet.ListClusters(fleet_pb2.ListClustersRequest(page_size=1))
        second = await lab.fleet.ListClusters(fleet_pb2.ListClustersRequest(page_token=first.next_page_token))
        assert [c.name for page in (first, second) for c in page.inventories] == ["north", "south"]

        mask = FieldMask(paths=["name", "description"])
        change = fleet_pb2.UpdateClusterRequest(
            uuid=made.uuid, name="cellar", description="warm", update_mask=mask, etag=made.etag
        )
        changed = (await lab.fleet.UpdateCluster(change)).inventory
        assert (changed.name, changed.description) == ("cellar", "warm")
        name = FieldMask(paths=["name"])
        other = fleet_pb2.UpdateClusterRequest(uuid=made.uuid, name="south", description="hot", update_mask=name)
        changed = (await lab.fleet.UpdateCluster(other)).inventory
        assert (changed.name, changed.description) == ("south", "warm")
        await refused(lab.fleet.UpdateCluster(change), grpc.StatusCode.ABORTED, "CONFLICT")
        empty = fleet_pb2.UpdateClusterRequest(uuid=made.uuid, update_mask=FieldMask(paths=["name"]))
        await refused(lab.fleet.UpdateCluster(empty), *INVALID)
        gone = fleet_pb2.UpdateClusterRequest(uuid=NOWHERE, name="x")
        await refused(lab.fleet.UpdateCluster(gone), *NOT_FOUND)

        stale = fleet_pb2.DeleteClusterRequest(uuid=north.uuid, etag="no")
        await refused(lab.fleet.DeleteCluster(stale), grpc.StatusCode.ABORTED, "CONFLICT")
        await lab.fleet.DeleteCluster(fleet_pb2.DeleteClusterRequest(uuid=north.uuid, etag=north.etag))
        await refused(lab.fleet.DeleteCluster(fleet_pb2.DeleteClusterRequest(uuid=north.uuid)), *NOT_FOUND)


@pytest.mark.asyncio
async def test_hosts_are_in_a_cluster_of_their_zone_and_one_with_hosts_stays(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1)) as lab:
        cluster = await make(lab)
        other_zone = (await lab.fleet.CreateZone(fleet_pb2.CreateZoneRequest(name="north"))).inventory
        for uuid, zone, wrong in ((NOWHERE, ZONE, NOT_FOUND), (cluster.uuid, other_zone.uuid, INVALID)):
            fields: dict[str, Any] = {"driver": "simulated", "connection": {"transport": "none"}}
            request = fleet_pb2.AddHostRequest(name="odd", zone_uuid=zone, cluster_uuid=uuid, **fields)
            error = await refused(lab.fleet.AddHost(request), *wrong)
            assert (error.details() or "").startswith("cluster_uuid:")
        host = await lab.add_host(cluster_uuid=cluster.uuid)
        listed = (await lab.fleet.ListClusters(fleet_pb2.ListClustersRequest())).inventories
        assert [(c.host_count, list(c.zone_uuids)) for c in listed] == [(1, [ZONE])]
        delete = fleet_pb2.DeleteClusterRequest(uuid=cluster.uuid)
        error = await refused(lab.fleet.DeleteCluster(delete), *WRONG_STATE)
        assert "1 hosts" in (error.details() or "")
        await lab.fleet.RemoveHost(fleet_pb2.RemoveHostRequest(uuid=host.uuid))
        await lab.fleet.DeleteCluster(delete)

        kept = await make(lab, zone=other_zone.uuid)
        error = await refused(lab.fleet.DeleteZone(fleet_pb2.DeleteZoneRequest(uuid=other_zone.uuid)), *WRONG_STATE)
        assert "1 clusters" in (error.details() or "")
        await lab.fleet.DeleteCluster(fleet_pb2.DeleteClusterRequest(uuid=kept.uuid))
        await lab.fleet.DeleteZone(fleet_pb2.DeleteZoneRequest(uuid=other_zone.uuid))


@pytest.mark.asyncio
async def test_a_node_whose_cluster_is_in_another_zone_than_it_names_is_refused(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1)) as lab:
        other_zone = (await lab.fleet.CreateZone(fleet_pb2.CreateZoneRequest(name="north"))).inventory
        cluster = await make(lab, zone=other_zone.uuid)
        node: dict[str, Any] = {
            "uuid": ENTRY,
            "zone_uuid": ZONE,
            "cluster_uuid": cluster.uuid,
            "cpu_num": 1,
            "memory_size": GIB,
        }
        request = deploy_pb2.PlanDistributedModelServiceRequest(name="g", service_creation_strategy="parallel")
        request.model_services.add(**node)
        error = await refused(lab.deploy.PlanDistributedModelService(request), *INVALID)
        assert (error.details() or "").startswith("model_services[0].cluster_uuid:")


@pytest.mark.asyncio
async def test_a_cluster_of_the_file_has_its_name_and_cannot_be_removed(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1, extra=ROWS)) as lab:
        (told,) = (await lab.fleet.ListClusters(fleet_pb2.ListClustersRequest())).inventories
        assert (told.uuid, told.name, told.zone_uuid, told.host_count) == (OF_FILE, "rows", ZONE, 0)
        delete = fleet_pb2.DeleteClusterRequest(uuid=OF_FILE)
        error = await refused(lab.fleet.DeleteCluster(delete), *WRONG_STATE)
        assert "configuration file" in (error.details() or "")


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        (ROWS + ROWS.replace("rows", "more"), f"clusters[1].uuid: {OF_FILE} is taken by clusters[0]"),
        (ROWS + ROWS.replace(OF_FILE, NOWHERE), "clusters[1].name: rows is taken by clusters[0]"),
        (ROWS.replace("zone-1", "attic"), "clusters[0].zone: no zone 'attic'"),
    ],
)
def test_bad_clusters_of_the_file_are_told_by_their_keys(tmp_path: Path, extra: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(config_text(1, extra=extra), tmp_path)
    assert [told for told in error.value.problems if told.startswith(problem)], error.value.problems


def test_a_host_of_the_file_names_a_cluster_of_its_own_zone(tmp_path: Path) -> None:
    host = f"""
[[hosts]]
name = "odd"
zone = "zone-1"
driver = "simulated"
transport = "none"
cluster_uuid = "{OF_FILE}"
"""
    with pytest.raises(ConfigError) as error:
        parse(config_text(1, extra=host), tmp_path)
    (problem,) = error.value.problems
    assert problem == f"hosts[1].cluster_uuid: no cluster {OF_FILE} in [[clusters]]; none is configured"
    attic = f'\n[[zones]]\nuuid = "{NOWHERE}"\nname = "attic"\n'
    with pytest.raises(ConfigError) as error:
        parse(config_text(1, extra=attic + ROWS.replace("zone-1", "attic") + host), tmp_path)
    (problem,) = error.value.problems
    assert problem == "hosts[1].cluster_uuid: cluster rows is of another zone than the host"


@pytest.mark.asyncio
async def test_a_host_changes_its_cluster_unless_members_may_only_be_in_it(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(1, cpu=8)) as lab:
        old, new = await make(lab, "old"), await make(lab, "new")
        other_zone = (await lab.fleet.CreateZone(fleet_pb2.CreateZoneRequest(name="north"))).inventory
        abroad = await make(lab, "abroad", zone=other_zone.uuid)
        uuid = lab.uuid_of("host-1")

        def into(cluster: str, **fields: Any) -> Any:
            mask = FieldMask(paths=["cluster_uuid"])
            return lab.fleet.UpdateHost(
                fleet_pb2.UpdateHostRequest(uuid=uuid, cluster_uuid=cluster, update_mask=mask, **fields)
            )

        assert (await into(old.uuid)).inventory.cluster_uuid == old.uuid
        for cluster, wrong in ((NOWHERE, NOT_FOUND), (abroad.uuid, INVALID)):
            error = await refused(into(cluster), *wrong)
            assert (error.details() or "").startswith("cluster_uuid:")
        node = {"uuid": ENTRY, "cpu_num": 1, "memory_size": GIB}
        free = await lab.up(name="free", model_services=[node])
        assert (await into(new.uuid)).inventory.cluster_uuid == new.uuid
        bound = await lab.up(name="bound", model_services=[node, {**node, "cluster_uuid": new.uuid}])
        for cluster in (old.uuid, ""):
            for validate_only in (True, False):
                error = await refused(into(cluster, validate_only=validate_only), *WRONG_STATE)
                assert f"rules that would break: bound rank 1 (only in cluster {new.uuid});" in (error.details() or "")
        assert (await lab.host("host-1")).cluster_uuid == new.uuid
        assert (await into(new.uuid)).inventory.cluster_uuid == new.uuid

        async for _ in lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=bound.uuid)):
            pass
        assert (await into("")).inventory.cluster_uuid == ""
        assert (await lab.get(free.uuid)).status == "Running"


@pytest.mark.asyncio
async def test_a_file_that_takes_a_host_out_of_its_cluster_says_who_is_left_outside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path / 'kept.db'}"
    inside = config_text(1, url=url, extra=ROWS).replace(
        "[hosts.options]", f'cluster_uuid = "{OF_FILE}"\n[hosts.options]'
    )
    async with whole(tmp_path, inside) as lab:
        node = {"uuid": ENTRY, "cpu_num": 1, "memory_size": GIB, "cluster_uuid": OF_FILE}
        await lab.up(name="bound", model_services=[node])
    async with whole(tmp_path, config_text(1, url=url, extra=ROWS)) as lab:
        assert (await lab.host("host-1")).cluster_uuid == ""
    (told,) = [record.getMessage() for record in caplog.records if "by the file" in record.getMessage()]
    assert told.startswith("host host-1 has other labels, another rack or another cluster by the file")
    assert told.endswith(f"bound rank 0 (only in cluster {OF_FILE})")
