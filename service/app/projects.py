"""What projects use of their quotas, and who changed what. An administrator sees every project, others their own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import astuple, replace

from service.app import paging
from service.app.paging import Page
from service.app.visibility import project_of
from service.domain.tenants import AuditEvent, AuditFilter, Caller, Usage
from service.errors import NotFound
from service.planning import translate
from service.store import audit, usage
from service.store.connection import Connection
from service.store.engine import Store


class Projects:
    """The use cases of projects."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def usage(self, caller: Caller, project: str, page_size: int, page_token: str) -> Page[Usage]:
        """What one project uses, or by name what all use that the caller may see.

        Raises NotFound for a project that is another's, or that has neither quota, group nor claim; the caller's own
        is always there. Raises InvalidArgument for a token that is not one, or of another project.
        """
        cursor = paging.cursor("usage", page_size, page_token, project)
        own = project_of(caller)

        def read(connection: Connection) -> Page[Usage]:
            names = {own} if own is not None else usage.projects(connection) | {caller.project}
            if project and project not in names:
                raise NotFound("project", project, "project")
            after = "" if cursor.after is None else cursor.after[1]
            listed = sorted(name for name in ({project} if project else names) if name > after)[: cursor.limit]
            return cursor.page(usages(connection, listed), [("", name) for name in listed])

        return await self._store.read(read)

    async def audit_events(
        self, caller: Caller, wanted: AuditFilter, page_size: int, page_token: str
    ) -> Page[AuditEvent]:
        """Changes, the newest first. Raises InvalidArgument for a token that is not one, or of other filters."""
        cursor = paging.cursor("audit", page_size, page_token, *astuple(wanted))
        own = project_of(caller)
        if own is not None and wanted.project not in ("", own):
            return Page((), "")
        seen = wanted if own is None else replace(wanted, project=own)
        before = cursor.after_time()

        def read(connection: Connection) -> tuple[AuditEvent, ...]:
            return audit.page(connection, seen, None if before is None else before[0], cursor.limit)

        found = await self._store.read(read)
        return cursor.page(found, [(str(event.id), "") for event in found])


def usages(connection: Connection, names: Collection[str] | None = None) -> tuple[Usage, ...]:
    """What these projects use, in the order asked for; None: all that have a quota, a group or a claim, by name."""
    listed = sorted(usage.projects(connection)) if names is None else names
    counts, claimed = usage.counts(connection, names), usage.claimed(connection, names)
    waiting, limits = usage.waiting(connection, names), usage.limits(connection, names)
    return tuple(
        Usage(
            name,
            *counts.get(name, (0, 0)),
            claimed=claimed.get(name, {}),
            waiting=translate.total(translate.wish(node) for node in waiting.get(name, ())),
            limits=limits.get(name, {}),
        )
        for name in listed
    )
