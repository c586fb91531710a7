"""Puts the face together."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.routing import Route

from service.app.access_keys import AccessKeys
from service.app.catalog import Catalog
from service.app.fleet import Fleet
from service.app.groups import Groups
from service.app.jobs import Jobs
from service.app.sessions import Sessions
from service.contract.convert.inventory import Reachable
from service.contract.frame import CallFrame
from service.http.zstack import legacy, rest
from service.http.zstack.face import Callers, ZStackFace
from service.http.zstack.handlers import Handlers
from service.http.zstack.webhook import Webhooks


def zstack_routes(
    frame: CallFrame,
    groups: Groups,
    fleet: Fleet,
    catalog: Catalog,
    sessions: Sessions,
    access_keys: AccessKeys,
    jobs: Jobs,
    *,
    reachable: Reachable,
    webhook_networks: Iterable[str] = (),
    webhooks: Webhooks | None = None,
) -> list[Route]:
    """The routes of both protocols. From here on `jobs` knows how its jobs are done; `jobs.run` may begin.

    `reachable`: whether members of a zone have addresses that are reachable from outside; `webhook_networks`: CIDR.
    """
    handlers = Handlers(groups, fleet, catalog, sessions, reachable)
    face = ZStackFace(frame, handlers, Callers(sessions, access_keys), jobs, webhooks or Webhooks(webhook_networks))
    return [*rest.routes(face), *legacy.routes(face)]
