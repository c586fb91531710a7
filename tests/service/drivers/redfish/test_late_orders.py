"""A BMC that carries an order out after its attempt was given up, and its seat forgotten: whose machine that is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain import seats as seats_module
from service.domain.seats import LATE_SECONDS, MOST_LEFT, Seating, SeatOf, key_of, seed_url, token_in
from service.drivers.base import MachineConflict, MachineSpec, MachineState, OutcomeUnknown
from service.drivers.redfish.states import explained, free, states
from tests.service.drivers.redfish.test_redfish import BASE, HOST, SECONDS, Lab, lab, spec

__all__ = ["lab"]


async def told_and_given_up(lab: Lab, one: MachineSpec, *, cleared: bool = True) -> str:
    """It is told to switch on, nobody hears an answer, and all of it is given up. The address of its seed."""
    await lab.create(one)
    url = lab.bmc.image
    lab.bmc.faults.update({"hold On": 1, "lose Reset": 1})
    with pytest.raises(OutcomeUnknown):
        await lab.resume(one)
    await lab.driver.remove(one.identity, budget_seconds=SECONDS)
    await lab.driver.entomb(one.identity, budget_seconds=SECONDS)
    if cleared:
        await lab.driver.clear_tombstone(one.identity, budget_seconds=SECONDS)
    assert (lab.bmc.power, lab.bmc.image, lab.bmc.resets) == ("Off", "", [])
    return url


async def is_anothers(lab: Lab) -> bool:
    """Whether nobody of ours may be there."""
    facts = await lab.driver.probe(budget_seconds=SECONDS)
    return facts.foreign == facts.total


@pytest.mark.asyncio
@pytest.mark.parametrize("cleared", [True, False], ids=["forgotten", "given up just now"])
async def test_one_that_goes_on_late_is_its_attempts_and_is_switched_off_by_that_record(
    lab: Lab, cleared: bool
) -> None:
    one, two = spec(), spec(2)
    await told_and_given_up(lab, one, cleared=cleared)
    assert not await is_anothers(lab)
    lab.bmc.late()
    assert await lab.state(one) is MachineState.RUNNING
    assert await is_anothers(lab), "nobody is to have it while it is on"
    with pytest.raises(MachineConflict):
        await lab.create(two)
    await lab.driver.remove(one.identity, budget_seconds=SECONDS)
    assert (lab.bmc.power, lab.bmc.resets) == ("Off", ["ForceOff"])
    assert not await is_anothers(lab)
    lab.bmc.power = "On"  # its order has had its effect: this is somebody else
    assert await lab.state(one) is not MachineState.RUNNING
    await lab.driver.remove(one.identity, budget_seconds=SECONDS)
    assert (await is_anothers(lab), lab.bmc.power) == (True, "On")


@pytest.mark.asyncio
async def test_a_machine_whose_orders_were_answered_is_not_ours_once_somebody_switches_it_on(lab: Lab) -> None:
    one = spec()
    await lab.create(one)
    await lab.resume(one)
    await lab.driver.remove(one.identity, budget_seconds=SECONDS)
    lab.bmc.power = "On"
    assert (await lab.state(one), await is_anothers(lab)) == (MachineState.ABSENT, True)
    await lab.driver.remove(one.identity, budget_seconds=SECONDS)
    assert lab.bmc.power == "On"


@pytest.mark.asyncio
async def test_after_so_long_it_is_no_order_of_ours(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    one = spec()
    await told_and_given_up(lab, one)
    monkeypatch.setattr(seats_module, "LATE_SECONDS", -1.0)
    lab.bmc.late()
    assert (await lab.state(one), await is_anothers(lab)) == (MachineState.ABSENT, True)


@pytest.mark.asyncio
async def test_a_seed_that_comes_into_the_drive_late_is_taken_out_on_or_off(lab: Lab) -> None:
    one = spec()
    url = await told_and_given_up(lab, one)
    lab.bmc.image = url
    assert await lab.state(one) is MachineState.PAUSED
    assert await lab.seats.seed(token_in(url)) is None, "it boots from nothing"
    await lab.driver.remove(one.identity, budget_seconds=SECONDS)
    assert (await lab.state(one), lab.bmc.image) == (MachineState.ABSENT, "")
    lab.bmc.image, lab.bmc.power = url, "On"
    await lab.driver.remove(one.identity, budget_seconds=SECONDS)
    assert (lab.bmc.image, lab.bmc.power) == ("", "Off")


@pytest.mark.asyncio
@pytest.mark.parametrize("runs", [True, False])
async def test_who_sits_there_now_keeps_machine_and_drive(lab: Lab, runs: bool) -> None:
    one, two = spec(), spec(2)
    old = await told_and_given_up(lab, one)
    await lab.create(two)
    if runs:
        await lab.resume(two)
    lab.bmc.image, power = old, lab.bmc.power
    assert await lab.state(one) is MachineState.ABSENT
    await lab.driver.remove(one.identity, budget_seconds=SECONDS)
    assert (lab.bmc.image, lab.bmc.power) == (old, power)


@pytest.mark.asyncio
async def test_of_one_machine_so_many_are_remembered_the_newest(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.store.left_seats.MOST_LEFT", 3)
    for attempt in range(1, 6):
        await lab.create(spec(attempt))
        await lab.driver.remove(spec(attempt).identity, budget_seconds=SECONDS)
    assert MOST_LEFT >= 3
    left = await lab.seats.on(HOST)
    assert all(one.left for one in left)
    assert len(left) == 3
    assert 5 in {one.of.attempt for one in left}


@pytest.mark.asyncio
async def test_an_attempt_that_comes_back_has_all_the_keys_that_it_had(lab: Lab) -> None:
    one = spec()
    urls = []
    for _ in range(2):
        await lab.create(one)
        urls.append(lab.bmc.image)
        await lab.driver.remove(one.identity, budget_seconds=SECONDS)
    await lab.create(one)
    (seat,) = await lab.seats.on(HOST)
    assert seat.live
    assert seat.former == {key_of(token_in(url)) for url in urls}


# --- laws of what a look says ----------------------------------------------------------------------------------------

TOKENS = ["a", "b", "c", "d"]
IMAGES = st.sampled_from(["", "http://elsewhere/disk.iso", *(seed_url(BASE, token) for token in (*TOKENS, "unknown"))])
POWERS = st.sampled_from(["On", "Off", "PoweringOn", "PoweringOff"])


@st.composite
def seatings(draw: st.DrawFn) -> list[Seating]:
    """Of one machine: one that is live at most."""
    found = []
    for number, token in enumerate(draw(st.lists(st.sampled_from(TOKENS), unique=True, max_size=4))):
        kind = draw(st.sampled_from(["left", "revoked"] + ["live"] * (number == 0)))
        of, key = SeatOf("lab", "a" * 32, f"{number:032x}", 1), key_of(token)
        one = Seating(of, key, started=draw(st.booleans()), unanswered=draw(st.booleans()))
        if kind == "left":
            age = draw(st.sampled_from([0.0, LATE_SECONDS, LATE_SECONDS + 1]))
            one = replace(one, key="", former=frozenset({key}), started=False, left=True, age=age)
        found.append(replace(one, revoked=kind == "revoked"))
    return found


@given(seatings(), POWERS, IMAGES)
def test_what_may_be_ended_is_on_record_and_never_whoever_sits_there(
    seats: list[Seating], power: str, image: str
) -> None:
    found = states(seats, power, image)
    running = [one for one, state in found if state.executing]
    assert len(running) <= 1, "a machine is one attempt's"
    for one in running:
        assert power != "Off"
        known = key_of(token_in(image)) in {one.key, *one.former}
        if one.live:
            assert known or one.started
            continue
        assert known or (not image and one.unanswered and one.age <= LATE_SECONDS)
        assert not any(other.live and other.started for other in seats)
        assert not free(seats, power, image), "nobody gets it meanwhile"
    keys = {key for one in seats for key in (one.key, *one.former) if key}
    if image and key_of(token_in(image)) not in keys:
        assert not explained(seats, power, image)
    if power != "Off" and not running and not any(one.live and one.started for one in seats):
        assert not free(seats, power, image) or key_of(token_in(image)) in keys


@given(seatings(), POWERS, IMAGES)
def test_a_look_is_told_the_same_in_whatever_order_seats_stand(seats: list[Seating], power: str, image: str) -> None:
    told = {one.of: state for one, state in states(seats, power, image)}
    again = {one.of: state for one, state in states(seats[::-1], power, image)}
    executing = [sorted(s.value for s in one.values() if s.executing) for one in (told, again)]
    assert executing[0] == executing[1]
    assert explained(seats, power, image) == explained(seats[::-1], power, image)
