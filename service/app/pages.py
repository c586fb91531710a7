"""Pages of groups: filters, and tokens that belong to their filter."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from service.domain.groups import Group
from service.errors import InvalidArgument
from service.store.codec import encode

MAX_PAGE = 1000
DEFAULT_PAGE = 100


@dataclass(frozen=True, slots=True)
class GroupFilter:
    """Which groups a listing shows; empty fields do not filter."""

    name: str = ""
    statuses: tuple[str, ...] = ()
    zone_uuid: str = ""
    tag: str = ""


@dataclass(frozen=True, slots=True)
class GroupPage:
    """One page, the token of the next ("" at the end), and the revision after which a watch misses nothing of it."""

    groups: tuple[Group, ...]
    next_page_token: str
    revision: int


def page_size(asked: int) -> int:
    """How many rows a page has: 0 is the default, more than MAX_PAGE is MAX_PAGE."""
    return min(asked or DEFAULT_PAGE, MAX_PAGE)


def write_token(last: Group, query: GroupFilter) -> str:
    """The token of the page after `last`."""
    text = f"{last.created_at}.{last.uuid}.{_fingerprint(query)}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_token(token: str, query: GroupFilter) -> tuple[int, str] | None:
    """The (created_at, uuid) to go on after. Raises InvalidArgument for a token of another listing."""
    if not token:
        return None
    try:
        text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
        created, uuid, fingerprint = text.split(".")
        key = int(created), uuid
    except (ValueError, binascii.Error) as error:
        raise InvalidArgument.of("page_token", "is not a token that a listing gave out") from error
    if fingerprint != _fingerprint(query):
        raise InvalidArgument.of("page_token", "belongs to a listing with other filters")
    return key


def _fingerprint(query: GroupFilter) -> str:
    return hashlib.sha256(encode(query).encode()).hexdigest()[:8]
