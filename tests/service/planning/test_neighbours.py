"""Which members of other groups may move, as the planner is asked."""

from __future__ import annotations

from placement.model import Host, Member, Snapshot
from service.planning.neighbours import Others


def test_who_has_claims_on_two_hosts_stays_until_one_of_them_was_seen_to_be_free() -> None:
    size, demand = {"vcpu": 8}, {"vcpu": 2}
    hosts = [
        Host("a", "z", size, members=(Member("moved", demand=demand), Member("steady", demand=demand))),
        Host("b", "z", size, members=(Member("moved", demand=demand),)),
    ]
    assert Others((), Snapshot(tuple(hosts)), {}, 0).refused == {"moved"}
