"""How the stream of a group's changes looks: a live table on a terminal, one plain line a change elsewhere, or JSON."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self, TextIO

from corral.v1 import fleet_pb2, group_pb2, placement_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from service.cli.explanation import amounts_text, size_text
from service.cli.output import Columns, Output, plain_console
from service.cli.room_view import describe_notice, describe_room

# How far a member has come; a status that is not named here is at the beginning, or has failed.
_STEPS = {"Claimed": 1, "Creating": 2, "Created": 3, "Booting": 4}
_DONE = 5
_TICKS_PER_SECOND = 4
_COLOURS = {
    "Running": "green",
    "Failed": "red",
    "Failing": "red",
    "Degraded": "red",
    "Unknown": "yellow",
    "Waiting": "yellow",
    "Stopping": "yellow",
    "Deleting": "yellow",
    "Removing": "yellow",
}


class View(Protocol):
    """Shows events; used as a context manager, so that a terminal is left as it was found."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, event: group_pb2.InstanceGroupEvent) -> None:
        """Show one event."""
        ...


def choose_view(output: Output, stream: TextIO | None = None, *, of_one: bool = True) -> View:
    """The view for `stream` (standard output): data where asked, a table of one group on a terminal, else lines."""
    target = sys.stdout if stream is None else stream
    if not output.for_people:
        return DataView(target, output)
    return TableView(target) if target.isatty() and of_one else LineView(target)


class _Unmanaged:
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class DataView(_Unmanaged):
    """One JSON object a line or one YAML document an event, as the wire has it; or the group's uuid once."""

    def __init__(self, stream: TextIO, output: Output) -> None:
        self._stream = stream
        self._output = output
        self._named: set[str] = set()

    def show(self, event: group_pb2.InstanceGroupEvent) -> None:
        """Show one event."""
        if self._output.kind != "name":
            print(self._output.text(event), file=self._stream, flush=True)
        elif event.group_uuid and event.group_uuid not in self._named:
            self._named.add(event.group_uuid)
            print(event.group_uuid, file=self._stream, flush=True)


