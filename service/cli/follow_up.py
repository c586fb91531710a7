"""An operation's events, shown to its end: what every sub-command does that changes a group and waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import grpc
from corral.v1 import deploy_pb2_grpc, group_pb2

from service.cli import errors
from service.cli.channel import FailoverStub
from service.cli.view import View
from service.client.follow import EventMessage, follow, is_lost

Stub = deploy_pb2_grpc.DistributedModelServiceStub
_LOST = "connection lost; the operation goes on, taking up its events again"
_UNHEARD = "connection lost before the operation was heard of; asking again"


class Detached(KeyboardInterrupt):
    """The caller has left the stream and was told how to see the rest."""


def show(
    stub: Stub, begin: Callable[[], Iterable[EventMessage]], view: View, again: str = ""
) -> group_pb2.InstanceGroup:
    """Show every event and answer the final inventory. `again`: how to take the operation up before its group is known.

    Raises RpcError; Detached at Ctrl-C, when the operation goes on.
    """
    final, group, revision, unheard = group_pb2.InstanceGroup(), "", 0, False

    def rest() -> str:
        return f"corral watch {group} --from {revision}" if group else again

    def lost() -> None:
        nonlocal unheard
        unheard = unheard or not group
        errors.tell(_LOST if group else _UNHEARD)

    try:
        with view:
            for event in follow(stub, begin, repeatable=isinstance(stub, FailoverStub), on_lost=lost):
                group, revision = event.group_uuid or group, max(revision, event.revision)
                if event.WhichOneof("change") != "bookmark":
                    view.show(event)
                if event.WhichOneof("change") == "final":
                    final = event.final
    except grpc.RpcError as error:
        if is_lost(error) and (group or unheard):
            what = f"the operation on {group} goes on" if group else "the operation may have begun, and goes on then"
            errors.tell(f"{what}; see the rest with: {rest() or 'corral groups'}")
        raise
    except KeyboardInterrupt:
        what = f"the operation on {group} goes on" if group else "the operation may have begun, and goes on then"
        errors.tell(f"left; {what}. See the rest with: {rest() or 'corral groups'}")
        raise Detached from None
    return final
