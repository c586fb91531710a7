"""What members' machines say: logs."""

from __future__ import annotations

import click
from corral.v1 import deploy_pb2

from service.cli import errors, names
from service.cli.command import Output, Session, output_option, verb
from service.cli.follow_up import Detached
from service.cli.groups import Stub, group_uuid

_SOURCES = {
    "both": deploy_pb2.INSTANCE_LOG_SOURCE_UNSPECIFIED,
    "console": deploy_pb2.INSTANCE_LOG_SOURCE_CONSOLE,
    "engine": deploy_pb2.INSTANCE_LOG_SOURCE_ENGINE,
}
_NAMES = {number: name for name, number in _SOURCES.items()}
Line = deploy_pb2.GetInstanceLogResponse


def register(corral: click.Group) -> None:
    """Add the sub-command."""
    verb(corral, "logs", example="corral logs chat 0 --tail 20")(logs)


@output_option
@click.argument("group", type=names.GROUP)
@click.argument("ranks", type=click.IntRange(min=0), nargs=-1, metavar="[RANK]...")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until interrupted or the group is gone.")
@click.option("--tail", type=click.IntRange(0, 2000), default=0, help="So many lines of each log.  [default: 100]")
@click.option("--source", type=click.Choice(list(_SOURCES)), default="both", help="Which log.  [default: both]")
def logs(
    session: Session, output: Output, group: str, ranks: tuple[int, ...], follow: bool, tail: int, source: str
) -> int:
    """Show what a group's machines say: consoles and the model's engines, of all members or of some ranks.

    Of a member whose machine is gone: what was kept when it failed.
    """
    stub = session.stub(Stub)
    request = deploy_pb2.GetInstanceLogRequest(
        uuid=group_uuid(stub, group), node_ranks=ranks, source=_SOURCES[source], tail_lines=tail, follow=follow
    )
    try:
        for line in stub.GetInstanceLog(request):
            if not output.for_people:
                output.data(line, line.name)
            elif line.text or line.note:
                _show(line, alone=len(ranks) == 1 and source != "both")
    except KeyboardInterrupt:
        if follow:
            again = " ".join(str(rank) for rank in ranks)
            errors.tell(f"left; go on with: corral logs {group} {again}{' ' if again else ''}-f")
        raise Detached from None
    return errors.OK


def _show(line: Line, *, alone: bool) -> None:
    """Its lines, each with whose they are. `alone`: only one log was asked for, which stands there as it is."""
    whose = f"{line.node_rank} {line.name} {_NAMES[line.source]}"
    for told in _told(line):
        errors.tell(f"{whose}: {told}")
    for text in line.text.splitlines():
        print(text if alone else f"{whose} | {text}", flush=True)


def _told(line: Line) -> list[str]:
    """What is to be known of its lines."""
    told = [line.note] if line.note else []
    if line.kept:
        told.append("its machine is gone; kept when it failed:")
    elif line.gap:
        told.append("earlier lines are left out")
    return told
