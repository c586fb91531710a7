"""What recovery decides, case by case: from what hosts show and what the database has to what is to be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from service.domain.catalog import version_key
from service.domain.groups import Group, GroupPhase, GroupStatus, Instance, InstanceStatus
from service.domain.ownership import Installation, OwnerMark
from service.domain.recovery import ToldValues
from service.drivers.base import MachineIdentity, MachineState, ObservedMachine
from service.errors import InvariantViolation
from service.lifecycle.invariants import check
from service.lifecycle.members import vacate
from service.serving.record import machine_record
from service.transactions.found_state import as_if_known
from service.transactions.recovery_plan import Act, GroupChange, Known, RecoveryPlan, plan
from service.transactions.surveys import Survey
from tests.support.builders import ENTRY, ZONE, entry, group, host

CLUSTER, DATABASE, NOW = "c", "d" * 32, 1_000
INSTALLATION = Installation(DATABASE, CLUSTER)
S = InstanceStatus
M = MachineState
UUID = "a" * 32


def running(size: int = 2, **changes: object) -> Group:
    """A group as the database had it: rank r runs on host r + 1."""
    made = group(size, UUID, **changes)
    members = tuple(replace(seated(m, m.rank + 1), status=S.RUNNING, was_resumed=True) for m in made.instances)
    return replace(
        made, instances=members, phase=GroupPhase.RUNNING, status=GroupStatus.RUNNING, go=True, served=True,
        start_epoch=1, starts=1, running_since=5,
    )  # fmt: skip


def seated(member: Instance, number: int, attempt: int = 1) -> Instance:
    """The member as it is placed on a host."""
    identity = MachineIdentity(CLUSTER, UUID, member.uuid, attempt)
    return replace(
        member,
        attempt=attempt,
        host_uuid=f"{number:032x}",
        host_name=f"host-{number}",
        zone_uuid=ZONE,
        machine_uuid=identity.machine_uuid,
        address=f"10.9.0.{10 * attempt + member.rank}",
        created_at=3,
    )


def shown(of: Group, rank: int, state: M = M.RUNNING, *, attempt: int = 0, generation: int = 1) -> ObservedMachine:
    """The member's machine as a host shows it, with the record that it was made with."""
    member = next(m for m in of.instances if m.rank == rank)
    member = replace(member, attempt=attempt or member.attempt)
    identity = MachineIdentity(CLUSTER, of.uuid, member.uuid, member.attempt)
    return ObservedMachine(
        identity=identity,
        machine_uuid=identity.machine_uuid,
        state=state,
        spec_hash="",
        generation=generation,
        name=identity.machine_name,
        record=machine_record(of, member, entry(version=1), 1),
    )


def surveys(*hosts: Sequence[ObservedMachine], generation: int = 0) -> list[Survey]:
    """Host 1 shows the first machines, host 2 the next, and so on."""
    return [
        Survey(host(n), tuple(machines), OwnerMark(DATABASE, f"{n:032x}", generation))
        for n, machines in enumerate(hosts, start=1)
    ]


def knowing(*groups: Group, generation: int = 0, retired: Sequence[tuple[str, int, str]] = ()) -> Known:
    return Known(
        installation=INSTALLATION,
        generation=generation,
        groups={g.uuid: g for g in groups},
        retired=frozenset(retired),
        versions=frozenset({version_key(ENTRY, 0)}),
    )


def decide(known: Known, found: Sequence[Survey], silent: Mapping[str, str] | None = None) -> RecoveryPlan:
    return plan(known, found, silent or {}, NOW)


def only(found: RecoveryPlan) -> GroupChange:
    (change,) = found.changes
    assert not found.problems
    return change


