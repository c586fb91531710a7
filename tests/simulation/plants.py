"""Bugs to plant, one at a time, in the real code: each takes one guard away, and the observer must notice.

A plant is an exact piece of source and what to put in its place; one whose text is not in the program any more fails
loudly. The source is changed as a module is imported, in a process of its own.
"""

# ruff: noqa: E501  (pieces of source stand here as they stand in the program)

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from tests.simulation.copy_plants import COPIES
from tests.simulation.guest_plants import GUESTS
from tests.simulation.metal_plants import METAL
from tests.simulation.planting import Edit, Plant, one
from tests.simulation.room_plants import ROOM_PLANTS


class StalePlant(Exception):
    """The text to change is not there, or more than once."""


CLAIMS, GROUPS, EVENTS = "service.store.claims", "service.store.groups", "service.store.events"
ADDRESSES = "service.store.addresses"
CHANGES, CLAIMING, APP = "service.transactions.changes", "service.transactions.claiming", "service.app.groups"
TRANSLATE, GROUP_RULES = "service.planning.translate", "service.planning.group_rules"
FEED, REQUESTS = "service.app.feed", "service.store.requests"
LIFECYCLE, MEMBERS, SETTLING, EFFECTS = (
    "service.lifecycle.transitions",
    "service.lifecycle.members",
    "service.lifecycle.settling",
    "service.lifecycle.effects",
)
WORKER, CALLS, MONITOR = "service.reconcile.worker", "service.reconcile.calls", "service.reconcile.monitor"
PATIENCE, CAUTION, CLOCK = "service.reconcile.patience", "service.reconcile.caution", "service.store.clock"
UPDATING, UPDATES = "service.lifecycle.updating", "service.app.updates"
ENDPOINT, INVARIANTS = "service.lifecycle.endpoint", "service.lifecycle.invariants"
RELEASING = "service.lifecycle.releasing"
FENCER, FENCING_RULES, FENCING = "service.reconcile.fencing", "service.domain.fencing", "service.transactions.fencing"
SWEEP, MANAGER, OWNERS = "service.reconcile.sweep", "service.reconcile.manager", "service.reconcile.owners"
OWNERSHIP, CUSTODY, RECORDS = "service.domain.ownership", "service.reconcile.custody", "service.store.retired"
DEVICES, PICKS = "service.store.devices", "service.store.device_picks"
FLEET, MOVES = "service.app.fleet", "service.reconcile.moves"
PLACING, RECOVERY_PLAN = "service.reconcile.placing", "service.transactions.recovery_plan"

