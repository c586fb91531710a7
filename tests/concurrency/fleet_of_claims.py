"""Processes of `worker` on one database: drives them, and checks from outside that nothing was given out twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.concurrency.observer import Held, overlaps
from tests.support import ROOT


@dataclass
class Crowd:
    """Some worker processes. Orders go to all at once; answers come in their order."""

    processes: list[subprocess.Popen[str]]
    histories: list[Path]

    def order(self, **order: Any) -> list[Any]:
        """Tell all, then hear all. Raises RuntimeError where one has trouble."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        answers = [self._hear(process) for process in self.processes]
        broken = [a for a in answers if isinstance(a, dict) and "error" in a]
        if broken:
            raise RuntimeError(f"a worker had trouble: {broken[0]}")
        return answers

    def churn(self, hosts: list[str], claims: int) -> tuple[int, int, float]:
        """Run `claims` claims in all; returns (claims, lost races, claims a second of all together)."""
        each = -(-claims // len(self.processes))
        done = self.order(do="churn", hosts=hosts, claims=each)
        rate = sum(d["claims"] / d["seconds"] for d in done)
        return int(sum(d["claims"] for d in done)), int(sum(d["lost"] for d in done)), rate

    def races(self, host: str, rounds: int) -> list[int]:
        """How many winners each race for the last slot had."""
        winners = []
        for _ in range(rounds):
            winners.append(sum(self.order(do="race", host=host)))
            self.order(do="release")
        return winners

    def overlaps(self, capacity: int) -> list[str]:
        """What the recorded history says was given out twice."""
        held = [Held(*json.loads(line)) for path in self.histories for line in path.read_text().splitlines()]
        return overlaps(held, capacity)

    def _hear(self, process: subprocess.Popen[str]) -> Any:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("a worker has ended")
        return json.loads(line)


@contextmanager
def crowd(url: str, directory: Path, *, processes: int, clients: int, seed: int = 1) -> Iterator[Crowd]:
    """`clients` in all, spread over the processes."""
    made: list[subprocess.Popen[str]] = []
    histories = [directory / f"history-{number}" for number in range(processes)]
    for number, history in enumerate(histories):
        share = str(clients // processes)
        made.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.concurrency.worker", url, str(number), share, str(seed), str(history)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": "protos:."},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    try:
        found = Crowd(made, histories)
        for process in made:
            if found._hear(process) != "ready":
                raise RuntimeError("a worker did not start")
        yield found
    finally:
        for process in made:
            process.communicate(timeout=60)
