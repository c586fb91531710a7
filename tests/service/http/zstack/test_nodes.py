"""What ZStack's clients write of a node: taken as `NodeSpec` has it, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from service.domain.catalog import Image, ModelService
from service.errors import InvalidArgument
from service.http.zstack import nodes

ENTRY = ModelService("e" * 32, "entry", Image("image"), health_path="/ready")


def normalized(**node: Any) -> dict[str, Any]:
    return nodes.normalized(node, ENTRY, "model_services[0].")


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"--max-model-len": "4096", "--enforce-eager": ""}, "--max-model-len 4096 --enforce-eager"),
        ({"tensor-parallel-size": 8, "trust": True, "swap": False}, "--tensor-parallel-size 8 --trust --swap false"),
        ({"-c": "a b", "name": "it's"}, "-c 'a b' --name 'it'\"'\"'s'"),
        ({}, ""),
    ],
)
def test_startup_parameters_may_be_a_map(parameters: dict[str, Any], line: str) -> None:
    assert normalized(startupParameters=parameters) == {"startupParameters": line}


def test_startup_parameters_may_be_a_line_as_well() -> None:
    assert normalized(startupParameters="--x 1") == {"startupParameters": "--x 1"}


def test_a_timeout_of_minus_1_is_not_set_and_the_boots_uptime_is_in_seconds() -> None:
    assert normalized(timeout=-1) == {}
    assert normalized(timeout=-1, serviceBootUptime=90) == {"timeout": 90_000}
    assert normalized(timeout=5, serviceBootUptime=90) == {"timeout": 5}


@pytest.mark.parametrize("name", sorted(nodes.REFUSED))
def test_what_cannot_be_served_is_refused_by_name_and_asked_for_by_nothing_that_is_empty(name: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        normalized(**{name: ["1" * 32]})
    assert [violation.field for violation in refused.value.violations] == [f"model_services[0].{name}"]
    nothing: tuple[Any, ...] = (None, "", [], {})
    for empty in nothing:
        assert normalized(**{name: empty}) == {}


@pytest.mark.parametrize("name", ["serviceLivez", "serviceReadyz"])
def test_probes_are_the_entrys(name: str) -> None:
    assert normalized(**{name: "/ready"}) == {}
    with pytest.raises(InvalidArgument, match="/ready"):
        normalized(**{name: "/alive"})
