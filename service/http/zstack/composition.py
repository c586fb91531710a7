"""Puts the ZStack face together, and its routes."""

from __future__ import annotations

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


def zstack_face(
    frame: CallFrame,
    groups: Groups,
    fleet: Fleet,
    catalog: Catalog,
    sessions: Sessions,
    access_keys: AccessKeys,
    jobs: Jobs,
    webhooks: Webhooks,
    *,
    reachable: Reachable,
) -> ZStackFace:
    """The face of both protocols. `jobs` performs by its `perform` and delivers by `webhooks`.

    `reachable`: whether members of a zone have addresses that are reachable from outside.
    """
    handlers = Handlers(groups, fleet, catalog, sessions, reachable)
    return ZStackFace(frame, handlers, Callers(sessions, access_keys), jobs, webhooks)


def zstack_routes(face: ZStackFace) -> list[Route]:
    """The routes of both protocols."""
    return [*rest.routes(face), *legacy.routes(face)]
