"""What holds for all replicas alike: overcommit and rules of devices of the fleet, a proof of writing, the size."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, func, insert, select, text, update

from service.domain.devices import DeviceRules
from service.domain.fleet import Overcommit
from service.store import schema
from service.store.codec import decode_known, encode
from service.store.statement import Statement

_OVERCOMMIT = "overcommit"
_DEVICES = "devices"
_PROOF = "written_at"

_TABLE = schema.settings
_FIND = Statement(select(_TABLE.c.document).where(_TABLE.c.name == bindparam("of")))
_SET = Statement(update(_TABLE).where(_TABLE.c.name == bindparam("of")).values(document=bindparam("text")))
_ADD = Statement(insert(_TABLE), ("name", "document"))
_SQLITE_SIZE = text("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")


def overcommit(connection: Connection) -> Overcommit:
    """The fleet's own overcommit; nothing reserved and every ratio 1 before the first start."""
    found = _FIND.scalar(connection, {"of": _OVERCOMMIT})
    return Overcommit() if found is None else decode_known(Overcommit, found)


def set_overcommit(connection: Connection, wanted: Overcommit) -> None:
    """Overwrite it. The caller then has every host's allocatable amounts counted anew (`fleet.set_overcommit`)."""
    _put(connection, _OVERCOMMIT, encode(wanted))


def device_rules(connection: Connection) -> DeviceRules:
    """What hosts have that machines are given whole; nothing before the first start."""
    found = _FIND.scalar(connection, {"of": _DEVICES})
    return DeviceRules() if found is None else decode_known(DeviceRules, found)


def set_device_rules(connection: Connection, wanted: DeviceRules) -> None:
    """Overwrite them. They hold from the next look at each host."""
    _put(connection, _DEVICES, encode(wanted))


def prove_write(connection: Connection, now: int) -> None:
    """Change a row, so that the commit shows whether this database can be written at all. `now`: ms."""
    _put(connection, _PROOF, str(now))


def size(connection: Connection) -> int:
    """What the database takes on its file system, in bytes; of SQLite without its log of newer commits."""
    if connection.dialect.name == "sqlite":
        return int(connection.scalar(_SQLITE_SIZE) or 0)
    return int(connection.scalar(select(func.pg_database_size(func.current_database()))) or 0)


def _put(connection: Connection, name: str, text: str) -> None:
    if _SET.run(connection, {"of": name, "text": text}) == 0:
        _ADD.run(connection, {"name": name, "document": text})
