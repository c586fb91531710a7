"""`make serving`: llama.cpp on three hypervisors, asked from outside, hurt from outside, healed by the service alone.

One deploy of head and two workers; the answers are compared with arithmetic. Then every fault of `harm.py` in turn,
each on a group that is whole: what the service says and what the model answers are watched all the time. Exit code 1
for any violation. Boots are timed beside the same machines started by hand, one after the other, in the same run. Last
what `checks.py` looks at, and updates by a surge while the endpoint is called all the time (`update.py`).
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from corral.v1 import group_pb2

from tests.lab.fleet import Lab
from tests.lab.requirements import why_not
from tests.serving import boots, checks, cloud_disk, hard_times, link_staging, update
from tests.serving.harm import FAULTS, Fault, Harm
from tests.serving.llama import Engine, build
from tests.serving.observer import Observer
from tests.serving.oracle import LETTERS, Ring
from tests.serving.site import CLOUD, Model, Site, build_model, cloud_entry, leftovers, site

HYPERVISORS = 4  # one more than members: a machine that is lost is made anew elsewhere
HEAL_SECONDS = 400.0
CLOUD_MEMORY = 384 << 20
CLOUD_SECONDS = 900.0
WHOLE_SECONDS = 4.0
SILENT_ALLOWED = 20.0


@dataclass
class Table:
    """What came of it all, for people."""

    lines: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def tell(self, line: str) -> None:
        """A line now, and again at the end."""
        print(line, flush=True)
        self.lines.append(line)

    def wrong(self, what: str) -> None:
        """Something that must not be."""
        self.violations.append(what)
        print(f"VIOLATION: {what}", flush=True)


def speed(place: Site, group: group_pb2.InstanceGroup, table: Table) -> None:
    """Tokens a second of one caller, and that each of them is right."""
    rates = []
    for _ in range(5):
        prompt, count = random.choice(LETTERS), 24
        began = time.monotonic()
        answer = place.ask(group, prompt, count, timeout=120)
        rates.append(count / (time.monotonic() - began))
        if answer != place.model.ring.completion(prompt, count):
            table.wrong(f"{prompt} was answered by {answer}")
    table.tell(f"  {statistics.median(rates):.0f} tokens/s (median of 5 requests of 24 tokens)")


def inject(place: Site, group: group_pb2.InstanceGroup, fault: Fault, table: Table) -> bool:
    """One fault, and whether the group is right again without a hand."""
    before = place.get(group.uuid)
    with Observer(place, group.uuid, group.instances[0].addresses[0]) as seen:
        if not seen.settled(WHOLE_SECONDS, HEAL_SECONDS):
            table.wrong(f"{fault.name}: the group was not whole before")
            return False
        began = time.monotonic()
        fault.strike(Harm(place, before))
        struck = time.monotonic()
        noticed = seen.noticed(began, HEAL_SECONDS)
        healed = seen.healed(struck, WHOLE_SECONDS, HEAL_SECONDS)
    after = place.get(group.uuid)
    allowed = SILENT_ALLOWED + 5 * statistics.median(seen.took or [0.0])
    untrue = seen.untrue(allowed)
    made = sum(m.attempt for m in after.instances) - sum(m.attempt for m in before.instances)
    reasons = [why for at, status, why in seen.statuses if status != "Running" and why and at > began]
    table.tell(
        f"  {fault.name:<26} load {_load():>2}  noticed {noticed - began:6.1f} s"
        f"  right {seen.first_right_after(began) - began:6.1f} s"
        f"  whole {healed - began:6.1f} s  made anew {made}  {reasons[0] if reasons else ''}"
    )
    if healed == float("inf"):
        table.wrong(f"{fault.name}: not healed within {HEAL_SECONDS:.0f} s: {after.status}: {after.reason}")
    if untrue > 0:
        table.wrong(f"{fault.name}: Running for {untrue:.1f} s while no answer was right for {allowed:.0f} s")
    for _, what in seen.wrong:
        table.wrong(f"{fault.name}: {what}")
    return healed < float("inf")


def main() -> int:
    """See the module."""
    options = _options()
    reason = why_not()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    programs = build(server=not options.small)
    table = Table()
    seed = options.seed if options.seed is not None else random.randrange(1 << 30)
    ring = Ring.drawn(seed)
    print(f"seed {seed}: {ring.layers} layers, ring {ring.letters}", flush=True)
    parts = options.parts.split(",")
    with tempfile.TemporaryDirectory(prefix="corral-serving-") as name:
        directory = Path(name)
        if "staging" in parts:
            staged(directory / "staging", options, table)
        head = programs.small_head if options.small else programs.server
        model = build_model(directory, programs, ring, head=head)
        (directory / "broken").mkdir()
        broken = build_model(directory / "broken", programs, ring, head=head, broken_layer=ring.layers // 2)
        more = cloud(directory, programs, head, model, table) if "cloud" in parts else ""
        with (
            Lab(HYPERVISORS, network=options.network) as lab,
            site(lab, model, directory / "service", broken=broken.manifest, more=more) as place,
        ):
            run(place, options, table, has_cloud=bool(more))
    print("", *table.lines, sep="\n")
    print(f"violations {len(table.violations)}", *table.violations, sep="\n", flush=True)
    return 1 if table.violations else 0


def staged(directory: Path, options: argparse.Namespace, table: Table) -> None:
    """An image over a slow link, on a hypervisor of its own."""
    with Lab(1, network=options.network) as lab:
        told, wrong = link_staging.measured(lab, directory, options.mib)
    for line in told:
        table.tell(f"  load {_load()}: {line}")
    for what in wrong:
        table.wrong(f"staging: {what}")


def cloud(directory: Path, programs: Engine, head: Path, model: Model, table: Table) -> str:
    """A cloud disk with the user's engine in it, and its catalogue entry; empty where it cannot be made here."""
    if why := cloud_disk.missing():
        table.tell(f"  no cloud disk: {why}")
        return ""
    (directory / "cloud").mkdir()
    files = {programs.rpc_server: "/usr/local/bin/ggml-rpc-server", head: "/usr/local/bin/llama-server"}
    disk = cloud_disk.make(directory / "cloud", {**files, directory / "model.gguf": "/model.gguf"})
    return cloud_entry(model, disk)


