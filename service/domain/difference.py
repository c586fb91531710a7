"""What a change of a group changes: by identity first, so that members that are as they were cost nearly nothing.

Pure.
"""

from __future__ import annotations

from itertools import compress, count
from operator import is_not
from typing import NamedTuple

from service.domain.groups import Group, Instance


class Difference(NamedTuple):
    """`changed`: place, member before (None: it is new) and member after, of each that is not as it was, by places in
    the group after; `gone`: those that are not in it any more."""

    changed: tuple[tuple[int, Instance | None, Instance], ...]
    gone: tuple[Instance, ...]


def difference(before: Group, after: Group) -> Difference:
    """Between the members of two states of one group."""
    were, are = before.instances, after.instances
    if len(were) == len(are):
        others = tuple(compress(zip(count(), were, are), map(is_not, were, are)))
        if all(old.uuid == new.uuid for _, old, new in others):
            return Difference(tuple(one for one in others if one[1] != one[2]), ())
    known, there = {m.uuid: m for m in were}, {m.uuid for m in are}
    pairs = ((place, known.get(m.uuid), m) for place, m in enumerate(are))
    changed = tuple((place, old, new) for place, old, new in pairs if old is not new and old != new)
    return Difference(changed, tuple(m for m in were if m.uuid not in there))
