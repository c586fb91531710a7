"""The README's shell commands, one by one, in order."""

from __future__ import annotations

import re

from tests.support import ROOT

_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Commands of all `sh` blocks; a quoted argument may span lines."""
    found: list[str] = []
    for block in _BLOCK.findall(text):
        waiting = ""
        for line in block.splitlines():
            waiting = f"{waiting}\n{line}" if waiting else line
            if waiting.count("'") % 2 == 0:
                if waiting.strip():
                    found.append(waiting.strip())
                waiting = ""
        if waiting:
            raise ValueError(f"a quotation in the README does not end: {waiting!r}")
    return found


_FILE = re.compile(r"^```yaml\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def files() -> dict[str, str]:
    """The files that the README shows, by name."""
    return dict(_FILE.findall((ROOT / "README.md").read_text()))


def readme() -> list[str]:
    """The commands of this checkout's README."""
    return commands((ROOT / "README.md").read_text())
