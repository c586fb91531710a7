"""A group whose members become something else: by a second gang beside the first, or in place. Pure.

While there is a second gang each of the two lives by the lifecycle of any group, as if it were one of its own (`first`,
`second`), and `_NEXT` is the table of what follows for the update from where they stand. The old gang is ended by
nothing but the step that makes the new one the group's, and that step needs a new gang that runs: all of its members
are ready, and with a canary that is an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace

from service.domain.groups import Gang, Group, GroupPhase, GroupStatus, Instance, Update
from service.domain.specs import FailurePolicy, GroupSpec, NodeSpec
from service.domain.updates import UpdateMode, UpdateStage, described
from service.lifecycle import endpoint
from service.lifecycle.facts import (
    ClockLeapt,
    DeleteRequested,
    Evicted,
    Fact,
    Fenced,
    HostAnswers,
    HostSilent,
    Kept,
    NotDecided,
    NotPlaced,
    Placed,
    RoomClosed,
    RoomRefused,
    ScaleRequested,
    StartRequested,
    StopRequested,
    TakeBackRequested,
    Ticked,
    TimeLost,
    UpdateRequested,
)
from service.lifecycle.members import AT_REST, FINAL, LAUNCHING, S, each, outdated, power_down, retire
from service.lifecycle.settling import public_status, settle

Advance = Callable[[Group, Fact], Group]
"""A step of one gang by itself."""

_OF_BOTH = (
    DeleteRequested, HostSilent, HostAnswers, Evicted, Kept, Fenced, RoomClosed, RoomRefused, Ticked, ClockLeapt,
    TimeLost,
)  # fmt: skip
_REFUSED = (StopRequested, StartRequested, ScaleRequested)
_OWN = tuple(field.name for field in fields(Gang))
_NAMED = ("name", "description", "system_tags", "user_tags", "tag_uuids")
"""Of a specification, what callers may change while an update goes on."""
_GIVEN_UP = (GroupPhase.CLEANING, GroupPhase.FAILED)
_NO_LIMIT = 1 << 30
"""As a failure budget."""
_UNMADE = (S.PENDING, S.CLAIMED, S.CREATING, S.STOPPED)
"""Members that are made, or made anew, before they execute again."""


def first(group: Group) -> Group:
    """The gang whose answers the group's are, as a group."""
    if not _two(group):
        return group
    return replace(group, instances=group.serving, others=tuple(m for m in group.instances if m.beside))


def second(group: Group) -> Group | None:
    """The gang beside it, as a group."""
    update = group.update
    if update is None or update.gang is None:
        return None
    own = {name: getattr(update.gang, name) for name in _OWN}
    beside = tuple(m for m in group.instances if m.beside)
    return replace(group, instances=beside, others=group.serving, room=None, waiting=None, **own)


def gangs(group: Group) -> tuple[Group, ...]:
    """Each gang as a group; of most groups, the group."""
    beside = second(group)
    return (group,) if beside is None else (first(group), beside)


def gang_of(group: Group, instance_uuid: str) -> Group:
    """The gang that the member is of, as a group. Raises KeyError."""
    beside = second(group)
    return beside if beside is not None and group.instance(instance_uuid).beside else first(group)


def at_rest(group: Group) -> bool:
    """Whether its phase is one to rest in, and nothing of an update is left to be done."""
    return group.phase in AT_REST and (group.phase in FINAL or not group.updating)


def advance(group: Group, fact: Fact, now: int, step: Advance) -> Group:
    """The group after the fact: `step` for the gang that it is about, or for both, and then the update goes on."""
    if isinstance(fact, UpdateRequested):
        return _requested(group, fact, now)
    if isinstance(fact, TakeBackRequested):
        return _going_on(_taken_back(group, "it was taken back", now), now)
    if not group.updating:
        return step(group, fact)
    if isinstance(fact, _REFUSED):
        return group
    beside = second(group)
    if beside is None:
        return _going_on(_changing(group, step(group, fact), fact, now, step), now)
    one, two = first(group), beside
    if isinstance(fact, _OF_BOTH):
        one, two = step(one, fact), step(two, fact)
    elif _of_second(group, fact):
        two = step(two, fact)
    else:
        one = step(one, fact)
    return _going_on(_whole(one, two), now)


def _two(group: Group) -> bool:
    return group.update is not None and group.update.gang is not None


def _of_second(group: Group, fact: Fact) -> bool:
    if isinstance(fact, NotPlaced | NotDecided):
        return fact.beside
    seats = fact.placement.assignments if isinstance(fact, Placed) else ()
    uuid = seats[0].instance_uuid if seats else getattr(fact, "instance_uuid", "")
    return any(m.uuid == uuid and m.beside for m in group.instances)


def _whole(one: Group, two: Group) -> Group:
    """The group of its two gangs. It is not over before both are."""
    gang = Gang(**{name: getattr(two, name) for name in _OWN})
    if one.phase in FINAL and two.phase not in FINAL:
        one = replace(one, phase=GroupPhase.CLEANING if one.phase is GroupPhase.FAILED else GroupPhase.DELETING)
        one = replace(one, status=public_status(one))
    members = sorted((*one.instances, *(replace(m, beside=True) for m in two.instances)), key=_order)
    assert one.update is not None
    return replace(one, instances=tuple(members), others=(), update=replace(one.update, gang=gang))


