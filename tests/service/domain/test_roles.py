"""Roles: counts become members, orders are settled by role, and what contradicts itself is told by the field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from service.domain import roles
from service.domain.groups import Instance, InstanceStatus
from tests.support.builders import group, node

S = InstanceStatus


def asked(role: str = "", order: int = roles.UNSET, count: int = 1, **changes: Any) -> Any:
    return node(role=role, start_order=order, count=count, **changes)


def test_a_count_becomes_members_of_numbered_names_in_the_order_of_their_role() -> None:
    nodes = [
        asked("router", 2, name="r"),
        asked("prefill", 0, 2, name="p"),
        asked("decode", 1),
        asked("decode", count=2),
    ]
    found = roles.expanded(nodes, {})
    assert [(n.name, n.role, n.start_order, n.count) for n in found] == [
        ("r", "router", 2, 1),
        ("p-0", "prefill", 0, 1),
        ("p-1", "prefill", 0, 1),
        ("", "decode", 1, 1),
        ("", "decode", 1, 1),
        ("", "decode", 1, 1),
    ]
    assert [n.start_order for n in roles.expanded([asked("decode"), asked("new")], {"decode": 7})] == [7, 0]


@pytest.mark.parametrize(
    ("nodes", "known", "fields"),
    [
        ([asked("a", 1), asked("a", 2)], {}, ["[1].start_order"]),
        ([asked("a", 1), asked("a")], {}, []),
        ([asked("a", 2)], {"a": 1}, ["[0].start_order"]),
        ([asked("a")], {"a": 1}, []),
        ([asked("", 3)], {}, ["[0].start_order"]),
        ([asked("a", count=2, is_initial_node=True)], {}, ["[0].count"]),
        ([asked("a", count=2, node_rank=0)], {}, ["[0].count"]),
        ([asked(count=5)], {}, []),
    ],
)
def test_what_contradicts_itself_is_told_by_the_field(nodes: Any, known: dict[str, int], fields: list[str]) -> None:
    assert [one.field for one in roles.violations(nodes, known)] == [f"model_services{field}" for field in fields]


def members() -> tuple[Instance, ...]:
    """Ranks 0 to 4: a router, two of prefill, two of decode."""
    parts = (("router", 2), ("prefill", 0), ("prefill", 0), ("decode", 1), ("decode", 1))
    return tuple(
        replace(m, spec=replace(m.spec, role=role, start_order=order))
        for m, (role, order) in zip(group(5).instances, parts, strict=True)
    )


def test_a_role_is_where_its_last_member_is() -> None:
    statuses = (S.CREATED, S.RUNNING, S.RUNNING, S.RUNNING, S.BOOTING)
    there = [replace(m, status=status) for m, status in zip(members(), statuses, strict=True)]
    assert [(s.role, s.members, s.running, s.status) for s in roles.states(there)] == [
        ("prefill", 2, 2, S.RUNNING),
        ("decode", 2, 1, S.BOOTING),
        ("router", 1, 0, S.CREATED),
    ]
    assert roles.states(group(3).instances) == ()


def test_a_role_grows_by_members_like_its_first_and_shrinks_from_the_highest_rank() -> None:
    there = members()
    added, removed = roles.change(there, {"decode": 4, "prefill": 1})
    assert [(n.role, n.start_order, n.node_rank) for n in added] == [("decode", 1, -1)] * 2
    assert removed == [there[2].uuid]
    assert roles.change(there, {"decode": 2}) == ([], [])
    with pytest.raises(KeyError):
        roles.change(there, {"none": 1})
    with pytest.raises(ValueError, match="router"):
        roles.change(there, {"router": 0})
