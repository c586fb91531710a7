"""What a launch costs the service itself: guests that halt at their first instruction, so that nothing boots.

    python -m tests.bench.launch_bench --halted 8,16 [--rounds 5]

The kernel is a multiboot image (the Multiboot Specification 0.6.96, section 3.1) of two instructions. Beside it the
same domains by plain libvirt-python, one thread a guest, which are created paused and never resumed. CPU is that of
the service with its planner processes, and of this process's threads for the yardstick; libvirtd's and QEMU's are
nobody's here, since both ask them for the same.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_MAGIC = 0x1BADB002
_ADDRESSES_ARE_TOLD = 1 << 16
_LOADED_AT = 0x100000
_HEADER_BYTES = 32
_HALT = bytes((0xFA, 0xF4, 0xEB, 0xFD))  # cli; hlt; jmp to hlt


@dataclass(frozen=True)
class Cost:
    """One launch: CPU seconds of the service and of the yardstick, for this many guests, until all existed."""

    guests: int
    service: float
    raw: float


def manifest(directory: Path) -> Path:
    """The description of a guest that halts at once, with its files beside it."""
    directory.mkdir()
    end = _LOADED_AT + _HEADER_BYTES + len(_HALT)
    header = struct.pack(
        "<8I",
        _MAGIC,
        _ADDRESSES_ARE_TOLD,
        -(_MAGIC + _ADDRESSES_ARE_TOLD) & 0xFFFFFFFF,
        _LOADED_AT,
        _LOADED_AT,
        end,
        end,
        _LOADED_AT + _HEADER_BYTES,
    )
    files = {"kernel": ("halt", header + _HALT), "initramfs": ("nothing", b"\0" * 512)}
    described: dict[str, object] = {"format": "corral-guest/1", "inputs": "", "release": "halt", "command_line": ""}
    for part, (name, data) in files.items():
        (directory / name).write_bytes(data)
        described[part] = {"file": name, "sha256": hashlib.sha256(data).hexdigest()}
    path = directory / "guest.json"
    path.write_text(json.dumps(described))
    return path


def table(costs: Sequence[Cost]) -> str:
    """Medians a member, as Markdown."""
    lines = ["| guests that halt | service, CPU ms a member | plain threads | more |", "|---|---|---|---|"]
    for guests in sorted({each.guests for each in costs}):
        own, raw = (
            statistics.median(value / guests * 1000 for value in values)
            for values in zip(*((each.service, each.raw) for each in costs if each.guests == guests), strict=True)
        )
        lines.append(f"| {guests} | {own:.1f} | {raw:.1f} | {own - raw:.1f} |")
    return "\n".join(lines)
