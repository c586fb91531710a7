"""Bare metal in the planner's eyes: one member a machine, never beside a hypervisor's, and the smallest that fits."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import permutations

import pytest

from placement.check import check
from placement.engine import place
from placement.model import Decision, Policy, Proof, Snapshot, Status
from service.domain.fleet import BARE_METAL, FIRMWARE_LABEL, GPU, MEMORY, SECURE_BOOT_LABEL, VCPU, Host, HostStatus
from service.domain.groups import Group
from service.domain.specs import GpuRequest, HostLabel, MachineType, PlacementPolicy, PlacementStrategy
from service.planning import bare_metal, translate
from tests.support import builders

GIB = 1 << 30


def host(number: int, cpu: int, gib: int, *, bare: bool = True, used: bool = False, **devices: int) -> Host:
    amounts = {VCPU: cpu, MEMORY: gib * GIB, **{f"{GPU}{model}": count for model, count in devices.items()}}
    return replace(
        builders.host(number),
        machine_type=BARE_METAL if bare else "VirtualMachine",
        status=HostStatus.CONNECTED,
        total=amounts,
        allocatable=amounts,
        used={VCPU: 1} if used else {},
    )


def gang(*wishes: tuple[MachineType, int, int], strategy: PlacementStrategy | None = None) -> Group:
    """A member for each (type, vCPUs, GiB)."""
    policy = PlacementPolicy(strategy or PlacementStrategy.LEAST_LOST_VALUE)
    made = builders.group(len(wishes), placement=policy)
    return replace(
        made,
        instances=tuple(
            replace(m, spec=replace(m.spec, zone_uuid="", type=kind, cpu_num=cpu, memory_size=gib * GIB))
            for m, (kind, cpu, gib) in zip(made.instances, wishes, strict=True)
        ),
    )


def decided(group: Group, hosts: list[Host]) -> tuple[Decision, Snapshot]:
    by_uuid = {one.uuid: one for one in hosts}
    snapshot = translate.snapshot(by_uuid, {})
    request = translate.request(group, snapshot, by_uuid)
    decision = place(snapshot, request, Policy())
    if decision.status is Status.PLACED:
        assert check(snapshot, request, decision) == ()
    return decision, snapshot


def places(decision: Decision, group: Group) -> list[int]:
    """The host's number for each member by rank."""
    where = {one.node: int(one.host, 16) for one in decision.assignments}
    return [where[m.uuid] for m in group.instances]


VM, BM = MachineType.VIRTUAL_MACHINE, MachineType.BARE_METAL


def test_a_mixed_gang_goes_to_hypervisors_and_machines_each_to_its_own() -> None:
    hosts = [host(1, 64, 256, bare=False), host(2, 8, 32), host(3, 8, 32)]
    group = gang((VM, 4, 8), (BM, 4, 16), (BM, 8, 32), (VM, 4, 8))
    decision, _ = decided(group, hosts)
    where = places(decision, group)
    assert decision.proof is Proof.OPTIMAL
    assert (where[0], where[3]) == (1, 1)
    assert sorted(where[1:3]) == [2, 3]


def test_a_member_of_bare_metal_takes_all_of_the_machine() -> None:
    machine = host(1, 8, 32, a100=2)
    (member, other) = gang((BM, 2, 4), (BM, 2, 4)).instances
    assert translate.seat(member, machine).resources == machine.allocatable
    taken = replace(machine, used=dict(machine.allocatable))
    for one in (gang((BM, 2, 4)), gang((VM, 2, 4))):
        assert decided(one, [taken])[0].status is Status.INFEASIBLE
    # Whatever little is claimed or held by others there.
    assert decided(gang((BM, 2, 4)), [replace(machine, used={VCPU: 1})])[0].status is Status.INFEASIBLE
    assert decided(gang((BM, 2, 4)), [replace(machine, foreign={MEMORY: 1})])[0].status is Status.INFEASIBLE
    assert decided(gang((BM, 2, 4), (BM, 2, 4)), [machine])[0].status is Status.INFEASIBLE
    assert other.uuid != member.uuid


@pytest.mark.parametrize("kind", [VM, BM])
def test_no_member_goes_to_the_other_kind_of_host(kind: MachineType) -> None:
    group = gang((kind, 1, 1))
    decision, snapshot = decided(group, [host(1, 64, 256, bare=kind is VM)])
    assert decision.status is Status.INFEASIBLE
    assert translate.failure(decision, group, snapshot).code


