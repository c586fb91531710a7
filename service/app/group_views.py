"""What the use cases of groups are asked with and answer with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.app.paging import Page
from service.domain.groups import Group


@dataclass(frozen=True, slots=True)
class GroupFilter:
    """Which groups a listing shows; empty fields do not filter."""

    name: str = ""
    statuses: tuple[str, ...] = ()
    zone_uuid: str = ""
    tag: str = ""
    project: str = ""


@dataclass(frozen=True, slots=True)
class GroupPage:
    """One page, and the revision after which a watch misses nothing of it."""

    page: Page[Group]
    revision: int

    @property
    def groups(self) -> tuple[Group, ...]:
        """What the page holds."""
        return self.page.items

    @property
    def next_page_token(self) -> str:
        """The token of the next page ("" at the end)."""
        return self.page.next_page_token


@dataclass(frozen=True, slots=True)
class MemberDocuments:
    """What one member would be told: texts by name."""

    rank: int
    name: str
    documents: Mapping[str, str]
