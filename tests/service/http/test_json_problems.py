"""JSON that is no message is told by the field's own path, with what the field may hold."""

from __future__ import annotations

from typing import Any

import pytest
from corral.v1 import deploy_pb2, fleet_pb2, group_pb2
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from service.http.json_problems import violations

DEPLOY = deploy_pb2.DeployDistributedModelServiceRequest
WHOLE = "must be a whole number from -2147483648 to 2147483647"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"placementPolicy": {"numa": "bad"}}, {"placementPolicy.numa": "must be one of NUMA_POLICY_"}),
        ({"modelServices": [{}, {"cpuNum": "x"}]}, {"modelServices[1].cpuNum": WHOLE}),
        ({"modelServices": [{"cpuNum": True}]}, {"modelServices[0].cpuNum": WHOLE}),
        ({"modelServices": [{"cpu_num": 1 << 40}]}, {"modelServices[0].cpu_num": WHOLE}),
        (
            {"modelServices": [{"nosuch": 1}]},
            {"modelServices[0].nosuch": "is no field; allowed are clusterUuid, count"},
        ),
        ({"modelServices": {"a": 1}}, {"modelServices": "must be a list"}),
        ({"modelServices": [3]}, {"modelServices[0]": "must be an object"}),
        ({"modelServices": [{"labels": {"a": 1}}]}, {"modelServices[0].labels[a]": "must be a text"}),
        (
            {"name": 3, "placementPolicy": {"sameRack": "yes"}},
            {"name": "must be a text", "placementPolicy.sameRack": "must be true or false"},
        ),
    ],
)
def test_each_wrong_field_is_named_with_what_it_may_hold(body: Any, told: dict[str, str]) -> None:
    found = {one.field: one.description for one in violations(body, DEPLOY.DESCRIPTOR)}
    assert found.keys() == told.keys()
    for field, words in told.items():
        assert found[field].startswith(words)
    with pytest.raises(json_format.ParseError):
        json_format.ParseDict(body, DEPLOY())


def test_a_time_and_a_mask_are_texts() -> None:
    wrong = violations({"updateMask": ["name"]}, fleet_pb2.UpdateHostRequest.DESCRIPTOR)
    assert [one.field for one in wrong] == ["updateMask"]
    assert not list(violations({"updateMask": "name,labels"}, fleet_pb2.UpdateHostRequest.DESCRIPTOR))


NAMES = sorted(
    {
        field.json_name
        for message in (DEPLOY, group_pb2.NodeSpec, group_pb2.PlacementPolicy)
        for field in message.DESCRIPTOR.fields
    }
)
PLAIN = (
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.sampled_from(["", "7", "x", "1e3"])
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*NAMES, "nosuch"]), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("message", [DEPLOY, fleet_pb2.AddHostRequest, fleet_pb2.UpdateHostRequest])
@given(st.data())
def test_of_what_is_refused_something_is_told(message: type[Message], data: st.DataObject) -> None:
    descriptor: Any = message.DESCRIPTOR
    fields = [field.json_name for field in descriptor.fields]
    values = data.draw(st.dictionaries(st.sampled_from(fields), VALUES, max_size=4))
    try:
        json_format.ParseDict(values, message())
    except json_format.ParseError:
        assert list(violations(values, descriptor))
