"""Devices without a model: what the planner counts is exactly what hosts can give out, and a claim names the models."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations_with_replacement, product

import pytest

from placement.check import check
from placement.engine import place
from placement.model import Decision, Policy, Proof, Snapshot, Status
from service.domain.fleet import GPU, MEMORY, VCPU, Host, HostStatus
from service.domain.groups import Group, InstanceStatus
from service.domain.specs import GpuRequest, PlacementPolicy, PlacementStrategy, on_host
from service.planning import translate
from tests.support import builders

GIB = 1 << 30
MODELS = ("a", "b", "c")


def host(number: int, devices: dict[str, int], used: dict[str, int] | None = None) -> Host:
    """Room for any number of members, and these devices."""
    amounts = {VCPU: 64, MEMORY: 640 * GIB, **{f"{GPU}{model}": count for model, count in devices.items()}}
    held = {f"{GPU}{model}": count for model, count in (used or {}).items()}
    return replace(builders.host(number), status=HostStatus.CONNECTED, total=amounts, allocatable=amounts, used=held)


def gang(wishes: list[dict[str, int]]) -> Group:
    """A member for each wish: model ("" for any) -> count."""
    made = builders.group(len(wishes), placement=PlacementPolicy(PlacementStrategy.FEWEST_HOSTS))
    pairs = zip(made.instances, wishes, strict=True)
    return replace(
        made,
        instances=tuple(
            replace(m, spec=replace(m.spec, zone_uuid="", gpus=tuple(GpuRequest(*g) for g in wish.items())))
            for m, wish in pairs
        ),
    )


def decided(group: Group, hosts: dict[str, Host]) -> tuple[Decision, Snapshot]:
    snapshot = translate.snapshot(hosts, {})
    request = translate.request(group, snapshot)
    decision = place(snapshot, request, Policy())
    if decision.status is Status.PLACED:
        assert check(snapshot, request, decision) == ()
    return decision, snapshot


def fits(wishes: list[dict[str, int]], there: dict[str, int]) -> bool:
    """Whether a host with these free devices can serve all wishes, by every way to choose the models of each."""
    if not wishes:
        return all(count >= 0 for count in there.values())
    first, *rest = wishes
    named = {model: there.get(model, 0) - first.get(model, 0) for model in {*there, *(m for m in first if m)}}
    ways = combinations_with_replacement(sorted(named), first.get("", 0))
    return any(fits(rest, {model: count - way.count(model) for model, count in named.items()}) for way in ways)


def fewest(wishes: list[dict[str, int]], free: list[dict[str, int]]) -> int | None:
    """On how few hosts the wishes fit, by every placement; None: on none."""
    found = [
        len(set(where))
        for where in product(range(len(free)), repeat=len(wishes))
        if all(fits([w for w, at in zip(wishes, where, strict=True) if at == n], there) for n, there in enumerate(free))
    ]
    return min(found, default=None)


@pytest.mark.parametrize("block", range(3))
def test_a_plan_is_what_trying_every_device_finds(block: int) -> None:
    placed = 0
    for seed in range(block * 60, (block + 1) * 60):
        r = random.Random(seed)
        models = MODELS[: r.randint(1, 3)]
        totals = [{m: r.randint(0, 3) for m in models} for _ in range(r.randint(1, 3))]
        used = [{m: r.randint(0, min(1, n)) for m, n in there.items()} for there in totals]
        wishes = [{model: r.randint(1, 2) for model in r.sample(["", "", *models], 1)} for _ in range(r.randint(1, 4))]
        hosts = {h.uuid: h for h in (host(n + 1, t, u) for n, (t, u) in enumerate(zip(totals, used, strict=True)))}
        free = [{m: t[m] - u[m] for m in t} for t, u in zip(totals, used, strict=True)]
        group = gang(wishes)
        decision, _ = decided(group, hosts)
        best = fewest(wishes, free)
        if best is None:
            assert decision.status is Status.INFEASIBLE, seed
            continue
        assert (decision.status, decision.objective, decision.proof) == (Status.PLACED, best, Proof.OPTIMAL), seed
        placed += 1
        _check_claims(group, translate.record(group, decision, hosts, 1.0, 1).assignments, hosts)
    assert placed >= 20


def _check_claims(group: Group, seats: object, hosts: dict[str, Host]) -> None:
    """What is claimed is what was asked for, of models that the hosts still have."""
    left = {uuid: {n: h.allocatable[n] - h.used.get(n, 0) for n in h.allocatable} for uuid, h in hosts.items()}
    for member, seat in zip(group.instances, seats, strict=True):  # type: ignore[call-overload]
        claimed = {name: amount for name, amount in seat.resources.items() if name.startswith(GPU)}
        for gpu in member.spec.gpus:
            assert not gpu.model or claimed[f"{GPU}{gpu.model}"] >= gpu.count
        assert sum(claimed.values()) == sum(gpu.count for gpu in member.spec.gpus)
        assert translate.ANY_GPU not in seat.resources
        for name, amount in claimed.items():
            left[seat.host_uuid][name] -= amount
            assert left[seat.host_uuid][name] >= 0
        assert translate.demand(on_host(member.spec, seat.resources)) == seat.resources


def test_devices_are_of_one_model_where_that_has_enough_and_of_the_one_with_the_fewest_left() -> None:
    hosts = {h.uuid: h for h in (host(1, {"a": 4, "b": 2, "c": 1}),)}
    group = gang([{"": 2}, {"": 3, "c": 1}])
    decision, _ = decided(group, hosts)
    first, second = translate.record(group, decision, hosts, 1.0, 1).assignments
    assert {n: a for n, a in first.resources.items() if n.startswith(GPU)} == {"gpu.b": 2}
    assert {n: a for n, a in second.resources.items() if n.startswith(GPU)} == {"gpu.a": 3, "gpu.c": 1}


def test_a_member_that_is_placed_anew_asks_for_any_again_and_one_that_moves_keeps_what_it_has() -> None:
    both = {h.uuid: h for h in (host(1, {"a": 2}), host(2, {"b": 2}))}
    group = gang([{"": 2}])
    running = replace(
        group.instances[0],
        status=InstanceStatus.RUNNING,
        host_uuid=host(1, {}).uuid,
        spec=on_host(group.instances[0].spec, {"gpu.a": 2}),
    )
    group = replace(group, instances=(running,))
    snapshot = translate.snapshot(both, {})
    move = translate.move_request(group, running, snapshot, {}, frozenset(both))
    assert move.nodes[0].demand == {VCPU: running.spec.cpu_num, MEMORY: running.spec.memory_size, "gpu.a": 2}
    lost = replace(running, status=InstanceStatus.PENDING, host_uuid="", attempt=2)
    again = translate.request(replace(group, instances=(lost,)), snapshot)
    assert again.nodes[0].demand[translate.ANY_GPU] == 2
    assert "gpu.a" not in again.nodes[0].demand


def test_a_host_that_gives_out_less_of_one_model_than_is_used_has_all_of_the_others() -> None:
    hosts = {h.uuid: h for h in (host(1, {"a": 1, "b": 2}, {"a": 4}),)}
    assert decided(gang([{"": 2}]), hosts)[0].status is Status.PLACED
    assert decided(gang([{"": 3}]), hosts)[0].status is Status.INFEASIBLE