def _order(member: Instance) -> tuple[bool, int]:
    return member.beside, member.rank


# --- what follows ---------------------------------------------------------------------------------------------------


def _going_on(group: Group, now: int) -> Group:
    """The update as far as its gangs allow."""
    while group.update is not None and group.update.active:
        one, two = first(group), second(group)
        for stage, ready, then in _NEXT:
            if group.update.stage is stage and ready(one, two):
                group = then(group, now)
                break
        else:
            return group
    return group


def _serves(_one: Group, two: Group | None) -> bool:
    """All of the second gang is ready, on hosts that answer."""
    return two is not None and two.status is GroupStatus.RUNNING


def _failed(_one: Group, two: Group | None) -> bool:
    return two is not None and two.phase not in LAUNCHING


def _ends(one: Group, two: Group | None) -> bool:
    return two is not None and one.phase not in LAUNCHING


def _gone(one: Group, two: Group | None) -> bool:
    return two is None and one.phase in FINAL


def _over(_one: Group, two: Group | None) -> bool:
    return two is None or two.phase in FINAL


def _switch(group: Group, now: int) -> Group:
    """The new gang is the group's from here on, and the old one's members are on their way out."""
    two = second(group)
    assert group.update is not None
    assert two is not None
    old = each(first(group), lambda m: retire(m, now))
    if endpoint.takes(group, two.instances[0]):
        old, two = endpoint.given_up(group, old, now), endpoint.handed_on(two)
    told = {name: getattr(group.spec, name) for name in _NAMED}
    new = replace(
        two,
        spec=replace(two.spec, **told),
        instances=tuple(replace(m, beside=False) for m in two.instances),
        update=replace(group.update, stage=UpdateStage.SWITCHED),
        start_epoch=max(two.start_epoch, group.start_epoch),
        room=group.room,
    )
    return _whole(new, settle(replace(old, phase=GroupPhase.DELETING, reason="", room=None), now))


def _unwanted(group: Group, now: int) -> Group:
    """The second gang does not come up, or nobody needs it any more: it goes, and the first one stays what it is."""
    two = second(group)
    assert group.update is not None
    assert two is not None
    why = two.failure.message if two.failure is not None else group.update.reason or "the group ends"
    back = replace(group.update, stage=UpdateStage.TAKING_BACK, reason=why, failure=two.failure)
    going = replace(group, update=back)
    if two.phase in LAUNCHING:
        two = replace(each(two, lambda m: retire(m, now)), phase=GroupPhase.DELETING)
    return _whole(first(going), settle(two, now))


def _ended(stage: UpdateStage) -> Callable[[Group, int], Group]:
    def end(group: Group, now: int) -> Group:
        assert group.update is not None
        failure = group.update.failure
        one = replace(first(group), others=(), update=replace(group.update, stage=stage, gang=None, ended_at=now))
        if failure is not None:
            one = replace(one, failure=failure, reason=failure.message)
        return settle(one, now)

    return end


def _next_in_place(group: Group, now: int) -> Group:
    """Where engines do without each other, the next member that is not yet what it is to be: the others serve."""
    target = {node.node_rank: node for node in _target(group).nodes}
    waiting = [m for m in group.instances if described([m.spec]) != described([target[m.rank]])]
    last = max(waiting, key=lambda m: m.rank)
    return settle(each(group, lambda m: power_down(m, now) if m.uuid == last.uuid else m), now)


def _may_take_next(one: Group, two: Group | None) -> bool:
    whole = one.phase is GroupPhase.RUNNING and all(
        m.status is S.RUNNING and not outdated(one, m) for m in one.instances
    )
    return two is None and whole and not _reached(one, two)


def _reached(one: Group, two: Group | None) -> bool:
    """Whether every member is what it is to be, and runs; of a change in place."""
    made = described([m.spec for m in one.instances]) == described(_target(one).nodes)
    return two is None and made and one.phase is GroupPhase.RUNNING


_NEXT: Sequence[tuple[UpdateStage, Callable[[Group, Group | None], bool], Callable[[Group, int], Group]]] = (
    (UpdateStage.COMING, _ends, _unwanted),
    (UpdateStage.COMING, _serves, _switch),
    (UpdateStage.COMING, _failed, _unwanted),
    (UpdateStage.SWITCHED, _over, _ended(UpdateStage.DONE)),
    (UpdateStage.CHANGING, _gone, _ended(UpdateStage.TAKEN_BACK)),
    (UpdateStage.CHANGING, _reached, _ended(UpdateStage.DONE)),
    (UpdateStage.CHANGING, _may_take_next, _next_in_place),
    (UpdateStage.TAKING_BACK, _gone, _ended(UpdateStage.TAKEN_BACK)),
    (UpdateStage.TAKING_BACK, _reached, _ended(UpdateStage.TAKEN_BACK)),
    (UpdateStage.TAKING_BACK, lambda one, two: _failed(one, two) and _over(one, two), _ended(UpdateStage.TAKEN_BACK)),
    (UpdateStage.TAKING_BACK, _may_take_next, _next_in_place),
)