class LineView(_Unmanaged):
    """One line of text a change: for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, event: group_pb2.InstanceGroupEvent) -> None:
        """Show one event."""
        sentence = describe_event(event)
        if sentence:
            when = event.time.ToDatetime(tzinfo=UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
            print(f"{when}  {event.revision:>5}  {sentence}", file=self._stream, flush=True)


@dataclass
class Progress:
    """A group as its events told it so far."""

    group: group_pb2.InstanceGroup = field(default_factory=group_pb2.InstanceGroup)
    members: dict[str, group_pb2.Instance] = field(default_factory=dict)
    placement: placement_pb2.Placement | None = None
    started: datetime | None = None
    latest: datetime | None = None
    ended: bool = False

    def take(self, event: group_pb2.InstanceGroupEvent) -> None:
        """Fold one event in."""
        when = event.time.ToDatetime(tzinfo=UTC)
        self.started = self.started or when
        self.latest = when
        change = event.WhichOneof("change")
        self.ended = change == "final"
        if change in ("accepted", "final"):
            self.group = event.accepted if change == "accepted" else event.final
            for member in self.group.instances:
                self.members[member.uuid] = member
        elif change == "group":
            self.group = event.group
        elif change == "planned":
            self.placement = event.planned
        elif change == "instance":
            self.members[event.instance.uuid] = event.instance

    @property
    def seconds(self) -> float:
        """From the first event to the newest."""
        return (self.latest - self.started).total_seconds() if self.started and self.latest else 0.0


class TableView:
    """A table that lives while the stream does, its time ticking, and stays on the screen afterwards."""

    def __init__(self, stream: TextIO) -> None:
        self._progress = Progress()
        self._heard = time.monotonic()
        self._lock = threading.Lock()  # it is drawn in a thread of its own
        self._live = Live(
            console=plain_console(stream), get_renderable=self._render, refresh_per_second=_TICKS_PER_SECOND
        )

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, event: group_pb2.InstanceGroupEvent) -> None:
        """Show one event."""
        with self._lock:
            self._progress.take(event)
            self._heard = time.monotonic()
        self._live.refresh()

    def _render(self) -> RenderableType:
        with self._lock:
            return render(self._progress, since=time.monotonic() - self._heard)


def render(progress: Progress, since: float = 0.0) -> RenderableType:
    """The group's head line, its placement and one row a member. `since`: seconds since the newest event."""
    group = progress.group
    elapsed = progress.seconds + (0.0 if progress.ended else since)
    head = Text.assemble(
        (group.name, "bold"),
        f"  {group.uuid}  ",
        (group.status, _COLOURS.get(group.status, "cyan")),
        "" if progress.ended and not elapsed else f"  {elapsed:.1f} s",
        f"  {because(group)}" if group.reason else "",
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("rank", "member", "host", "vCPU", "memory", "address", "status", "", ""):
        table.add_column(title, no_wrap=title != "")
    for member in sorted(progress.members.values(), key=lambda each: (each.beside, each.node_rank)):
        done = _DONE if member.status == "Running" else _STEPS.get(member.status, 0)
        table.add_row(
            f"{member.node_rank}{'*' if member.is_initial_node else ''}{' beside' if member.beside else ''}",
            f"{member.name} [{member.role}]" if member.role else member.name,
            member.host_name or member.host_uuid[:8],
            str(member.cpu_num),
            size_text(member.memory_size),
            ", ".join(member.addresses),
            Text(member.status, style=_COLOURS.get(member.status, "cyan")),
            ProgressBar(total=_DONE, completed=done, width=18),
            because(member),
        )
    lines: list[RenderableType] = [head]
    if group.roles:
        lines.append(Text(describe_roles(group), style="dim"))
    if group.HasField("update"):
        lines.append(Text(describe_update(group.update), style="dim"))
    if progress.placement is not None:
        lines.append(Text(describe_placement(progress.placement), style="dim"))
    return Group(*lines, table)


def describe_event(event: group_pb2.InstanceGroupEvent) -> str:
    """One event as a sentence; empty for a bookmark."""
    match event.WhichOneof("change"):
        case "accepted":
            group = event.accepted
            order = group.service_creation_strategy
            return f"accepted  {group.name} ({group.uuid}), {len(group.instances)} member(s), {order}"
        case "planned":
            return f"planned   {describe_placement(event.planned)}"
        case "claimed":
            hosts = {claim.host_uuid for claim in event.claimed.instances}
            return f"claimed   {len(event.claimed.instances)} member(s) on {len(hosts)} host(s)"
        case "instance":
            return f"member    {describe_member(event.instance)}"
        case "group":
            return f"group     {describe_group(event.group)}"
        case "final":
            return f"final     {describe_group(event.final)}"
    return ""


def describe_member(member: group_pb2.Instance) -> str:
    """A member in a line: rank, name, status and what is known of its place."""
    role = f" [{member.role}]" if member.role else ""
    beside = " of the gang beside" if member.beside else ""
    parts = [f"{member.node_rank} {member.name}{role}{beside}: {member.status}"]
    if member.host_name or member.host_uuid:
        parts.append(f"on {member.host_name or member.host_uuid}{cells_text(member.numa_cells)}")
    if member.addresses:
        parts.append(f"at {', '.join(member.addresses)}")
    if member.attempt > 1:
        parts.append(f"attempt {member.attempt}")
    if member.HasField("last_answer"):
        parts.append(f"answered rightly at {member.last_answer.ToDatetime():%H:%M:%S} UTC")
    if member.engine_restarts:
        parts.append(f"engine started again {member.engine_restarts} time(s)")
    return " ".join(parts) + (f" ({because(member)})" if member.reason else "")


def because(told: group_pb2.Instance | group_pb2.InstanceGroup | fleet_pb2.Host) -> str:
    """The reason, with what the host itself said where this caller is told."""
    return f"{told.reason}; the host says: {told.cause}" if told.cause else told.reason


def cells_text(numbers: Sequence[int]) -> str:
    """The NUMA cells that something is pinned to, behind the name of its host."""
    return f" NUMA cell {', '.join(map(str, numbers))}" if numbers else ""


def describe_group(group: group_pb2.InstanceGroup) -> str:
    """A group in a line, with how far each role is."""
    told = f"{group.name}: {group.status}" + (f" ({because(group)})" if group.reason else "")
    told = f"{told}; called at {group.endpoint}" if group.endpoint else told
    told = f"{told}; priority {group.priority}" if group.priority else told
    told = f"{told}; {describe_room(group.room)}" if group.HasField("room") else told
    told = f"{told}; {describe_notice(group.eviction)}" if group.HasField("eviction") else told
    told = f"{told}; {describe_waiting(group.waiting)}" if group.HasField("waiting") else told
    told = f"{told}; {describe_update(group.update)}" if group.HasField("update") else told
    return f"{told}; {describe_roles(group)}" if group.roles else told


def describe_update(update: group_pb2.GroupUpdate) -> str:
    """Where the newest change of what a group runs stands."""
    how = "in place" if update.mode == group_pb2.UPDATE_MODE_IN_PLACE else "surge"
    undoes = f", takes back {update.undoes}" if update.undoes else ""
    told = f"update {update.number} ({how}{undoes}): {update.stage.replace('_', ' ')}"
    if update.needs and not update.HasField("end_date"):
        told += f", needs {amounts_text(update.needs)}"
    return told + (f" ({update.reason})" if update.reason else "")


def describe_waiting(waiting: group_pb2.WaitInProgress) -> str:
    """Where a group stands among those that wait for hosts, and until when."""
    told = f"number {waiting.position} of those that wait, until {waiting.until.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"
    if waiting.HasField("earliest_start"):
        told += f"; there is room by {waiting.earliest_start.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"
    if waiting.kept_hosts:
        told += f"; room is kept for it on {waiting.kept_hosts} {'host' if waiting.kept_hosts == 1 else 'hosts'}"
    return told


def describe_roles(group: group_pb2.InstanceGroup) -> str:
    """How far each role is."""
    return ", ".join(
        f"{one.role or 'no role'} {one.running_count}/{one.instance_count} {one.status}" for one in group.roles
    )


def describe_placement(placement: placement_pb2.Placement) -> str:
    """A placement in a line: hosts, what is proven, and how long it took."""
    hosts = len({assignment.host_uuid for assignment in placement.assignments})
    proof = {
        placement_pb2.PLACEMENT_PROOF_OPTIMAL: "proven optimal",
        placement_pb2.PLACEMENT_PROOF_GAP: f"at most {placement.gap:.2%} from optimal",
        placement_pb2.PLACEMENT_PROOF_INFEASIBLE: "proven impossible",
    }.get(placement.proof, "nothing proven")
    took = placement.duration.ToMicroseconds() / 1000
    stage = f" by {placement.stage}" if placement.stage else ""
    if placement.penalty:
        proof += f", wishes missed by {placement.penalty} (at least {placement.penalty_bound})"
    return f"{len(placement.assignments)} member(s) on {hosts} host(s), {proof}{stage}, in {took:.1f} ms"


def _running(group: group_pb2.InstanceGroup) -> str:
    return f"{sum(member.status == 'Running' for member in group.instances)}/{len(group.instances)}"


def status_text(status: str) -> Text:
    """A status in its colour."""
    return Text(status, style=_COLOURS.get(status, "cyan"))


def moment_text(moment: Timestamp) -> str:
    """A time by the clock on this machine's wall."""
    return moment.ToDatetime(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


GROUP_COLUMNS: Columns = (
    ("uuid", lambda group: group.uuid),
    ("project", lambda group: group.project),
    ("name", lambda group: group.name),
    ("status", lambda group: status_text(group.status)),
    ("running", _running),
    ("hosts", lambda group: str(len({member.host_uuid for member in group.instances if member.host_uuid}))),
    ("accepted", lambda group: moment_text(group.create_date)),
    ("reason", lambda group: group.reason),
)


FENCE_OPEN = ("Ordered", "Sending")
"""States of a fence that is under way."""


def fencing_text(host: fleet_pb2.Host) -> str:
    """In a few words: what is done about its silence, or what came of its last fence."""
    if not host.HasField("fencing"):
        return ""
    fencing, last = host.fencing, host.fencing.last_fence
    if last.state in FENCE_OPEN:
        return f"{fencing.mode}: {last.state}"
    if fencing.verdict:
        return f"{fencing.mode}: {fencing.verdict}"
    return f"{fencing.mode}: {last.state}" if last.state in ("Fenced", "Failed", "Rehearsed") else fencing.mode


def fencing_lines(host: fleet_pb2.Host) -> list[tuple[str, str]]:
    """The same as titles and values, whole."""
    if not host.HasField("fencing"):
        return []
    fencing, last = host.fencing, host.fencing.last_fence
    lines = [("fencing", f"{fencing.mode}, BMC {fencing.bmc_address}")]
    if fencing.verdict:
        lines.append(("it is silent", f"{fencing.verdict}: {fencing.verdict_reason}"))
    if last.uuid:
        told = f", told {last.orders} times" if last.orders else ""
        lines.append((f"fence by {last.cause}", f"{last.state}{told}: {last.reason}"))
    return lines
