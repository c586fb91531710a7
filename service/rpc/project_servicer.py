"""The methods of `ProjectService`: check, translate, call the use case, translate back."""

from __future__ import annotations

from typing import Any

from corral.v1 import project_pb2, project_pb2_grpc

from service.app.projects import Projects
from service.contract import pages, validation
from service.contract.call import current_caller
from service.contract.convert import project as convert

SERVICE = project_pb2.DESCRIPTOR.services_by_name["ProjectService"].full_name


class ProjectServicer(project_pb2_grpc.ProjectServiceServicer):
    """Translates between the wire and `service.app.projects`."""

    def __init__(self, projects: Projects) -> None:
        self._projects = projects

    async def GetUsage(  # noqa: N802
        self, request: project_pb2.GetUsageRequest, context: Any
    ) -> project_pb2.GetUsageResponse:
        """What projects use of their quotas."""
        validation.check(request)
        page = await self._projects.usage(current_caller(), request.project, request.page_size, request.page_token)
        found, token = pages.fitting(page, convert.usage)
        return project_pb2.GetUsageResponse(inventories=found, next_page_token=token)

    async def ListAuditEvents(  # noqa: N802
        self, request: project_pb2.ListAuditEventsRequest, context: Any
    ) -> project_pb2.ListAuditEventsResponse:
        """A page of who changed what."""
        validation.check(request)
        page = await self._projects.audit_events(
            current_caller(), convert.audit_filter(request), request.page_size, request.page_token
        )
        found, token = pages.fitting(page, convert.audit_event)
        return project_pb2.ListAuditEventsResponse(inventories=found, next_page_token=token)
