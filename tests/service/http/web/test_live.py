"""The page's stream: all that stands, then what changes; each caller what it may see."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from corral.v1 import deploy_pb2, fleet_pb2

from service.app.capacity import ResourceAmounts
from tests.support.whole import Whole, config_text, whole

pytestmark = pytest.mark.asyncio

TOKENS = "\n".join(
    f"""
[[tokens]]
sha256 = "{hashlib.sha256(name.encode()).hexdigest()}"
name = "{name}"
project = "{project}"
role = "{role}"
"""
    for name, project, role in (("root", "ops", "admin"), ("red", "red", "operator"), ("blue", "blue", "viewer"))
)
SECURED = TOKENS + '\n[identity]\nanonymous = "nobody"\n'


class Page:
    """What a page would know, by the events of one stream."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines
        self.hello: dict[str, Any] = {}
        self.hosts: dict[str, Any] = {}
        self.zones: list[Any] = []
        self.groups: dict[str, Any] = {}
        self.members: dict[str, Any] = {}
        self.ready = False

    async def until(self, holds: Any) -> None:
        """Read on until it holds. The stream ends by the test's own time."""
        while not holds(self):
            name, text = "", ""
            async for line in self._lines:
                if not line and text:
                    break
                name = line.removeprefix("event: ") if line.startswith("event: ") else name
                text += line.removeprefix("data: ") if line.startswith("data: ") else ""
            assert text, "the stream has ended"
            self._take(name, json.loads(text))

    def of(self, group: str) -> set[tuple[int, str, int]]:
        """(rank, status, vCPUs) of the group's members."""
        return {(one["rank"], one["status"], one["cpu"]) for one in self.members.values() if one["group"] == group}

    def _take(self, name: str, document: dict[str, Any]) -> None:
        if name == "hello":
            self.hello = document
        elif name == "ready":
            self.ready = True
        else:
            assert name == "changes", document
            self.zones = document.get("zones", self.zones)
            self.hosts.update((one["uuid"], one) for one in document.get("hosts", ()))
            for uuid in document.get("removed_hosts", ()):
                del self.hosts[uuid]
            self.groups.update((one["uuid"], one) for one in document.get("groups", ()))
            self.members.update((one["uuid"], one) for one in document.get("members", ()))


@asynccontextmanager
async def opened(lab: Whole, token: str = "") -> AsyncIterator[Page]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        httpx.AsyncClient(base_url=f"http://{lab.http_address}", headers=headers, timeout=60) as http,
        http.stream("GET", "/web/events") as answer,
    ):
        assert answer.status_code == 200
        yield Page(answer.aiter_lines())


def sums_to(one: ResourceAmounts, page: Page) -> bool:
    columns = zip(*(host["resources"][one.resource] for host in page.hosts.values()), strict=True)
    of_the_service = [one.total, one.reserved, one.allocatable, one.claimed, one.foreign, one.available]
    return [sum(column) for column in columns] == of_the_service


async def test_a_page_knows_the_whole_fleet_and_follows_members_claims_and_what_operators_do(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=2)) as lab, opened(lab) as page:
        await page.until(lambda p: p.ready)
        assert page.hello["caller"] == {"principal": "anonymous", "project": "default", "role": "admin"}
        assert [zone["name"] for zone in page.zones] == ["zone-1"]
        assert sorted(host["name"] for host in page.hosts.values()) == ["host-1", "host-2"]
        await page.until(lambda p: all(host["status"] == "Connected" for host in p.hosts.values()))
        group = await lab.up(2)
        await page.until(lambda p: p.groups.get(group.uuid, {}).get("status") == "Running")
        await page.until(lambda p: p.of(group.uuid) == {(0, "Running", 4), (1, "Running", 4)})
        await page.until(lambda p: sum(host["resources"]["vcpu"][3] for host in p.hosts.values()) == 8)
        # The page's sums are the service's own.
        views = (await lab.service.fleet.capacity()).amounts
        for one in views:
            await page.until(partial(sums_to, one))
        await lab.fleet.DisableHost(fleet_pb2.DisableHostRequest(uuid=lab.uuid_of("host-1")))
        await page.until(lambda p: p.hosts[lab.uuid_of("host-1")]["state"] == "Disabled")
        async for _ in lab.deploy.DeleteInstanceGroup(deploy_pb2.DeleteInstanceGroupRequest(uuid=group.uuid)):
            pass
        await page.until(lambda p: p.groups[group.uuid]["ended"])
        await page.until(lambda p: not any(host["resources"]["vcpu"][3] for host in p.hosts.values()))


async def test_a_tenant_sees_its_own_groups_and_no_host(tmp_path: Path) -> None:
    async with whole(tmp_path, config_text(hosts=1, extra=SECURED)) as lab:
        async with httpx.AsyncClient(base_url=f"http://{lab.http_address}", timeout=60) as http:
            assert (await http.get("/web/events")).status_code == 401
            wrong = await http.get("/web/events", headers={"Authorization": "Bearer wrong"})
            assert wrong.status_code == 401
            body = {
                "name": "of-red",
                "serviceCreationStrategy": "parallel",
                "modelServices": [
                    {"uuid": "f1e135835fee363c9f57ed8232023886", "cpuNum": 1, "memorySize": str(1 << 30)}
                ],
            }
            made = await http.post("/corral/v1/instance-groups", json=body, headers={"Authorization": "Bearer red"})
            assert "final" in made.text
        async with opened(lab, "red") as red, opened(lab, "blue") as blue, opened(lab, "root") as root:
            for page in (red, blue, root):
                await page.until(lambda p: p.ready)
            assert [one["name"] for one in red.groups.values()] == ["of-red"]
            assert (red.hosts, red.zones) == ({}, [])
            assert (blue.groups, blue.members, blue.hosts) == ({}, {}, {})
            assert len(root.groups) == len(root.hosts) == 1
            assert blue.hello["caller"]["role"] == "viewer"


async def test_that_nothing_has_happened_is_no_message_that_a_page_draws_and_holds_nothing_back(tmp_path: Path) -> None:
    with patch("service.app.feed.BOOKMARK_SECONDS", 0.02):
        async with (
            whole(tmp_path, config_text(hosts=1)) as lab,
            httpx.AsyncClient(base_url=f"http://{lab.http_address}", timeout=60) as http,
            http.stream("GET", "/web/events") as answer,
        ):
            name, messages, comments = "", [], 0
            async for line in answer.aiter_lines():
                name = line.removeprefix("event: ") if line.startswith("event: ") else name
                if line.startswith("data: "):
                    messages.append((name, json.loads(line.removeprefix("data: "))))
                ready = "ready" in [one for one, _ in messages]
                comments += ready and line.startswith(":")
                if comments == 10 or len(messages) > 50:
                    break
    names = [one for one, _ in messages]
    assert [told for one, told in messages[names.index("ready") + 1 :] if told.keys() <= {"revision"}] == []


async def test_another_sites_page_cannot_open_the_stream(tmp_path: Path) -> None:
    async with (
        whole(tmp_path, config_text(hosts=1)) as lab,
        httpx.AsyncClient(base_url=f"http://{lab.http_address}", timeout=60) as http,
    ):
        for headers in (
            {"Origin": "http://evil.example"},
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        ):
            assert (await http.get("/web/events", headers=headers)).status_code == 403
