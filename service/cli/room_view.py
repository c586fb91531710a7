"""What is printed of room in the making: who moves, who ends, and what a group that is to end is told."""

from __future__ import annotations

from corral.v1 import group_pb2, placement_pb2

from service.cli.explanation import size_text


def describe_room(room: group_pb2.RoomInProgress) -> str:
    """Who moves where so that a group fits."""
    moves = [
        f"{one.instance_name or 'a member of another project'} {one.source_host_name} -> {one.target_host_name} "
        f"({size_text(one.memory_size)}{'' if one.live else ', restarted'}{', gone' if one.gone else ''})"
        for one in room.moves
    ]
    if room.evictions:
        ends = ", ".join(describe_eviction(one) for one in room.evictions)
        also = f"; {members_move(len(moves))}: {', '.join(moves)}" if moves else ""
        return f"{size_text(room.moved_bytes)} of others end: {ends}{also}"
    return f"{size_text(room.moved_bytes)} move: {', '.join(moves)}"


def members_move(count: int) -> str:
    """That so many members do."""
    return f"{count} members move" if count > 1 else "1 member moves"


BECOMES = {
    group_pb2.EVICTED_TO_WAITING: "waits again",
    group_pb2.EVICTED_TO_STOPPED: "is stopped",
    group_pb2.EVICTED_TO_DELETED: "is deleted",
}


def describe_eviction(one: group_pb2.RoomEviction) -> str:
    """A group that ends to make room: what it costs, when, and what becomes of it."""
    who = f"{one.group_name} ({one.group_uuid})" if one.group_uuid else "a group of another project"
    members = f"{one.gone_count}/{one.instance_count} gone" if one.gone_count else f"{one.instance_count} members"
    then = BECOMES.get(one.becomes, "ends")
    at = f"{one.time.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"
    return f"{who} of priority {one.priority}: {size_text(one.memory_size)}, {members}, {then} at {at}"


def describe_notice(notice: group_pb2.EvictionNotice) -> str:
    """That a group is to end for another one, and what becomes of it."""
    whom = f"{notice.by_name} ({notice.by_group_uuid})" if notice.by_group_uuid else "a group of another project"
    when = "now" if notice.begun else f"at {notice.time.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"
    return f"makes room for {whom} of priority {notice.by_priority}: {BECOMES.get(notice.becomes, 'ends')} {when}"


def describe_choice(placement: placement_pb2.Placement) -> list[str]:
    """Which of the groups that would do was taken, and why not those before it; nothing where there is no choice."""
    if not placement.alternative:
        return []
    lines = [f"  alternatives[{placement.alternative - 1}] of the request, because"]
    for number, one in enumerate(placement.passed_over):
        name = f"alternatives[{number - 1}]" if number else "its model_services"
        lines.append(f"    {name} {'does not fit' if one.proven else 'was not decided'}: {one.message}")
    return lines
