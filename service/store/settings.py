"""What holds for the whole fleet and for every replica alike: its own overcommit, which zones and hosts override."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, insert, select, update

from service.domain.fleet import Overcommit
from service.store import schema
from service.store.codec import decode_known, encode

_OVERCOMMIT = "overcommit"

_TABLE = schema.settings
_FIND = select(_TABLE.c.document).where(_TABLE.c.name == bindparam("of"))
_SET = update(_TABLE).where(_TABLE.c.name == bindparam("of")).values(document=bindparam("text"))
_ADD = insert(_TABLE)


def overcommit(connection: Connection) -> Overcommit:
    """The fleet's own overcommit; nothing reserved and every ratio 1 before the first start."""
    found = connection.scalar(_FIND, {"of": _OVERCOMMIT})
    return Overcommit() if found is None else decode_known(Overcommit, found)


def set_overcommit(connection: Connection, wanted: Overcommit) -> None:
    """Overwrite it. The caller counts anew what hosts give out (`fleet.set_usable`)."""
    text = encode(wanted)
    if connection.execute(_SET, {"of": _OVERCOMMIT, "text": text}).rowcount == 0:
        connection.execute(_ADD, {"name": _OVERCOMMIT, "document": text})
