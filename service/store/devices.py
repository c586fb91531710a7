"""Rows of devices: what rules offer of hosts, what is out of service, and who has claimed which.

They stand under the lock of their host's row, beside the amounts of `host_resources`: of each model as many as there
are, those counted as foreign that nobody of ours has and that cannot be given out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, case, delete, insert, select, tuple_, update

from service.domain.device_reports import REPORTED
from service.domain.devices import Clean, Device, DeviceState, HeldFunction, Unit
from service.domain.fleet import GPU, MEMORY, Overcommit
from service.domain.ownership import Holding, Quarantined
from service.errors import NotFound, WrongState
from service.store import left_devices, schema
from service.store.codec import decode, decode_known, encode
from service.store.statement import Statement, among

OVERCOMMITTED = "its host promises more memory than it has, and a machine with a device holds all of its own"
_PIN_NOTHING = frozenset({"", "simulated", "test"})
"""Kinds of hypervisors whose machines with devices take no memory for themselves alone: they run no guest."""
_FUNCTIONS = tuple[HeldFunction, ...]
_DEVICES, _HELD, _CLAIMS, _AMOUNTS = schema.devices, schema.device_claims, schema.claims, schema.host_resources
_UNKNOWN = select(schema.quarantine.c.host_uuid, schema.quarantine.c.document).where(
    schema.quarantine.c.holding == Holding.MACHINE.value
)
_JOINED = (
    select(_DEVICES, _HELD.c.instance_uuid, _HELD.c.group_uuid)
    .join(_HELD, (_HELD.c.host_uuid == _DEVICES.c.host_uuid) & (_HELD.c.key == _DEVICES.c.key), isouter=True)
    .order_by(_DEVICES.c.host_uuid, _DEVICES.c.key)
)
_EVERYWHERE, _HERE = Statement(_JOINED), Statement(_JOINED.where(among(_DEVICES.c.host_uuid, "of")))
_LOCK = select(schema.hosts.c.uuid).where(schema.hosts.c.uuid == bindparam("host")).with_for_update()
_ONE = (_DEVICES.c.host_uuid == bindparam("host")) & (_DEVICES.c.key == bindparam("what"))
_SET = update(_DEVICES).where(_ONE)
_HAS = select(_HELD.c.key).where(
    _HELD.c.host_uuid == bindparam("host"),
    _HELD.c.instance_uuid == bindparam("of"),
    _HELD.c.attempt == bindparam("nth"),
)
_EPOCH = Statement(select(schema.groups.c.epoch).where(schema.groups.c.uuid == bindparam("of")))
_FORGET = delete(_DEVICES).where(_ONE)
_STANDS = (
    select(_CLAIMS.c.instance_uuid)
    .where(
        _CLAIMS.c.instance_uuid == _HELD.c.instance_uuid,
        _CLAIMS.c.attempt == _HELD.c.attempt,
        _CLAIMS.c.host_uuid == _HELD.c.host_uuid,
    )
    .exists()
)
_LET_GO = (
    delete(_HELD)
    .where(_HELD.c.host_uuid.in_(bindparam("of", expanding=True)), ~_STANDS)
    .returning(_HELD.c.host_uuid, _HELD.c.key, _HELD.c.group_uuid, _HELD.c.model)
)
_ONE_LESS = (
    update(_AMOUNTS)
    .where(_AMOUNTS.c.host_uuid == bindparam("host"), _AMOUNTS.c.resource == bindparam("what"))
    .values(
        total=_AMOUNTS.c.total - 1, usable=case((_AMOUNTS.c.usable > 0, _AMOUNTS.c.usable - 1), else_=_AMOUNTS.c.usable)
    )
)
_COUNTED = (
    update(_AMOUNTS)
    .where(_AMOUNTS.c.host_uuid == bindparam("host"), _AMOUNTS.c.resource == bindparam("what"))
    .values(foreign_used=bindparam("held"))
)


def of_hosts(connection: Connection, hosts: Sequence[str] | None = None) -> Mapping[str, tuple[Device, ...]]:
    """Host uuid -> its devices by key (of these hosts)."""
    found: dict[str, list[Device]] = defaultdict(list)
    rows = _EVERYWHERE.all(connection) if hosts is None else _HERE.all(connection, {"of": sorted(hosts)})
    held = _held_by_unknown(connection, hosts) if rows else {}
    for row in rows:
        found[row.host_uuid].append(_device(row, held))
    return {host: tuple(devices) for host, devices in found.items()}


def _held_by_unknown(connection: Connection, hosts: Sequence[str] | None) -> dict[tuple[str, str], str]:
    """(host, address of a function) -> the name of the machine in quarantine that has it (of these hosts)."""
    query = _UNKNOWN if hosts is None else _UNKNOWN.where(schema.quarantine.c.host_uuid.in_(sorted(hosts)))
    held = {}
    for row in connection.execute(query):
        machine = decode_known(Quarantined, row.document)
        held.update({(row.host_uuid, address): machine.name for address in machine.devices})
    return held


def one(connection: Connection, host_uuid: str, key: str) -> Device:
    """One device. Raises NotFound."""
    for device in of_hosts(connection, [host_uuid]).get(host_uuid, ()):
        if device.key == key:
            return device
    raise NotFound("device", key, "key")


def barred(virt_type: str, overcommit: Overcommit) -> bool:
    """Whether a host gives no devices for OVERCOMMITTED."""
    return virt_type not in _PIN_NOTHING and overcommit.ratios.get(MEMORY, 1) > 1


def counts(devices: Iterable[Device]) -> tuple[dict[str, int], dict[str, int]]:
    """Of the devices of a host: how many there are of each model, by its resource's name, and how many of these nobody
    of ours has and nobody can be given."""
    total: dict[str, int] = defaultdict(int)
    held: dict[str, int] = defaultdict(int)
    for device in devices:
        claimed, name = bool(device.instance_uuid), f"{GPU}{device.model}"
        if claimed or device.state is not DeviceState.GONE:
            total[name] += 1
            held[name] += not claimed and device.state is not DeviceState.AVAILABLE
    return dict(total), dict(held)


def record(
    connection: Connection, host_uuid: str, units: Sequence[Unit], *, overcommitted: bool, hypervisor: str = ""
) -> bool:
    """Record what rules offer of a host that was looked at; returns whether anything is told otherwise than before.

    What is no more there, or is another device, is gone: forgotten where nobody has it and no operator has a say in
    it. `overcommitted`: see OVERCOMMITTED. `hypervisor`: the machine's own uuid, by which it is known that a device was
    out of service before (`left_devices`). The caller holds the host's row.
    """
    let_go(connection, [host_uuid])
    known = {row.key: row for row in _HERE.all(connection, {"of": [host_uuid]})}
    fresh = {unit.key: unit.functions for unit in units if unit.key not in known and unit.functions}
    out = left_devices.out_again(connection, host_uuid, hypervisor, fresh) if fresh else {}
    changed = False
    had = {row.key for row in known.values() if row.instance_uuid or row.quarantine}
    for unit in units:
        if unit.state is DeviceState.GONE and unit.key in had:
            continue  # what it was, and whose, stays known
        values = _values(unit, overcommitted=overcommitted)
        row = known.pop(unit.key, None)
        if row is None:
            quarantine = out.get(unit.key, "")
            first = {"host_uuid": host_uuid, "key": unit.key, "quarantine": quarantine}
            connection.execute(insert(_DEVICES), {**first, **values})
        elif row.instance_uuid and row.functions != values["functions"]:
            changed |= _lose(connection, row, "another device is in its place, or with it")
            continue
        elif any(getattr(row, name) != value for name, value in values.items()):
            connection.execute(_SET, {"host": host_uuid, "what": unit.key, **values})
        else:
            continue
        changed = True
    for row in known.values():
        if row.instance_uuid or row.quarantine:
            changed |= _lose(connection, row, "its host shows it no more, or no rule offers it")
        else:
            connection.execute(_FORGET, {"host": host_uuid, "what": row.key})
            changed = True
    return changed


def _lose(connection: Connection, row: Row[Any], reason: str) -> bool:
    if (row.state, row.reason) == (DeviceState.GONE.value, reason):
        return False
    gone = {"state": DeviceState.GONE.value, "reason": reason}
    connection.execute(_SET, {"host": row.host_uuid, "what": row.key, **gone})
    return True


def hold_to_policy(connection: Connection, host_uuid: str, *, overcommitted: bool) -> None:
    """Take a host's devices out of service while its memory is promised more than once, or back. The caller counts."""
    for row in _HERE.all(connection, {"of": [host_uuid]}):
        barred = (row.state, row.reason) == (DeviceState.BLOCKED.value, OVERCOMMITTED)
        if overcommitted and row.state == DeviceState.AVAILABLE.value:
            values = {"state": DeviceState.BLOCKED.value, "reason": OVERCOMMITTED}
        elif barred and not overcommitted:
            values = {"state": DeviceState.AVAILABLE.value, "reason": ""}
        else:
            continue
        connection.execute(_SET, {"host": host_uuid, "what": row.key, **values})
    recount(connection, [host_uuid])


