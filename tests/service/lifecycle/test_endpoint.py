"""The address at which a group is called, whichever member leads it. Laws first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.groups import Group, GroupPhase, Instance
from service.domain.network import mac_address
from service.domain.updates import UpdateStage
from service.lifecycle.effects import Observe, Plan, Quiesce, Remove, Shutdown, Take, effects, next_deadline
from service.lifecycle.endpoint import QUIESCE_MS, TAKE_MS, given_up, quiescing, to_have
from service.lifecycle.facts import (
    DeleteRequested,
    Evicted,
    Fact,
    Fenced,
    HostAnswers,
    HostSilent,
    Observation,
    Observed,
    Placed,
    Quiesced,
    TakeBackRequested,
    Ticked,
)
from service.lifecycle.invariants import check
from service.lifecycle.members import retire
from service.lifecycle.transitions import AT_REST, advance, advance_all
from service.lifecycle.updating import gang_of, gangs
from tests.service.lifecycle.test_laws import perfectly as alone
from tests.service.lifecycle.test_transitions import S, placed
from tests.service.lifecycle.test_updating import wanted
from tests.support.builders import group

FIRST = "10.9.0.10"


def addressed(subject: Group, gang: Group) -> Placed:
    """Seats with an address for each member, which is its own for life."""
    told = placed(gang)
    at = {m.uuid: f"10.9.0.{10 + n}" for n, m in enumerate(subject.instances)}
    numbers = {m.uuid: m.address or at[m.uuid] for m in subject.instances}
    if subject.update is not None and any(m.beside for m in gang.instances):
        numbers = {m.uuid: m.address or f"10.9.0.{100 + 10 * subject.update.number + m.rank}" for m in gang.instances}
    seats = (
        replace(s, address=numbers[s.instance_uuid], mac=mac_address(numbers[s.instance_uuid], s.instance_uuid))
        for s in told.placement.assignments
    )
    return Placed(replace(told.placement, assignments=tuple(seats)))


def of_ipv6(subject: Group) -> Group:
    """The same in a zone of IPv6: each address another one, with its MAC."""

    def there(member: Instance) -> Instance:
        address = "fd66::" + member.address.rsplit(".")[-1]
        return replace(member, address=address, mac=mac_address(address, member.uuid)) if member.address else member

    return replace(subject, instances=tuple(map(there, subject.instances)))


def perfectly(subject: Group, effect: object, now: int) -> Group:
    """As a perfect world answers, where each guest takes an address."""
    if isinstance(effect, Plan):
        return advance(subject, addressed(subject, gang_of(subject, effect.instance_uuids[0])), now)
    if isinstance(effect, Quiesce):
        return advance(subject, Quiesced(effect.instance_uuid, effect.attempt), now)
    if isinstance(effect, Take):
        return said(subject, effect.instance_uuid, effect.address, now)
    return alone(subject, effect, now)


def said(subject: Group, uuid: str, address: str | None, now: int) -> Group:
    """The member's guest says that it is ready and has this address beside its own."""
    member, start = subject.instance(uuid), gang_of(subject, uuid).start_epoch
    return advance(subject, Observed(uuid, member.attempt, Observation.READY, epoch=start, endpoint=address), now)


def all_say(subject: Group, now: int, *, takes: bool = True) -> Group:
    for m in subject.instances:
        if m.status in (S.BOOTING, S.RUNNING):
            subject = said(subject, m.uuid, (m.holds or "") if takes else None, now)
    return subject


def helped(subject: Group, now: int = 1_000_000, *, until: UpdateStage | None = None, takes: bool = True) -> Group:
    """A perfect world goes on until all is at rest, or the update is at this stage."""
    for _ in range(120):
        now += 400_000
        subject = advance_all(subject, [HostAnswers("h0"), HostAnswers("h1"), Ticked()], now)
        for effect in effects(subject, now):
            if subject.update is not None and subject.update.stage is until:
                return subject
            subject = perfectly(subject, effect, now)
        subject = all_say(subject, now, takes=takes)
        if subject.update is not None and subject.update.stage is until:
            return subject
        told = any(isinstance(e, Take) for e in effects(subject, now))
        if subject.phase in AT_REST and not subject.updating and not told:
            return subject
    raise AssertionError(f"does not settle: {subject}")


