"""Bytes that are kept are those that the caller's own message would be, whoever asked before."""

from __future__ import annotations

from dataclasses import replace

import pytest
from corral.v1 import deploy_pb2

from service.contract.call import set_caller
from service.contract.convert import events, inventory, views
from service.contract.convert.views import GroupViews
from service.domain.events import Event, EventKind
from service.domain.groups import Group
from service.domain.tenants import NOBODY, Caller
from tests.support.builders import ZONE, group

ADMIN: Caller = replace(NOBODY, principal="root", role="admin")
TENANT: Caller = replace(NOBODY, principal="tenant", role="member", project="theirs")
CAUSE = "cannot open /srv/images/base.qcow2 on the host"


def _failed(size: int = 2) -> Group:
    made = group(size=size, reason="host_refused", cause=CAUSE, cause_of="host_refused")
    seated = tuple(replace(m, zone_uuid=ZONE, address="10.0.0.7", service_port=80) for m in made.instances)
    return replace(made, instances=seated)


def _got(kept: GroupViews, value: Group, caller: Caller) -> deploy_pb2.GetInstanceGroupResponse:
    set_caller(caller)
    return deploy_pb2.GetInstanceGroupResponse.FromString(kept.group(value))


def _leaks() -> bool:
    """Whether a tenant is told what only those may know who see hosts, after one of them has asked."""
    kept, value = GroupViews(lambda _zone: True), _failed()
    assert _got(kept, value, ADMIN).inventory.cause == CAUSE
    return _got(kept, value, TENANT).inventory.cause != ""


@pytest.mark.parametrize("size", [1, 2, 40])
def test_bytes_are_those_of_the_message(size: int) -> None:
    kept, value = GroupViews(lambda _zone: True), _failed(size)
    for caller in (TENANT, ADMIN, TENANT):
        told = _got(kept, value, caller)
        assert told == deploy_pb2.GetInstanceGroupResponse(inventory=inventory.group(value, lambda _zone: True))


@pytest.mark.parametrize("size", [1, 40])
def test_a_group_that_stands_is_told_to_watchers_in_the_bytes_of_its_message(size: int) -> None:
    told, value = events.EventMessages(lambda _zone: True), _failed(size)
    for caller in (TENANT, ADMIN, TENANT):
        set_caller(caller)
        data = told.framed(value)
        assert told.framed(value) is data
        answer = deploy_pb2.WatchInstanceGroupsResponse.FromString(data)
        assert answer == deploy_pb2.WatchInstanceGroupsResponse(event=events.standing(value, lambda _zone: True))


def test_what_is_unchanged_is_made_once_for_each_right() -> None:
    kept, value = GroupViews(lambda _zone: True), _failed()
    set_caller(TENANT)
    theirs = kept.group(value)
    set_caller(ADMIN)
    ours = kept.group(value)
    assert ours != theirs
    assert kept.group(value) is ours
    set_caller(replace(TENANT, principal="another"))
    assert kept.group(value) is theirs
    assert kept.group(replace(value)) == theirs


def test_a_tenant_is_not_sent_what_an_administrator_was() -> None:
    assert not _leaks()


def test_bytes_that_forget_whose_they_are_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "tells_causes", lambda: False)
    assert _leaks()


def test_urls_come_and_go_with_what_is_reachable() -> None:
    reachable: set[str] = set()
    kept, value = GroupViews(lambda zone: zone in reachable), _failed()
    assert _got(kept, value, TENANT).inventory.instances[0].url == ""
    reachable.add(ZONE)
    assert _got(kept, value, TENANT).inventory.instances[0].url == "http://10.0.0.7:80"
    reachable.clear()
    assert _got(kept, value, TENANT).inventory.instances[0].url == ""


def test_no_more_is_kept_than_may_be() -> None:
    kept, one, two = GroupViews(lambda _zone: True, most_bytes=1), _failed(), _failed(3)
    set_caller(TENANT)
    first = kept.group(one)
    assert kept.group(one) is first
    kept.group(two)
    again = kept.group(one)
    assert again is not first
    assert again == first


def test_an_event_is_the_same_bytes_for_all_of_the_same_rights() -> None:
    made = events.EventMessages(lambda _zone: True)
    value = Event(
        revision=7, group_uuid="a" * 32, sequence=3, kind=EventKind.FINAL, time=5, project="p", group=_failed()
    )
    set_caller(ADMIN)
    ours = made.framed(value)
    assert made.framed(value) is ours
    set_caller(TENANT)
    theirs = made.framed(value)
    told = deploy_pb2.WatchInstanceGroupsResponse.FromString(theirs)
    assert told.event == made.change(value)
    assert told.event.final.cause == ""
    assert deploy_pb2.WatchInstanceGroupsResponse.FromString(ours).event.final.cause == CAUSE
