"""Page tokens of listings, by name or by time of creation. A token belongs to one kind of listing and its filters."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.errors import InvalidArgument
from service.store import rows

T = TypeVar("T")

MAX_PAGE = 1000
DEFAULT_PAGE = 100


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page, and the token of the next ("" at the end)."""

    items: tuple[T, ...]
    next_page_token: str
    tokens: Callable[[int], str] = lambda _count: ""
    """The token of a page that would begin behind the first so many items."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page begins and how long it may be. `scope`: the listing's kind and filters."""

    scope: str
    size: int
    after: tuple[str, str] | None

    @property
    def limit(self) -> int:
        """How many rows to read: one more than the page has, to know whether there is another page."""
        return self.size + 1

    def after_time(self) -> tuple[int, str] | None:
        """Where a page by time of creation begins: (ms since the epoch, uuid). Raises InvalidArgument for the token of
        another kind of listing."""
        if self.after is None:
            return None
        created, uuid = self.after
        if not created.isdecimal() or len(created) > 18:
            raise _foreign()
        return int(created), uuid

    def after_number(self) -> int:
        """Where the page of a numbered listing begins: after this number, 0 for the first page."""
        after = self.after_time()
        return after[0] if after is not None else 0

    def page(self, found: Sequence[T], keys: Sequence[tuple[str, str]]) -> Page[T]:
        """The page of what was read. `keys`: name (or time of creation) and uuid of each."""
        items = tuple(found[: self.size])

        def token(count: int) -> str:
            return _write(rows.page_key(*keys[count - 1]), self.scope)

        return Page(items, token(self.size) if len(found) > self.size else "", token)


def cursor(kind: str, page_size: int, page_token: str, *filters: object) -> Cursor:
    """The page that a caller asks for. `page_size` 0: DEFAULT_PAGE; above MAX_PAGE it is MAX_PAGE.

    Raises InvalidArgument for a token of another listing, or of none.
    """
    scope = hashlib.sha256(json.dumps([kind, *filters], default=list).encode()).hexdigest()[:8]
    return Cursor(scope, min(page_size or DEFAULT_PAGE, MAX_PAGE), _read(page_token, scope))


def _write(key: tuple[str, str], scope: str) -> str:
    text = "\n".join((scope, key[1], key[0]))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read(token: str, scope: str) -> tuple[str, str] | None:
    if not token:
        return None
    try:
        text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
        its_scope, uuid, name = text.split("\n", 2)
    except (ValueError, binascii.Error) as error:
        raise _foreign() from error
    if its_scope != scope:
        raise InvalidArgument.of("page_token", "belongs to another listing, or to one with other filters")
    return name, uuid


def _foreign() -> InvalidArgument:
    return InvalidArgument.of("page_token", "is not a token that a listing gave out")
