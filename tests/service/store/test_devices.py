"""Devices have one owner each, chosen as their seats are claimed, and are counted as what may be given out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
from sqlalchemy import Connection, delete, select

from service.domain.devices import Clean, DeviceRule, DeviceRules, DeviceState, HeldDevice, PciFunction, RuleKind
from service.domain.fleet import MEMORY, VCPU, Overcommit
from service.domain.groups import Seat
from service.domain.ownership import Holding, Quarantined
from service.errors import InvariantViolation, NotFound, WrongState
from service.store import claims, device_picks, devices, fleet, ownership, schema, settings
from service.store.claims import ClaimLost
from tests.support.database import Database, member, together

GIB = 1 << 30
GROUP = "c" * 32
H100 = DeviceRule(RuleKind.GPU, "h100", vendor="10de", product="2330")
KEYS = tuple(f"0000:{bus:02x}:00.0" for bus in range(1, 5))
FOUR = tuple(
    PciFunction(key, "10de", "2330", "030200", group=number, cell=number // 2) for number, key in enumerate(KEYS)
)


def probed(
    connection: Connection, uuid: str, functions: Sequence[PciFunction] | None = FOUR, virt: str = "kvm"
) -> None:
    total = {VCPU: 64, MEMORY: 64 * GIB}
    fleet.set_facts(connection, uuid, boot_id="1", virt_type=virt, total=total, foreign={}, functions=functions)


def with_four(db: Database, clean: Clean = Clean.RESET) -> str:
    (a,) = db.fill(1, vcpu=64)
    db.write(settings.set_device_rules, DeviceRules((replace(H100, clean=clean),)))
    db.write(probed, a)
    return a


def seat(number: int, host_uuid: str, count: int = 1, **fields: object) -> Seat:
    one = member(number, host_uuid)
    return replace(one, resources={**one.resources, "gpu.h100": count}, **fields)  # type: ignore[arg-type]


def take(connection: Connection, *seats: Seat) -> tuple[Seat, ...]:
    claims.take(connection, GROUP, seats)
    return device_picks.pick(connection, GROUP, seats)


def keys(seats: Sequence[Seat]) -> list[tuple[str, ...]]:
    return [tuple(device.key for device in one.devices) for one in seats]


def amounts(db: Database, host_uuid: str) -> tuple[int, int, int]:
    """(allocatable, used, foreign) of the model."""
    host = db.read(fleet.host, host_uuid)
    return tuple(vector.get("gpu.h100", 0) for vector in (host.allocatable, host.used, host.foreign))  # type: ignore[return-value]


def lacks(db: Database, host_uuid: str, there: Sequence[PciFunction]) -> bool:
    """Whether the host has devices of which it has no rows."""
    host = db.read(fleet.hosts)[host_uuid]
    return db.read(lambda c: fleet.lacks_devices(c, host, there))


def states(db: Database, host_uuid: str) -> dict[str, str]:
    return {d.key: d.state.value for d in db.read(devices.of_hosts)[host_uuid]}


def test_each_device_has_one_owner_from_its_claim_to_its_end(db: Database) -> None:
    a = with_four(db)
    assert amounts(db, a) == (4, 0, 0)
    first = db.write(take, seat(1, a, 2), seat(2, a))
    assert keys(first) == [KEYS[:2], (KEYS[2],)], "one cell for who wants two"
    assert [(d.model, d.cell, d.functions[0].ids) for d in first[1].devices] == [("h100", 1, "10de:2330")]
    assert states(db, a) == dict(zip(KEYS, ["claimed"] * 3 + ["available"], strict=True))
    with pytest.raises(ClaimLost):
        db.write(take, seat(3, a, 2))
    assert keys(db.write(take, seat(3, a))) == [(KEYS[3],)]
    db.write(lambda c: claims.leave(c, [(f"{1:032x}", 1, a)]))
    assert states(db, a) == dict(zip(KEYS, ["available"] * 2 + ["claimed"] * 2, strict=True))
    db.write(lambda c: claims.release(c, [(f"{2:032x}", 1), (f"{3:032x}", 1)]))
    assert (set(states(db, a).values()), amounts(db, a)) == ({"available"}, (4, 0, 0))


def test_of_many_that_want_the_last_device_at_once_one_gets_it(db: Database) -> None:
    a = with_four(db)
    db.write(take, seat(9, a, 3))
    results = together([lambda n=n: db.write(take, seat(n, a)) for n in range(4)])  # type: ignore[misc]
    assert sorted(isinstance(result, ClaimLost) for result in results) == [False, True, True, True]
    assert db.read(lambda c: len(c.execute(select(schema.device_claims)).all())) == 4


def test_a_member_that_is_pinned_gets_the_devices_of_its_cell(db: Database) -> None:
    a = with_four(db)
    floats, pinned = seat(1, a), replace(seat(2, a, 2), cells=(1,))
    cells = {f"cell.{n}.{name}": part for n in (0, 1) for name, part in ((VCPU, 32), (MEMORY, 32 * GIB))}
    total = {VCPU: 64, MEMORY: 64 * GIB, **cells}
    facts = {"boot_id": "1", "virt_type": "kvm", "foreign": {}, "functions": FOUR}
    db.write(lambda c: fleet.set_facts(c, a, total=total, **facts))  # type: ignore[arg-type]
    assert keys(db.write(take, floats, pinned)) == [(KEYS[0],), KEYS[2:]]


def test_what_is_out_of_service_is_given_to_nobody_and_counted_so(db: Database) -> None:
    a = with_four(db)
    db.write(take, seat(1, a))
    db.write(devices.quarantine, a, [KEYS[0], KEYS[1]], "it glows")
    assert amounts(db, a) == (4, 1, 1), "who has one keeps it, and it is counted once"
    assert keys(db.write(take, seat(2, a, 2))) == [KEYS[2:]]
    with pytest.raises(ClaimLost):
        db.write(take, seat(3, a))
    db.write(lambda c: claims.release(c, [(f"{1:032x}", 1)]))
    assert (amounts(db, a), states(db, a)[KEYS[0]]) == ((4, 2, 2), "quarantined")
    with pytest.raises(ClaimLost):
        db.write(take, seat(3, a))
    db.write(devices.release, a, KEYS[1])
    with pytest.raises(WrongState):
        db.write(devices.release, a, KEYS[1])
    with pytest.raises(NotFound):
        db.write(devices.release, a, "0000:ff:00.0")
    assert keys(db.write(take, seat(3, a))) == [(KEYS[1],)]
    db.write(probed, a)
    assert amounts(db, a) == (4, 3, 1), "a look at the host brings nothing back"


def test_what_a_machine_in_quarantine_has_is_given_to_nobody_until_that_is_adopted_or_gone(db: Database) -> None:
    a = with_four(db)
    resources = {VCPU: 1, MEMORY: GIB}
    machine = Quarantined("", "m", Holding.MACHINE, "g", "i", 1, "corral-i-1", resources=resources, devices=(KEYS[1],))
    assert db.write(lambda c: ownership.hold(c, a, [machine], 5))
    told = db.read(devices.one, a, KEYS[1])
    assert (told.state, "corral-i-1" in told.reason, amounts(db, a)) == (DeviceState.QUARANTINED, True, (4, 0, 1))
    db.write(probed, a)
    assert amounts(db, a) == (4, 0, 1), "nor does a look at the host bring it back"
    with pytest.raises(ClaimLost):
        db.write(take, seat(1, a, 4))
    with pytest.raises(WrongState, match="corral-i-1"):
        db.write(devices.release, a, KEYS[1])
    assert sorted(keys(db.write(take, seat(1, a, 3)))[0]) == [KEYS[0], *KEYS[2:]]

    def adopted(connection: Connection) -> tuple[Seat, ...]:
        ownership.adopt(connection, [(a, "m")])
        return take(connection, seat(2, a, devices=device_picks.found(connection, a, [KEYS[1]])))

    assert keys(db.write(adopted)) == [(KEYS[1],)]
    assert (states(db, a)[KEYS[1]], amounts(db, a)) == ("claimed", (4, 4, 0))
    db.write(lambda c: claims.release(c, [(f"{2:032x}", 1)]))
    db.write(lambda c: ownership.hold(c, a, [machine], 5))
    assert amounts(db, a) == (4, 3, 1)
    db.write(lambda c: ownership.hold(c, a, [], 6))
    assert (states(db, a)[KEYS[1]], amounts(db, a)) == ("available", (4, 3, 0))


def test_a_guest_takes_out_of_service_what_its_own_member_has_and_nothing_else(db: Database) -> None:
    a = with_four(db)
    db.write(take, seat(1, a, 2))
    said = {KEYS[0]: "Xid 79", KEYS[2]: "Xid 79", "0000:ff:00.0": "ECC"}
    assert db.write(devices.reported, a, f"{1:032x}", 1, said) == {KEYS[0]: "Xid 79"}
    told = db.read(devices.one, a, KEYS[0])
    assert (told.state, told.reason) == (DeviceState.QUARANTINED, "its guest reports Xid 79")
    assert (told.instance_uuid, amounts(db, a)) == (f"{1:032x}", (4, 2, 0)), "whoever has it keeps it"
    assert db.write(devices.reported, a, f"{1:032x}", 1, said) == {}, "it is told once"
    assert db.write(devices.reported, a, f"{1:032x}", 2, {KEYS[1]: "Xid 79"}) == {}, "that attempt has none"
    db.write(lambda c: claims.release(c, [(f"{1:032x}", 1)]))
    assert amounts(db, a) == (4, 0, 1)


def test_what_nothing_cleans_waits_for_an_operator_after_each_member(db: Database) -> None:
    a = with_four(db, Clean.NONE)
    db.write(take, seat(1, a, 3))
    db.write(lambda c: claims.release(c, [(f"{1:032x}", 1)]))
    assert sorted(states(db, a).values()) == ["available"] + ["quarantined"] * 3
    assert amounts(db, a) == (4, 0, 3)
    with pytest.raises(ClaimLost):
        db.write(take, seat(2, a, 2))


def test_what_the_host_shows_no_more_is_gone_and_another_device_in_its_place_is_not_it(db: Database) -> None:
    a = with_four(db)
    db.write(take, seat(1, a))
    without = [replace(FOUR[0], product="20b0"), FOUR[2], FOUR[3]]
    db.write(settings.set_device_rules, DeviceRules((replace(H100, product="", device_class="0302"),)))
    db.write(probed, a, without)
    told = {d.key: (d.state, d.reason) for d in db.read(devices.of_hosts)[a]}
    assert set(told) == {KEYS[0], KEYS[2], KEYS[3]}, "nobody had the second"
    assert told[KEYS[0]] == (DeviceState.GONE, "another device is in its place, or with it")
    assert amounts(db, a) == (3, 1, 0)
    assert not lacks(db, a, without), "its place is another's until that one lets it go"
    db.write(lambda c: claims.release(c, [(f"{1:032x}", 1)]))
    assert KEYS[0] not in states(db, a)
    assert lacks(db, a, without), "a look at the host that shows nothing new would say nothing"
    db.write(probed, a, without)
    assert not lacks(db, a, without)
    assert amounts(db, a) == (3, 0, 0)


def test_what_is_gone_and_out_of_service_is_shown_until_an_operator_releases_it(db: Database) -> None:
    a = with_four(db)
    db.write(devices.quarantine, a, [KEYS[0]], "it glows")
    db.write(probed, a, FOUR[1:])
    assert states(db, a)[KEYS[0]] == "gone"
    db.write(devices.release, a, KEYS[0])
    db.write(probed, a, FOUR[1:])
    assert KEYS[0] not in states(db, a)


def test_an_address_that_a_rule_names_and_its_host_lacks_is_shown_and_never_counted_or_given(db: Database) -> None:
    (a,) = db.fill(1, vcpu=64)
    name = db.read(fleet.host, a).name
    by_place = DeviceRule(RuleKind.GPU, "h100", addresses=(*KEYS, "0000:77:00.0"), hosts=(name,))
    db.write(settings.set_device_rules, DeviceRules((by_place,)))
    db.write(probed, a)
    assert (states(db, a)["0000:77:00.0"], amounts(db, a)) == ("gone", (4, 0, 0))
    assert not lacks(db, a, FOUR), "what is not there is not looked for at each look"
    with pytest.raises(ClaimLost):
        db.write(take, seat(1, a, 5))
    db.write(take, seat(1, a, 2))
    db.write(devices.quarantine, a, [KEYS[3]], "it glows")
    db.write(probed, a, FOUR[1:3])
    told = {d.key: d for d in db.read(devices.of_hosts)[a]}
    assert [told[key].state.value for key in (*KEYS, "0000:77:00.0")] == [
        "gone",
        "claimed",
        "available",
        "gone",
        "gone",
    ]
    assert all(told[key].functions for key in (KEYS[0], KEYS[3])), "what they were stays known"
    db.write(probed, a)
    assert [states(db, a)[key] for key in KEYS] == ["claimed", "claimed", "available", "quarantined"]
    come = replace(FOUR[0], address="0000:77:00.0", group=9)
    db.write(probed, a, (*FOUR, come))
    assert (states(db, a)["0000:77:00.0"], amounts(db, a)) == ("available", (5, 2, 1))


def test_what_is_out_of_service_is_so_in_its_machine_again_and_not_in_another_nor_as_another_device(
    db: Database,
) -> None:
    a = with_four(db)
    machine, other = "4c4c4544-0001", "4c4c4544-0002"
    host = replace(db.read(fleet.host, a), hypervisor=machine)

    def again(uuid: str, hypervisor: str, shown: Sequence[PciFunction]) -> dict[str, str]:
        db.write(lambda c: fleet.put_host(c, replace(host, uuid=uuid)))
        total = {VCPU: 64, MEMORY: 64 * GIB}
        facts = {"boot_id": "2", "virt_type": "kvm", "total": total, "foreign": {}, "hypervisor": hypervisor}
        db.write(lambda c: fleet.set_facts(c, uuid, functions=shown, **facts))  # type: ignore[arg-type]
        return states(db, uuid)

    def removed(uuid: str) -> None:
        db.write(lambda c: fleet.delete_host(c, replace(host, uuid=uuid), 3))

    db.write(devices.quarantine, a, KEYS[:3], "it glows")
    db.write(probed, a, FOUR[1:])
    removed(a)
    assert set(again(a, other, FOUR).values()) == {"available"}, "another machine under the same uuid"
    removed(a)
    another = replace(FOUR[1], product="2331")
    db.write(settings.set_device_rules, DeviceRules((replace(H100, product="", device_class="0302"),)))
    assert again("b" * 32, machine, [another, *FOUR[2:]]) == {
        KEYS[1]: "available", KEYS[2]: "quarantined", KEYS[3]: "available",
    }  # fmt: skip
    assert amounts(db, "b" * 32) == (3, 0, 1)
    assert again("b" * 32, machine, [FOUR[0], another, *FOUR[2:]])[KEYS[0]] == "quarantined", "it came back later"


@pytest.mark.parametrize("clean", list(Clean))
def test_what_is_gone_is_not_counted_any_more_once_its_member_lets_it_go(db: Database, clean: Clean) -> None:
    """The host is not looked at anew for that: what it shows is what it showed before."""
    a = with_four(db, clean)
    db.write(take, seat(1, a))
    db.write(probed, a, FOUR[1:])
    assert amounts(db, a) == (4, 1, 0)
    db.write(lambda c: claims.release(c, [(f"{1:032x}", 1)]))
    assert amounts(db, a) == (3, 0, 0)
    assert (KEYS[0] in states(db, a)) is (clean is Clean.NONE), "an operator has a say in it"


def test_a_host_that_promises_memory_twice_gives_no_devices(db: Database) -> None:
    """A machine with a device has all its memory for itself from its start on."""
    a = with_four(db)
    db.write(fleet.set_overcommit, Overcommit({MEMORY: Fraction(2), "gpu.h100": Fraction(3)}), 1)
    assert (set(states(db, a).values()), amounts(db, a)) == ({"blocked"}, (4, 0, 4))
    db.write(probed, a)
    assert set(states(db, a).values()) == {"blocked"}
    db.write(fleet.set_overcommit, Overcommit({"gpu.h100": Fraction(3)}), 1)
    assert (set(states(db, a).values()), amounts(db, a)) == ({"available"}, (4, 0, 0)), "and never more than it has"


def test_a_claim_without_its_devices_is_never_committed(db: Database) -> None:
    a = with_four(db)

    def lose(connection: Connection) -> None:
        (given,) = take(connection, seat(1, a, 2))
        connection.execute(delete(schema.device_claims).where(schema.device_claims.c.key == given.devices[0].key))
        device_picks.verify(connection, [given], {(a, "h100")})

    with pytest.raises(InvariantViolation):
        db.write(lose)
    assert amounts(db, a) == (4, 0, 0)


def test_a_machine_that_was_found_has_the_devices_that_it_was_seen_with(db: Database) -> None:
    a = with_four(db)
    seen = db.read(device_picks.found, a, [KEYS[3], "0000:99:00.0"])
    assert [d.key for d in seen] == [KEYS[3]]
    assert keys(db.write(take, seat(1, a, devices=seen))) == [(KEYS[3],)]
    with pytest.raises(ClaimLost):
        db.write(take, seat(2, a, devices=(HeldDevice(KEYS[3], "h100", ()),)))


def test_hosts_that_only_count_their_devices_give_them_by_number(db: Database) -> None:
    (a,) = db.fill(1)
    total = {VCPU: 8, MEMORY: 64 * GIB, "gpu.h100": 2}
    db.write(lambda c: fleet.set_facts(c, a, boot_id="1", virt_type="redfish", total=total, foreign={}))
    assert keys(db.write(take, seat(1, a, 2))) == [()]
