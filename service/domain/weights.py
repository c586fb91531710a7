"""The file of a model's weights that guests fetch: where it may be, and whose engine waits for it. Pure."""

from __future__ import annotations

import re

from service.domain.catalog import ModelService
from service.domain.presets import preset_of

NO_COMMAND = "need a start command: of the entry, of its framework or of a container image; others wait for nothing"
_URI = re.compile(r"https?://[^/@?#\"\\\s]+/[^@?#\"\\\s]*", re.ASCII)


def problem(uri: str) -> str:
    """What is wrong with where weights are said to be; empty: nothing.

    Whoever sees the entry sees it, and so does who reads a machine's definition: it holds no password.
    """
    if uri.isascii() and uri.isprintable() and _URI.fullmatch(uri):
        return ""
    return "must be http:// or https://, a server and a path, without user, password, query and fragment"


def starts(entry: ModelService) -> bool:
    """Whether Corral starts the engine of the entry's members, and not their image by itself."""
    container = entry.image.container
    named = entry.initial_command or preset_of(entry.framework).leader_command
    return bool(named) or (container is not None and bool(container.entrypoint or container.arguments))