def test_where_a_machine_is_pinned_its_host_says() -> None:
    """A record may be older than a live move, which changes the cell."""
    was = running(2)
    was = replace(was, instances=tuple(replace(m, cells=(3,)) for m in was.instances))
    held = {"vcpu": 2, "memory": 1 << 30, "cell.1.vcpu": 2, "cell.1.memory": 1 << 30}
    pinned = [replace(shown(was, 0), resources=held), replace(shown(was, 1, attempt=2), resources={"vcpu": 2})]
    change = only(decide(knowing(), surveys([pinned[0]], [pinned[1]], generation=9)))
    assert [m.cells for m in change.group.instances] == [(1,), ()]
    change = only(decide(knowing(was), surveys([replace(pinned[0])], [pinned[1]], generation=9)))
    assert [m.cells for m in change.group.instances] == [(3,), ()], "whom the database knows there stays as it is"


# --- a lost database -------------------------------------------------------------------------------------------------


def test_a_group_of_a_lost_database_is_made_again_as_it_ran() -> None:
    was = running(2, project="p", principal="who", created_at=7, name="served", user_tags=("t",))
    found = decide(knowing(), surveys([shown(was, 0)], [shown(was, 1)], generation=9))
    change = only(found)
    assert change.act is Act.CREATE
    assert found.above == 9
    again = replace(change.group, running_since=5, updated_at=0)
    assert again == replace(was, instances=again.instances)
    for old, new in zip(was.instances, again.instances, strict=True):
        assert replace(new, updated_at=0) == old


@dataclass(frozen=True)
class States:
    """Machines' states by rank, and what the group and its members are then."""

    machines: tuple[M, ...]
    phase: GroupPhase
    members: tuple[S, ...]
    go: bool = True
    start_epoch: int = 1


@pytest.mark.parametrize(
    "case",
    [
        States((M.RUNNING, M.RUNNING), GroupPhase.RUNNING, (S.RUNNING, S.RUNNING)),
        States((M.RUNNING, M.STOPPING), GroupPhase.RUNNING, (S.RUNNING, S.RUNNING)),
        States((M.RUNNING, M.PAUSED), GroupPhase.BOOTING, (S.RUNNING, S.CREATED)),
        States((M.RUNNING, M.CRASHED), GroupPhase.RUNNING, (S.RUNNING, S.RUNNING)),
        States((M.PAUSED, M.PAUSED), GroupPhase.CREATING, (S.CREATED, S.CREATED), go=False, start_epoch=0),
        States((M.PAUSED, M.STOPPED), GroupPhase.CREATING, (S.CREATED, S.CREATING), go=False, start_epoch=0),
        States((M.STOPPED, M.STOPPED), GroupPhase.STOPPED, (S.STOPPED, S.STOPPED)),
        States((M.CRASHED, M.STOPPED), GroupPhase.STOPPED, (S.STOPPED, S.STOPPED)),
    ],
)
def test_a_group_is_in_the_phase_of_its_machines(case: States) -> None:
    was = running(2)
    machines = [shown(was, rank, state) for rank, state in enumerate(case.machines)]
    made = only(decide(knowing(), surveys(machines))).group
    assert (made.phase, made.go, made.start_epoch) == (case.phase, case.go, case.start_epoch)
    assert tuple(m.status for m in made.instances) == case.members


def test_values_come_from_what_the_machine_was_told_or_are_told_as_missing() -> None:
    was = running(1)
    variables = {"TOKEN": "v", "LOST": "w", "NAME": "secret://x"}
    node = replace(was.instances[0].spec, environment_variables=variables, startup_parameters="--fast")
    was = replace(was, instances=(replace(was.instances[0], spec=node),))
    machine = shown(was, 0)
    told = {machine.machine_uuid: ToldValues({"TOKEN": "v", "OTHER": "no", "NAME": "resolved"}, "--fast")}
    change = only(decide(knowing(), [Survey(host(1), (machine,), None, told)]))
    spec = change.group.instances[0].spec
    assert (spec.environment_variables, spec.startup_parameters) == ({"TOKEN": "v", "NAME": "secret://x"}, "--fast")
    assert change.missing == ("LOST",)
    assert "LOST" in change.group.reason
    bare = only(decide(knowing(), surveys([machine])))
    assert bare.missing == ("LOST", "TOKEN", "startup_parameters")


