"""Corral's client for Python programs: typed calls over gRPC, and ZStack's action over HTTP.

An outside client like any other: imports the public contract (`corral.v1`) and nothing of the service.
"""

from service.client.action import ActionError, ActionResult, DeployDistributedModelServiceAction
from service.client.groups import CallFailed, CorralClient

__all__ = ["ActionError", "ActionResult", "CallFailed", "CorralClient", "DeployDistributedModelServiceAction"]