def standing(connection: Connection, host_uuid: str) -> frozenset[str]:
    """The keys of what a host has by its rows: without what is gone and nobody has."""
    rows = _HERE.all(connection, {"of": [host_uuid]})
    return frozenset(row.key for row in rows if row.instance_uuid or row.state != DeviceState.GONE.value)


def let_go(connection: Connection, hosts: Iterable[str]) -> None:
    """End what attempts have of devices that have no claim on these hosts any more, in the transaction that ended it.

    What nothing cleans waits for an operator. The hosts' rows, or their amounts, are locked.
    """
    ended = connection.execute(_LET_GO, {"of": sorted(set(hosts))}).all()
    for row in ended:
        why = f"a member of group {row.group_uuid} has had it, and nothing cleans it: release it once that is done"
        unclean = (_DEVICES.c.clean == Clean.NONE.value) & (_DEVICES.c.quarantine == "")
        connection.execute(
            update(_DEVICES).where(_ONE, unclean).values(quarantine=why), {"host": row.host_uuid, "what": row.key}
        )
        gone = _DEVICES.c.state == DeviceState.GONE.value
        where = {"host": row.host_uuid, "what": row.key}
        if connection.execute(select(_DEVICES.c.key).where(_ONE, gone), where).first() is not None:
            connection.execute(_ONE_LESS, {"host": row.host_uuid, "what": f"{GPU}{row.model}"})
            connection.execute(delete(_DEVICES).where(_ONE, _DEVICES.c.quarantine == ""), where)
    recount(connection, {row.host_uuid for row in ended})


