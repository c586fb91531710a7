"""Which devices of a host rules offer, which rules are refused, and which devices a member gets."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.device_reports import kind_of_report
from service.domain.devices import (
    Clean,
    Device,
    DeviceRule,
    DeviceRules,
    DeviceState,
    Partition,
    PciFunction,
    RuleKind,
    Unit,
    chosen,
    rule_violations,
    units,
)
from service.domain.unmet_rules import unmet

GPU = PciFunction("0000:65:00.0", "10de", "2330", "030200", group=11, cell=1, driver="nvidia")
SOUND = PciFunction("0000:65:00.1", "10de", "22bc", "040300", group=11, cell=1, driver="snd_hda_intel")
PORT = PciFunction("0000:64:00.0", "8086", "2030", "060400", group=11, driver="pcieport")
H100 = DeviceRule(RuleKind.GPU, "h100", vendor="10de", product="2330")
ALONE = replace(GPU, group=12)
ITS_SOUND = DeviceRule(RuleKind.COMPANION, vendor="10de", product="22bc")


def only(rules: list[DeviceRule], *functions: PciFunction, host: str = "hv1") -> Unit:
    (unit,) = units(rules, host, functions)
    return unit


def test_a_device_is_offered_with_all_functions_of_its_group_but_bridges() -> None:
    unit = only([H100, ITS_SOUND], SOUND, PORT, GPU)
    assert (unit.key, unit.model, unit.cell, unit.group, unit.state) == (GPU.address, "h100", 1, 11, "available")
    assert [(f.address, f.ids) for f in unit.functions] == [(GPU.address, "10de:2330"), (SOUND.address, "10de:22bc")]
    assert units([], "hv1", [GPU, SOUND]) == () == units([replace(H100, hosts=("hv2",))], "hv1", [GPU])


@pytest.mark.parametrize(
    ("rules", "functions", "says"),
    [
        ([H100], [GPU, SOUND], f"holds {SOUND.address} (driver snd_hda_intel), which no rule offers"),
        ([H100, replace(H100, product="", device_class="03")], [GPU], "by several rules: devices[0], devices[1]"),
        ([H100], [replace(GPU, group=None)], "in no IOMMU group"),
        ([H100], [GPU, replace(GPU, address="0000:66:00.0")], "another accelerator"),
        ([H100], [GPU, replace(GPU, address="0000:65:00.4", group=2, virtual_of=GPU.address)], "virtual"),
        ([DeviceRule(RuleKind.GPU, "x", vendor="8086", product="2030")], [PORT], "is a bridge"),
    ],
)  # fmt: skip
def test_what_a_host_cannot_give_away_is_blocked_and_names_what_is_in_the_way(
    rules: list[DeviceRule], functions: list[PciFunction], says: str
) -> None:
    unit = units(rules, "hv1", functions)[0]
    assert unit.state is DeviceState.BLOCKED
    assert says in unit.reason


def test_what_a_strangers_machine_has_of_a_group_makes_all_of_it_foreign() -> None:
    unit = only([H100, ITS_SOUND], GPU, replace(SOUND, foreign=True))
    assert (unit.state, SOUND.address in unit.reason) == (DeviceState.FOREIGN, True)


@pytest.mark.parametrize(
    ("rule", "field", "says"),
    [
        (DeviceRule(RuleKind.GPU, "", vendor="10de", product="2330"), "model", "must be letters"),
        (replace(ITS_SOUND, model="x"), "model", "must be empty"),
        (replace(H100, vendor="0x10de"), "vendor", "four hexadecimal"),
        (replace(H100, device_class="3"), "pci_class", "two to six"),
        (replace(H100, product="", device_class="0604"), "pci_class", "bridges"),
        (replace(H100, addresses=("65:00.0",), hosts=("hv1",)), "addresses", "no PCI address"),
        (replace(H100, addresses=(GPU.address,)), "hosts", "is required"),
        (replace(H100, vendor=""), "vendor", "is required"),
        (DeviceRule(RuleKind.GPU, "x", vendor="10de"), "", "would offer all"),
        (replace(ITS_SOUND, clean=Clean.NONE), "clean", "of the accelerator"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(rule: DeviceRule, field: str, says: str) -> None:
    (found,) = [wrong for _, wrong in rule_violations([rule])]
    assert (found.field, says in found.description) == (field, True), found


def test_rules_that_contradict_are_refused_by_their_positions() -> None:
    here = replace(H100, vendor="", product="", addresses=(GPU.address,), hosts=("hv1", "hv2"))
    again = replace(here, model="a100", hosts=("hv2",), device_class="03")
    found = list(rule_violations([H100, replace(H100, model="other"), here, again]))
    assert [index for index, _ in found] == [1, 3]
    assert "devices[0]" in found[0][1].description
    assert f"names {GPU.address}, which devices[2]" in found[1][1].description


@given(
    st.lists(st.integers(-1, 3), min_size=1, max_size=10),
    st.integers(1, 10),
    st.lists(st.integers(0, 3), max_size=2),
)
def test_a_member_gets_so_many_different_ones_of_its_cells_first_and_else_of_one_cell(
    of_cells: list[int], count: int, pinned: list[int]
) -> None:
    free = [free_device(number, cell) for number, cell in enumerate(of_cells)]
    count = min(count, len(free))
    keys = chosen(free, count, pinned)
    assert len(set(keys)) == count
    assert set(keys) <= {device.key for device in free}
    cell_of = {device.key: device.cell for device in free}
    taken = [cell_of[key] for key in keys]
    near = sum(cell in pinned for cell in of_cells)
    assert sum(cell in pinned for cell in taken) == min(near, count)
    if not pinned and any(of_cells.count(cell) >= count for cell in of_cells):
        assert len(set(taken)) == 1
        fitting = [of_cells.count(cell) for cell in of_cells if of_cells.count(cell) >= count]
        assert of_cells.count(taken[0]) == min(fitting), "whole cells stay for others"
    assert keys == chosen(list(reversed(free)), count, pinned)


def free_device(number: int, cell: int) -> Device:
    return Device("h", f"0000:{number:02x}:00.0", "h100", (), cell, number, "", Clean.RESET, DeviceState.AVAILABLE)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Xid 79", "xid"),
        ("Xid 48", "ecc"),
        ("Xid 480", "xid"),
        ("ECC", "ecc"),
        ("uncorrectable ECC error", "ecc"),
        ("seccomp denied", "unknown"),
        ("Xid", "unknown"),
        ("", "unknown"),
    ],
)
def test_what_a_guest_says_is_of_a_kind(said: str, kind: str) -> None:
    assert kind_of_report(said) == kind


A_CLASS = DeviceRule(RuleKind.GPU, "any", device_class="03")


@pytest.mark.parametrize(
    ("rule", "contradicts"),
    [
        (DeviceRule(RuleKind.GPU, "3d", device_class="0302"), True),
        (DeviceRule(RuleKind.GPU, "vga", vendor="10de", device_class="0300", hosts=("hv1",)), True),
        (DeviceRule(RuleKind.GPU, "one", device_class="0302", addresses=("0000:65:00.0",), hosts=("hv1",)), True),
        (DeviceRule(RuleKind.COMPANION, device_class="0300"), True),
        (DeviceRule(RuleKind.GPU, "npu", device_class="12"), False),
        # What these are the file does not say: a host that shows such a one tells it as blocked.
        (H100, False),
        (DeviceRule(RuleKind.GPU, "one", addresses=("0000:65:00.0",), hosts=("hv1",)), False),
    ],
)
def test_a_rule_about_what_another_is_about_is_refused_whichever_comes_first(
    rule: DeviceRule, contradicts: bool
) -> None:
    """Each of their devices would be offered by both, and given to nobody."""
    for both in ([A_CLASS, rule], [rule, A_CLASS]):
        assert [at for at, _ in rule_violations(both)] == [1] * contradicts
    apart = [replace(A_CLASS, hosts=("hv2",)), replace(rule, hosts=("hv1",))]
    assert list(rule_violations(apart)) == []


def test_what_a_rule_names_by_address_and_its_host_has_not_is_gone_and_told() -> None:
    by_place = DeviceRule(RuleKind.GPU, "by-place", vendor="10de", addresses=(ALONE.address, "0000:77:00.0"))
    here = replace(by_place, hosts=("one",))
    there = {unit.key: unit for unit in units([here], "one", [ALONE])}
    assert {key: unit.state.value for key, unit in there.items()} == {
        ALONE.address: "available", "0000:77:00.0": "gone",
    }  # fmt: skip
    assert there["0000:77:00.0"].reason == "devices[0] names it, and its host shows nothing there"
    other = replace(ALONE, vendor="1002")
    (first, _) = units([here], "one", [other])
    assert (first.state.value, first.reason) == (
        "gone", f"devices[0] names it, and its host shows 1002:{other.product} there",
    )  # fmt: skip
    by_class = DeviceRule(RuleKind.GPU, "by-class", device_class=ALONE.device_class, vendor="1002")
    assert [unit.model for unit in units([here, by_class], "one", [other])] == ["by-class", "by-place"]
    assert units([here], "two", []) == ()

    rules = DeviceRules((here, by_class), (Partition("one", "left", (ALONE.address, "0000:78:00.0")),))
    assert list(unmet(rules, "one", [ALONE])) == ["its partition left names 0000:78:00.0, where it has no device"]
    assert next(unmet(rules, "one", [])) == "devices[0] is about no device of it"
    assert list(unmet(rules, "two", [])) == []


def test_rules_mean_a_host_by_the_name_that_the_file_gives_it_and_no_other_that_took_that_name() -> None:
    rules = DeviceRules((DeviceRule(RuleKind.GPU, "h100", device_class="0302", hosts=("one",)),), (), {"a" * 32: "one"})
    assert rules.name_of("a" * 32, "one") == rules.name_of("a" * 32, "renamed") == "one"
    assert rules.name_of("b" * 32, "one") == ""
    assert rules.name_of("b" * 32, "two") == "two", "a call has added it"