def answered_by_cloud_disks(place: Site, table: Table) -> None:
    """A group of them is Running by its canary, and answers rightly."""
    began = time.monotonic()
    group = place.corral.follow(place.deploy(2, entry=CLOUD, memory=CLOUD_MEMORY, wait_seconds=CLOUD_SECONDS))
    took = time.monotonic() - began
    if group.status != "Running":
        table.wrong(f"cloud disks: {group.status}: {group.reason}")
        return
    prompt = random.choice(LETTERS)
    answer = place.ask(group, prompt, 12, timeout=120)
    if answer != place.model.ring.completion(prompt, 12):
        table.wrong(f"cloud disks: {prompt} was answered by {answer}")
    if not place.get(group.uuid).instances[0].HasField("last_answer"):
        table.wrong("cloud disks: there was no canary")
    table.tell(f"  two cloud disks, load {_load()}: Running by their canary {took:.1f} s after the call")
    place.corral.delete(group.uuid)


def run(place: Site, options: argparse.Namespace, table: Table, *, has_cloud: bool) -> None:
    """What was asked for of it, in order."""
    parts = options.parts.split(",")
    if "boots" in parts and options.boots:
        timed(place, options.boots, table)
    if "faults" in parts:
        hurt(place, options.only.split(",") if options.only else [], table)
    if "checks" in parts:
        looked_at(place, table)
    if "hard" in parts:
        in_hard_times(place, options.busy, table)
    if "update" in parts:
        updated(place, table)
    if has_cloud:
        answered_by_cloud_disks(place, table)
    left = leftovers(place.lab)
    table.tell(f"after all deletions: {len(left)} machines and volumes left")
    if left:
        table.wrong(f"left behind: {', '.join(left)}")


