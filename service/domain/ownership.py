"""Whose machines are whose: the installation that a database is, the marks it leaves on hosts, what may be removed.

Pure data and pure judgements. The rule that all of it follows (ARCHITECTURE I15): no machine is ended without a record,
committed in this very database, that this database let go of that attempt there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

LEGACY_CLUSTER = "corral"
"""The id that every installation had before ids were made at random, so that it tells no two of them apart."""


@dataclass(frozen=True, slots=True)
class Installation:
    """What this database is. `database`: 32 random hex digits, made with the database and kept by every backup of it.

    `cluster`: stands in the identity of every machine, so it never changes. `generation_offset`: see `generation`.
    """

    database: str
    cluster: str
    generation_offset: int = 0

    def generation(self, revision: int) -> int:
        """How far the database has come at an event's revision. A restored backup has not come as far as its hosts have
        seen; the offset lifts it above that once an operator has said so."""
        return revision + self.generation_offset


@dataclass(frozen=True, slots=True)
class OwnerMark:
    """What an owner leaves on a host: which database, by which host's uuid, and how far it had come at that time."""

    database: str
    host: str
    generation: int


class Standing(StrEnum):
    """What a host that answers is to this database."""

    OURS = "ours"
    NEW = "new"  # bears nobody's mark
    FOREIGN = "foreign"  # bears another database's mark
    AHEAD = "ahead"  # has been told things that this database does not know: it is older than its host
    MISMATCHED = "mismatched"  # another hypervisor than the one that this host was, or one that has another name here


@dataclass(frozen=True, slots=True)
class Verdict:
    """A host's standing, and why, with the way out, in words for an operator. `mark`: as it stands there now.

    `older_mark`: it is refused for a mark that is older than the one on record.
    """

    standing: Standing
    reason: str = ""
    mark: OwnerMark | None = None
    older_mark: bool = False

    @property
    def usable(self) -> bool:
        """Whether anything may be concluded from the host and done there."""
        return self.standing in (Standing.OURS, Standing.NEW)


@dataclass(frozen=True, slots=True)
class HostRecord:
    """What the database knows of a host: its uuid, the hypervisor that it was so far (empty: not seen yet), and the
    name of another host that is this hypervisor (empty: none). `claim_ordered`: its operator's word that it is ours.
    `ahead`: it was found to be so, or did not answer when the database was taken on as an older copy, and no word of
    its operator has come since. `marked`: a generation that its mark was seen to have for a while; 0 for none."""

    uuid: str
    hypervisor: str = ""
    twin: str = ""
    claim_ordered: bool = False
    ahead: bool = False
    marked: int = 0


def judge(
    installation: Installation,
    record: HostRecord,
    *,
    hypervisor: str,
    mark: OwnerMark | None,
    generation: int,
    newest_machine: int = 0,
) -> Verdict:
    """What a host is, by what it says of itself.

    `hypervisor`: its own uuid, empty where its kind has none. `generation`: how far the database has come, read after
    the host was. `newest_machine`: the highest generation among the machines of this installation there.
    """
    # A machine whose firmware has no uuid gets another one from libvirt at each start of its daemon (seen with libvirt
    # 9.0 in a virtual machine); a mark that this database left there for this host tells that it is the same.
    same = mark is not None and (mark.database, mark.host) == (installation.database, record.uuid)
    if record.hypervisor and hypervisor and hypervisor != record.hypervisor and not same:
        return Verdict(
            Standing.MISMATCHED,
            f"another hypervisor answers ({hypervisor}) than the one that this host was ({record.hypervisor}): "
            "mend its address, or claim the host if the machine was replaced",
        )
    if record.twin:
        return Verdict(
            Standing.MISMATCHED,
            f"it is the same hypervisor as host {record.twin}, and would give out everything twice: remove one of the "
            "two (a host that gets another name keeps its `uuid`)",
        )
    if mark is not None and mark.database != installation.database:
        return Verdict(
            Standing.FOREIGN,
            f"it bears the mark of another database ({mark.database}): another installation owns it, or this database "
            "is not the one that it was; recover, or claim the host",
        )
    if mark is not None and mark.host != record.uuid:
        return Verdict(
            Standing.MISMATCHED,
            f"it was host {mark.host} for this database: give the host that uuid again, or claim it",
        )
    if mark is not None and mark.generation < record.marked:
        # A mark only rises, and this one was seen to stand: what answers was copied, or put back, before that.
        return Verdict(
            Standing.MISMATCHED,
            f"it bears an older mark of this database (generation {mark.generation}) than this host has borne "
            f"({record.marked}): a copy of the hypervisor answers at its address, or it was put back from a backup; "
            "end the copy, or claim the host",
            older_mark=True,
        )
    newest = max(newest_machine, mark.generation if mark is not None else 0)
    if record.ahead and newest <= generation:
        return Verdict(
            Standing.AHEAD,
            "an older copy of this database was restored, and what this host has seen was not looked at then: "
            "recover, or claim the host",
        )
    if newest > generation:
        return Verdict(
            Standing.AHEAD,
            # The text leaves out the database's own generation: a text that changes is recorded, which would raise it.
            f"it has seen generation {newest} of this database, which has not come so far: an older copy was "
            "restored; recover, or claim the host",
        )
    return Verdict(Standing.OURS if mark is not None else Standing.NEW, mark=mark)


