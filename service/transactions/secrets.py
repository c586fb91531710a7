"""What `secret://NAME` stands for: the secrets that the configuration names, and those that projects have stored.

Where both have one of a name, the configuration's is meant: a project cannot put its own in its operator's place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from service.domain.environment import NoSecrets, Secrets, SecretUnavailable
from service.errors import WrongState
from service.store import secrets
from service.store.connection import Connection
from service.store.engine import Store
from service.store.sealing import CannotOpen, Keyring


class KnownSecrets:
    """Both kinds. Keeps no value."""

    def __init__(self, configured: Secrets | None = None, keyring: Keyring | None = None) -> None:
        self.configured = configured or NoSecrets()
        self.keyring = keyring or Keyring({})

    def usable(self, connection: Connection, project: str, *, keep: bool) -> Callable[[str], bool]:
        """Whether groups of the project may refer to a secret, by its name.

        `keep`: what was found stays until the end of this transaction, which writes.
        The answer raises WrongState for a secret that is there and cannot be decrypted here.
        """

        def is_usable(name: str) -> bool:
            if self.configured.known(name, project):
                return True
            found = secrets.named(connection, project, name, share=keep)
            if found is None:
                return False
            if not self.keyring.can_open(found.sealed, found.bound):
                raise unreadable(name, found.sealed.key_name)
            return True

        return is_usable

    def known_to_any(self, connection: Connection) -> Callable[[str], bool]:
        """Whether any project may refer to a secret, by its name."""
        return lambda name: self.configured.known(name, None) or secrets.is_known(connection, name)

    async def values(self, store: Store, names: Collection[str], project: str) -> Secrets:
        """The values of these secrets as they are now; asking for one that does not exist raises SecretUnavailable.

        Raises Unavailable.
        """
        stored = [name for name in names if not self.configured.known(name, project)]
        if not stored:
            return self.configured
        return _Values(self.configured, await store.read(lambda c: self._opened(c, stored, project)))

    def _opened(
        self, connection: Connection, names: Collection[str], project: str
    ) -> Mapping[str, str | SecretUnavailable]:
        found: dict[str, str | SecretUnavailable] = {}
        for name in names:
            secret = secrets.named(connection, project, name)
            if secret is None:
                found[name] = SecretUnavailable(f"there is no secret {name} that may be used here")
                continue
            try:
                found[name] = self.keyring.open(secret.sealed, secret.bound)
            except CannotOpen as why:
                found[name] = SecretUnavailable(f"secret {name} cannot be decrypted: {why}")
        return found


class _Values:
    """Secrets of one project as they were at one moment. See `domain.environment.Secrets`."""

    def __init__(self, configured: Secrets, stored: Mapping[str, str | SecretUnavailable]) -> None:
        self._configured = configured
        self._stored = stored

    def known(self, name: str, project: str | None) -> bool:
        """Whether it was found."""
        return isinstance(self._stored.get(name), str) or self._configured.known(name, project)

    def value(self, name: str, project: str) -> str:
        """Raises SecretUnavailable."""
        found = self._stored.get(name)
        if isinstance(found, SecretUnavailable):
            raise found
        return self._configured.value(name, project) if found is None else found


def unreadable(name: str, key_name: str) -> WrongState:
    """The error for a secret that is there and cannot be decrypted."""
    state = f"encrypted with the key {key_name}, which this service does not have as it was"
    return WrongState(f"secret {name}", state, f"the key {key_name} among its [[secret_keys]], or another value")