def running(**changes: object) -> Group:
    return helped(group(**{"scope": "group", **changes}))  # type: ignore[arg-type]


def may_answer(subject: Group, address: str) -> list[str]:
    """Members whose machine may answer at the address: it is their own, or the group's and theirs."""
    return [
        m.uuid
        for m in subject.instances
        if m.status not in (S.REMOVED, S.PENDING)
        and (m.address == address or (subject.endpoint is not None and subject.endpoint.holder == m.uuid))
    ]


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_no_two_members_may_answer_at_one_address_and_in_the_end_the_head_does(data: st.DataObject) -> None:
    subject, now = running(), 1_000_000_000
    subject = advance(subject, wanted(subject), now)
    facts: st.SearchStrategy[Any] = st.sampled_from(
        [None, None, None, HostSilent, HostAnswers, Evicted, Fenced, TakeBackRequested, "again"]
    )
    for _ in range(data.draw(st.integers(1, 25))):
        now += data.draw(st.sampled_from([0, 100, TAKE_MS + 1]))
        before, kind = subject, data.draw(facts)
        if kind is None:
            for effect in effects(subject, now):
                if any(quiescing(gang, now) for gang in gangs(subject)) and isinstance(effect, Shutdown | Remove):
                    assert not subject.instance(effect.instance_uuid).beside, "the head still answers"
                subject = perfectly(subject, effect, now)
                assert len(may_answer(subject, FIRST)) <= 1
            subject = all_say(subject, now)
        elif kind == "again":
            number = subject.update.number + 1 if subject.update is not None else 1
            subject = advance(subject, wanted(subject, number=number), now)
        elif kind is TakeBackRequested:
            subject = advance(subject, TakeBackRequested(), now)
        else:
            subject = advance(subject, kind(data.draw(st.sampled_from(["h0", "h1"]))), now)
        assert len(may_answer(subject, FIRST)) <= 1
        check(replace(before, instances=()), replace(subject, instances=()), {})
    rest = helped(subject, 2_000_000_000)
    if rest.phase is GroupPhase.RUNNING:
        assert may_answer(rest, FIRST) == [rest.serving[0].uuid]
        assert (rest.serving[0].endpoint or rest.serving[0].address) == FIRST


def test_an_address_of_ipv6_is_the_groups_as_well() -> None:
    old = of_ipv6(running())
    begun = advance(old, wanted(old), 1)
    assert begun.endpoint is not None
    assert (begun.endpoint.address, begun.endpoint.holder) == (old.serving[0].address, old.serving[0].uuid)
    assert ":" in begun.endpoint.address


def test_a_surge_hands_the_address_on_once_the_old_head_is_gone() -> None:
    old = running()
    switched = helped(advance(old, wanted(old), 1), until=UpdateStage.SWITCHED)
    head, before = switched.serving[0], next(m for m in switched.instances if m.beside and m.rank == 0)
    assert (before.status, before.address) == (S.REMOVING, FIRST)
    assert head.endpoint == FIRST, "callers are sent there from the switch on"
    assert before.deadline_at, "it ends its answers"
    assert to_have(switched, head) is None
    gone = advance(switched, Observed(before.uuid, before.attempt, Observation.GONE), 3)
    assert gone.endpoint is not None
    assert gone.endpoint.holder == head.uuid
    assert Take(head.uuid, head.attempt, FIRST, 3_000) in effects(gone, 3)
    taken = said(gone, head.uuid, FIRST, 4)
    assert not [e for e in effects(taken, 4) if isinstance(e, Take)]
    again = helped(advance(helped(taken), wanted(helped(taken), number=2), 5))
    assert (again.serving[0].endpoint, again.serving[0].holds) == (FIRST, FIRST)
    assert again.serving[0].uuid != head.uuid


