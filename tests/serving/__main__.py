"""`make serving`: llama.cpp on three hypervisors, asked from outside, hurt from outside, healed by the service alone.

One deploy of head and two workers; the answers are compared with arithmetic. Then every fault of `harm.py` in turn,
each on a group that is whole: what the service says and what the model answers are watched all the time. Exit code 1
for any violation. Boots are timed beside the same machines started by hand, one after the other, in the same run.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from corral.v1 import group_pb2

from tests.lab.fleet import Lab
from tests.lab.requirements import why_not
from tests.serving import by_hand
from tests.serving.harm import FAULTS, Fault, Harm
from tests.serving.llama import build
from tests.serving.observer import Observer
from tests.serving.oracle import LETTERS, Ring
from tests.serving.site import Site, build_model, leftovers, site

HYPERVISORS = 4  # one more than members: a machine that is lost is made anew elsewhere
HEAL_SECONDS = 400.0
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


def deployed(place: Site, table: Table) -> tuple[group_pb2.InstanceGroup, float]:
    """A group that runs, and the seconds from the call to its first right answer."""
    began = time.monotonic()
    group = place.corral.follow(place.deploy())
    if group.status != "Running":
        raise RuntimeError(f"the group is {group.status}: {group.reason}")
    running = time.monotonic() - began
    seconds = by_hand.until_right(place, group.instances[0].addresses[0]) - began
    table.tell(f"  Running after {running:.1f} s, the first right answer after {seconds:.1f} s")
    return group, seconds


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
        f"  {fault.name:<28} noticed {noticed - began:6.1f} s  right {seen.first_right_after(began) - began:6.1f} s"
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
    with tempfile.TemporaryDirectory(prefix="corral-serving-") as name:
        directory = Path(name)
        head = programs.small_head if options.small else programs.server
        model = build_model(directory, programs, ring, head=head)
        with Lab(HYPERVISORS, network=options.network) as lab, site(lab, model, directory / "service") as place:
            run(place, options, table)
    print("", *table.lines, sep="\n")
    print(f"violations {len(table.violations)}", *table.violations, sep="\n", flush=True)
    return 1 if table.violations else 0


def run(place: Site, options: argparse.Namespace, table: Table) -> None:
    """Boots beside those by hand, speed, faults, and the end."""
    corral, hand = [], []
    for number in range(options.boots):
        table.tell(f"boot {number + 1}")
        group, seconds = deployed(place, table)
        corral.append(seconds)
        hand.append(by_hand.boot(place, group))
        place.corral.delete(group.uuid)
        table.tell(f"  by hand the same machines answer rightly after {hand[-1]:.1f} s")
    if corral:
        ratio = statistics.median(a / b for a, b in zip(corral, hand, strict=True))
        table.tell(f"call to first right answer / by hand: {ratio:.2f} (median of {len(corral)}, alternating)")
    table.tell("the group that is hurt")
    group, _ = deployed(place, table)
    speed(place, group, table)
    for fault in FAULTS:
        if (not options.only or fault.name in options.only.split(",")) and not inject(place, group, fault, table):
            break
    place.corral.delete(group.uuid)
    left = leftovers(place.lab)
    table.tell(f"after its deletion: {len(left)} machines and volumes left")
    if left:
        table.wrong(f"left behind: {', '.join(left)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.serving", description=__doc__)
    parser.add_argument("--small", action="store_true", help="the small head instead of llama.cpp's own server")
    parser.add_argument("--boots", type=int, default=5, help="how often a deploy is timed beside one by hand")
    parser.add_argument("--only", default="", help="only these faults, with commas between them")
    parser.add_argument("--seed", type=int, help="of the model; without it another one each time")
    parser.add_argument("--network", default="10.84", help="the first half of the lab's addresses")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
