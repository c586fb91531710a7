"""What a change makes of members' specifications."""

from __future__ import annotations

from typing import Any

from corral.v1 import deploy_pb2

from service.contract.convert.requests import member_changes
from service.domain.specs import GpuRequest
from service.domain.updates import MemberChange, changed, described
from tests.support.builders import node


def test_a_change_sets_and_takes_away_and_leaves_all_else() -> None:
    nodes = (
        node(0, role="router", environment_variables={"A": "1", "B": "2"}, gpus=(GpuRequest("a100", 1),)),
        node(1, role="decode", environment_variables={"B": "2"}, startup_parameters="--old"),
    )
    changes: list[Any] = [
        {"environment_variables": {"C": "3"}, "removed_environment_variables": ["B"], "timeout": 7_000},
        {"role": "router", "no_gpus": True, "memory_size": 2 << 30},
        {"role": "decode", "startup_parameters": "", "gpus": [{"model": "l4", "count": 2}], "cpu_num": 3},
    ]
    request = deploy_pb2.RolloutInstanceGroupRequest(changes=changes)
    router, decode = changed(nodes, member_changes(request))
    assert router.environment_variables == {"A": "1", "C": "3"}
    assert decode.environment_variables == {"C": "3"}
    assert (router.gpus, decode.gpus) == ((), (GpuRequest("l4", 2),))
    assert (router.memory_size, decode.memory_size) == (2 << 30, 1 << 30)
    assert (router.cpu_num, decode.cpu_num) == (2, 3)
    assert (router.timeout_ms, decode.timeout_ms, decode.startup_parameters) == (7_000, 7_000, "")


def test_nothing_asked_for_is_nothing_changed() -> None:
    nodes = (node(0), node(1))
    assert changed(nodes, [MemberChange()]) == nodes
    assert changed(nodes, []) == nodes
    placed = (node(0, devices=(GpuRequest("a100", 1),)), node(1))
    assert described(placed) == nodes
