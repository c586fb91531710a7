"""An image's way to a host: Corral's driver beside `virsh vol-upload` of the same file, in turns in the same run.

    python -m tests.bench.staging_bench [--mib 512] [--rounds 5] [--rate MIB_A_SECOND]

As root, on one hypervisor of the lab, by its unix socket. `--rate`: over a relay that carries no more to the host.
The driver also takes the file's sum and reads back a piece of each slice, which virsh does not.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from service.domain.fleet import HostAddress
from service.drivers.copies import Copied, ImageFile, copy_name
from service.drivers.libvirt.driver import LibvirtDriver
from tests.lab.fleet import Lab
from tests.lab.hypervisor import Hypervisor
from tests.lab.link import Link

POOL = Path("var/lib/libvirt/corral")


@asynccontextmanager
async def socket_of(host: Hypervisor, directory: Path, rate: int) -> AsyncIterator[Path]:
    """The way to the hypervisor: its own socket, or a relay of so many bytes a second."""
    if not rate:
        yield host.socket
        return
    async with Link(directory / "link", host.socket, rate) as link:
        yield link.socket


async def by_driver(socket: Path, file: ImageFile, number: int) -> tuple[float, str]:
    """Seconds until the copy is whole, and its name."""
    driver = LibvirtDriver("bench", "bench", HostAddress("libvirt", "unix", socket=str(socket)))
    try:
        await driver.list_copies(budget_seconds=60)  # the connection and the pool are there
        copied, began = Copied(copy_name(file.sha256, f"{number:08x}")), time.monotonic()
        while not copied.whole:
            copied = await driver.stage(file, copied, budget_seconds=60)
        return time.monotonic() - began, copied.volume
    finally:
        await driver.close()


async def virsh(socket: Path, *words: str) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    uri = f"qemu+unix:///system?socket={socket}"
    process = await asyncio.create_subprocess_exec("virsh", "-q", "-c", uri, *words)
    if await process.wait():
        raise SystemExit(f"virsh {' '.join(words)} failed")
    return time.monotonic() - began


async def by_virsh(socket: Path, file: ImageFile) -> tuple[float, str]:
    """Seconds of `vol-upload` alone, and the volume's name."""
    await virsh(socket, "vol-create-as", "corral", "by-virsh", str(file.size), "--allocation", "0", "--format", "raw")
    return await virsh(socket, "vol-upload", "--pool", "corral", "by-virsh", file.path), "by-virsh"


async def measure(mib: int, rounds: int, rate: int) -> None:
    """Prints a line a round, and the medians."""
    with Lab(1, None) as lab, tempfile.TemporaryDirectory() as temporary:
        host, directory = next(iter(lab)), Path(temporary)
        content = random.Random(1).randbytes(1 << 20) * mib
        (directory / "image").write_bytes(content)
        file = ImageFile("bench", "disk", str(directory / "image"), len(content), hashlib.sha256(content).hexdigest())
        del content
        taken: dict[str, list[float]] = {"driver": [], "virsh": []}
        async with socket_of(host, directory, rate << 20) as socket:
            warm = LibvirtDriver("bench", "bench", HostAddress("libvirt", "unix", socket=str(host.socket)))
            await warm.probe(budget_seconds=60)
            await warm.close()
            for number in range(rounds + 1):
                seconds, volume = await by_driver(socket, file, number)
                other, theirs = await by_virsh(socket, file)
                for name in (volume, theirs):
                    with (host.directory / POOL / name).open("rb") as there:
                        assert hashlib.file_digest(there, "sha256").hexdigest() == file.sha256, name
                for name in (volume, f"{volume}.ready", theirs):
                    await virsh(host.socket, "vol-delete", "--pool", "corral", name)
                if number:  # the first one warms both up
                    taken["driver"].append(mib / seconds)
                    taken["virsh"].append(mib / other)
                    print(f"round {number}: driver {mib / seconds:7.1f} MiB/s   virsh {mib / other:7.1f} MiB/s")
        medians = {name: statistics.median(values) for name, values in taken.items()}
        share = medians["driver"] / medians["virsh"]
        print(
            f"median of {rounds}: driver {medians['driver']:.1f} MiB/s, virsh {medians['virsh']:.1f}, {share:.2f} of it"
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=int, default=0)
    given = parser.parse_args()
    asyncio.run(measure(given.mib, given.rounds, given.rate))


if __name__ == "__main__":
    main()
