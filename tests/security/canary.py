"""A secret to be looked for: as it is, and as base64 shows it wherever in a text it begins."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path


def random_canary() -> str:
    """A text that stands nowhere else, 24 characters long."""
    return secrets.token_hex(12)


def traces(canary: str) -> tuple[bytes, ...]:
    """What a text that holds the canary holds: itself, or its base64 at one of three alignments.

    Of base64, those characters alone that do not depend on what stands before and after.
    """
    raw = canary.encode()
    found = [raw]
    for shift in range(3):
        padded = base64.b64encode(b"\0" * shift + raw + b"\0" * 3)
        first = (shift * 8 + 5) // 6  # the first character that is of the canary's bits alone
        last = (shift + len(raw)) * 8 // 6
        found.append(padded[first:last])
    return tuple(found)


def leaks(canary: str, texts: dict[str, bytes]) -> list[str]:
    """The places that hold it."""
    wanted = traces(canary)
    return [place for place, text in texts.items() if any(trace in text for trace in wanted)]


def command_lines(pids: set[int]) -> dict[str, bytes]:
    """`/proc/PID/cmdline` of these processes, which every user can read, unlike their environments."""
    found = {}
    for pid in pids:
        try:
            found[f"/proc/{pid}/cmdline"] = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended in the meantime
    return found


def files_under(directory: Path, *, but: tuple[str, ...] = ()) -> dict[str, bytes]:
    """The plain files under a directory, without those whose path holds one of these parts."""
    return {
        str(path): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink() and not any(part in str(path) for part in but)
    }
