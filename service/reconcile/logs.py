"""What members' machines say, from their hosts: pieces of a log for whoever reads it, the last lines of one that fails.

Values of secrets that a member was given are taken out of every text before it goes anywhere else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from service.domain import log_text
from service.domain.environment import SecretUnavailable, referred
from service.domain.groups import Group, Instance
from service.drivers.base import DriverError, HostUnreachable, LogPiece, LogSource
from service.errors import Unavailable
from service.lifecycle import last_words
from service.lifecycle.facts import Fact, LastLines, Ticked
from service.lifecycle.updating import gangs
from service.reconcile import sight
from service.reconcile.custody import Custody
from service.reconcile.directory import Directory
from service.reconcile.machine_spec import identity_of
from service.reconcile.monitor import HostMonitor
from service.serving.rendezvous import template
from service.transactions.secrets import KnownSecrets

logger = logging.getLogger(__name__)

READ_SECONDS = 5.0
LAST_SECONDS = 3.0
LAST_BYTES = 16_384
MOST_LAST = 8
"""Of so many members that fail at once the last lines are read: one of them is told as the group's reason."""


class MachineLogs:
    """Reads logs through the hosts' monitors. Keeps none of what it reads."""

    def __init__(
        self, custody: Custody, monitors: Mapping[str, HostMonitor], directory: Directory, secrets: KnownSecrets
    ) -> None:
        self._custody = custody
        self._monitors = monitors
        self._directory = directory
        self._secrets = secrets
        # One read at a time on a host: it answers others meanwhile.
        self._turns: dict[str, asyncio.Lock] = {}

    async def read(
        self, member: Instance, source: LogSource, *, start: int, most: int, budget_seconds: float = READ_SECONDS
    ) -> LogPiece:
        """See HostDriver.read_log; of the member's present machine. Raises DriverError."""
        monitor = self._monitors.get(member.host_uuid)
        if monitor is None:
            raise HostUnreachable("it is on no host")
        if monitor.silent:
            raise HostUnreachable("its host does not answer")
        identity = identity_of(self._custody.installation.cluster, member)
        async with self._turns.setdefault(member.host_uuid, asyncio.Lock()), asyncio.timeout(budget_seconds + 2.0):
            return await monitor.driver.read_log(
                identity, source, start=start, most=most, budget_seconds=budget_seconds
            )

    async def secrets_of(self, group: Group, member: Instance) -> Mapping[str, str]:
        """Name -> value of the secrets that the member was given. Raises Unavailable."""
        own = member.spec.environment_variables
        try:
            names = referred({**template(member, self._directory.catalogue).environment, **own})
        except KeyError:  # its entry is gone
            names = referred(own)
        values = await self._secrets.values(self._custody.store, names, group.project)
        found = {}
        for name in names:
            try:
                found[name] = values.value(name, group.project)
            except SecretUnavailable:
                logger.debug("secret %s of a member is not there any more", name)
        return found

    async def last_lines(self, group: Group, member: Instance) -> str:
        """What the member's machine said last, as it is stored; empty where that cannot be had now."""
        texts = []
        for source in LogSource:
            try:
                piece = await self.read(member, source, start=-LAST_BYTES, most=LAST_BYTES, budget_seconds=LAST_SECONDS)
            except (DriverError, TimeoutError) as error:
                logger.debug("the %s log of %s was not read: %s", source, member.uuid, error)
                continue
            texts.append((source.value, log_text.plain(piece.data)))
        if not any(text.strip() for _, text in texts):
            return ""
        try:
            secrets = await self.secrets_of(group, member)
        except Unavailable:
            return ""  # nothing is shown that was not looked through
        return log_text.kept([(name, log_text.without_secrets(text, secrets)) for name, text in texts])

    async def before_end(self, group: Group, facts: Sequence[Fact], now: int) -> list[Fact]:
        """The facts, after what members said last whose time is over by them: from the next commit on their machines
        are on their way out."""
        late = [member for gang in gangs(group) for member in last_words.late(gang, now)]
        some = late[:MOST_LAST] if Ticked() in facts else []
        found = await asyncio.gather(*(self._last_words(group, member) for member in some))
        return [*(one for one in found if one.text or one.said), *facts]

    async def _last_words(self, group: Group, member: Instance) -> LastLines:
        text, said = await self.last_lines(group, member), await self._said(member)
        try:
            secrets = await self.secrets_of(group, member) if said else {}
        except Unavailable:
            said, secrets = "", {}
        return LastLines(member.uuid, member.attempt, text, log_text.without_secrets(said, secrets))

    async def _said(self, member: Instance) -> str:
        """What the member's guest says of itself now; empty where that cannot be had, or is that it is ready."""
        monitor = self._monitors.get(member.host_uuid)
        if monitor is None or monitor.silent:
            return ""
        try:
            async with asyncio.timeout(LAST_SECONDS):
                machine = await monitor.observe(identity_of(self._custody.installation.cluster, member))
        except (DriverError, TimeoutError) as error:
            logger.debug("what the guest of %s says was not read: %s", member.uuid, error)
            return ""
        report = machine.report if machine is not None else None
        return "" if report is None or report.stage == sight.READY else sight.words(report)
