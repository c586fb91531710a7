"""The address at which a group is called, whichever member leads it. Pure.

It is the first head's own address. A surge hands it on: from the commit that is the switch the old head takes no more
callers, and answers those that it has within a bound; the others of its gang stay until then, since it needs them. The
address becomes the new head's in the commit by which the old one's machine was seen gone, as for a member that is
placed anew (ARCHITECTURE I1, I17): at no time may two machines have it. The new head keeps its own address, and its
guest is told to have this one beside it. Where its guest takes none, callers are sent to its own.
"""

from __future__ import annotations

from dataclasses import replace

from service.domain.endpoints import Endpoint
from service.domain.groups import Group, Instance
from service.domain.network import is_planned
from service.lifecycle.facts import Quiesced
from service.lifecycle.members import S, altered, each

TAKE_MS = 15_000
"""A guest that runs and does not say by then that it has the address is called at its own."""

QUIESCE_SECONDS = 2
"""For so long the guest of the old head goes on with what it is answering; whoever calls meanwhile waits as well."""

QUIESCE_MS = 8_000
"""An old head whose guest has not said by then that it is done is removed all the same: it may be slow, or hang."""


def begun(group: Group, now: int) -> Group:
    """The group before a surge: where its head's address is one that can be handed on, it is the group's."""
    head = group.serving[0]
    if group.endpoint is not None or not is_planned(head.address, head.mac, head.uuid):
        return group
    return replace(group, endpoint=Endpoint(head.zone_uuid, head.address, head.uuid, now))


def takes(group: Group, member: Instance) -> bool:
    """Whether the member can have the group's address beside its own: in its zone, by a guest that takes one."""
    address = group.endpoint
    return address is not None and member.zone_uuid == address.zone_uuid and member.holds is not None


def handed_on(group: Group) -> Group:
    """The group whose address is in its own name from now on, whoever leads it."""
    return replace(group, endpoint=replace(group.endpoint, kept=True) if group.endpoint is not None else None)


def given_up(group: Group, old: Group, now: int) -> Group:
    """The old gang on its way out. Who has the group's address has the time to end its answers and no other grace,
    since nobody else answers there before it is gone; none where it cannot be asked. The others' grace begins then."""
    holder = _holder(group, old)
    if holder is None or holder.status is not S.REMOVING:
        return old
    was = next(m for m in group.instances if m.uuid == holder.uuid)
    asks = was.status is S.RUNNING and was.holds is not None and not was.unknown_since

    def leave(member: Instance) -> Instance:
        if member.uuid == holder.uuid:
            return replace(member, deadline_at=now + QUIESCE_MS if asks else 0, stop_asked=not asks)
        later = asks and member.status is S.REMOVING and member.deadline_at
        return replace(member, deadline_at=member.deadline_at + QUIESCE_MS) if later else member

    return each(old, leave)


def quiescing(group: Group, now: int) -> str:
    """The member of this gang that ends its answers before it is removed; empty: none does."""
    holder = _holder(group, group)
    if holder is None or not holder.beside or holder.status is not S.REMOVING or holder.stop_asked:
        return ""
    return holder.uuid if now < holder.deadline_at else ""


def quiesced(group: Group, fact: Quiesced) -> Group:
    """Its answers are ended: it is removed at once."""
    holder = _holder(group, group)
    if holder is None or (holder.uuid, holder.attempt) != (fact.instance_uuid, fact.attempt):
        return group
    if not holder.beside or holder.status is not S.REMOVING:
        return group
    return each(group, lambda m: altered(m, deadline_at=0, stop_asked=True) if m.uuid == holder.uuid else m)


def _holder(group: Group, gang: Group) -> Instance | None:
    """The member of the gang that has the group's address."""
    address = group.endpoint
    if address is None or not address.holder:
        return None
    return next((m for m in gang.instances if m.uuid == address.holder), None)


def to_have(group: Group, member: Instance) -> str | None:
    """What the member's guest is to be told: the address to have beside its own, empty for none; None: nothing."""
    if member.holds is None:
        return None
    address = group.endpoint
    wanted = ""
    if address is not None and address.holder == member.uuid and takes(group, member):
        wanted = address.address if address.address != member.address else ""
    return None if wanted == member.holds else wanted


def settled(group: Group, now: int) -> Group:
    """The group after any change: who may have its address, and which member is called there."""
    address = group.endpoint
    head = next((m for m in group.instances if not m.beside), None) if address is not None else None
    if address is None or head is None:
        return group
    if not address.kept and (not group.updating or head.address != address.address):
        return replace(group, endpoint=None)  # it is what it was: a member's own, which no update has handed on
    if _is_gone(group, address.holder) and (head.status is not S.REMOVED or address.holder):
        holder = head.uuid if head.status is not S.REMOVED else ""
        address = replace(address, holder=holder, since=now)
        group = replace(group, endpoint=address)
    called = _called(group, address, head, now)
    if all(m.endpoint == (called if m is head else "") for m in group.instances):
        return group
    return each(group, lambda m: replace(m, endpoint=called if m.uuid == head.uuid else ""))


def _is_gone(group: Group, holder: str) -> bool:
    return all(m.uuid != holder or m.status is S.REMOVED for m in group.instances)


def _called(group: Group, address: Endpoint, head: Instance, now: int) -> str:
    """Where the head is called, if not at its own address."""
    if address.address == head.address or head.zone_uuid != address.zone_uuid:
        return ""
    if address.holder != head.uuid:  # on its way to it, unless nobody knows when the one before will be gone
        before = next((m for m in group.instances if m.uuid == address.holder), None)
        return address.address if takes(group, head) and before is not None and not before.unknown_since else ""
    if head.holds is None:
        return head.endpoint  # its machine starts again and has said nothing yet
    late = head.status is S.RUNNING and head.holds != address.address and now - address.since > TAKE_MS
    return "" if late else address.address