@pytest.mark.parametrize("seed", range(12))
def test_the_smallest_machines_that_fit_are_taken_with_proof(seed: int) -> None:
    """Against all ways: the sum of the grades of the machines that are taken is the least."""
    dice = random.Random(seed)
    hosts = [host(n + 1, dice.choice((8, 16, 24, 32)), dice.choice((32, 64, 96, 128))) for n in range(5)]
    hosts.append(host(9, 64, 512, bare=False))
    wishes = [(BM, dice.choice((4, 12, 16)), dice.choice((16, 48, 64))) for _ in range(dice.choice((1, 2, 3)))]
    group = gang(*wishes, (VM, 2, 2))
    graded = bare_metal.grades(hosts)

    def fits(one: Host, wish: tuple[MachineType, int, int]) -> bool:
        return one.allocatable[VCPU] >= wish[1] and one.allocatable[MEMORY] >= wish[2] * GIB

    best = min(
        (
            sum(graded[bare_metal.size(one)] for one in chosen)
            for chosen in permutations(hosts[:5], len(wishes))
            if all(fits(*pair) for pair in zip(chosen, wishes, strict=True))
        ),
        default=None,
    )
    decision, _ = decided(group, hosts)
    if best is None:
        assert decision.status is Status.INFEASIBLE
        return
    by_number = {int(one.uuid, 16): one for one in hosts}
    taken = [by_number[number] for number in places(decision, group)[:-1]]
    assert sum(graded[bare_metal.size(one)] for one in taken) == best
    assert decision.proof is Proof.OPTIMAL


@pytest.mark.parametrize("strategy", list(PlacementStrategy))
def test_every_strategy_keeps_machines_whole(strategy: PlacementStrategy) -> None:
    hosts = [host(n, 16, 64) for n in (1, 2, 3)] + [host(4, 16, 64, bare=False)]
    group = gang((BM, 2, 4), (BM, 2, 4), (VM, 2, 4), (VM, 2, 4), strategy=strategy)
    decision, _ = decided(group, hosts)
    where = places(decision, group)
    assert len(set(where[:2])) == 2
    assert set(where[:2]) <= {1, 2, 3}
    assert where[2:] == [4, 4]


def test_grades_rise_with_size_and_stay_below_two_members() -> None:
    for count in (1, 2, 3, 5, 16, 40):
        graded = bare_metal.grades([host(n + 1, 2 + n, 4 + n) for n in range(count)])
        ordered = [graded[size] for size in sorted(graded)]
        assert len(graded) == count
        assert ordered == sorted(ordered)
        assert all(bare_metal.WHOLE <= one < 2 * bare_metal.WHOLE for one in ordered)
        if count <= bare_metal.WHOLE:
            assert len(set(ordered)) == count


def test_devices_of_any_model_are_those_of_the_machine() -> None:
    hosts = [host(1, 16, 64), host(2, 16, 64, a100=2, l4=2)]
    group = gang((BM, 2, 4))
    wish = replace(group.instances[0].spec, gpus=(GpuRequest("", 3),))
    group = replace(group, instances=(replace(group.instances[0], spec=wish),))
    decision, _ = decided(group, hosts)
    assert places(decision, group) == [2]
    kept = translate.record(group, decision, {one.uuid: one for one in hosts}, 0.0, 1)
    assert kept.assignments[0].resources == hosts[1].allocatable


def test_why_not_is_told_by_the_names_that_callers_know() -> None:
    group = gang((BM, 32, 4))
    decision, snapshot = decided(group, [host(1, 16, 64), host(2, 8, 64)])
    told = translate.failure(decision, group, snapshot)
    assert told.explanation is not None
    (funnel,) = told.explanation.funnels
    assert [(name, hosts) for _, name, hosts in funnel.resources] == [(VCPU, 2)]
    both = gang((BM, 4, 4), (BM, 4, 4))
    decision, snapshot = decided(both, [host(1, 16, 64)])
    told = translate.failure(decision, both, snapshot)
    assert "machine." not in repr(told)
    assert "lacks 1 machine" in told.message


def test_machines_are_matched_by_their_firmware_which_is_not_asked_of_hypervisors() -> None:
    """Of machines alone, and only of those whose BMC tells it."""
    hosts = [
        host(1, 8, 16, bare=False),
        host(2, 8, 16),
        replace(host(3, 16, 32), firmware="Legacy", secure_boot="off"),
        replace(host(4, 32, 64), firmware="UEFI", secure_boot="off"),
        replace(host(5, 64, 128), firmware="UEFI", secure_boot="on"),
        replace(host(6, 16, 32), labels={FIRMWARE_LABEL: "UEFI"}, firmware="Legacy"),
    ]
    wishes: tuple[tuple[dict[str, str], int], ...] = (
        ({}, 2),
        ({FIRMWARE_LABEL: "UEFI"}, 4),
        ({SECURE_BOOT_LABEL: "on"}, 5),
    )
    for wanted, number in wishes:
        group = gang((MachineType.VIRTUAL_MACHINE, 2, 2), (MachineType.BARE_METAL, 4, 8))
        labels = tuple(HostLabel(key, (value,)) for key, value in wanted.items())
        policy = replace(group.spec.placement, required_host_labels=labels)
        group = replace(group, spec=replace(group.spec, placement=policy))
        decision, _ = decided(group, hosts)
        assert decision.status is Status.PLACED
        assert places(decision, group) == [1, number]
        taken = [hosts[0], hosts[number - 1]]
        assert all(one.has_label(label.key, label.values) for label in labels for one in taken)
    assert not hosts[1].has_label(FIRMWARE_LABEL, ("UEFI",)), "it does not tell"
    assert not hosts[5].has_label(FIRMWARE_LABEL, ("UEFI",)), "its operator's word is not its BMC's"
