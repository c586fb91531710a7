"""User and password of a server that images are fetched from, kept as a secret of the caller's project."""

from __future__ import annotations

from service.domain.environment import SecretUnavailable, secret_of
from service.domain.tenants import Caller
from service.errors import InvalidArgument, NotFound, Unavailable
from service.store.engine import Store
from service.transactions.secrets import KnownSecrets

FIELD = "credentials"


class Credentials:
    """What `secret://NAME` stands for where it is user and password. Keeps no value."""

    def __init__(self, store: Store, secrets: KnownSecrets) -> None:
        self._store = store
        self._secrets = secrets

    async def of(self, caller: Caller, told: str) -> tuple[str, str] | None:
        """User and password as they are now; None where nothing is told.

        Raises InvalidArgument (credentials), NotFound, WrongState (it cannot be decrypted here), Unavailable.
        """
        if not told:
            return None
        name = secret_of(told)
        if name is None:
            raise InvalidArgument.of(FIELD, "must name a secret as secret://NAME, whose value is USER:PASSWORD")
        usable = await self._store.read(lambda c: self._secrets.usable(c, caller.project, keep=False)(name))
        if not usable:
            raise NotFound("secret", name, FIELD)
        try:
            value = (await self._secrets.values(self._store, [name], caller.project)).value(name, caller.project)
        except SecretUnavailable as error:
            raise Unavailable(f"{FIELD}: {error}") from None
        user, separator, password = value.partition(":")
        if not separator:
            raise InvalidArgument.of(FIELD, f"must name a secret whose value is USER:PASSWORD; {name} has no colon")
        return user, password
