"""What a running process takes over from its configuration file at SIGHUP: who may call, how much, the log's level."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from service.config.file import Config, ConfigError, Overlay, load
from service.config.overlay import NOTHING
from service.errors import CorralError
from service.store import quotas
from service.telemetry import logs
from service.telemetry.logs import get_logger
from service.wiring import Service

log = get_logger("corral.reload")

TAKEN_OVER = frozenset({"tokens", "accounts", "access_keys", "certificates", "anonymous", "quotas", "rates", "log"})
"""Fields of `Config`, of `log` the level alone; everything else waits for the next start."""


async def reload(service: Service, path: Path, overlay: Overlay = NOTHING) -> None:
    """Read the file again and take over what can be; a file that cannot be used changes nothing, and is told.

    `overlay`: what stands over it, as at the start.
    """
    try:
        found = load(path, overlay)
    except ConfigError as error:
        log.error("the configuration file cannot be used; everything stays as it was", problems=error.problems)
        return
    try:
        await service.store.write(lambda c: quotas.put(c, found.quotas))
    except CorralError as error:
        log.error("the configuration file was not taken over", reason=error.message)
        return
    service.sessions.replace(found.accounts)
    service.access_keys.replace(found.access_keys)
    service.identities.replace(found.tokens, found.certificates, anonymous=found.anonymous)
    service.rates.replace(found.rates.get(""), {p: rate for p, rate in found.rates.items() if p})
    logs.set_level(found.log.level)
    log.info("the configuration file was read again", at_the_next_start=_waiting(service.config, found))


def _waiting(started_with: Config, found: Config) -> list[str]:
    """What differs and is not taken over."""
    names = [
        f.name
        for f in dataclasses.fields(Config)
        if f.name not in TAKEN_OVER and getattr(found, f.name) != getattr(started_with, f.name)
    ]
    if found.log.format != started_with.log.format:
        names.append("log.format")
    return sorted(names)