def test_the_old_head_ends_its_answers_before_it_and_those_that_it_needs_are_removed() -> None:
    old = running()
    switched = helped(advance(old, wanted(old), 1), until=UpdateStage.SWITCHED)
    head, worker = (m for m in switched.instances if m.beside)
    at = head.deadline_at - QUIESCE_MS
    asked = [e for e in effects(switched, at) if getattr(e, "instance_uuid", "") in (head.uuid, worker.uuid)]
    assert asked == [Quiesce(head.uuid, head.attempt, 200), Observe(worker.uuid, worker.attempt, 2_000)]
    assert 0 < next_deadline(switched) <= at + QUIESCE_MS
    told = advance(switched, Quiesced(worker.uuid, worker.attempt), at)
    assert told == switched, "that is said of the head alone"
    assert advance(switched, Quiesced(head.uuid, head.attempt + 1), at) == switched
    done = advance(switched, Quiesced(head.uuid, head.attempt), at)
    assert Remove(head.uuid, head.attempt) in effects(done, at)
    assert Shutdown(worker.uuid, worker.attempt) in effects(done, at + QUIESCE_MS), "its grace begins after that"
    late = advance(switched, Ticked(), at + QUIESCE_MS)
    assert Remove(head.uuid, head.attempt) in effects(late, at + QUIESCE_MS), (
        "a guest that says nothing holds nobody up"
    )


def test_an_old_head_that_cannot_be_asked_to_end_its_answers_is_removed_at_once() -> None:
    old = advance(running(), wanted(running()), 1)
    served = old.serving[0]
    for head in (replace(served, holds=None), replace(served, unknown_since=5), replace(served, status=S.BOOTING)):
        before = replace(old, instances=tuple(head if m.uuid == head.uuid else m for m in old.instances))
        gang = replace(before, instances=tuple(retire(m, 10) for m in before.serving))
        left = given_up(before, gang, 10)
        beside = replace(left, instances=tuple(replace(m, beside=True) for m in left.instances))
        assert Remove(head.uuid, head.attempt) in effects(replace(beside, update=None), 10)


def test_a_guest_that_does_not_take_it_is_called_at_its_own() -> None:
    old = running()
    switched = helped(advance(old, wanted(old), 1), until=UpdateStage.SWITCHED)
    before = next(m for m in switched.instances if m.beside and m.rank == 0)
    gone = advance(switched, Observed(before.uuid, before.attempt, Observation.GONE), 10_000_000_000)
    head = gone.serving[0]
    waiting = said(gone, head.uuid, "", 10_000_000_000 + TAKE_MS)
    assert waiting.serving[0].endpoint == FIRST
    late = said(gone, head.uuid, "", 10_000_000_001 + TAKE_MS)
    assert late.serving[0].endpoint == ""
    assert said(late, head.uuid, FIRST, 10_000_000_002 + TAKE_MS).serving[0].endpoint == FIRST


def test_while_the_old_heads_host_is_silent_callers_are_sent_to_the_new_head() -> None:
    old = running()
    switched = helped(advance(old, wanted(old), 1), until=UpdateStage.SWITCHED)
    before = next(m for m in switched.instances if m.beside and m.rank == 0)
    other = "h1" if before.host_uuid == "h0" else "h0"
    silent = advance(replace(switched, instances=tuple(
        replace(m, host_uuid=other) if not m.beside else m for m in switched.instances
    )), HostSilent(before.host_uuid), 2)  # fmt: skip
    assert silent.serving[0].endpoint == ""
    assert not [e for e in effects(silent, 2) if isinstance(e, Take)], "the old head may answer there"
    assert advance(silent, HostAnswers(before.host_uuid), 3).serving[0].endpoint == FIRST


def test_guests_that_take_none_have_the_url_of_the_new_head() -> None:
    old = running()
    old = all_say(old, 1, takes=False)
    done = helped(advance(old, wanted(old), 1), takes=False)
    assert done.update is not None
    assert done.update.stage is UpdateStage.DONE
    assert (done.endpoint, done.serving[0].endpoint) == (None, "")


def test_an_update_that_is_taken_back_or_over_leaves_the_address_its_heads_own() -> None:
    old = running()
    asked = advance(old, wanted(old), 1)
    assert asked.endpoint is not None
    facts: list[Fact] = [TakeBackRequested(), DeleteRequested()]
    for fact in facts:
        assert helped(advance(asked, fact, 2)).endpoint is None
