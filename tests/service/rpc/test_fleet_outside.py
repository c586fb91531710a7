"""Fleet and catalogue as a stranger manages them: grpcurl against a whole process on simulated hosts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.builders import ENTRY, ZONE
from tests.support.outside import Outside, documents, outside


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    with outside(tmp_path_factory.mktemp("fleet")) as process:
        yield process


def call(service: Outside, method: str, **body: Any) -> list[Any]:
    result = service.grpcurl(f"corral.v1.{method}", body=body)
    assert result.returncode == 0, result.stderr
    return documents(result.stdout)


def test_grpcurl_takes_a_host_in_uses_it_drains_it_and_takes_it_out(service: Outside) -> None:
    (zone,) = [z["inventory"] for z in call(service, "FleetService/CreateZone", name="north")]
    (added,) = call(
        service,
        "FleetService/AddHost",
        name="third",
        zoneUuid=zone["uuid"],
        driver="simulated",
        connection={"transport": "none"},
        resourcePolicies=[{"resource": "vcpu", "overcommitRatio": 2}],
    )
    host = added["inventory"]
    assert (host["state"], host["status"]) == ("Enabled", "Connected")
    capacity = {c["resource"]: c for c in host["capacities"]}
    assert (capacity["vcpu"]["total"], capacity["vcpu"]["allocatable"]) == ("64", "128")
    node = {"uuid": ENTRY, "name": "n", "cpuNum": 2, "memorySize": 1 << 30, "type": "VirtualMachine"}
    deployed = call(
        service,
        "DistributedModelService/DeployDistributedModelService",
        name="moved",
        serviceCreationStrategy="parallel",
        modelServices=[{**node, "zoneUuid": zone["uuid"]}],
    )
    group = deployed[-1]["event"]["final"]
    assert group["instances"][0]["hostUuid"] == host["uuid"]
    refused = service.grpcurl("corral.v1.FleetService/RemoveHost", body={"uuid": host["uuid"]})
    assert "WRONG_STATE" in refused.stderr
    assert "1 members" in refused.stderr
    no_room = service.grpcurl("corral.v1.FleetService/DrainHost", body={"uuid": host["uuid"]})
    assert "UNSATISFIABLE" in no_room.stderr, "the member asks for this zone, which has no other host"
    second = call(
        service,
        "FleetService/AddHost",
        name="fourth",
        zoneUuid=zone["uuid"],
        driver="simulated",
        connection={"transport": "none"},
    )[0]["inventory"]
    preview = call(service, "FleetService/DrainHost", uuid=host["uuid"], validateOnly=True)
    assert preview[0]["move"]["targetHostUuid"] == second["uuid"]
    steps = call(service, "FleetService/DrainHost", uuid=host["uuid"])
    assert "move" in steps[0]
    assert steps[-1]["final"]["state"] == "Maintenance"
    (moved,) = call(service, "DistributedModelService/GetInstanceGroup", uuid=group["uuid"])
    assert moved["inventory"]["status"] == "Running"
    assert moved["inventory"]["instances"][0]["hostUuid"] == second["uuid"]
    call(service, "FleetService/RemoveHost", uuid=host["uuid"])
    call(service, "DistributedModelService/DeleteInstanceGroup", uuid=group["uuid"])
    call(service, "FleetService/RemoveHost", uuid=second["uuid"])
    call(service, "FleetService/DeleteZone", uuid=zone["uuid"])


def test_grpcurl_sees_the_catalogue_and_what_fits(service: Outside) -> None:
    (images,) = call(service, "CatalogService/ListImages")
    (image,) = images["inventories"]
    made = call(service, "CatalogService/CreateModelService", name="mine", imageUuid=image["uuid"])[0]["inventory"]
    (listed,) = call(service, "CatalogService/ListModelServices")
    assert [entry["name"] for entry in listed["inventories"]] == ["default", "mine"]
    call(
        service,
        "CatalogService/UpdateModelService",
        uuid=made["uuid"],
        defaultCpuNum=4,
        updateMask={"paths": ["default_cpu_num"]},
    )
    (got,) = call(service, "CatalogService/GetModelService", uuid=made["uuid"])
    assert got["inventory"]["defaultCpuNum"] == 4
    call(service, "CatalogService/DeleteModelService", uuid=made["uuid"])
    (fits,) = call(service, "FleetService/GetCapacity", zoneUuid=ZONE, cpuNum=80, memorySize=1 << 30)
    assert fits["room"] == {"count": 4, "bound": 4, "byZone": {ZONE: 4}}
