"""What holds for the whole fleet and for every replica alike: its own overcommit, and the proof of a write."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, insert, select, update

from service.domain.fleet import Overcommit
from service.store import schema
from service.store.codec import decode_known, encode

_OVERCOMMIT = "overcommit"
_PROOF = "written_at"

_TABLE = schema.settings
_FIND = select(_TABLE.c.document).where(_TABLE.c.name == bindparam("of"))
_SET = update(_TABLE).where(_TABLE.c.name == bindparam("of")).values(document=bindparam("text"))
_ADD = insert(_TABLE)


def overcommit(connection: Connection) -> Overcommit:
    """The fleet's own overcommit; nothing reserved and every ratio 1 before the first start."""
    found = connection.scalar(_FIND, {"of": _OVERCOMMIT})
    return Overcommit() if found is None else decode_known(Overcommit, found)


def set_overcommit(connection: Connection, wanted: Overcommit) -> None:
    """Overwrite it. The caller then has every host's allocatable amounts counted anew (`fleet.set_overcommit`)."""
    _put(connection, _OVERCOMMIT, encode(wanted))


def prove_write(connection: Connection, now: int) -> None:
    """Change a row, so that the commit shows whether this database can be written at all. `now`: ms."""
    _put(connection, _PROOF, str(now))


def _put(connection: Connection, name: str, text: str) -> None:
    if connection.execute(_SET, {"of": name, "text": text}).rowcount == 0:
        connection.execute(_ADD, {"name": name, "document": text})
