"""One process of the claims test: many clients that claim gangs on a nearly full fleet and give them back.

Talks JSON lines with its parent: `churn` runs a number of claims and writes what it held when; `race` lets all clients
want one slot at the same moment, and `release` gives back what it won.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from dataclasses import astuple, dataclass, field
from pathlib import Path

from service.domain.groups import Seat
from service.errors import Unavailable
from service.store import claims
from service.store.claims import ClaimLost
from service.store.engine import Store
from tests.concurrency.observer import Held
from tests.support.builders import seat

GROUP = "c" * 32


@dataclass
class Clients:
    """`count` clients on one store; `number` sets their instances apart from those of other processes."""

    store: Store
    number: int
    count: int
    random: random.Random
    history: list[Held] = field(default_factory=list)
    claimed: int = 0
    lost: int = 0
    _made: int = 0

    def gang(self, hosts: list[str]) -> list[Seat]:
        """1 to 4 members on random hosts, each of 1 to 3 vCPUs."""
        found = []
        for _ in range(self.random.randint(1, 4)):
            self._made += 1
            amount = self.random.randint(1, 3)
            host = self.random.choice(hosts)
            found.append(seat(f"{self.number:08x}{self._made:024x}", host, {"vcpu": amount}))
        return found

    async def claim(self, gang: list[Seat]) -> bool:
        """Whether the gang has its claims now."""
        try:
            await self.store.write(lambda c: claims.take(c, GROUP, gang))
        except ClaimLost:
            return False
        return True

    async def release(self, gang: list[Seat]) -> None:
        """Give the gang's claims back."""
        await self.store.write(lambda c: claims.release(c, [(m.instance_uuid, m.attempt) for m in gang]))

    async def client(self, hosts: list[str], until: int) -> None:
        """Claim and release until all clients together have `until` claims."""
        while self.claimed < until:
            gang = self.gang(hosts)
            if not await self.claim(gang):
                self.lost += 1
                continue
            since = time.monotonic()
            self.claimed += 1
            await asyncio.sleep(self.random.random() * 0.02)
            ends = time.monotonic()
            self.history += [Held(m.host_uuid, m.resources["vcpu"], since, ends) for m in gang]
            await self.release(gang)

    async def churn(self, hosts: list[str], until: int) -> dict[str, float]:
        """Run all clients; returns how much was done and in how many seconds."""
        started = time.monotonic()
        self.claimed = self.lost = 0
        await asyncio.gather(*(self.client(hosts, until) for _ in range(self.count)))
        return {"claims": self.claimed, "lost": self.lost, "seconds": time.monotonic() - started}

    def write(self, path: Path) -> None:
        """Append what was held since the last time to the file."""
        with path.open("a") as file:
            file.writelines(json.dumps(astuple(held)) + "\n" for held in self.history)
        self.history.clear()

    async def race(self, host: str) -> list[Seat]:
        """All clients want the last slot at once; returns the winners' claims."""
        wanted = [self.gang([host])[:1] for _ in range(self.count)]
        wanted = [[seat(g[0].instance_uuid, host, {"vcpu": 1})] for g in wanted]
        won = await asyncio.gather(*(self.claim(gang) for gang in wanted))
        return [gang[0] for gang, winner in zip(wanted, won, strict=True) if winner]


async def serve(clients: Clients, history: Path) -> None:
    """Obey the parent until it closes the pipe."""
    loop = asyncio.get_running_loop()
    held: list[Seat] = []
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        answer: object = None
        try:
            if order["do"] == "churn":
                answer = await clients.churn(order["hosts"], order["claims"])
                await loop.run_in_executor(None, clients.write, history)
            elif order["do"] == "race":
                held = await clients.race(order["host"])
                answer = len(held)
            else:
                if held:
                    await clients.release(held)
                held = []
                answer = "released"
        except Unavailable as error:
            answer = {"error": error.message}
        print(json.dumps(answer), flush=True)


def main() -> None:
    """Arguments: URL NUMBER CLIENTS SEED HISTORY; the last is the file that tells what was held when."""
    url, number, count, seed, history = sys.argv[1:]
    store = Store(url)
    try:
        clients = Clients(store, int(number), int(count), random.Random(int(seed) * 1000 + int(number)))
        print(json.dumps("ready"), flush=True)
        asyncio.run(serve(clients, Path(history)))
    finally:
        store.close()


if __name__ == "__main__":
    main()