class Holding(StrEnum):
    """What is kept in quarantine."""

    MACHINE = "machine"
    VOLUME = "volume"


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A machine or volume that bears this installation's tag and that the database does not know: kept as it is.

    `key`: the machine's uuid, or the volume's name. `resources`: what it holds, as claims do (`vcpu`, `memory` bytes).
    `removal`: an operator has ordered its end. `devices`: the addresses of the host's functions that it has.
    """

    host: str
    key: str
    holding: Holding
    group: str
    instance: str
    attempt: int
    name: str = ""
    state: str = ""
    reason: str = ""
    resources: Mapping[str, int] = field(default_factory=dict)
    since: int = 0
    removal: bool = False
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Records:
    """What the database has on record of attempts on one host; see `fate`.

    `current`: instance -> its attempt now, for every instance that has a row and is not over. `retired`: attempts that
    were let go on this host. `ordered`: keys whose end an operator has ordered. `held`: keys that are in quarantine.
    `left`: attempts that had a machine of bare metal, and gave it up.
    """

    wanted: frozenset[tuple[str, int]]
    current: Mapping[str, int]
    retired: Mapping[tuple[str, int], str]
    ordered: frozenset[str]
    held: frozenset[str] = frozenset()
    left: frozenset[tuple[str, int]] = frozenset()


class Fate(StrEnum):
    """What is to be done with a machine or a volume."""

    KEEP = "keep"
    REMOVE = "remove"
    QUARANTINE = "quarantine"


def fate(records: Records, instance: str, attempt: int, key: str) -> tuple[Fate, str]:
    """(what may be done, by which record or for want of which).

    Only what a record names is removed: the attempt was retired on this host, the instance is at a later attempt, or an
    operator ordered it. Everything else that nobody wants is held, and what is held stays so whatever comes on record
    afterwards: of a machine that this database did not know, its later records say nothing.
    """
    if (instance, attempt) in records.wanted:
        return Fate.KEEP, "a member wants it"
    if key in records.ordered:
        return Fate.REMOVE, "an operator ordered it"
    if key in records.held:
        return Fate.QUARANTINE, "it is held until an operator decides"
    if (instance, attempt) in records.retired:
        return Fate.REMOVE, records.retired[(instance, attempt)]
    now = records.current.get(instance)
    if now is None:
        return Fate.QUARANTINE, "this database knows no such instance"
    if now > attempt:
        return Fate.REMOVE, f"its instance is at attempt {now}"
    if now < attempt:
        return Fate.QUARANTINE, f"its attempt is later than the instance's, which is {now}"
    return Fate.QUARANTINE, "its instance is on another host, and never was on this one by this database's records"


def fate_at_claim(records: Records, instance: str, attempt: int, key: str) -> tuple[Fate, str]:
    """`fate` of a machine on a host that is claimed: a database that is an older copy may have counted an attempt on
    from a seat that the member had left for this host since. So a later attempt alone is no word against it here."""
    what, why = fate(records, instance, attempt, key)
    if what is Fate.REMOVE and key not in records.ordered and (instance, attempt) not in records.retired:
        return Fate.QUARANTINE, f"{why}, but this database never knew it on this host"
    return what, why


def held(quarantine: Sequence[Quarantined]) -> dict[str, int]:
    """What the machines in quarantine hold together."""
    total: dict[str, int] = {}
    for one in quarantine:
        for name, amount in one.resources.items():
            total[name] = total.get(name, 0) + amount
    return total
