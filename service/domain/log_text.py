"""What machines have said, as text that may be shown: no control sequences, no secrets, not too much. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

LINE_LIMIT = 8_192
"""Characters of a line that is still being written; past them it counts as one."""
KEPT_LINES = 30
KEPT_LIMIT = 2_000
"""Lines and characters that are stored of a member that failed."""
TOLD_LINES = 3
TOLD_LIMIT = 300
"""Of them in the reason."""
_LEAST_SECRET = 4

# What terminals take for commands: a log may come from anybody, and is read on terminals.
_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_]|[ -/][0-~])")
_OTHERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff\u2028\u2029]")


def plain(data: bytes) -> str:
    """The text of these bytes, which may begin or end within a character."""
    text = _SEQUENCES.sub("", data.decode("utf-8", "replace").replace("\r\n", "\n"))
    return _OTHERS.sub("", text.replace("\r", "\n"))


def without_secrets(text: str, secrets: Mapping[str, str]) -> str:
    """The text with each value of a secret, and each line of one of several, replaced by its name.

    A value of fewer than four characters stays: it would be found in any text. `secrets`: name -> value.
    """
    parts = {line.strip(): name for name, value in secrets.items() for line in (value, *value.splitlines())}
    for part in sorted((p for p in parts if len(p) >= _LEAST_SECRET), key=len, reverse=True):
        text = text.replace(part, f"[secret {parts[part]}]")
    return text


def last_lines(text: str, count: int, most: int) -> str:
    """The last lines that are not blank, so many and so many characters at most, the oldest cut first."""
    lines = [line.rstrip() for line in text.split("\n") if line.strip()][-count:]
    return "\n".join(lines)[-most:]


def kept(texts: Sequence[tuple[str, str]]) -> str:
    """What is stored of a member that failed: the end of each log under its name. `texts`: (name, text)."""
    said = [(name, text) for name, text in texts if text.strip()]
    share = KEPT_LIMIT // max(1, len(said))
    return "\n".join(f"[{name}]\n{last_lines(text, KEPT_LINES, share - len(name) - 4)}" for name, text in said)


def section(stored: str, name: str) -> str:
    """What is stored of one log."""
    sections = (part.partition("\n") for part in re.split(r"^(?=\[[a-z]+\]$)", stored, flags=re.MULTILINE))
    return next((text.rstrip("\n") for title, _, text in sections if title == f"[{name}]"), "")


def told(reason: str, stored: str) -> str:
    """A reason with the end of what is stored, in one line."""
    lines = [line for line in stored.split("\n") if line.strip() and line not in ("[console]", "[engine]")]
    words = " | ".join(line.strip() for line in lines[-TOLD_LINES:])[-TOLD_LIMIT:]
    if not words or words in reason:
        return reason
    return f"{reason}; its last lines: {words}" if reason else f"its last lines: {words}"


class Lines:
    """Whole lines of a log that comes in pieces, so that no value of a secret is cut in two."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The lines that are whole now."""
        whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
        if len(self._rest) > LINE_LIMIT:
            long, self._rest = self._rest, b""
            return whole + newline + long + b"\n"
        return whole + newline

    def restart(self) -> None:
        """The log was cut: what was half read is not continued."""
        self._rest = b""
