"""One process of the test of shared changes: clients that change groups, and write down what they were answered.

Each client works on a group of its own as its leaseholder does, and now and then on somebody else's, as one does whose
lease was lost without his knowledge. A line for each answer: group, sequence and revision of its newest event. Ends
when the clients together have had so many answers, or when it is killed.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from service.errors import Unavailable
from service.store import groups
from service.store.engine import Store
from service.transactions.together import SharedChanges
from tests.support.changing import next_change


@dataclass
class Clients:
    """Those of one process. `mine`: their groups, `all`: those of all processes."""

    store: Store
    mine: Sequence[str]
    all: Sequence[str]
    random: random.Random
    answers: TextIO
    left: int

    async def run(self) -> None:
        """Until there were so many answers."""
        changes = SharedChanges(self.store)
        await asyncio.gather(*(self._client(uuid, changes) for uuid in self.mine))

    async def _client(self, own: str, changes: SharedChanges) -> None:
        while self.left > 0:
            uuid = own if self.random.random() < 0.8 else self.random.choice(self.all)
            try:
                known = await self.store.read(lambda c, u=uuid: groups.load(c, u))  # type: ignore[misc]
                for _ in range(self.random.randint(1, 6)):
                    self.left -= 1
                    known = (await changes.write(next_change(known, self.left))).group
                    self.answers.write(f"{uuid} {known.sequence} {known.revision}\n")
            except Unavailable:
                await asyncio.sleep(0.1)


def main() -> None:
    """Arguments: URL NUMBER CLIENTS PROCESSES ANSWERS HISTORY; the last is the file of the answers."""
    url, number, clients, processes, answers, history = sys.argv[1:]
    uuids = [group_uuid(n, client) for n in range(int(processes)) for client in range(int(clients))]
    mine = [group_uuid(int(number), client) for client in range(int(clients))]
    store = Store(url)
    try:
        with Path(history).open("a", buffering=1) as file:
            asyncio.run(Clients(store, mine, uuids, random.Random(number), file, int(answers)).run())
    finally:
        store.close()


def group_uuid(process: int, client: int) -> str:
    """Of the client's own group."""
    return f"{process:016x}{client:016x}"


if __name__ == "__main__":
    main()
