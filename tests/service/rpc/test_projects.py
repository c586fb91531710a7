"""ProjectService on the whole service: what projects use, who changed what, and who may see it; by gRPC, JSON and the
command."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from corral.v1 import deploy_pb2, fleet_pb2, project_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from service.cli.main import run
from tests.service.rpc.lab import refused
from tests.support.whole import ENTRY, GIB, Whole, config_text, whole

pytestmark = pytest.mark.asyncio

WHO = {"root": ("admin", "ops"), "ann": ("operator", "red"), "vic": ("viewer", "red"), "bob": ("operator", "blue")}
QUOTA = '[[quotas]]\nproject = "red"\ncpu = 9\n[[quotas]]\nproject = "idle"\nmemory = "2GiB"\n'
NOT_FOUND, INVALID = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT


def tokens() -> str:
    return '[identity]\nanonymous = "nobody"\n' + "".join(
        f'[[tokens]]\nname = "{name}"\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\n'
        f'role = "{role}"\nproject = "{project}"\n'
        for name, (role, project) in WHO.items()
    )


def by(name: str) -> dict[str, Any]:
    return {"metadata": (("authorization", f"Bearer {name}"),)}


async def up(lab: Whole, name: str, size: int = 1, **changes: Any) -> Any:
    """A group of `name`'s, of members of 2 vCPUs and 1 GiB, once it stands: running or failed."""
    node = {"uuid": ENTRY, "cpu_num": 2, "memory_size": GIB}
    request = deploy_pb2.DeployDistributedModelServiceRequest(
        **{"model_services": [node] * size, "service_creation_strategy": "parallel", "name": f"{name}s", **changes}
    )
    events = [a.event async for a in lab.deploy.DeployDistributedModelService(request, **by(name))]
    return events[-1].final


@asynccontextmanager
async def tenants(directory: Path) -> AsyncIterator[Whole]:
    """Two hosts, and projects red (a group of two, a quota), blue (a group of one) and idle (a quota alone)."""
    async with whole(directory, config_text(2, extra=tokens() + QUOTA)) as lab:
        await up(lab, "ann", 2, request_id="first")
        await up(lab, "bob")
        yield lab


async def usage(lab: Whole, who: str, **fields: Any) -> project_pb2.GetUsageResponse:
    answer: project_pb2.GetUsageResponse = await lab.projects.GetUsage(project_pb2.GetUsageRequest(**fields), **by(who))
    return answer


async def audit(lab: Whole, who: str, **fields: Any) -> project_pb2.ListAuditEventsResponse:
    answer: project_pb2.ListAuditEventsResponse = await lab.projects.ListAuditEvents(
        project_pb2.ListAuditEventsRequest(**fields), **by(who)
    )
    return answer


def told(found: Sequence[project_pb2.ProjectUsage]) -> dict[str, dict[str, tuple[int, int, int | None, int | None]]]:
    return {
        one.project: {
            r.resource: (
                r.claimed,
                r.waiting,
                r.limit if r.HasField("limit") else None,
                r.available if r.HasField("available") else None,
            )
            for r in one.resources
        }
        for one in found
    }


async def command(lab: Whole, who: str, *arguments: str) -> int:
    """The command's exit code. It runs in a thread, since it waits for answers of this very loop."""

    told = ["--server", str(lab.service.rpc.address), *arguments]
    return await asyncio.to_thread(run, told, {"CORRAL_TOKEN": who})


async def test_usage_is_what_the_quota_is_compared_with_and_each_sees_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with tenants(tmp_path) as lab:
        red = {"red": {"vcpu": (4, 0, 9, 5), "memory": (2 * GIB, 0, None, None)}}
        blue = {"blue": {"vcpu": (2, 0, None, None), "memory": (GIB, 0, None, None)}}
        idle = {"idle": {"memory": (0, 0, 2 * GIB, 2 * GIB)}}
        assert told((await usage(lab, "root")).inventories) == blue | idle | {"ops": {}} | red
        assert told((await usage(lab, "root", project="red")).inventories) == red
        for who, own in (("ann", red), ("vic", red), ("bob", blue)):
            assert told((await usage(lab, who)).inventories) == own
            (project,) = own
            assert told((await usage(lab, who, project=project)).inventories) == own
        (found,) = (await usage(lab, "vic")).inventories
        assert (found.group_count, found.instance_count) == (1, 2)
        for who, project in (("bob", "red"), ("ann", "idle"), ("root", "nobody")):
            await refused(
                lab.projects.GetUsage(project_pb2.GetUsageRequest(project=project), **by(who)), NOT_FOUND, "NOT_FOUND"
            )
        pages: list[list[str]] = []
        token = ""
        while not pages or token:
            page = await usage(lab, "root", page_size=3, page_token=token)
            pages.append([one.project for one in page.inventories])
            token = page.next_page_token
        assert pages == [["blue", "idle", "ops"], ["red"]]
        with pytest.raises(grpc.aio.AioRpcError) as error:  # 5 are left
            await up(lab, "ann", 3)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        async with httpx.AsyncClient(base_url=f"http://{lab.http_address}", timeout=60) as client:
            headers = {"Authorization": "Bearer vic"}
            (listed,) = (await client.get("/corral/v1/usage", headers=headers)).json()["inventories"]
            assert listed["resources"][1] == {"resource": "vcpu", "claimed": "4", "limit": "9", "available": "5"}
            text = (await client.get("/metrics", headers={"Authorization": "Bearer root"})).text
        for line in (
            'corral_project_claimed_vcpus{project="red"} 4.0',
            'corral_project_quota_memory_bytes{project="idle"} 2.147483648e+09',
            'corral_project_groups{project="blue"} 1.0',
            'corral_project_instances{project="red"} 2.0',
        ):
            assert line in text
        capsys.readouterr()
        assert await command(lab, "root", "usage", "red") == 0
        # The service's own log is on the same output.
        assert capsys.readouterr().out.splitlines()[-3:] == [
            "red: 1 group(s), 2 member(s)",
            "  2 GiB memory claimed, no limit",
            "  4 vcpu claimed, of 9 vcpu, 5 vcpu left",
        ]


