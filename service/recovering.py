"""`python -m service recover`: a lost or old database, written again from what its hosts show.

It shows what it would write, and writes when told to. Meanwhile the database is its alone, and it changes nothing on a
host.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from service.config.settings import Config
from service.domain.fleet import Host
from service.domain.ownership import LEGACY_CLUSTER, Installation
from service.domain.recovery import ToldValues
from service.drivers.base import DriverError, HostDriver, HostFacts, Listing, ObservedMachine
from service.drivers.kinds import make_driver
from service.errors import CorralError
from service.process import write_fleet
from service.store import clock, fleet, groups, ownership
from service.store.claims import ClaimLost
from service.store.connection import Connection
from service.store.offline import Offline, offline
from service.transactions import recovery
from service.transactions.recovery_plan import (
    Act,
    GroupChange,
    Problem,
    RecoveryPlan,
    plan,
)
from service.transactions.surveys import MOST_LOOKS, UNSTEADY, Survey, agree, values_of, withholds

PROBE_SECONDS = 15.0
SURVEY_SECONDS = 15.0
TOLD_SECONDS = 5.0


class Exit(IntEnum):
    """The command's exit code, for scripts."""

    DONE = 0  # nothing is to be written, or all of it was
    CANNOT = 1
    USAGE = 2
    TO_WRITE = 3  # shown; `--write` would write it
    PART = 4  # something cannot be recovered; what can be is shown or written


