"""Environment variables of the served process: which names are Corral's own, and which values stand for a secret. Pure.

A value `secret://NAME` is resolved on its way to the host, for each machine, and nowhere else: what is stored, answered
and logged is the reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

PLANNED_PREFIX = "CORRAL_"
# What `serving.rendezvous` writes itself: a caller's value would tell a member something else than its peers know.
PLANNED = frozenset(
    {
        *("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "NNODES"),
        *("LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "LWS_WORKER_INDEX"),
        *("RAY_ADDRESS", "VLLM_HOST_IP"),
        *("PET_MASTER_ADDR", "PET_MASTER_PORT", "PET_NODE_RANK", "PET_NNODES", "PET_NPROC_PER_NODE"),
        # The guest's own name of the interface that has the planned address, which only the guest can tell.
        *("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME"),
    }
)
SECRET_SCHEME = "secret://"
SECRET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
SECRET_LIMIT = 32_768
"""Characters of a secret at most: as many as of any other value."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_LINE_BREAK = re.compile("[\n\r\x85\u2028\u2029]")


class SecretUnavailable(Exception):
    """A secret cannot be used now. The text names it and the reason, and never holds any of its value."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A value that only the service reads: from a file, or from a variable of its own environment.

    `projects`: the tenants that may refer to it; empty for all.
    """

    name: str
    file: str = ""
    variable: str = ""
    projects: frozenset[str] = frozenset()


class Secrets(Protocol):
    """The secrets that the service was told of."""

    def known(self, name: str, project: str | None) -> bool:
        """Whether the project (None: any project) may refer to a secret of this name."""
        ...

    def value(self, name: str, project: str) -> str:
        """One line of text. Raises SecretUnavailable."""
        ...


class NoSecrets:
    """For a service that was told of none."""

    def known(self, name: str, project: str | None) -> bool:
        """No."""
        return False

    def value(self, name: str, project: str) -> str:
        """Raises SecretUnavailable."""
        raise SecretUnavailable(f"there is no secret {name}")


def is_planned(name: str) -> bool:
    """Whether Corral itself sets the variable."""
    return name.startswith(PLANNED_PREFIX) or name in PLANNED


def secret_of(value: str) -> str | None:
    """The name of the secret that the value stands for; None for a value that stands for itself."""
    name = value.removeprefix(SECRET_SCHEME)
    return name if value.startswith(SECRET_SCHEME) and SECRET_NAME.fullmatch(name) else None


def is_line(value: str) -> bool:
    """Whether the value can stand in a guest's file of `NAME=value` lines."""
    return _LINE_BREAK.search(value) is None


def problems(values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(name, what is wrong) of each variable that cannot be taken, whatever secrets there are."""
    for name, value in sorted(values.items()):
        if not _VARIABLE.fullmatch(name):
            yield name, "must be an environment variable's name: letters, digits and underscores, not a digit first"
        elif is_planned(name):
            yield name, "is set by Corral itself and cannot be given"
        elif not is_line(value):
            yield name, "must be one line"
        elif value.startswith(SECRET_SCHEME) and secret_of(value) is None:
            yield name, "must name a secret as secret://NAME: letters, digits and ._-, a letter or digit first"


def unknown_secrets(values: Mapping[str, str], known: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """(variable, secret) of each reference to a secret that there is not. `known`: whether one may be used by name."""
    for name, value in sorted(values.items()):
        secret = secret_of(value)
        if secret is not None and not known(secret):
            yield name, secret


def referred(values: Mapping[str, str]) -> frozenset[str]:
    """The names of all secrets that the values refer to."""
    return frozenset(secret for value in values.values() if (secret := secret_of(value)) is not None)


def resolved(values: Mapping[str, str], secrets: Secrets, project: str) -> dict[str, str]:
    """The values with what they stand for, without those that Corral sets itself. Raises SecretUnavailable."""
    found = {}
    for name, value in values.items():
        if not is_planned(name):  # groups that were admitted before such names were refused may still have them
            secret = secret_of(value)
            found[name] = value if secret is None else secrets.value(secret, project)
    return found
