"""From a ZStack client's JSON to a message and, where it is wrong, to ZStack's words: whatever comes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from corral.v1 import deploy_pb2, group_pb2
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from service.contract import validation
from service.errors import InvalidArgument
from service.http.zstack import body, words

from .lab import ACTION, MESSAGE, NODE

Request = deploy_pb2.DeployDistributedModelServiceRequest

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NODE_NAMES = st.sampled_from([field.json_name for field in group_pb2.NodeSpec.DESCRIPTOR.fields])
NAMES = st.sampled_from([field.json_name for field in Request.DESCRIPTOR.fields])


@st.composite
def nearly_right(draw: st.DrawFn) -> dict[str, Any]:
    """The documented action with a few values replaced."""
    nodes: list[Any] = [dict(NODE) for _ in range(draw(st.integers(0, 3)))]
    for node in nodes:
        node.update(draw(st.dictionaries(NODE_NAMES, VALUES, max_size=3)))
    return {**ACTION, "modelServices": nodes, **draw(st.dictionaries(NAMES, VALUES, max_size=2))}


@given(nearly_right() | st.dictionaries(NAMES, VALUES))
def test_any_json_becomes_a_checked_message_or_a_sentence(action: dict[str, Any]) -> None:
    message = Request()
    try:
        body.fill(message, action)
        validation.check(message)
    except InvalidArgument as error:
        sentence = words.details(error.violations, Request.DESCRIPTOR, action, MESSAGE)
        assert sentence
        for violation in error.violations:
            assert f"field[{words.camel(violation.field)}]" in sentence
    else:
        assert message.name
        assert message.model_services


def test_what_protobufs_own_json_reads_is_read_alike() -> None:
    action = {
        **ACTION,
        "modelServices": [
            {**NODE, "environmentVariables": {"A": "b"}, "gpus": [{"model": "x", "count": 2}], "nodeRank": 0}
        ],
        "placementPolicy": {"strategy": "PLACEMENT_STRATEGY_SPREAD", "maxPerHost": 2},
        "tagUuids": ["a" * 32],
    }
    mine, theirs = Request(), Request()
    body.fill(mine, action)
    json_format.Parse(json.dumps(action), theirs)
    assert mine == theirs


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("model_services[0].cpu_num", "modelServices[0].cpuNum"),
        ("model_services[2].environment_variables[MY_VAR]", "modelServices[2].environmentVariables[MY_VAR]"),
        ("name", "name"),
    ],
)
def test_paths_are_told_in_json_names_and_keys_of_maps_as_they_are(path: str, names: str) -> None:
    assert words.camel(path) == names