def test_a_catalogue_entry_that_is_gone_is_restored_as_the_version_that_members_have() -> None:
    was = running(1)
    node = replace(was.instances[0].spec, model_service_version=4)
    was = replace(was, instances=(replace(was.instances[0], spec=node),))
    (back,) = only(decide(knowing(), surveys([shown(was, 0)]))).entries
    assert (back.uuid, back.version, back.image) == (ENTRY, 4, entry().image)


def test_ranks_without_a_machine_are_told_and_the_rest_is_recovered() -> None:
    was = running(4)
    change = only(decide(knowing(), surveys([shown(was, 0), shown(was, 2)])))
    assert [m.rank for m in change.group.instances] == [0, 2]
    assert len(change.group.spec.nodes) == 2
    assert any("ranks 1,3 have no machine" in note for note in change.notes)


# --- what cannot be told ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unclear:
    """What hosts show (by rank and state), and the words of the reason."""

    hosts: tuple[tuple[tuple[int, M, int], ...], ...]
    words: str
    silent: Mapping[str, str] = field(default_factory=dict)


@pytest.mark.parametrize(
    "case",
    [
        Unclear((((1, M.RUNNING, 1),),), "its leader has no machine"),
        Unclear((((0, M.RUNNING, 1),), ((0, M.RUNNING, 1),)), "is on host-1 and on host-2"),
        Unclear((((0, M.RUNNING, 1),), ((0, M.STOPPED, 1),)), "is on host-1 and on host-2"),
        Unclear((((0, M.RUNNING, 1),), ((0, M.RUNNING, 2),)), "attempts 1 and 2 of one member are there at once"),
        Unclear((((0, M.RUNNING, 1),), ((0, M.MIGRATING, 1),)), "in the middle of a live move"),
        Unclear((((0, M.GHOST, 1),),), "can neither run nor remove"),
        Unclear((((0, M.RUNNING, 1),),), "hosts did not answer that may have theirs: away", {"away": "refused"}),
        Unclear(
            (((0, M.STOPPED, 1), (1, M.RUNNING, 1)),), "are stopped, and hosts did not answer", {"away": "refused"}
        ),
    ],
)
def test_what_is_not_plain_is_a_problem_and_nothing_is_written_of_it(case: Unclear) -> None:
    was = running(2)
    machines = [[shown(was, rank, state, attempt=n) for rank, state, n in one] for one in case.hosts]
    found = decide(knowing(), surveys(*machines), case.silent)
    assert found.changes == ()
    (problem,) = found.problems
    assert problem.group == UUID
    assert case.words in problem.why


def test_machines_without_a_record_and_of_two_members_of_one_rank_are_problems() -> None:
    was = running(2)
    bare = decide(knowing(), surveys([replace(shown(was, 0), record="")]))
    assert "has no record that this version reads" in bare.problems[0].why
    newer = shown(was, 0).record.replace('"version":1', '"version":2', 1)[:-1] + ',"version":2}'
    assert decide(knowing(), surveys([replace(shown(was, 0), record=newer)])).problems[0].why == bare.problems[0].why
    other = replace(was.instances[1], uuid="f" * 32, spec=was.instances[0].spec)
    two = replace(was, instances=(was.instances[0], other))
    machines = [shown(was, 0), shown(replace(two, instances=(other,)), 0)]
    assert "two members of rank 0" in decide(knowing(), surveys(machines)).problems[0].why


def test_an_older_attempt_that_is_stopped_is_over() -> None:
    was = running(1)
    change = only(decide(knowing(), surveys([shown(was, 0, M.STOPPED)], [shown(was, 0, attempt=2)])))
    assert (change.group.instances[0].attempt, change.group.instances[0].host_name) == (2, "host-2")
    assert any("attempt 1 of the same member is stopped on host-1" in note for note in change.notes)