class CannotRecover(Exception):
    """Why nothing can be shown: the message says what to do."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was found, and what was written of it. `refused`: group uuid -> why the database did not take it."""

    installation: Installation
    taken_over: bool
    plan: RecoveryPlan
    written: bool
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> Exit:
        """See Exit."""
        if self.plan.problems or self.refused or self.plan.silent:
            return Exit.PART
        to_write = bool(self.plan.changes) or self.taken_over or bool(self.plan.above)
        return Exit.TO_WRITE if to_write and not self.written else Exit.DONE


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one host said of itself."""

    host: Host
    facts: HostFacts
    machines: tuple[ObservedMachine, ...]


def recover(config: Config, *, write: bool, cluster: str = "", database: str = "") -> Recovery:
    """Show, or with `write` carry out, what brings the database up to its hosts.

    `cluster`, `database`: the ids of the installation to be, where hosts show several. Raises CannotRecover,
    DatabaseLocked, Unavailable.
    """
    with offline(config.store_url, rehearse=not write) as held:
        return _recover(config, held, write, cluster or config.cluster_id, database)


def _recover(config: Config, held: Offline, write: bool, cluster: str, database: str) -> Recovery:
    with held.session() as run:
        hosts, present, in_use = run(lambda c: _read(c, config))
    drivers = {h.uuid: make_driver(h, cluster or (present.cluster if present else "") or "none") for h in hosts}
    answers, silent = asyncio.run(_ask_all(hosts, drivers))
    installation = _identity(present, in_use, answers, cluster, database)
    with held.session() as run:
        missing = run(lambda c: _unknown_groups(c, installation, answers))
    surveys, facts = asyncio.run(_look_closer(installation, answers, missing))
    with held.session() as run:  # nothing is waited for in here: a server ends transactions that do nothing
        run(lambda c: _prepare(c, config, installation, facts))
        whole = run(lambda c: plan(recovery.known(c, installation, surveys), surveys, silent, clock.now(c)))
        refused: dict[str, str] = {}
        for change in whole.changes:
            try:
                run(lambda c, one=change: recovery.write(c, one, clock.now(c)))  # type: ignore[misc]
            except (ClaimLost, CorralError) as reason:
                refused[change.group.uuid] = str(reason)
        # Last: where a recovery broke off its hosts are still ahead of the database, so that the next one sees it.
        looked_at = [s.host.uuid for s in surveys if s.mark is None or s.mark.database == installation.database]
        run(lambda c: recovery.settle_identity(c, installation, whole, clock.now(c), looked_at))
    return Recovery(installation, present != installation and in_use is False, whole, write, refused)


def _prepare(connection: Connection, config: Config, installation: Installation, found: Sequence[HostFacts]) -> None:
    """Write the identity, the fleet as the file has it, and what the hosts have, by which claims are guarded."""
    write_fleet(connection, config)
    recovery.settle_identity(connection, installation, RecoveryPlan(), clock.now(connection))
    for facts in found:
        held = ownership.held_on(connection, facts.host_uuid)
        names = sorted({*facts.foreign, *held})
        foreign = {name: facts.foreign.get(name, 0) + held.get(name, 0) for name in names}
        fleet.set_facts(
            connection, facts.host_uuid, boot_id=facts.boot_id, virt_type=facts.virt_type, total=facts.total,
            foreign=foreign, beside=facts.beside, guests=facts.guests, functions=facts.functions,
            isolation=facts.isolation,
        )  # fmt: skip


def _read(connection: Connection, config: Config) -> tuple[tuple[Host, ...], Installation | None, bool]:
    write_fleet(connection, config)
    return (
        tuple(fleet.hosts(connection).values()),
        ownership.installation(connection),
        ownership.in_use(connection),
    )


# --- the hosts -------------------------------------------------------------------------------------------------------


async def _ask_all(hosts: Sequence[Host], drivers: Mapping[str, HostDriver]) -> tuple[list[_Answer], dict[str, str]]:
    """(those that answer, name -> why of the others)."""
    asked = await asyncio.gather(*(_ask(h, drivers[h.uuid]) for h in hosts))
    answers = [a for a in asked if isinstance(a, _Answer)]
    silent = {h.name: a for h, a in zip(hosts, asked, strict=True) if isinstance(a, str)}
    by_hypervisor: dict[str, list[_Answer]] = {}
    for answer in answers:
        by_hypervisor.setdefault(answer.facts.hypervisor, []).append(answer)
    for hypervisor, same in by_hypervisor.items():
        if hypervisor and len(same) > 1:
            named = [a for a in same if a.facts.mark is not None and a.facts.mark.host == a.host.uuid] or same
            for twin in (a for a in same if a is not named[0]):
                answers.remove(twin)
                silent[twin.host.name] = f"it is the same hypervisor as host {named[0].host.name}"
    return answers, silent


async def _ask(host: Host, driver: HostDriver) -> _Answer | str:
    try:
        facts = await driver.probe(budget_seconds=PROBE_SECONDS)
        listing = await _steady(driver)
    except DriverError as error:
        return error.public
    finally:
        await driver.close()
    if listing is None:
        return UNSTEADY
    if host.hypervisor and facts.hypervisor and host.hypervisor != facts.hypervisor:
        return f"another hypervisor answers ({facts.hypervisor}) than the one that it was ({host.hypervisor})"
    return _Answer(host, facts, listing.machines)


async def _steady(driver: HostDriver) -> Listing | None:
    """What two looks in a row showed; None where no two did."""
    before = await driver.survey(budget_seconds=SURVEY_SECONDS)
    for _ in range(MOST_LOOKS - 1):
        after = await driver.survey(budget_seconds=SURVEY_SECONDS)
        if agree(before, after):
            return after
        before = after
    return None


async def _look_closer(
    installation: Installation, answers: Sequence[_Answer], missing: frozenset[str]
) -> tuple[tuple[Survey, ...], tuple[HostFacts, ...]]:
    """The surveys, with what the machines of `missing` groups were told, and what is on the hosts besides."""
    found = await asyncio.gather(*(_closer(installation, a, missing) for a in answers))
    return tuple(survey for survey, _ in found), tuple(facts for _, facts in found)


async def _closer(installation: Installation, answer: _Answer, missing: frozenset[str]) -> tuple[Survey, HostFacts]:
    driver = make_driver(answer.host, installation.cluster)
    told: dict[str, ToldValues] = {}
    facts = answer.facts
    try:
        facts = await driver.probe(budget_seconds=PROBE_SECONDS)
        for machine in answer.machines:
            if machine.identity.group in missing and withholds(machine):
                text = await driver.told(machine.identity, budget_seconds=TOLD_SECONDS)
                told[machine.machine_uuid] = values_of(text)
    except DriverError:
        pass  # it answered a moment ago: its machines are known, and values that were not read are told as missing
    finally:
        await driver.close()
    return Survey(answer.host, answer.machines, answer.facts.mark, told), replace(facts, mark=None)


def _unknown_groups(connection: Connection, installation: Installation, answers: Sequence[_Answer]) -> frozenset[str]:
    shown = {m.identity.group for a in answers for m in a.machines if m.identity.cluster == installation.cluster}
    return frozenset(shown) - {g.uuid for g in groups.load_many(connection, sorted(shown))}


# --- who this database is --------------------------------------------------------------------------------------------


def _identity(
    present: Installation | None, in_use: bool, answers: Sequence[_Answer], cluster: str, database: str
) -> Installation:
    """Which installation the database is, or is to be: that of the marks and machines where it has none of its own.

    Raises CannotRecover where that is not plain.
    """
    if present is not None and not present.cluster:  # of a version in which ids were not in the database yet
        present = replace(present, cluster=cluster or LEGACY_CLUSTER)
    marks = Counter(a.facts.mark.database for a in answers if a.facts.mark is not None)
    if present is not None and (in_use or present.database in marks):
        if database not in ("", present.database) or cluster not in ("", present.cluster):
            raise CannotRecover(
                f"this database is {present.database} of cluster {present.cluster!r}, and has machines of its own"
            )
        return present
    if not database and len(marks) > 1:
        raise CannotRecover(
            f"hosts bear the marks of several databases ({_counted(marks)}): say with --database-id which one was lost"
        )
    database = database or next(iter(marks), "")
    theirs = [a for a in answers if a.facts.mark is None or a.facts.mark.database == database]
    clusters = Counter(m.identity.cluster for a in theirs for m in a.machines)
    if not cluster and len(clusters) > 1:
        raise CannotRecover(
            f"hosts have machines of several clusters ({_counted(clusters)}): say with --cluster-id which one was lost"
        )
    own = present or ownership.first_installation()
    return Installation(database or own.database, cluster or next(iter(clusters), "") or own.cluster)


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(found.items()))


# --- what people read ------------------------------------------------------------------------------------------------


def as_json(result: Recovery) -> str:
    """One JSON object with all that `as_text` shows, for programs. It holds no value of a variable."""
    found = result.plan
    document = {
        "written": result.written,
        "database_id": result.installation.database,
        "cluster_id": result.installation.cluster,
        "identity_taken_over": result.taken_over,
        "generation_above": found.above,
        "unchanged_groups": found.whole,
        "silent_hosts": dict(found.silent),
        "groups": [
            {
                "uuid": change.group.uuid,
                "name": change.group.spec.name,
                "project": change.group.project,
                "action": change.act.value,
                "status": change.group.status.value,
                "refused": result.refused.get(change.group.uuid, ""),
                "notes": list(change.notes),
                "missing_values": list(change.missing),
                "restored_entries": [entry.name for entry in change.entries],
                "members": [
                    {
                        "uuid": m.uuid,
                        "rank": m.rank,
                        "name": m.spec.name,
                        "host": m.host_name,
                        "attempt": m.attempt,
                        "address": m.address,
                        "status": m.status.value,
                        "changed": m.uuid in change.changed,
                    }
                    for m in change.group.instances
                ],
            }
            for change in found.changes
        ],
        "problems": [{"group": p.group, "why": p.why} for p in found.problems],
    }
    return json.dumps(document, indent=1)


_WORDS = {Act.CREATE: "is not in the database", Act.CORRECT: "is otherwise in the database", Act.END: "is gone"}


def as_text(result: Recovery) -> str:
    """What was found and is, or would be, written, for people."""
    found, would = result.plan, "written" if result.written else "to be written"
    lines = [f"database {result.installation.database} of cluster {result.installation.cluster}"]
    if result.taken_over:
        lines.append("  this identity is that of the hosts' marks and machines, and is taken over")
    if found.above:
        lines.append(f"  hosts have seen generation {found.above}: the database is lifted over it")
    for name, why in sorted(found.silent.items()):
        lines.append(f"host {name} could not be looked at: {why}")
    for change in found.changes:
        lines += _group_text(change, result.refused.get(change.group.uuid, ""), would)
    lines += [_problem_text(problem) for problem in found.problems]
    done = len(found.changes) - len(result.refused)
    lines.append(f"{done} groups {would}, {found.whole} as they are, {len(found.problems) + len(result.refused)} not")
    if result.exit_code is Exit.TO_WRITE or (done and not result.written):
        lines.append("nothing was written: `--write` does")
    return "\n".join(lines)


def _group_text(change: GroupChange, refused: str, would: str) -> list[str]:
    group = change.group
    what = f"NOT {would}: {refused}" if refused else f"{would} as {group.status.value}"
    lines = [f"group {group.uuid} {group.spec.name!r} of {group.project} {_WORDS[change.act]}: {what}"]
    rows = [("rank", "name", "host", "attempt", "address", "status")]
    rows += [
        (str(m.rank), m.spec.name, m.host_name or "-", str(m.attempt), m.address or "-", m.status.value)
        for m in group.instances
        if m.uuid in change.changed
    ]
    if len(rows) > 1:
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines += ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"  {note}" for note in change.notes]
    if change.entries:
        lines.append(f"  restored in the catalogue: {', '.join(entry.name for entry in change.entries)}")
    if change.missing:
        lines.append(f"  values that nothing tells any more: {', '.join(change.missing)}")
    return lines


def _problem_text(problem: Problem) -> str:
    return f"group {problem.group} cannot be recovered: {problem.why}" if problem.group else problem.why


__all__ = ["CannotRecover", "Exit", "Recovery", "as_json", "as_text", "recover"]
