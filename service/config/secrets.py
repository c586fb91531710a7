"""Secrets that the configuration names, read from their source each time: a changed file needs no restart."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from service.domain.environment import SECRET_LIMIT, Secret, SecretUnavailable, is_line


class ConfiguredSecrets:
    """See `domain.environment.Secrets`. Keeps no value."""

    def __init__(self, secrets: Iterable[Secret], environment: Mapping[str, str] = os.environ) -> None:
        self._secrets = {secret.name: secret for secret in secrets}
        self._environment = environment

    def known(self, name: str, project: str | None) -> bool:
        """Whether the project (None: any) may refer to a secret of this name; not whether it can be read just now."""
        secret = self._secrets.get(name)
        return secret is not None and (project is None or not secret.projects or project in secret.projects)

    def value(self, name: str, project: str) -> str:
        """The file's or variable's text without the line break at its end. Raises SecretUnavailable."""
        if not self.known(name, project):
            raise SecretUnavailable(f"there is no secret {name} that may be used here")
        secret = self._secrets[name]
        text = self._file(secret) if secret.file else self._environment.get(secret.variable)
        if text is None:
            raise SecretUnavailable(f"secret {name} is not set where the service runs")
        text = text.removesuffix("\n").removesuffix("\r")
        if not text or len(text) > SECRET_LIMIT or not is_line(text) or "\0" in text:
            raise SecretUnavailable(f"secret {name} is not one line of 1 to {SECRET_LIMIT} characters")
        return text

    def _file(self, secret: Secret) -> str:
        try:
            with Path(secret.file).open(encoding="utf-8", newline="") as file:
                return file.read(SECRET_LIMIT + 3)
        except (OSError, UnicodeDecodeError):
            # Without the error: its text may quote bytes of the file.
            raise SecretUnavailable(f"secret {secret.name} cannot be read where the service runs") from None
