"""What a shell offers where a group, a host or another thing is named: the names that the service has now.

It is a help and never a refusal. Where no service answers within SECONDS, or the caller may not list, nothing is
offered: what is wrong is told by the command itself when it is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import click
import grpc
from click.shell_completion import CompletionItem
from corral.v1 import (
    catalog_pb2,
    catalog_pb2_grpc,
    deploy_pb2,
    deploy_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    project_pb2,
    project_pb2_grpc,
    secret_pb2,
    secret_pb2_grpc,
)

from service.cli import contexts, errors
from service.cli.channel import CannotConnect
from service.cli.command import Session
from service.cli.listing import pages

SECONDS = 2.0
_PAGE = 500
_MOST = 2_000
"""No more are offered: nobody reads so many at once."""


class Name(click.ParamType[str]):
    """A name or uuid, which stays as it is typed. `offered`: the names that a shell may offer for it."""

    def __init__(self, name: str, offered: Callable[[Session], Iterator[str]]) -> None:
        self.name = name
        self._offered = offered

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """What is typed."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names that begin so."""
        root = ctx.find_root()
        _, environment = root.obj
        told = root.params
        session = None
        try:
            session = contexts.session(environment, told["servers"], told["context"], told["ca"], needed=True)
            names = {name for name in islice(self._offered(session), _MOST) if name.startswith(incomplete)}
            return [CompletionItem(name) for name in sorted(names)]
        except (grpc.RpcError, errors.NotThere, CannotConnect):
            return []  # see above
        finally:
            if session is not None:
                session.close()


def _listed(stub: Callable[[Any], Any], method: str, request: Callable[..., Any], key: str = "name") -> Any:
    """The names of all that a listing has, page by page."""

    def offered(session: Session) -> Iterator[str]:
        ask = getattr(stub(session.servers.channel), method)
        found = pages(lambda token: ask(request(page_size=_PAGE, page_token=token), timeout=SECONDS))
        return (getattr(one, key) for one in found)

    return offered


_FLEET, _CATALOG = fleet_pb2_grpc.FleetServiceStub, catalog_pb2_grpc.CatalogServiceStub

GROUP = Name(
    "group",
    _listed(deploy_pb2_grpc.DistributedModelServiceStub, "ListInstanceGroups", deploy_pb2.ListInstanceGroupsRequest),
)
HOST = Name("host", _listed(_FLEET, "ListHosts", fleet_pb2.ListHostsRequest))
ZONE = Name("zone", _listed(_FLEET, "ListZones", fleet_pb2.ListZonesRequest))
CLUSTER = Name("cluster", _listed(_FLEET, "ListClusters", fleet_pb2.ListClustersRequest))
MODEL_SERVICE = Name("name", _listed(_CATALOG, "ListModelServices", catalog_pb2.ListModelServicesRequest))
IMAGE = Name("name", _listed(_CATALOG, "ListImages", catalog_pb2.ListImagesRequest))
PROJECT = Name(
    "project", _listed(project_pb2_grpc.ProjectServiceStub, "GetUsage", project_pb2.GetUsageRequest, "project")
)
SECRET = Name("name", _listed(secret_pb2_grpc.SecretServiceStub, "ListSecrets", secret_pb2.ListSecretsRequest))
