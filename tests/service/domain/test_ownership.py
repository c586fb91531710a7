"""What a host is to a database, and what of a machine's end is on record: judgements as tables."""

from __future__ import annotations

import pytest

from service.domain.ownership import (
    Fate,
    Holding,
    HostRecord,
    Installation,
    OwnerMark,
    Quarantined,
    Records,
    Standing,
    fate,
    fate_at_claim,
    held,
    judge,
)

MINE = Installation(database="d1", cluster="c1")
HERE = HostRecord("h1", hypervisor="hv-a")


@pytest.mark.parametrize(
    ("record", "hypervisor", "mark", "newest_machine", "standing"),
    [
        (HostRecord("h1"), "hv-a", None, 0, Standing.NEW),
        (HERE, "hv-a", OwnerMark("d1", "h1", 50), 0, Standing.OURS),
        (HERE, "hv-a", OwnerMark("d1", "h1", 100), 100, Standing.OURS),
        (HERE, "hv-b", OwnerMark("d1", "h1", 50), 0, Standing.OURS),  # a uuid that its daemon makes anew at each start
        (HERE, "hv-b", OwnerMark("d1", "h2", 50), 0, Standing.MISMATCHED),
        (HERE, "hv-b", OwnerMark("d2", "h1", 50), 0, Standing.MISMATCHED),
        (HERE, "hv-b", None, 0, Standing.MISMATCHED),
        (HostRecord("h1", twin="other"), "hv-a", None, 0, Standing.MISMATCHED),
        (HERE, "hv-a", OwnerMark("d1", "h2", 50), 0, Standing.MISMATCHED),
        (HERE, "hv-a", OwnerMark("d2", "h1", 1), 0, Standing.FOREIGN),
        (HERE, "hv-a", OwnerMark("d1", "h1", 101), 0, Standing.AHEAD),
        (HERE, "hv-a", OwnerMark("d1", "h1", 50), 101, Standing.AHEAD),
        (HERE, "hv-a", None, 101, Standing.AHEAD),
        (
            HostRecord("h1", "hv-a", ahead=True),
            "hv-a",
            OwnerMark("d1", "h1", 50),
            0,
            Standing.AHEAD,
        ),  # caught up by itself
        (HostRecord("h1", "hv-a", marked=50), "hv-a", OwnerMark("d1", "h1", 50), 0, Standing.OURS),
        (HostRecord("h1", "hv-a", marked=51), "hv-a", OwnerMark("d1", "h1", 50), 0, Standing.MISMATCHED),  # a copy
        (HostRecord("h1", "hv-a", marked=51), "hv-b", OwnerMark("d1", "h1", 50), 0, Standing.MISMATCHED),
        (HostRecord("h1", "hv-a", marked=51), "hv-a", None, 0, Standing.NEW),  # made anew, or taken away by hand
        (HERE, "", OwnerMark("d1", "h1", 50), 0, Standing.OURS),  # a kind of host without a uuid of its own
    ],
)
def test_what_a_host_is(
    record: HostRecord, hypervisor: str, mark: OwnerMark | None, newest_machine: int, standing: Standing
) -> None:
    verdict = judge(MINE, record, hypervisor=hypervisor, mark=mark, generation=100, newest_machine=newest_machine)
    assert verdict.standing is standing
    assert verdict.usable is (standing in (Standing.NEW, Standing.OURS))
    assert bool(verdict.reason) is not verdict.usable  # whoever must decide is told why, and how out of it


def test_a_host_that_is_ahead_is_told_in_the_same_words_however_far_the_database_comes() -> None:
    """Each change of the words is recorded with an event, and events raise the generation: it would catch up."""
    mark = OwnerMark("d1", "h1", 120)
    reasons = {judge(MINE, HERE, hypervisor="hv-a", mark=mark, generation=g).reason for g in range(100, 120)}
    assert len(reasons) == 1


def test_an_operators_word_lifts_the_generation_over_what_hosts_have_seen() -> None:
    lifted = Installation("d1", "c1", generation_offset=30)
    mark = OwnerMark("d1", "h1", 120)
    assert judge(lifted, HERE, hypervisor="hv-a", mark=mark, generation=lifted.generation(100)).usable


RECORDS = Records(
    wanted=frozenset({("i1", 2)}),
    current={"i1": 2, "i2": 5},
    retired={("i3", 1): "group g let it go"},
    ordered=frozenset({"machine-x"}),
)


@pytest.mark.parametrize(
    ("instance", "attempt", "key", "what"),
    [
        ("i1", 2, "", Fate.KEEP),
        ("i1", 1, "", Fate.REMOVE),  # an earlier attempt: the instance was placed anew
        ("i3", 1, "", Fate.REMOVE),  # retired on this host
        ("i9", 1, "machine-x", Fate.REMOVE),  # ordered
        ("i1", 3, "", Fate.QUARANTINE),  # later than the database knows
        ("i2", 5, "", Fate.QUARANTINE),  # wanted elsewhere, and never here by any record
        ("i3", 2, "", Fate.QUARANTINE),  # another attempt than the one that was let go
        ("i9", 1, "", Fate.QUARANTINE),  # nobody knows it
    ],
)
def test_only_what_a_record_names_may_be_ended(instance: str, attempt: int, key: str, what: Fate) -> None:
    assert fate(RECORDS, instance, attempt, key)[0] is what


def test_at_a_claim_a_later_attempt_alone_is_no_word_against_a_machine_that_was_never_known_there() -> None:
    found = {seat: fate_at_claim(RECORDS, *seat, "")[0] for seat in (("i1", 1), ("i3", 1), ("i1", 2), ("i9", 1))}
    assert found == {
        ("i1", 1): Fate.QUARANTINE,
        ("i3", 1): Fate.REMOVE,
        ("i1", 2): Fate.KEEP,
        ("i9", 1): Fate.QUARANTINE,
    }
    assert fate_at_claim(RECORDS, "i1", 1, "machine-x")[0] is Fate.REMOVE  # an operator ordered it


def test_what_is_held_counts_together() -> None:
    one = Quarantined("h", "k1", Holding.MACHINE, "g", "i", 1, resources={"vcpu": 2, "memory": 10})
    two = Quarantined("h", "k2", Holding.MACHINE, "g", "j", 1, resources={"vcpu": 1})
    volume = Quarantined("h", "v", Holding.VOLUME, "", "k", 1)
    assert held([one, two, volume]) == {"vcpu": 3, "memory": 10}