def test_a_host_with_another_databases_mark_and_machines_of_another_cluster_are_left_alone() -> None:
    was = running(1)
    foreign = Survey(host(1), (shown(was, 0),), OwnerMark("e" * 32, f"{1:032x}", 99))
    found = decide(knowing(), [foreign])
    assert (found.changes, found.above) == ((), 0)
    assert "bears the mark of another database" in found.problems[0].why
    stranger = shown(was, 0)
    stranger = replace(stranger, identity=replace(stranger.identity, cluster="other"))
    assert decide(knowing(), surveys([stranger])).changes == ()


# --- an older copy of the database -----------------------------------------------------------------------------------


def test_what_the_database_has_right_is_left_as_it_is() -> None:
    was = running(2)
    found = decide(knowing(was, generation=1), surveys([shown(was, 0)], [shown(was, 1)], generation=9))
    assert (found.changes, found.problems, found.above, found.whole) == ((), (), 9, 1)


def test_a_member_that_was_placed_anew_since_is_found_where_it_is() -> None:
    was = running(2)
    now = replace(was, instances=(was.instances[0], seated(was.instances[1], 3, attempt=3)))
    change = only(decide(knowing(was), surveys([shown(was, 0)], [], [shown(now, 1)], generation=9)))
    assert change.act is Act.CORRECT
    assert change.changed == {was.instances[1].uuid}
    member = change.group.instances[1]
    assert (member.attempt, member.host_name, member.address, member.status) == (3, "host-3", "10.9.0.31", S.RUNNING)
    assert change.group.phase is GroupPhase.RUNNING


def test_what_is_left_of_an_earlier_attempt_says_nothing_of_a_member_that_is_to_be_placed_anew() -> None:
    was = running(2)
    waits = replace(was, instances=(was.instances[0], vacate(was.instances[1], keep_claim=False)))
    now = replace(was, instances=(seated(was.instances[0], 3, attempt=3), was.instances[1]))
    change = only(decide(knowing(waits), surveys([], [shown(was, 1)], [shown(now, 0)], generation=9)))
    assert [(m.status, m.host_uuid) for m in change.group.instances] == [(S.RUNNING, f"{3:032x}"), (S.PENDING, "")]
    assert change.group.phase is GroupPhase.PLANNING


def test_a_member_that_was_moved_live_since_keeps_its_attempt() -> None:
    was = running(2)
    change = only(decide(knowing(was), surveys([shown(was, 0)], [], [shown(was, 1)], generation=9)))
    member = change.group.instances[1]
    assert (member.attempt, member.host_uuid, member.address) == (1, f"{3:032x}", was.instances[1].address)


def test_a_machine_elsewhere_is_no_move_where_its_recorded_host_cannot_be_looked_at() -> None:
    was = running(2)
    found = decide(
        knowing(was), surveys([shown(was, 0)], [], [shown(was, 1)], generation=9)[::2], {"host-2": "another database's"}
    )
    (problem,) = found.problems
    assert (problem.group, found.changes) == (was.uuid, ())
    assert "may be a copy" in problem.why


def test_a_group_that_was_deleted_since_ends_only_if_every_host_answers() -> None:
    was = running(2)
    change = only(decide(knowing(was), surveys([], [], generation=9)))
    assert (change.act, change.group.phase) == (Act.END, GroupPhase.DELETED)
    assert decide(knowing(was), surveys([], generation=9), {"host-2": "refused"}).changes == ()
    assert decide(knowing(was, generation=9), surveys([], [], generation=9)).changes == (), "not an older copy"


def test_what_a_deleted_group_left_standing_keeps_its_claim() -> None:
    was = running(2)
    moved = replace(was, instances=(was.instances[0], vacate(was.instances[1], keep_claim=False)))
    stuck, uuid = shown(was, 1, M.GHOST), was.instances[1].uuid
    change = only(decide(knowing(moved, retired=[(uuid, 1, host(2).uuid)]), surveys([], [stuck], generation=9)))
    assert (change.act, change.standing) == (Act.END, frozenset({(uuid, 1)}))


