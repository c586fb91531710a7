"""Host names of members: never an address to a resolver, and each of them once in the group."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.serving.host_names import LONGEST, host_names

names = st.lists(
    st.text(max_size=80) | st.sampled_from(["0", "0x10", "node-1", "Node-1", "东京", "é", ""]), max_size=12
)


@given(names)
def test_every_member_has_a_name_of_its_own_that_begins_with_a_letter(given_names: list[str]) -> None:
    found = host_names(given_names)
    assert len(found) == len(set(found)) == len(given_names)
    assert all(re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name) and len(name) <= LONGEST for name in found)
    assert host_names(given_names) == found


@pytest.mark.parametrize(
    ("given_names", "expected"),
    [
        (["0", "1", "0x10"], ["node-0", "node-1", "node-0x10"]),
        (["东京", "大阪"], ["node-0", "node-1"]),
        (["東京", "node-0"], ["node-0-0", "node-0"]),
        (["worker", "Worker", "worker"], ["worker", "worker-1", "worker-2"]),
        (["llama.cpp head", "x" * 70], ["llama-cpp-head", "x" * 63]),
    ],
)
def test_names_of_members_become_names_of_hosts(given_names: list[str], expected: list[str]) -> None:
    assert list(host_names(given_names)) == expected
