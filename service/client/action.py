"""ZStack's way to deploy from Python: an action with attributes and `.call()`, over the HTTP API.

action = DeployDistributedModelServiceAction()
action.modelServices = [{"uuid": …, "zoneUuid": …, "cpuNum": 8, "memorySize": 17179869184, …}]
action.serviceCreationStrategy = "parallel"
action.name = "distributed-model-service"
action.sessionId = session
result = action.call()      # result.inventory, or result.error
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

DEFAULT_ENDPOINT = "http://127.0.0.1:8080"
_POLL_SECONDS = 0.5
_FIELDS = ("modelServices", "serviceCreationStrategy", "name", "description", "resourceUuid", "tagUuids")


class ActionError(Exception):
    """The service could not be reached, or gave an answer that no ZStack API gives. `status`: HTTP's, 0 without one."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class ActionResult:
    """How the call ended: `inventory` (the group, by ZStack's names) or `error` (ZStack's ErrorCode)."""

    inventory: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None

    @property
    def success(self) -> bool:
        """Whether there is no error."""
        return self.error is None


@dataclass
class DeployDistributedModelServiceAction:
    """The parameters by the API's own names. `endpoint`: where the service's HTTP listener is."""

    modelServices: Sequence[Mapping[str, Any]] = ()  # noqa: N815
    serviceCreationStrategy: str = ""  # noqa: N815
    name: str = ""
    description: str | None = None
    resourceUuid: str | None = None  # noqa: N815
    tagUuids: Sequence[str] | None = None  # noqa: N815
    systemTags: Sequence[str] = ()  # noqa: N815
    userTags: Sequence[str] = ()  # noqa: N815
    sessionId: str = ""  # noqa: N815
    endpoint: str = DEFAULT_ENDPOINT
    timeout_seconds: float = 1800.0
    pause: Callable[[float], None] = field(default=time.sleep, repr=False)

    def call(self) -> ActionResult:
        """Send the deploy and wait for its job. Raises ActionError where there is no answer to wait for."""
        body = {
            "deployDistributedModelService": {
                name: value for name in _FIELDS if (value := getattr(self, name)) is not None
            },
            "systemTags": list(self.systemTags),
            "userTags": list(self.userTags),
        }
        headers = {"Authorization": f"OAuth {self.sessionId}", "X-Job-UUID": uuid.uuid4().hex}
        with httpx.Client(base_url=self.endpoint, timeout=30.0) as client:
            answer = self._send(client, "PUT", "/zstack/v1/ai/model-services", headers=headers, json=body)
            if answer.status_code != 202:
                raise ActionError(answer.text, answer.status_code)
            return self._wait(client, answer.json()["location"])

    def _wait(self, client: httpx.Client, location: str) -> ActionResult:
        deadline = time.monotonic() + self.timeout_seconds
        while time.monotonic() < deadline:
            answer = self._send(client, "GET", httpx.URL(location).path)
            if answer.status_code == 200:
                return ActionResult(inventory=answer.json().get("inventory"))
            if answer.status_code == 503:
                return ActionResult(error=answer.json()["error"])
            if answer.status_code != 202:
                raise ActionError(answer.text, answer.status_code)
            self.pause(_POLL_SECONDS)
        raise ActionError(f"the job at {location} did not end within {self.timeout_seconds:g} s")

    @staticmethod
    def _send(client: httpx.Client, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            return client.request(method, path, **more)
        except httpx.HTTPError as error:
            raise ActionError(f"{method} {path}: {error}") from error