# --- what is asked for ----------------------------------------------------------------------------------------------


def _requested(group: Group, fact: UpdateRequested, now: int) -> Group:
    if group.phase is not GroupPhase.RUNNING or group.updating or group.eviction is not None:
        return group
    update = replace(fact.update, began_at=now)
    group = replace(group, failure=None, failures=0, reason="")
    if update.mode is UpdateMode.IN_PLACE:
        return _begun_in_place(replace(group, update=update), now)
    group = endpoint.begun(group, now)
    late = update.after.deadline_ms
    gang = Gang(update.after, start_epoch=group.start_epoch, deadline_at=now + late if late else 0)
    members = (*group.instances, *(replace(m, beside=True) for m in fact.added))
    return replace(group, update=replace(update, gang=gang), instances=members)


def _begun_in_place(group: Group, now: int) -> Group:
    """Engines that need each other are all stopped before one starts as something else; others change one by one."""
    if not group.spec.tells:
        return _going_on(group, now)
    stopping = each(group, lambda m: power_down(m, now))
    stopping = replace(stopping, phase=GroupPhase.STOPPING, restarting=True, served=False)
    return _made_as(settle(stopping, now))


def _taken_back(group: Group, why: str, now: int) -> Group:
    """The update is called off, as far as it still may be: before the new gang is the group's."""
    update = group.update
    if update is None or group.phase in FINAL:
        return group
    if update.stage is UpdateStage.COMING:
        return _unwanted(replace(group, update=replace(update, reason=why)), now)
    if update.stage is UpdateStage.CHANGING and (group.phase in LAUNCHING or group.phase is GroupPhase.STOPPING):
        back = replace(group, update=replace(update, stage=UpdateStage.TAKING_BACK, reason=why))
        return _made_as(settle(_restarted(back, now), now))
    return group


def _restarted(group: Group, now: int) -> Group:
    """Every member stops; those that fail start again from there as they do in any stop."""
    if not group.spec.tells and group.phase in LAUNCHING and not any(m.status is S.FAILING for m in group.instances):
        return group  # one by one
    stopping = each(group, lambda m: power_down(m, now))
    return replace(
        stopping, phase=GroupPhase.STOPPING, restarting=True, served=False, failure=None, failures=0, deadline_at=0
    )


# --- in place -------------------------------------------------------------------------------------------------------


def _target(group: Group) -> GroupSpec:
    """What the group is to be now."""
    assert group.update is not None
    return group.update.before if group.update.stage is UpdateStage.TAKING_BACK else group.update.after


def _made_as(group: Group) -> Group:
    """The group with every member that is made before it executes again as what it is to be. A seat is looked for that
    takes it by both specifications, since it may be taken back."""
    assert group.update is not None
    target = _target(group)
    nodes = {node.node_rank: node for node in target.nodes}
    most = {rank: _largest(nodes[rank], *_of_rank(group.update, rank)) for rank in nodes}

    def made(member: Instance) -> Instance:
        node = (most if member.status is S.PENDING else nodes)[member.rank]
        node = replace(node, devices=member.spec.devices)
        if member.status not in _UNMADE or member.spec == node:
            return member
        return replace(member, spec=node, boot_timeout_ms=node.timeout_ms)

    members = tuple(made(m) for m in group.instances)
    told = {name: getattr(group.spec, name) for name in _NAMED}
    return replace(group, instances=members, spec=replace(target, nodes=tuple(m.spec for m in members), **told))


def _of_rank(update: Update, rank: int) -> list[NodeSpec]:
    return [node for node in (*update.before.nodes, *update.after.nodes) if node.node_rank == rank]


def _largest(node: NodeSpec, *others: NodeSpec) -> NodeSpec:
    cpu, memory = max(o.cpu_num for o in others), max(o.memory_size for o in others)
    return replace(node, cpu_num=cpu, memory_size=memory)


def _changing(group: Group, after: Group, fact: Fact, now: int, step: Advance) -> Group:
    """`after`, which the fact has made of the group. Where that gives the group up it is taken back instead, once."""
    assert group.update is not None
    given_up = after.phase in _GIVEN_UP and group.phase not in _GIVEN_UP
    if not given_up or group.update.stage is not UpdateStage.CHANGING:
        return _made_as(after)
    assert after.failure is not None
    patient = replace(group.spec, failure_policy=FailurePolicy.RESTART_MEMBER, failure_budget=_NO_LIMIT)
    told = step(replace(group, spec=patient, deadline_at=0), fact)
    told = group if told.phase in _GIVEN_UP else replace(told, spec=group.spec)
    stage = UpdateStage.TAKING_BACK
    update = replace(group.update, stage=stage, reason=after.failure.message, failure=after.failure)
    return _made_as(settle(_restarted(replace(told, update=update), now), now))
