"""What all members of a group are told alike is made once, and reads as if it were made for each."""

from __future__ import annotations

import json
from dataclasses import replace
from unittest.mock import patch

import pytest

from service.domain.environment import NoSecrets
from service.domain.groups import Group
from service.domain.ownership import Installation
from service.reconcile.machine_spec import machine_spec
from service.serving import fellows as module
from service.serving.fellows import MOST_KEPT, fellows
from service.serving.rendezvous import rendezvous, texts
from tests.support.builders import entry, group, host, zone

HOSTILE = 'a\n "peers": null\n\u2028"\\ü'


def gang(size: int, name: str = "") -> Group:
    made = group(size)
    own = host(1)
    members = (
        replace(m, host_uuid=own.uuid, address=f"10.9.0.{10 + m.rank}", spec=replace(m.spec, name=name or m.spec.name))
        for m in made.instances
    )
    return replace(made, instances=tuple(members))


@pytest.mark.parametrize("name", ["", HOSTILE])
@pytest.mark.parametrize("size", [1, 3])
def test_a_document_with_the_peers_text_in_it_reads_as_if_it_were_written_as_one(size: int, name: str) -> None:
    made = gang(size, name)
    for member in made.instances:
        document = rendezvous(made, member, host(1), {zone().uuid: zone()}, {entry().uuid: entry()}, NoSecrets())
        written = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
        assert texts(document, made, member)["rendezvous"] == written
        assert len(document["peers"]) == size


def test_members_that_changed_are_told_of_anew() -> None:
    made = gang(2)
    before = fellows(made.instances)
    assert fellows(made.instances) is before
    moved = replace(made, instances=(made.instances[0], replace(made.instances[1], address="10.9.0.99")))
    assert [p["address"] for p in fellows(moved.instances).peers] == ["10.9.0.10", "10.9.0.99"]
    assert [p["address"] for p in fellows(made.instances).peers] == ["10.9.0.10", "10.9.0.11"]


def test_no_more_is_kept_than_a_few_groups() -> None:
    for _ in range(3 * MOST_KEPT):
        fellows(gang(1).instances)
    assert len(module._kept) <= MOST_KEPT


def test_a_gangs_machines_have_its_members_looked_at_once() -> None:
    made = gang(16)
    with patch.object(module, "_made", wraps=module._made) as looked:
        for member in made.instances:
            machine_spec(
                Installation("d" * 32, "c"),
                made,
                member,
                host=host(1),
                zones={zone().uuid: zone()},
                catalogue={entry().uuid: entry()},
                secrets=NoSecrets(),
            )
    assert looked.call_count == 1
