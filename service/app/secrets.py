"""The secrets that projects store by name. A value goes in, is encrypted, and is never answered.

A project sees and uses its own alone; administrators see those of all projects, without any value.
"""

from __future__ import annotations

import uuid as uuids
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from service.app import operator_changes, paging
from service.app.auditing import audited
from service.app.etags import require_etag
from service.app.paging import Page
from service.app.visibility import project_of
from service.domain.environment import SECRET_NAME
from service.domain.secrets import Sealed, StoredSecret
from service.domain.tenants import Caller
from service.errors import AlreadyExists, InvalidArgument, NotFound, QuotaExceeded, RequestIdReused, WrongState
from service.store import secrets
from service.store.connection import Connection
from service.store.engine import Store
from service.store.sealing import CannotOpen
from service.transactions.secrets import KnownSecrets, unreadable

MOST_OF_A_PROJECT = 1000
_TOLD_USERS = 8


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A value to keep. `uuid` empty: a new one."""

    name: str
    value: str = field(repr=False)
    uuid: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """A secret as it is told. `readable`: this service can decrypt it."""

    secret: StoredSecret
    readable: bool


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is remembered of a request: of its value a fingerprint alone, which tells nothing without the key."""

    uuid: str
    name: str
    fingerprint: str


class StoredSecrets:
    """The use cases."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], int],
        known: KnownSecrets,
        *,
        new_uuid: Callable[[], str] = lambda: uuids.uuid4().hex,
    ) -> None:
        self._store = store
        self._clock = clock
        self._known = known
        self._keyring = known.keyring
        self._new_uuid = new_uuid

    async def create(self, caller: Caller, request: NewSecret, *, validate_only: bool = False) -> Shown:
        """Keep a value under a name of the caller's project; the same request id answers with the secret that it made.

        Raises InvalidArgument (name), AlreadyExists, WrongState (no key, or the configuration names it), QuotaExceeded,
        RequestIdReused.
        """
        if not SECRET_NAME.fullmatch(request.name):
            raise InvalidArgument.of("name", "must be letters, digits and ._-, a letter or digit first")
        self._require_key()
        now, method = self._clock(), "CreateSecret"
        asked = [_Asked(request.uuid, request.name, mark) for mark in self._keyring.fingerprints(request.value)]

        def work(connection: Connection) -> StoredSecret:
            if (known := _made_before(connection, caller, method, request.request_id, asked)) is not None:
                return secrets.get(connection, known)
            made = StoredSecret(request.uuid or self._new_uuid(), caller.project, request.name, _NOTHING)
            self._require_free(connection, made)
            secrets.put(connection, self._sealed(made, request.value), now)
            operator_changes.made(connection, caller, method, request.request_id, asked[0], made.uuid, now)
            return secrets.get(connection, made.uuid)

        return self._shown(await operator_changes.commit(self._store, work, validate_only=validate_only))

    async def get(self, caller: Caller, uuid: str) -> Shown:
        """One secret. Raises NotFound."""
        return self._shown(await self._store.read(lambda c: _visible(caller, secrets.get(c, uuid))))

    async def list(self, caller: Caller, name: str, page_size: int, page_token: str) -> Page[Shown]:
        """Secrets in the order of their names. `name`: only those of this name, empty for all.

        Raises InvalidArgument for a token that is not one.
        """
        project = project_of(caller)
        cursor = paging.cursor("secrets", page_size, page_token, project or "", name)

        def read(connection: Connection) -> Page[Shown]:
            found = secrets.page(connection, project, name, cursor.after, cursor.limit)
            return cursor.page([self._shown(one) for one in found], [(one.name, one.uuid) for one in found])

        return await self._store.read(read)

    async def rotate(
        self, caller: Caller, uuid: str, value: str, etag: str = "", *, validate_only: bool = False
    ) -> Shown:
        """Give the secret another value, for machines that are made from now on.

        Raises NotFound, Conflict (etag), WrongState (no key).
        """
        self._require_key()
        now = self._clock()

        def work(connection: Connection) -> StoredSecret:
            secret = _visible(caller, secrets.get(connection, uuid, lock=True))
            require_etag("secret", secret, etag)
            secrets.put(connection, self._sealed(secret, value), now)
            audited(connection, caller, "RotateSecret", uuid, "", now)
            return secrets.get(connection, uuid)

        return self._shown(await operator_changes.commit(self._store, work, validate_only=validate_only))

    async def delete(self, caller: Caller, uuid: str, etag: str = "", *, validate_only: bool = False) -> None:
        """Forget a secret. Raises NotFound, Conflict (etag), WrongState, which names the groups that use it."""
        now = self._clock()

        def work(connection: Connection) -> None:
            secret = _visible(caller, secrets.get(connection, uuid, lock=True))
            require_etag("secret", secret, etag)
            if users := secrets.users(connection, secret.project, secret.name):
                more = f" and {len(users) - _TOLD_USERS} more" if len(users) > _TOLD_USERS else ""
                told = f"in use by instance groups {', '.join(users[:_TOLD_USERS])}{more}"
                raise WrongState(f"secret {secret.name}", told, "one that no group uses")
            secrets.remove(connection, uuid)
            audited(connection, caller, "DeleteSecret", uuid, "", now)

        await operator_changes.commit(self._store, work, validate_only=validate_only)

    async def rewrap(self) -> Mapping[str, int]:
        """Bring every secret that can be decrypted under the current key. Returns how many are under keys that this
        service does not have, by the key's name. Raises Unavailable."""

        def work(connection: Connection) -> Mapping[str, int]:
            left: Counter[str] = Counter()
            for secret in list(secrets.every(connection)):
                if not self._keyring.can_open(secret.sealed, secret.bound):
                    left[secret.sealed.key_name] += 1
                elif secret.sealed.key_name != self._keyring.current:
                    secrets.rewrap(connection, secret, self._keyring.wrapped_anew(secret.sealed, secret.bound))
            return left

        return await self._store.write(work)

    def counted(self, connection: Connection) -> Mapping[tuple[str, bool], int]:
        """How many secrets there are by the key's name and by whether they can be decrypted here."""
        found: Counter[tuple[str, bool]] = Counter()
        for secret in secrets.every(connection):
            found[secret.sealed.key_name, self._keyring.can_open(secret.sealed, secret.bound)] += 1
        return found

    def _require_key(self) -> None:
        if not self._keyring.current:
            raise WrongState("the store of secrets", "without a key", "[[secret_keys]] in the service's configuration")

    def _require_free(self, connection: Connection, wanted: StoredSecret) -> None:
        if self._known.configured.known(wanted.name, wanted.project):
            raise WrongState(
                f"secret {wanted.name}", "defined in the configuration file", "a name that the file does not have"
            )
        if secrets.named(connection, wanted.project, wanted.name) is not None:
            raise AlreadyExists("secret", wanted.name)
        try:
            secrets.get(connection, wanted.uuid)
        except NotFound:
            pass
        else:
            raise AlreadyExists("secret", wanted.uuid)
        if (there := secrets.count(connection, wanted.project)) >= MOST_OF_A_PROJECT:
            raise QuotaExceeded(f"project {wanted.project}", "secrets", MOST_OF_A_PROJECT, there + 1)

    def _sealed(self, secret: StoredSecret, value: str) -> StoredSecret:
        try:
            sealed = self._keyring.seal(value, secret.bound)
        except CannotOpen as error:
            raise unreadable(secret.name, secret.sealed.key_name) from error
        return StoredSecret(secret.uuid, secret.project, secret.name, sealed)

    def _shown(self, secret: StoredSecret) -> Shown:
        return Shown(secret, self._keyring.can_open(secret.sealed, secret.bound))


_NOTHING = Sealed("", b"", b"")


def _made_before(
    connection: Connection, caller: Caller, method: str, request_id: str, asked: list[_Asked]
) -> str | None:
    """The uuid of what this request made earlier, whichever key was the first one then. Raises RequestIdReused."""
    for position, request in enumerate(asked):
        try:
            return operator_changes.made_before(connection, caller, method, request_id, request)
        except RequestIdReused:
            if position == len(asked) - 1:
                raise
    return None


def _visible(caller: Caller, secret: StoredSecret) -> StoredSecret:
    """The secret, or NotFound where it is another project's: as if it were not there."""
    if project_of(caller) not in (None, secret.project):
        raise NotFound("secret", secret.uuid)
    return secret
