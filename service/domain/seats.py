"""Who sits on a machine that is given out as a whole: what its BMC cannot keep. Pure data.

A BMC shows power and what is in its drive, and neither tells whether a machine that is off was ever let run, nor that
an attempt was given up. A seat says so, and survives whoever asks. What a machine is told, its *seed*, has a token in
its address, of which the seat has the hash: by it what the BMC shows and what is recorded are compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

SEED_PATH = "/machines/seed/"
REPORT_PATH = "/machines/report"
MOST_BASE = 200
"""So long the address of the listener for machines may be."""
NO_BASE = "must be an address such as http://10.0.0.1:8081, of at most 200 characters"
LATE_SECONDS = 3600.0
"""So long after an attempt was given up its machine may be switched on by an order that its BMC never answered. One
that goes on later, with nothing in its drive, was switched on by somebody else."""
MOST_LEFT = 64
"""Of so many attempts that were given up on one machine what they were known by is kept, the newest."""
SEVERAL = "*"
"""In the place of the project that a machine has served: what several have left is there, so that none may have it."""
_SUFFIX = ".iso"
_BOOTS = ".boot"


class SeatTaken(Exception):
    """The machine has another member, or the attempt was given up; the message says which."""


def key_of(token: str) -> str:
    """What is stored of a token, which is not to be had from it."""
    return hashlib.sha256(token.encode()).hexdigest()


def seed_url(base: str, token: str, *, boots: bool = False) -> str:
    """Where a BMC fetches the seed. `boots`: the machine is to boot from it, and not from its own disk."""
    return f"{base.rstrip('/')}{SEED_PATH}{token}{_BOOTS if boots else ''}{_SUFFIX}"


def is_base(url: str) -> bool:
    """Whether this may come before the paths of seeds and reports: http or https, a host, nothing after its path."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = not (parts.query or parts.fragment or parts.username or parts.password) and port != 0
    return parts.scheme in ("http", "https") and bool(parts.hostname) and plain and len(url) <= MOST_BASE


def token_in(url: str) -> str:
    """The token of a seed's address, by whatever name its server is called; empty for an address of another form."""
    _, found, name = url.partition(SEED_PATH)
    fit = found and name.endswith(_SUFFIX) and "/" not in name
    return token_of(name.removesuffix(_SUFFIX)) if fit else ""


def token_of(name: str) -> str:
    """The token of a seed by the name that it is fetched by, without its suffix."""
    return name.removesuffix(_BOOTS)


def boots(url: str) -> bool:
    """Whether the machine is to boot from the seed at this address."""
    return bool(token_in(url)) and url.endswith(_BOOTS + _SUFFIX)


@dataclass(frozen=True, slots=True)
class SeatOf:
    """Whose a seat is: one attempt of an instance."""

    cluster: str
    group: str
    instance: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a guest said last, and how long ago in seconds. As `GuestReport` of the drivers has it, with the machine's
    own boot id."""

    stage: str
    detail: str = ""
    epoch: int = 0
    address: str = ""
    boot_id: str = ""
    count: int = 0
    answered: int = -1
    restarts: int = 0
    rank: int = -1
    weights: str = ""
    fault: str = ""
    age: float = 0.0


@dataclass(frozen=True, slots=True)
class Seating:
    """One attempt on one machine. `key`: of its token; empty where it has none; `former`: of those that it had before,
    which late calls may still bring into the drive. `started`: it may have been let run.
    `revoked`: it was given up, for ever: nothing of it is handed out any more, and what still runs of it is ended.
    `unanswered`: its machine was told to switch on, and nobody saw what came of that. `left`: there is no seat any
    more, and this is what is kept of it for a while, since `age` seconds: a late order may still take effect."""

    of: SeatOf
    key: str
    started: bool = False
    revoked: bool = False
    spec_hash: str = ""
    generation: int = 0
    resources: Mapping[str, int] = field(default_factory=dict)
    record: str = field(default="", repr=False)
    report: Report | None = None
    former: frozenset[str] = frozenset()
    unanswered: bool = False
    left: bool = False
    age: float = 0.0

    @property
    def live(self) -> bool:
        """Whether somebody sits there."""
        return not self.revoked and not self.left

    @property
    def late(self) -> bool:
        """Whether an order to switch on may still take effect, of which nobody would know otherwise."""
        return not self.live and self.unanswered and self.age <= LATE_SECONDS


@dataclass(frozen=True, slots=True)
class BootImage:
    """An image of the catalogue that machines boot from: where it is, its size, its SHA-256 in hexadecimal digits, and
    at which byte a member's own content is laid over it."""

    path: str
    size: int
    sha256: str
    at: int


@dataclass(frozen=True, slots=True)
class Seed:
    """What is in a machine's drive when it boots: an ISO image, and when it was made, in ms since the epoch. `over`:
    the image over which the content is laid; None: the content is all of it."""

    content: bytes = field(repr=False)
    made_at: int = 0
    over: BootImage | None = None

    @property
    def size(self) -> int:
        """Bytes of the whole image."""
        return len(self.content) if self.over is None else self.over.size
