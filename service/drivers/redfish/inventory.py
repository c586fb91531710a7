"""What a machine is, by its BMC: processors, memory, devices, firmware, network cards. Some BMCs tell some of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sushy import exceptions

GIB = 1 << 30
_ARCHITECTURES = {"x86": "x86_64", "x86-64": "x86_64", "ARM": "aarch64", "ARM-A64": "aarch64"}
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Inventory:
    """`amounts`: `vcpu`, `memory`, `gpu.<model>`, where it tells them. `secure_boot`: on | off, empty: it does not say.
    `firmware`: UEFI | Legacy. `macs`: of its network cards, lower case."""

    uuid: str
    amounts: Mapping[str, int]
    architecture: str
    model: str
    firmware: str
    secure_boot: str
    macs: tuple[str, ...]

    def completed(self, before: Inventory) -> Inventory:
        """With what it told before and leaves out now: a BMC that has just started knows little of its machine."""
        if before.uuid != self.uuid:
            return self
        return replace(self, amounts={**before.amounts, **self.amounts}, macs=self.macs or before.macs)


def read(system: Any) -> Inventory:
    """What a system shows. Raises sushy's errors where it does not answer at all."""
    told = system.json
    amounts: dict[str, int] = {}
    gpus, architecture, counted = _processors(system)
    summary = told.get("ProcessorSummary") or {}
    # Some tell in sum how many sockets there are, and of each socket how many threads.
    threads = summary.get("LogicalProcessorCount") or counted or summary.get("CoreCount") or summary.get("Count")
    if threads:
        amounts["vcpu"] = int(threads)
    if gib := (told.get("MemorySummary") or {}).get("TotalSystemMemoryGiB"):
        amounts["memory"] = int(float(gib) * GIB)
    boot = told.get("Boot") or {}
    return Inventory(
        uuid=str(told.get("UUID") or "").lower(),
        amounts={**amounts, **gpus},
        architecture=architecture,
        model=" ".join(str(told[name]) for name in ("Manufacturer", "Model") if told.get(name)),
        firmware=str(boot.get("BootSourceOverrideMode") or ""),
        secure_boot=_secure_boot(system),
        macs=_macs(system),
    )


def _processors(system: Any) -> tuple[dict[str, int], str, int]:
    """Its GPUs by model, its CPUs' architecture, and how many threads they have; 0 where it does not tell."""
    try:
        found = [one.json for one in system.processors.get_members()]
    except exceptions.SushyError:
        return {}, "x86_64", 0  # it has no such list
    gpus: Counter[str] = Counter()
    architecture, threads = "x86_64", 0
    for one in found:
        if one.get("ProcessorType") == "GPU":
            gpus[f"gpu.{_UNFIT.sub('-', str(one.get('Model') or 'unknown')).strip('-')[:60] or 'unknown'}"] += 1
        elif one.get("ProcessorType") in ("CPU", None):
            architecture = _ARCHITECTURES.get(str(one.get("ProcessorArchitecture")), architecture)
            threads += int(one.get("TotalThreads") or one.get("TotalCores") or 0)
    return dict(gpus), architecture, threads


def _secure_boot(system: Any) -> str:
    try:
        return "on" if system.secure_boot.enabled else "off"
    except exceptions.SushyError:
        return ""


def _macs(system: Any) -> tuple[str, ...]:
    try:
        cards = system.ethernet_interfaces.get_members()
    except exceptions.SushyError:
        return ()
    return tuple(sorted({str(one.mac_address).lower() for one in cards if one.mac_address}))