PLANTS: tuple[Plant, ...] = (
    *METAL,
    *GUESTS,
    *COPIES,
    # --- claims ---
    one("claim without its guard", CLAIMS,
        "_RESOURCES.c.foreign_used + _BESIDE + bindparam(\"more\")\n        <= _RESOURCES.c.usable,\n",
        "_RESOURCES.c.foreign_used + _BESIDE + bindparam(\"more\")\n        >= 0,\n"),
    one("one row short passes", CLAIMS, "    if _USE.many(connection, rows) != len(rows):\n",
        "    if _USE.many(connection, rows) < 0:\n",
        Edit(CLAIMS, "    if wrong is not None:\n", "    if False:\n")),
    one("claims of cells are not counted", CLAIMS,
        "        for resource, amount in seat.claimed.items():\n", "        for resource, amount in seat.resources.items():\n",
        Edit(CLAIMS, "        for resource, amount in sorted(seat.claimed.items())\n",
             "        for resource, amount in sorted(seat.resources.items())\n"), theme="cells"),
    one("a machine is not told its cell", "service.reconcile.machine_spec", "        cells=pinned,\n", "", theme="cells"),
    one("rules between groups are not checked in the claim", CLAIMING,
        "    _check_neighbours(connection, before, taken, beside)\n", ""),
    one("at most so many a host is forgotten", GROUP_RULES, "        (policy.max_per_host, Scope.HOST),\n", "        (0, Scope.HOST),\n"),
    one("a role does not wait for those before it", EFFECTS,
        "        if any(m.status is not S.RUNNING and not m.leaving for m in members):\n", "        if False:\n"),
    one("claims are released before the machine is destroyed", RELEASING,
        "and new.status is not S.REMOVED\n", "and new.status not in (S.REMOVED, S.REMOVING)\n",
        Edit(RELEASING, "        if old.status is S.REMOVED or stays:\n",
             "        if old.status in (S.REMOVED, S.REMOVING) or stays:\n"),
        Edit(RELEASING, "        if seen_gone or never_sent(old):\n", "        if True:\n")),
    one("the claim of an attempt left behind is released at once", RELEASING,
        "        if seen_gone or never_sent(old):\n", "        if True:\n"),
    one("a release takes every attempt's claim", CLAIMS,
        "    return tuple_(table.c.instance_uuid, table.c.attempt).in_(attempts)\n",
        "    return table.c.instance_uuid.in_([instance for instance, _ in attempts])\n"),
    one("addresses are released with the claims of any attempt", ADDRESSES,
        "~claimed, or_(~lives, elsewhere)))", "~claimed))"),
    one("addresses are released while a claim stands", ADDRESSES,
        "~claimed, or_(~lives, elsewhere)))", "or_(~lives, elsewhere)))"),
    one("addresses are never released", ADDRESSES,
        "    if not asked:\n        return\n", "    if asked or not asked:\n        return\n"),
    one("a released claim stays counted as used", CLAIMS,
        ".values(used=_RESOURCES.c.used - bindparam(\"less\"))", ".values(used=_RESOURCES.c.used - bindparam(\"less\") * 0)",
        Edit(CLAIMS, "    if wrong is not None:\n", "    if False:\n")),
    one("an attempt does not rise", MEMBERS, "        attempt=member.attempt + 1,\n", ""),
    # --- leases and epochs ---
    one("a write does not check its epoch", CHANGES,
        "    if epoch is not None and before.epoch != epoch:\n", "    if False:\n"),
    one("a version is not compared before what is known is taken for what is stored", "service.store.standing",
        "    if not rows or (rows[0].version, rows[0].epoch) != (known.version, known.epoch):\n",
        "    if not rows:\n"),
    one("a worker that lost its lease goes on", WORKER,
        "        if group.epoch != self.epoch:\n", "        if False:\n",
        Edit(WORKER, "        if not mine:\n            raise LeaseLost(self.uuid)\n", "")),
    one("what an earlier lease may have sent counts as never sent", WORKER,
        "            self._caution.found(group)\n",
        "            self._caution.found(group)\n"
        "            self._sends.dispatched.update((m.uuid, m.attempt) for m in group.instances)\n", theme="leases"),
    one("a lease that is held is taken", GROUPS,
        "    .where(_GROUPS.c.due_at <= bindparam(\"now\"), _GROUPS.c.lease_until <= bindparam(\"leases\"))\n",
        "    .where(_GROUPS.c.due_at <= bindparam(\"now\"))\n",
        Edit(GROUPS, ".where(_GROUPS.c.uuid == bindparam(\"of\"), _GROUPS.c.lease_until <= bindparam(\"leases\"))",
             ".where(_GROUPS.c.uuid == bindparam(\"of\"), _GROUPS.c.due_at <= bindparam(\"leases\"))")),
    one("a new owner keeps the old epoch", GROUPS,
        "epoch=_GROUPS.c.epoch + 1,", "epoch=_GROUPS.c.epoch,"),
    one("the lease of a deploy counts from its answer", MANAGER,
        "DatabaseTime(now, offer.asked_at), self._looks_since\n",
        "DatabaseTime(now, asyncio.get_running_loop().time()), self._looks_since\n", theme="leases"),
    one("what waits to be written with others is never written", "service.reconcile.gathering",
        "steady < self.until and ", ""),
    one("a member is worked on before what was seen of it is written", WORKER,
        "slot.task is not None or self._gathering.holds(key)\n", "slot.task is not None\n"),
    one("a lease is given back while calls run", WORKER,
        "        if self._gathering or any(s.task is not None for s in self._slots.values()):\n            return False\n", ""),
    # --- intents and requests ---
    one("acknowledged before the commit", APP,
        "        try:\n            started, taken_at = await self._store.write(intent)\n",
        "        request = replace(request, resource_uuid=request.resource_uuid or self._new_uuid())\n\n"
        "        def look(connection: Connection) -> tuple[Started, int]:\n"
        "            point = connection.begin_nested()\n"
        "            try:\n"
        "                return intent(connection)\n"
        "            finally:\n"
        "                point.rollback()\n\n"
        "        offer = None\n"
        "        try:\n"
        "            started, taken_at = await self._store.write(look)\n"
        "            self._later = asyncio.create_task(self._store.write(intent))\n",
        Edit(APP, "from contextlib import aclosing\n",
             "from contextlib import aclosing\nfrom dataclasses import replace\n")),
    one("the request id is not remembered with the intent", APP,
        "            if request.request_id:\n                requests.remember(", "            if False:\n                requests.remember("),
    one("another body under the same request id is taken for the same", REQUESTS,
        "    if row.body_hash != body_hash:\n", "    if False:\n"),
    one("a delete loses to a deploy in progress", LIFECYCLE,
        "    if group.phase is GroupPhase.DELETING:\n        return group\n",
        "    if group.phase in (GroupPhase.DELETING, GroupPhase.CREATING, GroupPhase.BOOTING):\n        return group\n"),
    # --- two-phase start ---
    one("resumed before GO", EFFECTS,
        "    if group.phase is not GroupPhase.BOOTING or not group.go:\n",
        "    if group.phase not in (GroupPhase.CREATING, GroupPhase.BOOTING):\n"),
    one("GO when some are created", SETTLING,
        "    (GroupPhase.CREATING, lambda s: s <= UP, GroupPhase.BOOTING),\n",
        "    (GroupPhase.CREATING, lambda s: bool(s & UP), GroupPhase.BOOTING),\n",
        Edit(SETTLING, "    (GroupPhase.BOOTING, lambda s: bool(s & {S.CLAIMED, S.CREATING}), GroupPhase.CREATING),\n", "")),
    one("a resume that was not answered does not count", SETTLING,
        "            group = each(group, lambda m: replace(m, was_resumed=True) if m.status is S.CREATED else m)\n", "            pass\n",
        Edit(LIFECYCLE, "and silent and not member.was_resumed and", "and silent and")),
    one("a create is sent before that is recorded", EFFECTS,
        "    if member.status is S.CREATING:\n",
        "    if member.status is S.CREATING or (member.status is S.CLAIMED and group.phase is GroupPhase.CREATING):\n",
        Edit(MEMBERS, "    (S.CREATING, Observation.PAUSED): S.CREATED,\n",
             "    (S.CREATING, Observation.PAUSED): S.CREATED,\n    (S.CLAIMED, Observation.PAUSED): S.CREATED,\n"),
        Edit(EFFECTS, "    if claimed and group.phase is GroupPhase.CREATING and now >= group.retry_at:\n", "    if False:\n")),
    one("the rest of the lease is not looked at before a call", CALLS,
        "        if lease_left_ms < budget * 1000:\n", "        if False:\n", theme="leases"),
    one("a group is deleted once one of its members is gone", SETTLING,
        "    (GroupPhase.DELETING, lambda s: s <= {S.REMOVED}, GroupPhase.DELETED),\n",
        "    (GroupPhase.DELETING, lambda s: not s or S.REMOVED in s, GroupPhase.DELETED),\n"),
    one("a member being created is out at once", MEMBERS,
        "    return member.status is S.PENDING or (", "    return member.status in (S.PENDING, S.CREATING) or ("),
    one("the tenant's quota is looked at neither at the deploy nor in the claim", CLAIMING,
        "    if some.quota:\n        quotas.check(connection, before.project, total(s.resources for s in placement.assignments if s.attempt == 1))\n", "",
        Edit("service.app.promised", "            quotas.compare(connection, group.project, limits, promised(connection, group))\n", "            pass\n")),
    one("whoever waits for hosts is looked after by nobody once its worker rests", "service.reconcile.worker",
        "self._give_back(waits_until or _due_at(group, now), group.version)\n",
        "self._give_back(None if waits_until else _due_at(group, now), group.version)\n", theme="wait"),
    one("a small group passes the first in line on the hosts that are kept for it", PLACING,
        "        snapshot, closed = backfill.open_to(group, kept, everything, hosts)\n",
        "        snapshot, closed = everything, frozenset()\n", theme="wait"),
    one("leases of processes that live are ended", OWNERS,
        "            gone = sorted(owner for owner in owners if has_ended(owner))\n",
        "            gone = sorted(owners)\n"),
    one("a member of a drained host is placed before it was seen gone", MEMBERS,
        "    leaving = replace(member, status=S.EVICTING, reason=\"its host is being emptied\", staging=None)\n",
        "    return vacate(member, keep_claim=False)\n"
        "    leaving = replace(member, status=S.EVICTING, reason=\"its host is being emptied\", staging=None)\n"),
    one("only members that run leave a drained host", MEMBERS,
        "    if member.status not in PLACED - {S.REMOVING, S.EVICTING}:\n        return member\n    leaving",
        "    if member.status is not S.RUNNING:\n        return member\n    leaving"),
    # --- live moves ---
    one("a live move has no claim on its target", CLAIMING,
        "    beside = claims.take(connection, before.uuid, [seat(member, target, pinned)], alone=alone)\n    _check_neighbours(connection, before, {target.uuid}, beside)\n", ""),
    one("a live move is over before its source is without the machine", MOVES,
        "        if here is not None and here.state is not MachineState.TOMBSTONE:\n", "        if False:\n",
        Edit(MOVES, "        await self.source.driver.entomb(self.identity, budget_seconds=STEP_SECONDS)\n", ""),
        Edit(MOVES, "        if not await self.source.confirm_absent(self.identity.machine_uuid):\n            return _AGAIN\n", ""),
        theme="moves"),
    # --- what is seen ---
    one("absence after one listing", MONITOR,
        "        second = await self.look()\n", "        second = first\n",
        Edit(CALLS, "            machine = await monitor.observe(identity)\n", "            machine = None\n")),
    one("a removal that was asked for counts as done", CALLS,
        "        await driver.remove(identity, budget_seconds=budget)\n        return await self._absent(monitor, group, member, identity, member.reason)\n",
        "        try:\n            await driver.remove(identity, budget_seconds=budget)\n"
        "        except DriverError:\n            pass\n"
        "        return (Observed(member.uuid, member.attempt, Observation.GONE, member.reason),)\n"),
    one("a silent host's machines count as gone", CALLS,
        "        if monitor.silent:\n            return EffectResult(retry=True)",
        "        if monitor.silent:\n            return EffectResult([Observed(member.uuid, member.attempt, Observation.GONE)])"),
    one("unknown counts as failed, and whoever runs is left behind", SETTLING,
        "member.unknown_since and not member.was_resumed:", "member.unknown_since:",
        Edit(LIFECYCLE, "        if member.status is S.CLAIMED and group.phase in LAUNCHING:\n",
             "        if member.status is not S.FAILING and group.phase in LAUNCHING:\n")),
    one("a host that answers again is not believed", LIFECYCLE,
        "lambda m: replace(m, unknown_since=0) if m.host_uuid == fact.host_uuid else m", "lambda m: m",
        Edit(LIFECYCLE, "        member = altered(member, unknown_since=0)\n", "        pass\n")),
    one("a machine that stopped by itself is not noticed", MEMBERS,
        "    (S.RUNNING, Observation.HALTED): S.FAILING,\n", ""),
    one("a machine that somebody paused is not resumed", MEMBERS, "    (S.RUNNING, Observation.PAUSED): S.CREATED,\n", "",
        Edit(MEMBERS, "    (S.BOOTING, Observation.PAUSED): S.CREATED,\n", "")),
    one("a machine that is gone is not noticed", MEMBERS, "    (S.RUNNING, Observation.GONE): S.FAILING,\n", "",
        Edit(MEMBERS, "    (S.BOOTING, Observation.GONE): S.FAILING,\n", "")),
    one("a guest that never comes up is waited for", LIFECYCLE,
        "        if boots and member.deadline_at and now", "        if False and now"),
    one("stopped without being seen stopped", MEMBERS,
        "    return _asked(replace(unwished(member), status=S.STOPPING, staging=None), member.status is S.RUNNING, now)\n",
        "    return replace(member, status=S.STOPPED, stop_asked=False, deadline_at=0)\n"),
    one("nobody looks again, and hints are lost", WORKER,
        "    return None if group.phase in FINAL else now + REST_MS\n",
        "    return None if group.phase in AT_REST else now + REST_MS\n",
        Edit(MANAGER, "            self._hinted.add(identity.group)\n", "            pass\n")),
    one("a group at rest has no turn whatever its hosts list", "service.reconcile.resting",
        "        if not facts:\n            return True\n", "        if True:\n            return True\n",
        Edit("service.reconcile.resting", "        if machine is None or machine.state is not MachineState.RUNNING:\n"
             "            return None\n", "        if machine is None:\n            return []\n"),
        Edit(MANAGER, "            self._hinted.add(identity.group)\n", "            pass\n")),
    # --- tombstones and the sweep ---
    one("no tombstone before a member is placed anew", CALLS,
        "            await monitor.driver.entomb(identity, budget_seconds=ENTOMB_SECONDS)\n", "            pass\n"),
    one("no tombstone for an attempt that was left behind", SWEEP,
        "            await monitor.driver.entomb(identity, budget_seconds=REMOVE_SECONDS)\n", "            pass\n"),
    one("tombstones are cleared at once", SWEEP, "            if now - first >= TOMBSTONE_SECONDS:\n",
        "            if True:\n"),
    one("a claim is released while its machine is still there", SWEEP,
        "            return  # the machine is still there: the sweep removes it first\n", "            pass\n",
        Edit(SWEEP, "        if not await monitor.confirm_absent(identity.machine_uuid):\n            return\n", "")),
    one("orphans are not removed", SWEEP,
        "        for machine_uuid in self._braked(monitor, sorted(set(unwanted) & before), len(machines)):\n",
        "        for machine_uuid in ():\n"),
    one("claims of attempts that are over are not released", SWEEP,
        "        for instance, attempt, group in sorted(here.stale_claims):\n",
        "        for instance, attempt, group in ():\n"),
    one("volumes of creates that broke off are never deleted", SWEEP,
        "        for name in sorted(unwanted & before):\n            failpoint(\"sweep.deleting_volume\")\n",
        "        for name in ():\n            failpoint(\"sweep.deleting_volume\")\n"),
    one("the sweep removes what it has not understood", SWEEP,
        "        look = await monitor.look()\n        machines =",
        "        early = await self._store.read(lambda c: seats(c, host_uuid))\n"
        "        look = await monitor.look()\n        machines =",
        Edit(SWEEP, "        fates = {m.machine_uuid: fate(known, *seat_of(m), m.machine_uuid) for m in machines}\n",
             "        fates = {m.machine_uuid: (Fate.KEEP if seat_of(m) in early.wanted else Fate.REMOVE, \"\") for m in machines}\n"),
        Edit(SWEEP, "        for machine_uuid in self._braked(monitor, sorted(set(unwanted) & before), len(machines)):\n",
             "        for machine_uuid in sorted(unwanted):\n"),
        Edit(SWEEP, "        if what is not Fate.REMOVE:\n            return\n", "")),
    # --- whose machines are whose ---
    one("a machine of which nothing is known is removed", OWNERSHIP,
        "        return Fate.QUARANTINE, \"this database knows no such instance\"\n",
        "        return Fate.REMOVE, \"this database knows no such instance\"\n", theme="strangers"),
    one("a copy of a member's machine on another host is removed", OWNERSHIP,
        "    return Fate.QUARANTINE, \"its instance is on another host", "    return Fate.REMOVE, \"its instance is on another host",
        theme="strangers"),
    one("a record of one host is believed of every host", RECORDS,
        "        _RETIRED.c.host_uuid == bindparam(\"host\"), among(_RETIRED.c.instance_uuid, \"of\")",
        "        func.coalesce(bindparam(\"host\"), \"\") != \"\", among(_RETIRED.c.instance_uuid, \"of\")", theme="strangers"),
    one("what is in quarantine is let go by a later record", OWNERSHIP,
        "    if key in records.held:\n        return Fate.QUARANTINE, \"it is held until an operator decides\"\n", "",
        theme="strangers"),
    one("the quarantine is emptied by the sweep", SWEEP,
        "        unwanted = {m.machine_uuid: m for m in machines if fates[m.machine_uuid][0] is Fate.REMOVE}\n",
        "        unwanted = {m.machine_uuid: m for m in machines if fates[m.machine_uuid][0] is not Fate.KEEP}\n",
        Edit(SWEEP, "        if what is not Fate.REMOVE:\n            return\n", ""), theme="strangers"),
    one("volumes of which nothing is known are deleted", SWEEP,
        "            if what is Fate.REMOVE:\n                unwanted.add(name)\n", "            unwanted.add(name)\n",
        theme="strangers"),
    one("the owner's mark is not looked at", OWNERSHIP,
        "    if mark is not None and mark.database != installation.database:\n", "    if False:\n",
        Edit(OWNERSHIP, "    if mark is not None and mark.host != record.uuid:\n", "    if False:\n"), theme="strangers"),
    one("what a host is found to be changes nothing", OWNERSHIP,
        "        return self.standing in (Standing.OURS, Standing.NEW)\n", "        return True\n", theme="strangers"),
    one("an older copy of the database goes on as if it were none", OWNERSHIP,
        "    if record.ahead and newest <= generation:\n", "    if False:\n",
        Edit(OWNERSHIP, "    if newest > generation:\n", "    if False:\n"), theme="restore"),
    one("an older copy goes on once it has come as far as its hosts", OWNERSHIP,
        "    if record.ahead and newest <= generation:\n", "    if False:\n",
        Edit(CUSTODY, "                await self.store.write(lambda c: ownership.set_ahead(c, host.uuid))\n",
             "                pass\n"), theme="restore"),
    one("members are given up for time or silence by an older copy", WORKER,
        "        older = self.context.custody.held or self._caution.waits\n", "        older = False\n", theme="restore"),
    one("members are acted on while a host is ahead", CALLS,
        "        if self._custody.held or monitor.host.uuid in self._custody.flagged:\n", "        if False:\n",
        theme="restore"),
    one("what an older copy has not sent is placed without the host that has it", CAUTION,
        "        if group.created_at < self.custody.since:\n", "        if False:\n", theme="restore"),
    one("a member gets a second machine beside its own in quarantine", CLAIMING,
        "    for instance in sorted(set(instances) & set(held)):\n", "    for instance in ():\n", theme="restore"),
    one("a claimed host's machines are held only when the sweep comes by", CUSTODY,
        "            hold_unknown(connection, host.uuid, found.machines)\n", "", theme="restore"),
    one("a recovery lets go what a deleted group left standing", "service.transactions.recovery",
        " if key not in change.standing}", "}"),
    one("a recovery believes whatever one look at a host shows", "service.transactions.surveys",
        "    return before.boot_id == after.boot_id and shown[0] == shown[1]\n", "    return True\n", theme="restore"),
    one("a copy is taken for a live move while its host is silent", RECOVERY_PLAN,
        "        if attempt == member.attempt and member.host_name in self._away:\n", "        if False:\n",
        theme="strangers"),
    # --- hosts that leave the fleet ---
    one("a host is taken out by force whatever it carries", FLEET,
        "    if host.state is not HostState.MAINTENANCE or host.status is not HostStatus.DISCONNECTED or load.members:\n",
        "    if False:\n",
        Edit(FLEET, "            if load.members or load.stale_claims:\n", "            if False:\n"), theme="removal"),
    one("a host that answers is taken out by force", FLEET,
        "    if host.state is not HostState.MAINTENANCE or host.status is not HostStatus.DISCONNECTED or load.members:\n",
        "    if host.state is not HostState.MAINTENANCE or load.members:\n", theme="removal"),
    one("addresses of members that ended on a host that is gone for good stay taken", FLEET,
        "    addresses.let_go(connection, [instance for instance, *_ in left])\n", "", theme="removal"),
    one("a host that is taken out takes claims on other hosts with it", FLEET,
        "    claims.leave(connection, left)", "    claims.release(connection, [(i, a) for i, a, _ in left])"),
    # --- fences by BMCs ---
    one("a host is fenced whatever becomes of the others", FENCING_RULES,
        "    if 2 * answering <= len(zone):\n", "    if False:\n",
        Edit(FENCING_RULES, "    if silent > MOST_SILENT:\n", "    if False:\n"), theme="fence"),
    one("the record of an order comes after it", FENCER,
        "            if _over(await self._write(lambda c: steps.order(c, epoch, uuid))):\n                return True\n", "",
        theme="fence"),
    one("a host counts as fenced once its BMC was told", FENCER,
        "        if not await switch.stays_off(machine, budget_seconds=PROVE_SECONDS):\n", "        if False:\n",
        theme="fence"),
    one("a host is fenced that other replicas reach", FENCER,
        "        gone = {uuid for uuid, host in picture.hosts.items() if host.status is HostStatus.DISCONNECTED}\n",
        "        gone = set(picture.hosts)\n",
        Edit(FENCING, "    fit = host.status is HostStatus.DISCONNECTED and host.state", "    fit = host.state"),
        Edit(FENCING, "    if host.status not in (HostStatus.DISCONNECTED, HostStatus.CONNECTING):\n", "    if False:\n"),
        theme="fence"),
    one("a host is fenced whose daemon alone is silent", FENCING_RULES,
        "    if known.alive:\n", "    if False:\n",
        Edit(FENCING_RULES, "    if known.knocks is not None and known.knocks < KNOCKS:\n", "    if False:\n"),
        theme="fence"),
    one("as many hosts are fenced as are silent", FENCING_RULES,
        "    if known.lately >= MOST_IN_AN_HOUR:\n", "    if False:\n",
        Edit(FENCING, "    if fencing.lately(connection, [FenceCause.SILENCE], now) >= MOST_IN_AN_HOUR:\n", "    if False:\n"),
        theme="fence"),
    one("several hosts are fenced at a time", FENCING_RULES,
        "    if known.open_fences:\n", "    if False:\n",
        Edit(FENCING, " or fencing.open_fences(connection):\n        return None\n", ":\n        return None\n"),
        theme="fence"),
    # --- clocks ---
    one("what is stored under a clock that was ahead is waited for", MANAGER,
        "            if not self._held_to_present:\n                await self._hold_to_present()\n", "", theme="clock"),
    one("a group waits for its own times of a clock that was ahead", LIFECYCLE,
        "    group = held_to_present(group, now)\n", "",
        Edit(PATIENCE, "        return 0 < deadline <= now or any(held_to_present(gang, now) is not gang for gang in gangs(group))\n",
             "        return 0 < deadline <= now\n"), theme="clock"),
    one("a clock that leaps ahead ends the leases of those who live", MANAGER,
        "        return self._context.clock.lease_time(now, asked_at)\n", "        return now\n", theme="clock"),
    one("who has just begun takes leases by a clock that may have leapt", CLOCK,
        "        return self._last is None or at - ", "        return self._last is not None and at - ", theme="clock"),
    # --- updates of what groups run ---
    one("the old gang is ended before the new one answers", UPDATING,
        "    return two is not None and two.status is GroupStatus.RUNNING\n",
        "    return two is not None and two.phase is GroupPhase.BOOTING\n", theme="update"),
    one("the machines of a surge that is called off are left", UPDATING,
        "        two = replace(each(two, lambda m: retire(m, now)), phase=GroupPhase.DELETING)\n",
        "        two = replace(two, phase=GroupPhase.DELETING)\n", theme="update"),
    one("the old gang is forgotten at the switch, and not ended", UPDATING,
        "    old = each(first(group), lambda m: retire(m, now))\n", "    old = first(group)\n", theme="update"),
    one("the group's address is another head's before the old one is gone", ENDPOINT,
        "    return all(m.uuid != holder or m.status is S.REMOVED for m in group.instances)\n",
        "    return all(m.uuid != holder or m.beside for m in group.instances)\n",
        Edit(INVARIANTS, "        if there:\n            yield f\"I17", "        if not there:\n            yield f\"I17"), theme="update"),
    one("an address that a group keeps is let go with its first head", CHANGES,
        "        addresses.hand_over(connection, after.endpoint.zone_uuid, after.endpoint.holder, after.uuid)\n",
        "        pass\n", theme="update"),
    one("a group that is over keeps the address that it has handed on", CHANGES,
        "        addresses.give_back(connection, after.uuid)\n", "        pass\n", theme="update"),
    one("a new head is not told of the address that it has", ENDPOINT,
        "    return None if wanted == member.holds else wanted\n", "    return None\n", theme="update"),
    one("members that grow in place claim nothing for that", UPDATES,
        "        claims.resize(connection, sizes)\n", "        pass\n", theme="update"),
    *ROOM_PLANTS,
    # --- devices ---
    one("two members are given one device", PICKS,
        "    free[:] = [device for device in free if device.key not in keys]\n", "",
        Edit(PICKS, "insert(schema.device_claims), rows", "insert(schema.device_claims).prefix_with(\"OR IGNORE\"), rows"),
        Edit(PICKS, "    verify(connection, with_devices, keyed)\n", ""), theme="devices"),
    one("a member is given fewer devices than it claims", PICKS,
        "there[key].cell) for key in keys)", "there[key].cell) for key in keys[1:])",
        Edit(PICKS, "    verify(connection, with_devices, keyed)\n", ""), theme="devices"),
    one("devices that are out of service count as free", DEVICES,
        "            held[name] += not claimed and device.state is not DeviceState.AVAILABLE\n",
        "            held[name] += 0\n", theme="devices"),
    one("a device that is gone stays counted once it is let go", DEVICES,
        "        if connection.execute(select(_DEVICES.c.key).where(_ONE, gone), where).first() is not None:\n",
        "        if False:\n", theme="devices"),
    one("an accelerator is given without the rest of its group", "service.domain.devices",
        "if not reason else (function,)\n", "if False else (function,)\n", theme="devices"),
    one("what a machine was really given is not looked at", "service.reconcile.sight",
        "    if machine.devices is None or set(machine.devices) == claimed:\n", "    if True:\n", theme="devices"),
    one("devices are let go with any change on their host", DEVICES,
        "_HELD.c.host_uuid.in_(bindparam(\"of\", expanding=True)), ~_STANDS)",
        "_HELD.c.host_uuid.in_(bindparam(\"of\", expanding=True)))", theme="devices"),
    one("a member with devices is moved live", CALLS,
        "        if member.devices:\n            return frozenset()", "        if False:\n            return frozenset()",
        theme="devices"),
    one("a host that promises its memory twice gives devices", DEVICES,
        "    return virt_type not in _PIN_NOTHING and ", "    return False and ", theme="devices"),
    one("a device that is out of service is picked", PICKS,
        "            if device.state is DeviceState.AVAILABLE or (device.key in had and not device.instance_uuid):\n",
        "            if not device.instance_uuid:\n", theme="devices"),
    one("what a machine in quarantine has is given out", DEVICES,
        "machine.name for address in machine.devices})\n", "machine.name for address in ()})\n", theme="devices"),
    one("who has lost his lease takes devices out of service", "service.reconcile.failing_devices",
        "        if not devices.is_leased(connection, group.uuid, group.epoch):\n", "        if False:\n", theme="devices"),
    one("what nothing cleans goes to the next one", DEVICES,
        "        unclean = (_DEVICES.c.clean == Clean.NONE.value)", "        unclean = (_DEVICES.c.clean == \"\")",
        theme="devices"),
    # --- events ---
    one("a change of a member is not told", CHANGES,
        "        if old is None or _told(old) != _told(member):\n",
        "        if old is None or (_told(old) != _told(member) and member.status.value != \"Creating\"):\n"),
    one("an event without its number", CHANGES,
        "Draft(kind, before.sequence + len(drafts) + 1, body)", "Draft(kind, before.sequence + len(drafts) + 2, body)"),
    one("the end of an operation is not told", CHANGES,
        "    if at_rest(after) and not (at_rest(before) and before.phase is after.phase):\n        add(EventKind.FINAL, after)\n    elif",
        "    if"),
    one("a stream skips an event where it leaves the tail", FEED,
        "        if self._tail and self._tail[0].revision <= cursor + 1:\n",
        "        if self._tail and self._tail[0].revision <= cursor + 2:\n"),
    one("a stream goes on from now instead of from where it was", FEED,
        "            cursor, loop = after, asyncio.get_running_loop()\n",
        "            cursor, loop = max(after, self._head - 1), asyncio.get_running_loop()\n"),
)  # fmt: skip


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles a module from its changed source, past all caches."""

    def __init__(self, name: str, path: str, edits: Sequence[Edit]) -> None:
        super().__init__(name, path)
        self._edits = edits

    def get_code(self, fullname: str) -> CodeType:
        return compile(changed(Path(self.path).read_text(), self._edits), self.path, "exec")


UNCHECKED = Edit(CHANGES, "    invariants.check(before, after, seats, differs.changed if only else None)\n", "")
"""The service's own check in the transaction would stop some bugs; here the observer has to find them."""


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, edits: Sequence[Edit]) -> None:
        self._edits: dict[str, list[Edit]] = {}
        for edit in edits:
            self._edits.setdefault(edit.module, []).append(edit)

    def find_spec(self, name: str, path: Sequence[str] | None, _target: ModuleType | None = None) -> Any:
        if name not in self._edits:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.origin is None:
            raise StalePlant(f"there is no module {name}")
        spec.loader = _Loader(name, spec.origin, self._edits[name])
        return spec


def changed(source: str, edits: Sequence[Edit]) -> str:
    """The source with all edits made. Raises StalePlant."""
    for edit in edits:
        if source.count(edit.old) != 1:
            raise StalePlant(f"{edit.module} has this {source.count(edit.old)} times: {edit.old!r}")
        source = source.replace(edit.old, edit.new)
    return source


def find(name: str) -> Plant:
    """The plant of this name. Raises KeyError."""
    return {plant.name: plant for plant in PLANTS}[name]


def put(plant: Plant, *, checked: bool = False) -> None:
    """Let the modules be imported with the bug. To be called before anything of the service is imported. `checked`: the
    service's own checks stay."""
    loaded = [edit.module for edit in plant.edits if edit.module in sys.modules]
    if loaded:
        raise StalePlant(f"{loaded} are imported already")
    sys.meta_path.insert(0, _Finder(plant.edits if checked else (*plant.edits, UNCHECKED)))
