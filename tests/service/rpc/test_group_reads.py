"""What callers read of groups beside a deploy's own stream: pages and filters, members, timelines, watches."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from corral.v1 import deploy_pb2, placement_pb2

from service.contract import pages
from tests.service.rpc import lab
from tests.service.rpc.lab import deploy, events_of, failure, node

pytestmark = pytest.mark.asyncio


async def test_pages_hold_every_group_once_and_filters_hold_together() -> None:
    async with lab.running() as server:
        for number in range(5):
            tags = ["even"] if number % 2 == 0 else []
            small = [node(cpu_num=1, memory_size=lab.GIB)]
            more = {"system_tags": ["one::two"], "tag_uuids": ["a" * 32]} if number == 3 else {}
            await events_of(server.stub, deploy(name=f"g{number}", user_tags=tags, model_services=small, **more))
        names, token = [], ""
        while True:
            request = deploy_pb2.ListInstanceGroupsRequest(page_size=2, page_token=token)
            page = await server.stub.ListInstanceGroups(request)
            names += [group.name for group in page.inventories]
            assert len(page.inventories) <= 2
            token = page.next_page_token
            if not token:
                break
        assert names == [f"g{number}" for number in range(5)]

        async def found(**filters: Any) -> list[str]:
            page = await server.stub.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest(**filters))
            return [group.name for group in page.inventories]

        assert await found(tag="even") == ["g0", "g2", "g4"]
        assert await found(tag="even", name="g2") == ["g2"]
        assert await found(tag="one::two") == await found(tag="a" * 32) == ["g3"]
        assert await found(statuses=["Failed"]) == []
        assert await found(statuses=["Running", "Failed"], zone_uuid=lab.ZONE, name="g1") == ["g1"]
        assert await found(zone_uuid="e" * 32) == []
        first = await server.stub.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest(page_size=1))
        other = deploy_pb2.ListInstanceGroupsRequest(page_token=first.next_page_token, name="g1")
        error = await failure(server.stub, "ListInstanceGroups", other)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_page_ends_before_its_message_is_larger_than_clients_take(monkeypatch: pytest.MonkeyPatch) -> None:
    async with lab.running() as server:
        small = node(cpu_num=1, memory_size=lab.GIB)
        for number in range(5):
            await events_of(server.stub, deploy(name=f"g{number}", model_services=[small]))
        whole = (await server.stub.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest())).inventories
        # Their words differ in length: any two of them are a page, and no three.
        most = sum(sorted(group.ByteSize() for group in whole)[-2:])
        monkeypatch.setattr(pages, "MOST_PAGE_BYTES", most)
        found: list[Any] = []
        sizes: list[int] = []
        token = ""
        while not sizes or token:
            page = await server.stub.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest(page_token=token))
            found += page.inventories
            sizes.append(len(page.inventories))
            token = page.next_page_token
        assert found == list(whole)
        assert sizes == [2, 2, 1]
        # One that is larger than a page comes alone.
        monkeypatch.setattr(pages, "MOST_PAGE_BYTES", 1)
        page = await server.stub.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest())
        assert list(page.inventories) == list(whole[:1])
        assert page.next_page_token


async def test_members_of_all_groups_are_listed_by_pages_by_group_and_by_host() -> None:
    async with lab.running() as server:
        small = node(cpu_num=1, memory_size=lab.GIB)
        made = [
            (await events_of(server.stub, deploy(name=f"g{n}", model_services=[small, small])))[-1].final
            for n in range(2)
        ]

        async def listed(**fields: Any) -> tuple[list[Any], str]:
            page = await server.stub.ListInstances(deploy_pb2.ListInstancesRequest(**fields))
            return list(page.inventories), page.next_page_token

        first, token = await listed(page_size=3)
        rest, end = await listed(page_size=3, page_token=token)
        everyone = {member.uuid: member for group in made for member in group.instances}
        assert [member.uuid for member in first + rest] == sorted(everyone)
        assert end == ""
        assert all(everyone[member.uuid] == member for member in first + rest)
        assert {member.uuid for member in (await listed(group_uuid=made[0].uuid))[0]} == {
            member.uuid for member in made[0].instances
        }
        host = made[0].instances[0].host_uuid
        assert {m.uuid for m in (await listed(host_uuid=host))[0]} == {
            uuid for uuid, member in everyone.items() if member.host_uuid == host
        }
        error = await failure(
            server.stub, "ListInstances", deploy_pb2.ListInstancesRequest(page_token=token, host_uuid=host)
        )
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_watch_from_a_pages_revision_tells_exactly_what_came_after_it() -> None:
    async with lab.running() as server:
        await events_of(server.stub, deploy(name="first"))
        page = await server.stub.ListInstanceGroups(deploy_pb2.ListInstanceGroupsRequest())
        later = await events_of(server.stub, deploy(name="second"))
        watch = server.stub.WatchInstanceGroups(deploy_pb2.WatchInstanceGroupsRequest(start_revision=page.revision))
        assert [(await watch.read()).event for _ in later] == later
        watch.cancel()


async def test_a_groups_timeline_is_all_that_its_stream_told_page_by_page() -> None:
    async with lab.running() as server:
        told = await events_of(server.stub, deploy())
        await events_of(server.stub, deploy(name="another"))
        request = deploy_pb2.ListInstanceGroupEventsRequest(uuid=told[0].group_uuid, page_size=3)
        found = [await server.stub.ListInstanceGroupEvents(request)]
        while found[-1].next_page_token:
            request.page_token = found[-1].next_page_token
            found.append(await server.stub.ListInstanceGroupEvents(request))
        assert [event for page in found for event in page.events] == told
        assert {len(page.events) for page in found[:-1]} == {3}
        error = await failure(
            server.stub,
            "ListInstanceGroupEvents",
            deploy_pb2.ListInstanceGroupEventsRequest(uuid=told[0].group_uuid, page_token="x"),
        )
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        error = await failure(
            server.stub, "ListInstanceGroupEvents", deploy_pb2.ListInstanceGroupEventsRequest(uuid="e" * 32)
        )
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_a_client_that_leaves_does_not_stop_the_deploy_and_can_follow_it_by_a_watch() -> None:
    async with lab.running() as server:
        server.hold_hosts()
        stream = server.stub.DeployDistributedModelService(deploy())
        first = (await stream.read()).event
        stream.cancel()
        server.going.set()
        await events_of(server.stub, deploy(name="another"))  # of which the watch says nothing
        watch = server.stub.WatchInstanceGroups(
            deploy_pb2.WatchInstanceGroupsRequest(uuid=first.group_uuid, start_revision=first.revision)
        )
        seen = []
        async for answer in watch:
            seen.append(answer.event)
            if answer.event.WhichOneof("change") == "final":
                break
        assert [event.sequence for event in seen] == list(range(2, len(seen) + 2))
        assert seen[-1].final.status == "Running"


async def test_a_watch_without_a_revision_tells_what_stands_then_a_bookmark_then_changes() -> None:
    async with lab.running() as server:
        await events_of(server.stub, deploy(name="first"))
        watch = server.stub.WatchInstanceGroups(deploy_pb2.WatchInstanceGroupsRequest())
        standing = (await watch.read()).event
        assert (standing.WhichOneof("change"), standing.group.name, standing.group.status) == (
            "group",
            "first",
            "Running",
        )
        mark = (await watch.read()).event
        assert (mark.WhichOneof("change"), mark.bookmark.initial_state_complete) == ("bookmark", True)
        assert mark.revision >= standing.revision
        await events_of(server.stub, deploy(name="second"))
        accepted = (await watch.read()).event
        assert (accepted.revision, accepted.accepted.name) == (mark.revision + 1, "second")
        watch.cancel()


async def test_a_revision_in_the_future_is_out_of_range_and_tells_the_range() -> None:
    async with lab.running() as server:
        watch = server.stub.WatchInstanceGroups(deploy_pb2.WatchInstanceGroupsRequest())
        current = (await watch.read()).event.revision
        watch.cancel()
        future = deploy_pb2.WatchInstanceGroupsRequest(start_revision=current + 1)
        error = await failure(server.stub, "WatchInstanceGroups", future)
        assert error.code() is grpc.StatusCode.OUT_OF_RANGE
        known = lab.detail(lab.status_of(error), placement_pb2.RevisionRange)
        assert (known.oldest <= current, known.current) == (True, current)