def lock(connection: Connection, host_uuid: str) -> None:
    """Hold the host's row, under which its devices are counted."""
    connection.execute(_LOCK, {"host": host_uuid})


def recount(connection: Connection, hosts: Iterable[str]) -> None:
    """Say of each model how many devices cannot be given out now. The caller holds the hosts, or their amounts."""
    known = of_hosts(connection, wanted) if (wanted := sorted(set(hosts))) else {}
    for host_uuid in known:
        for name, held in sorted(counts(known[host_uuid])[1].items()):
            connection.execute(_COUNTED, {"host": host_uuid, "what": name, "held": held})


def quarantine(connection: Connection, host_uuid: str, keys: Iterable[str], reason: str) -> None:
    """Take these devices out of service; whoever has one keeps it. The caller holds the host's row."""
    for key in sorted(set(keys)):
        connection.execute(_SET, {"host": host_uuid, "what": key, "quarantine": reason})
    recount(connection, [host_uuid])


def reported(
    connection: Connection, host_uuid: str, instance_uuid: str, attempt: int, ailing: Mapping[str, str]
) -> Mapping[str, str]:
    """Take out of service what the guest of this attempt says fails; returns the keys that were not out before, each
    with what ails it."""
    lock(connection, host_uuid)
    said = newly_ailing(connection, host_uuid, instance_uuid, attempt, ailing)
    for key, why in said.items():
        quarantine(connection, host_uuid, [key], f"{REPORTED}{why}")
    return said