def test_an_older_copy_on_which_the_service_ran_for_a_time_is_one_still_however_far_it_has_come_since() -> None:
    went_on = replace(knowing(running(2), generation=20), ahead=True)
    plan = decide(went_on, surveys([], [], generation=9))
    assert only(plan).act is Act.END
    assert plan.above == 9


def test_a_group_that_was_never_on_a_host_is_placed_as_it_was_accepted() -> None:
    assert decide(knowing(group(2, UUID)), surveys([], [], generation=9)).changes == ()


def test_a_member_whose_machine_is_gone_is_placed_anew_above_every_attempt_that_was_seen() -> None:
    was = running(2)
    tombstone = shown(was, 1, M.TOMBSTONE, attempt=4)
    change = only(decide(knowing(was), surveys([shown(was, 0)], [tombstone], generation=9)))
    member = change.group.instances[1]
    assert (member.status, member.attempt, member.host_uuid) == (S.PENDING, 5, "")
    assert (change.group.phase, change.group.status) == (GroupPhase.PLANNING, GroupStatus.DEGRADED)


def test_that_go_was_committed_since_is_no_decision_of_today() -> None:
    was = running(2)
    creating = tuple(replace(m, status=S.CREATING, was_resumed=False) for m in was.instances)
    row = replace(was, instances=creating, phase=GroupPhase.CREATING, status=GroupStatus.DEPLOYING, go=False)
    after = only(decide(knowing(row), surveys([], [], [shown(was, 0, attempt=2)], generation=9))).group
    assert after.go
    seats = {(m.uuid, m.attempt): frozenset({m.host_uuid}) for m in after.instances}
    check(as_if_known(row, after), after, seats)
    with pytest.raises(InvariantViolation, match="I4"):
        check(row, after, seats)


def test_a_member_of_a_later_scaling_joins() -> None:
    was, now = running(2), running(3)
    change = only(decide(knowing(was), surveys([shown(was, 0)], [shown(was, 1)], [shown(now, 2)], generation=9)))
    assert [m.rank for m in change.group.instances] == [0, 1, 2]
    assert change.changed == {now.instances[2].uuid}
    assert len(change.group.spec.nodes) == 3


@pytest.mark.parametrize(
    ("phase", "machine", "becomes"),
    [
        (GroupPhase.STOPPED, M.RUNNING, GroupPhase.RUNNING),
        (GroupPhase.RUNNING, M.STOPPED, GroupPhase.STOPPED),
        (GroupPhase.STOPPED, M.STOPPED, None),
        (GroupPhase.DELETING, M.RUNNING, None),
    ],
)
def test_a_group_started_or_stopped_since_is_what_its_machines_are(
    phase: GroupPhase, machine: M, becomes: GroupPhase | None
) -> None:
    was = running(1)
    status = S.STOPPED if phase is GroupPhase.STOPPED else S.RUNNING
    was = replace(was, phase=phase, instances=(replace(was.instances[0], status=status),))
    found = decide(knowing(was), surveys([shown(was, 0, machine)], generation=9))
    assert [c.group.phase for c in found.changes] == ([becomes] if becomes else [])


def test_what_was_let_go_on_record_is_no_member() -> None:
    was = running(1)
    letting = [(was.instances[0].uuid, 1, f"{1:032x}")]
    assert decide(knowing(retired=letting), surveys([shown(was, 0)])).changes == ()


def test_a_group_that_is_over_and_has_machines_without_a_record_of_that_is_a_problem() -> None:
    was = replace(running(1), phase=GroupPhase.DELETED, status=GroupStatus.DELETED)
    (problem,) = decide(knowing(was), surveys([shown(was, 0)])).problems
    assert "has it as Deleted" in problem.why
