"""Groups and events as the bytes in which they are sent, made once for all callers who are told the same.

What a caller is told of a group follows from the group, from which of its zones are reachable from outside, and from
whether the caller may know what a host itself said. Bytes are kept by all three. Whether the caller may see the group
at all is decided before, by whoever has read it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from google.protobuf.message import Message

from service.contract.call import told_cause
from service.contract.convert import inventory
from service.contract.convert.inventory import Reachable
from service.domain.groups import Group

MOST_BYTES = 32 << 20
"""So much is kept at most, and one view at least."""

_FIRST_FIELD = 0x0A  # the tag of a message as field 1, which every answer's group or event is

_View = tuple[frozenset[str], bool]


def framed(message: Message) -> bytes:
    """The message as field 1 of another one: an answer's bytes, to which those of its other fields may be joined."""
    body = message.SerializeToString()
    return bytes((_FIRST_FIELD, *_varint(len(body)))) + body


def _varint(number: int) -> list[int]:
    found = []
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return [*found, number]


def tells_causes() -> bool:
    """Whether the present call's caller is told what a host itself said."""
    return told_cause("any") != ""


class GroupViews:
    """The bytes of groups by the very object: an unchanged group is read as the same one (`store.known_groups`)."""

    def __init__(
        self,
        reachable: Reachable,
        most_bytes: int = MOST_BYTES,
        make: Callable[[Group, Reachable], Message] = inventory.group,
    ) -> None:
        """`make`: the message that is kept as bytes, of a group."""
        self._reachable = reachable
        self._most = most_bytes
        self._make = make
        self._kept: OrderedDict[int, tuple[Group, frozenset[str], dict[_View, bytes]]] = OrderedDict()
        self._size = 0

    def group(self, value: Group) -> bytes:
        """The group's message as field 1 of an answer to the present call's caller."""
        kept = self._kept.get(id(value))
        if kept is None or kept[0] is not value:  # what is kept here keeps its object, so that no other has its id
            zones = frozenset(m.zone_uuid or m.spec.zone_uuid for m in value.instances)
            kept = self._kept[id(value)] = value, zones, {}
        self._kept.move_to_end(id(value))
        _, zones, views = kept
        view = frozenset(zone for zone in zones if self._reachable(zone)), tells_causes()
        made = views.get(view)
        if made is None:
            made = views[view] = framed(self._make(value, self._reachable))
            self._size += len(made)
            self._let_go()
        return made

    def _let_go(self) -> None:
        while self._size > self._most and len(self._kept) > 1:
            _, (_, _, views) = self._kept.popitem(last=False)
            self._size -= sum(map(len, views.values()))