def newly_ailing(
    connection: Connection, host_uuid: str, instance_uuid: str, attempt: int, ailing: Mapping[str, str]
) -> Mapping[str, str]:
    """Key -> what ails it, of the devices in service that the guest of this attempt says fail; nothing is locked.

    `ailing`: address of a function -> what ails it. What its member has not is not its to speak of.
    """
    has = {row.key for row in connection.execute(_HAS, {"host": host_uuid, "of": instance_uuid, "nth": attempt})}
    there = [d for d in of_hosts(connection, [host_uuid]).get(host_uuid, ()) if d.key in has]
    said = {d.key: why for d in there for f in d.functions if (why := ailing.get(f.address))}
    in_service = (DeviceState.CLAIMED, DeviceState.FOREIGN)
    return {d.key: said[d.key] for d in there if d.key in said and d.state in in_service}


def is_leased(connection: Connection, group_uuid: str, epoch: int) -> bool:
    """Whether this is still the epoch of the group's lease."""
    return bool(_EPOCH.scalar(connection, {"of": group_uuid}) == epoch)


def release(connection: Connection, host_uuid: str, key: str) -> None:
    """Take a device back into service; one that is gone is forgotten at the next look. Raises NotFound, WrongState.

    The caller holds the host's row.
    """
    device = one(connection, host_uuid, key)
    if not connection.scalar(select(_DEVICES.c.quarantine).where(_ONE), {"host": host_uuid, "what": key}):
        wanted = device.reason if device.state is DeviceState.QUARANTINED else "a device that is quarantined"
        raise WrongState(f"device {key}", device.state.value, wanted)
    connection.execute(_SET, {"host": host_uuid, "what": key, "quarantine": ""})
    recount(connection, [host_uuid])


def delete_of(connection: Connection, host_uuid: str, hypervisor: str, now: int) -> tuple[str, ...]:
    """Forget all of a host that is forgotten itself, but for what is out of service; returns the keys of that."""
    kept = left_devices.keep(connection, host_uuid, hypervisor, now)
    for table in (_HELD, _DEVICES):
        connection.execute(delete(table).where(table.c.host_uuid == host_uuid))
    return kept


def claimed_by(
    connection: Connection, attempts: Iterable[tuple[str, int]]
) -> Mapping[tuple[str, int], Mapping[str, int]]:
    """(instance, attempt) -> how many devices of each model it has, on all hosts."""
    found: dict[tuple[str, int], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    wanted = sorted(set(attempts))
    query = select(_HELD).where(tuple_(_HELD.c.instance_uuid, _HELD.c.attempt).in_(wanted))
    for row in connection.execute(query) if wanted else ():
        found[row.instance_uuid, row.attempt][row.model] += 1
    return found


def _values(unit: Unit, *, overcommitted: bool) -> dict[str, Any]:
    barred = overcommitted and unit.state is DeviceState.AVAILABLE
    return {
        "model": unit.model,
        "functions": encode(unit.functions, _FUNCTIONS),
        "cell": unit.cell,
        "iommu_group": unit.group,
        "virtual_of": unit.virtual_of,
        "clean": unit.clean.value,
        "state": (DeviceState.BLOCKED if barred else unit.state).value,
        "reason": OVERCOMMITTED if barred else unit.reason,
        "partition": unit.partition,
    }


def _device(row: Row[Any], unknown: Mapping[tuple[str, str], str]) -> Device:
    state, reason = DeviceState(row.state), row.reason
    functions = decode(_FUNCTIONS, row.functions)
    holder = next((unknown[at] for f in functions if (at := (row.host_uuid, f.address)) in unknown), "")
    if row.quarantine and state is not DeviceState.GONE:
        state, reason = DeviceState.QUARANTINED, row.quarantine
    elif holder and state is not DeviceState.GONE:
        state, reason = DeviceState.QUARANTINED, f"{holder} has it, a machine in quarantine: adopt or remove that"
    elif row.instance_uuid and state in (DeviceState.AVAILABLE, DeviceState.FOREIGN):
        state, reason = (DeviceState.CLAIMED, "") if state is DeviceState.AVAILABLE else (state, reason)
    return Device(
        host_uuid=row.host_uuid,
        key=row.key,
        model=row.model,
        functions=functions,
        cell=row.cell,
        iommu_group=row.iommu_group,
        virtual_of=row.virtual_of,
        clean=Clean(row.clean),
        state=state,
        reason=reason,
        instance_uuid=row.instance_uuid or "",
        group_uuid=row.group_uuid or "",
        partition=row.partition or "",
    )