def timed(place: Site, count: int, table: Table) -> None:
    """Boots beside those by hand."""
    ours, theirs = [], []
    for number in range(count):
        group, boot = boots.deployed(place)
        ours.append(boot)
        theirs.append(boots.started_by_hand(place, group))
        place.corral.delete(group.uuid)
        table.tell(
            f"boot {number + 1}, load {_load()}: {boot.told()}; {boot.processor:.1f} CPU s;"
            f" by hand {theirs[-1].right:.1f}, {theirs[-1].processor:.1f} CPU s"
        )
    for line in boots.compared(ours, theirs):
        table.tell(line)


def hurt(place: Site, only: Sequence[str], table: Table) -> None:
    """Speed, then each fault in turn, on one group."""
    group, _ = boots.deployed(place)
    speed(place, group, table)
    for fault in FAULTS:
        if only and fault.name not in only:
            continue
        if not inject(place, group, fault, table):
            place.corral.delete(group.uuid)  # the others are seen all the same
            group, _ = boots.deployed(place)
            continue
        for what in checks.other_documents(place, group):
            table.wrong(f"{fault.name}: {what}")
    place.corral.delete(group.uuid)


def looked_at(place: Site, table: Table) -> None:
    """Everything of `checks.py`."""
    group, _ = boots.deployed(place)
    found = {"both workers carry every completion": checks.idle_worker(place, group)}
    place.corral.delete(group.uuid)
    found["a model with a wrong layer never runs"] = checks.believed(place)
    wrong, took = checks.hurt_at_first(place)
    found[f"a fault before the first answer heals ({took:.1f} s from the call)"] = wrong
    for name, violations in found.items():
        table.tell(f"  {name}: {len(violations)} violations")
        for what in violations:
            table.wrong(f"{name}: {what}")


def in_hard_times(place: Site, seconds: float, table: Table) -> None:
    """Everything of `hard_times.py`."""
    group, _ = boots.deployed(place)
    busy, how = hard_times.restarted_for_being_busy(place, group, seconds)
    past, gone = hard_times.answered_from_the_past(place, group)
    place.corral.delete(group.uuid)
    found = {how: busy, f"a member from the past answers nobody (gone {gone:.1f} s after its host was reached)": past}
    for name, violations in found.items():
        table.tell(f"  load {_load()}: {name}: {len(violations)} violations")
        for what in violations:
            table.wrong(f"{name}: {what}")


def updated(place: Site, table: Table) -> None:
    """By a surge, and by one in whose middle the service is killed."""
    group, _ = boots.deployed(place, update.SIZE)
    harms = {"update": lambda _place, _uuid: None, "update, service killed": update.killed_in_the_middle}
    for number, (name, harm) in enumerate(harms.items(), start=1):
        went = update.surged(place, group, number, harm)
        table.tell(f"  {name}, load {_load()}: {went.told()}")
        for what in went.wrong:
            table.wrong(f"{name}: {what}")
        if (there := len(place.get(group.uuid).instances)) != update.SIZE:
            table.wrong(f"{name}: {there} members are left")
    place.corral.delete(group.uuid)


def _load() -> str:
    return f"{os.getloadavg()[0]:.0f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.serving", description=__doc__)
    parser.add_argument("--small", action="store_true", help="the small head instead of llama.cpp's own server")
    parser.add_argument("--boots", type=int, default=5, help="how often a deploy is timed beside one by hand")
    parser.add_argument("--parts", default="boots,faults,checks,hard,update,staging", help="of these and cloud")
    parser.add_argument("--mib", type=int, default=600, help="of the image that is staged over a slow link")
    parser.add_argument("--busy", type=float, default=180, help="for how many seconds the machine has too much to do")
    parser.add_argument("--only", default="", help="only these faults, with commas between them")
    parser.add_argument("--seed", type=int, help="of the model; without it another one each time")
    parser.add_argument("--network", default="10.84", help="the first half of the lab's addresses")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
