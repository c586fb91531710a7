"""What differs between two states of a group is what a look at each of its members finds."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from service.domain.difference import difference
from service.domain.groups import Instance
from tests.support.builders import group

BEFORE = group(6)
ACTIONS = st.lists(st.sampled_from(["stays", "is copied", "changes", "goes"]), min_size=6, max_size=6)


def acted(member: Instance, action: str) -> list[Instance]:
    if action == "goes":
        return []
    if action == "stays":
        return [member]
    return [replace(member, reason="another" if action == "changes" else member.reason)]


@given(ACTIONS, st.integers(0, 3), st.booleans())
def test_it_names_what_is_another_what_is_new_and_what_is_gone(actions: list[str], new: int, first: bool) -> None:
    there = [m for member, action in zip(BEFORE.instances, actions, strict=True) for m in acted(member, action)]
    come = [replace(BEFORE.instances[0], uuid=f"{100 + n:032x}") for n in range(new)]
    after = replace(BEFORE, instances=(*come, *there) if first else (*there, *come))
    found = difference(BEFORE, after)
    known = {m.uuid: m for m in BEFORE.instances}
    changed = [(place, known.get(m.uuid), m) for place, m in enumerate(after.instances) if known.get(m.uuid) != m]
    assert list(found.changed) == changed
    assert [m.uuid for m in found.gone] == [m.uuid for m in BEFORE.instances if m not in there and goes(m, actions)]


def goes(member: Instance, actions: list[str]) -> bool:
    return actions[BEFORE.instances.index(member)] == "goes"