async def test_the_audit_tells_who_changed_what_by_page_filter_and_role(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with tenants(tmp_path) as lab:
        uuid = lab.uuid_of("host-1")
        await lab.fleet.UpdateHost(fleet_pb2.UpdateHostRequest(uuid=uuid, description="mine"), **by("root"))
        everything = (await audit(lab, "root")).inventories
        assert [(e.principal, e.project, e.method) for e in everything] == [
            ("root", "ops", "UpdateHost"),
            ("bob", "blue", "DeployDistributedModelService"),
            ("ann", "red", "DeployDistributedModelService"),
        ]
        newest, middle, oldest = everything
        assert newest.subject == uuid
        assert oldest.client_request_id == "first"
        assert oldest.request_id
        assert oldest.peer.startswith("ipv4:127.0.0.1:")
        for fields, wanted in (
            ({"project": "red"}, [oldest]),
            ({"principal": "bob"}, [middle]),
            ({"method": "UpdateHost"}, [newest]),
            ({"subject": oldest.subject}, [oldest]),
            ({"request_id": middle.request_id}, [middle]),
            (
                {"start_time": middle.time},
                [e for e in everything if e.time.ToNanoseconds() >= middle.time.ToNanoseconds()],
            ),
            (
                {"end_time": middle.time},
                [e for e in everything if e.time.ToNanoseconds() < middle.time.ToNanoseconds()],
            ),
            ({"project": "red", "principal": "bob"}, []),
        ):
            assert list((await audit(lab, "root", **fields)).inventories) == wanted, fields
        assert list((await audit(lab, "ann")).inventories) == [oldest]
        assert list((await audit(lab, "ann", project="blue")).inventories) == []
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await audit(lab, "vic")
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
        pages: list[list[project_pb2.AuditEvent]] = []
        token = ""
        while not pages or token:
            page = await audit(lab, "root", page_size=2, page_token=token)
            pages.append(list(page.inventories))
            token = page.next_page_token
        assert pages == [[newest, middle], [oldest]]
        token = (await audit(lab, "root", page_size=2)).next_page_token
        other = project_pb2.ListAuditEventsRequest(page_token=token, principal="ann")
        await refused(lab.projects.ListAuditEvents(other, **by("root")), INVALID, "INVALID_ARGUMENT")
        for bad in (
            project_pb2.ListAuditEventsRequest(start_time=Timestamp(seconds=1 << 62)),
            project_pb2.ListAuditEventsRequest(start_time=Timestamp(seconds=5), end_time=Timestamp(seconds=5)),
        ):
            await refused(lab.projects.ListAuditEvents(bad, **by("root")), INVALID, "INVALID_ARGUMENT")
        async with httpx.AsyncClient(base_url=f"http://{lab.http_address}", timeout=60) as client:
            query = {"method": "UpdateHost", "startTime": "1999-01-01T00:00:00Z"}
            answer = await client.get("/corral/v1/audit-events", params=query, headers={"Authorization": "Bearer root"})
        assert [one["subject"] for one in answer.json()["inventories"]] == [uuid]
        capsys.readouterr()
        assert await command(lab, "root", "audit", "--since", "1h", "--limit", "2", "--json") == 0
        told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
        assert [json.loads(line)["principal"] for line in told] == ["root", "bob"]


async def test_groups_and_hosts_say_whose_they_are_and_are_listed_by_it(tmp_path: Path) -> None:
    async with tenants(tmp_path) as lab:

        async def listed(who: str, project: str = "") -> list[str]:
            request = deploy_pb2.ListInstanceGroupsRequest(project=project)
            return [g.project for g in (await lab.deploy.ListInstanceGroups(request, **by(who))).inventories]

        assert await listed("root") == ["red", "blue"]
        assert await listed("root", "blue") == ["blue"]
        assert await listed("ann") == await listed("ann", "red") == ["red"]
        assert await listed("ann", "blue") == []

        async def hosts(project: str = "") -> list[fleet_pb2.Host]:
            request = fleet_pb2.ListHostsRequest(project=project)
            return list((await lab.fleet.ListHosts(request, **by("root"))).inventories)

        sums: dict[str, int] = {}
        for one in await hosts():
            for whose in one.projects:
                sums[whose.project] = sums.get(whose.project, 0) + whose.claimed["vcpu"]
            assert sum(whose.instance_count for whose in one.projects) == one.instance_count
        assert sums == {"red": 4, "blue": 2}
        for project in ("red", "blue"):
            there = {one.uuid for one in await hosts() if project in {whose.project for whose in one.projects}}
            assert {one.uuid for one in await hosts(project)} == there
        assert await hosts("idle") == []
