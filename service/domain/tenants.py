"""Who calls and what is theirs: callers, accounts, tokens, certificates, quotas, rates. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Quota:
    """The most that a project's members may claim together: a named vector (`vcpu` count, `memory` bytes, …)."""

    project: str
    limits: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ProjectClaims:
    """What members of a project's groups have claimed on a host: how many members, and a named vector."""

    project: str
    members: int
    amounts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a project uses and may use.

    `claimed`: what its quota is compared with; `waiting`: what its accepted members want that have no claim yet;
    `limits`: its quota. Named vectors all three.
    """

    project: str
    groups: int = 0
    members: int = 0
    claimed: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One change. `time`: ms since the epoch; `project`: of who made it; `request_id`: the server's own name of the
    call; `client_request_id`: the caller's; `peer`: where the call came from, as `Caller` has it."""

    id: int
    time: int
    principal: str
    project: str
    method: str
    subject: str
    request_id: str
    client_request_id: str
    peer: str = ""


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which changes are meant; empty fields do not filter. `start`, `end`: ms since the epoch, `end` not within."""

    project: str = ""
    principal: str = ""
    method: str = ""
    subject: str = ""
    request_id: str = ""
    start: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True)
class Rate:
    """How often a project's callers may call: steadily `calls_per_second`, and up to `burst` calls at once after a
    pause. Both are above 0."""

    calls_per_second: float
    burst: int


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: never from the body. `project` is the tenant.

    `request_id`: the server's own name of the call, which its log line and its audit rows have; two calls of one
    principal are equal without it. `peer`: where the call came from: an address, of a unix socket the user's number as
    the kernel says it (`uid 1000`), or `local` where that is not known.
    """

    principal: str = "anonymous"
    project: str = "default"
    role: str = "admin"
    request_id: str = field(default="", compare=False)
    peer: str = field(default="", compare=False)


NOBODY = Caller(principal="", project="", role="")
"""The caller of what is open to everybody, and of calls whose caller is not known."""


class Anonymous(StrEnum):
    """Which callers without credentials are administrators."""

    UNIX = "unix"
    """Those of a unix socket: the kernel lets nobody in whom the socket's mode does not."""
    LOOPBACK = "loopback"
    """Every program of this machine, whoever runs it."""
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Account:
    """Who may log in. `password_sha512`: 128 lower-case hex digits; `caller`: who a session of the account is."""

    name: str
    password_sha512: str
    caller: Caller


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A key by which a program signs its calls. `secret`: what the signature is made with; `caller`: who that is."""

    id: str
    secret: str = field(repr=False)
    caller: Caller


@dataclass(frozen=True, slots=True)
class Token:
    """A configured bearer token, known by the SHA-256 of its text (64 lower-case hex digits)."""

    sha256: str
    caller: Caller


@dataclass(frozen=True, slots=True)
class Certificate:
    """A configured client certificate, known by a URI among its subject alternative names."""

    uri: str
    caller: Caller
