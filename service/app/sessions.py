"""Login sessions: an account's name and password in, a session uuid out, and from then on the uuid says who calls.

Accounts are the configuration's. A session slides: each use gives it its whole lifetime again.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid as uuids
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from service.domain.tenants import Account, Caller
from service.errors import LoginFailed, Overloaded, Unauthenticated
from service.store import sessions
from service.store.connection import Connection
from service.store.engine import Store
from service.store.sessions import StoredSession
from service.store.waits import Wait

LIFETIME_MS = 2 * 3600 * 1000
MAX_LIFETIME_MS = 365 * 24 * 3600 * 1000
WAITS = (Wait("session", "sessions", "expires_at", MAX_LIFETIME_MS),)
# How often at most the end of a session in use is written again.
_SLIDE_STEP_MS = 60 * 1000
_MAX_FAILURES = 10
_FAILURE_WINDOW_MS = 60 * 1000
_MAX_FAILING_PEERS = 4096
_ACCOUNT_NAMESPACE = uuids.UUID("5b0ad0b4-9d0e-5c38-8a3a-2f1f6f2f3a55")
_NOBODY = "0" * 128


@dataclass(frozen=True, slots=True)
class Session:
    """A session as its owner sees it. Times are ms since the epoch."""

    uuid: str
    account: str
    account_uuid: str
    created_at: int
    expires_at: int


class Sessions:
    """Sessions of the configured accounts, kept in the store."""

    def __init__(self, store: Store, accounts: Iterable[Account], clock: Callable[[], int]) -> None:
        self._store = store
        self.replace(accounts)
        self._clock = clock
        self._failures: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()

    def replace(self, accounts: Iterable[Account]) -> None:
        """Know these accounts alone from now on; sessions of others are nobody's."""
        self._accounts = {account.name: account for account in accounts}

    async def log_in(self, name: str, password_sha512: str, peer: str) -> Session:
        """A new session. `password_sha512`: hex; `peer`: who asks, for the limit on wrong passwords.

        Raises LoginFailed, and Overloaded after too many wrong passwords of one peer for one account.
        """
        now = self._clock()
        self._refuse_guessing(peer, name, now)
        account = self._accounts.get(name)
        # Unknown names cost the same comparison, so that time does not tell them apart.
        expected = account.password_sha512 if account else _NOBODY
        right = hmac.compare_digest(expected.encode(), password_sha512.strip().lower().encode())
        if account is None or not right:
            self._count_failure(peer, name, now)
            raise LoginFailed("wrong account name or password")
        uuid = uuids.uuid4().hex
        stored = StoredSession(account.name, now, now + LIFETIME_MS)

        def begin(connection: Connection) -> None:
            sessions.remove_expired(connection, now)
            sessions.create(connection, _digest(uuid), stored)

        await self._store.write(begin)
        return _session(uuid, stored)

    async def caller(self, uuid: str) -> Caller:
        """Who calls by this session, whose life is prolonged. Raises Unauthenticated."""
        now = self._clock()
        stored, account = await self._find(uuid, now)
        if now + LIFETIME_MS - stored.expires_at >= _SLIDE_STEP_MS:
            await self._store.write(lambda c: sessions.extend(c, _digest(uuid), now + LIFETIME_MS))
        return account.caller

    async def is_valid(self, uuid: str) -> bool:
        """Whether the session is valid; its life is not prolonged."""
        try:
            await self._find(uuid, self._clock())
        except Unauthenticated:
            return False
        return True

    async def renew(self, uuid: str, lifetime_ms: int = LIFETIME_MS) -> Session:
        """Let the session live for `lifetime_ms` from now, at most MAX_LIFETIME_MS. Raises Unauthenticated."""
        now = self._clock()
        await self._find(uuid, now)
        expires_at = now + min(lifetime_ms, MAX_LIFETIME_MS)

        def extend(connection: Connection) -> StoredSession | None:
            sessions.extend(connection, _digest(uuid), expires_at)
            return sessions.find(connection, _digest(uuid), now)

        renewed = await self._store.write(extend)
        if renewed is None:
            raise Unauthenticated("the session has ended")
        return _session(uuid, renewed)

    async def log_out(self, uuid: str) -> None:
        """End the session; one that is not there is no error."""
        await self._store.write(lambda c: sessions.remove(c, _digest(uuid)))

    async def _find(self, uuid: str, now: int) -> tuple[StoredSession, Account]:
        stored = await self._store.read(lambda c: sessions.find(c, _digest(uuid), now))
        # An account that was taken out of the configuration has no sessions any more.
        account = self._accounts.get(stored.account) if stored else None
        if stored is None or account is None:
            raise Unauthenticated("the session is unknown or has expired")
        return stored, account

    def _refuse_guessing(self, peer: str, name: str, now: int) -> None:
        count, until = self._failures.get((peer, name), (0, 0))
        if count >= _MAX_FAILURES and now < until <= now + _FAILURE_WINDOW_MS:
            raise Overloaded("too many wrong passwords", until - now)

    def _count_failure(self, peer: str, name: str, now: int) -> None:
        count, until = self._failures.pop((peer, name), (0, 0))
        if not now < until <= now + _FAILURE_WINDOW_MS:  # over, or of a clock that was set back since
            count, until = 0, now + _FAILURE_WINDOW_MS
        self._failures[peer, name] = (count + 1, until)
        while len(self._failures) > _MAX_FAILING_PEERS:
            self._failures.popitem(last=False)


def _digest(uuid: str) -> str:
    return hashlib.sha256(uuid.encode()).hexdigest()


def _session(uuid: str, stored: StoredSession) -> Session:
    account_uuid = uuids.uuid5(_ACCOUNT_NAMESPACE, stored.account).hex
    return Session(uuid, stored.account, account_uuid, stored.created_at, stored.expires_at)
