"""Operations on groups, waited for until they have ended: ZStack's calls answer with how it went."""

from __future__ import annotations

from contextlib import aclosing

from service.app.groups import Groups, Started
from service.app.visibility import sees_causes
from service.domain.events import EventKind
from service.domain.groups import Group, GroupStatus
from service.domain.tenants import Caller
from service.errors import DeployFailed, NotFound, RevisionUnavailable
from service.http.zstack.errors import TimedOut
from service.lifecycle.updating import at_rest


class Following:
    """Waits for the ends of what `groups` has begun."""

    def __init__(self, groups: Groups) -> None:
        self.groups = groups

    async def end_of(self, caller: Caller, started: Started) -> Group | None:
        """The group when the operation that was begun has ended; None where the group is gone by then.

        Raises NoCapacity, Unsatisfiable, DeployFailed (TimedOut) where the group failed, Unavailable.
        """
        uuid, after = started.group.uuid, started.after_revision
        while True:
            final: Group | None = None
            try:
                async with aclosing(self.groups.follow(uuid, after)) as changes:
                    async for event in changes:
                        final = event.group if event.kind is EventKind.FINAL else None
                break
            except RevisionUnavailable:
                # Its events were compacted while this process was down: what stands now tells the end as well.
                standing = await self.standing(caller, uuid)
                if standing is None or at_rest(standing):
                    final = standing
                    break
                after = standing.revision
            except DeployFailed as error:
                if final is not None and sees_causes(caller):
                    error.cause = final.told_cause
                if final is not None and final.failure is not None and final.failure.code == TimedOut.reason:
                    raise TimedOut(error.group_uuid, error.group_reason) from error
                raise
        return None if final is not None and final.status is GroupStatus.DELETED else final

    async def standing(self, caller: Caller, uuid: str) -> Group | None:
        """The group as it is now; None where there is none that the caller may see."""
        try:
            return await self.groups.get(caller, uuid)
        except NotFound:
            return None


def running(group: Group | None, started: Started) -> Group:
    """The group that an operation has brought up. Raises DeployFailed where somebody ended it before."""
    if group is None or group.status is not GroupStatus.RUNNING:
        state = "Deleted" if group is None else group.status.value
        raise DeployFailed(started.group.uuid, f"was {state} before it was Running")
    return group
