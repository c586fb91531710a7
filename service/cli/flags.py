"""Options of `corral deploy` and `corral plan` that take the place of a request's file: N members, all alike."""

from __future__ import annotations

from typing import Any

import click
from corral.v1 import catalog_pb2_grpc, deploy_pb2, fleet_pb2_grpc, group_pb2

from service.cli import names
from service.cli.catalog import all_services, find_service
from service.cli.command import Session
from service.cli.places import find_zone
from service.cli.requests import BadRequestFile
from service.cli.values import COUNT, PAIR, SIZE

Request = deploy_pb2.DeployDistributedModelServiceRequest | deploy_pb2.PlanDistributedModelServiceRequest

# The options that say what one member is; None or () where they are not given.
_OF_A_MEMBER = ("model_service", "members", "cpu", "memory", "zone", "gpus", "env", "timeout", "creation")


def options(function: Any) -> Any:
    """All of them."""
    for option in reversed(
        (
            click.option(
                "--model-service",
                type=names.MODEL_SERVICE,
                help="Without FILE: what members run, by name or uuid [default: the only one]",
            ),
            click.option("--members", type=click.IntRange(1, 1024), metavar="N", help="Without FILE: so many members."),
            click.option(
                "--cpu", type=click.IntRange(min=1), metavar="N", help="Without FILE: a member's virtual CPUs."
            ),
            click.option("--memory", type=SIZE, metavar="SIZE", help="Without FILE: a member's memory, as 16GiB."),
            click.option("--zone", type=names.ZONE, help="Without FILE: the zone, by name or uuid [default: any]"),
            click.option("--gpu", "gpus", multiple=True, type=COUNT, metavar="MODEL=N", help="Without FILE: its GPUs."),
            click.option(
                "--env", multiple=True, type=PAIR, metavar="NAME=VALUE", help="Without FILE: its environment."
            ),
            click.option(
                "--timeout", type=click.IntRange(min=0), metavar="MS", help="Without FILE: to become ready in."
            ),
            click.option("--creation", type=click.Choice(["parallel", "sequential"]), help="Without FILE: the order."),
        )
    ):
        function = option(function)
    return function


def take(told: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that were given."""
    return {key: told[key] for key in _OF_A_MEMBER if told[key] not in (None, ())}


def fill(session: Session, told: dict[str, Any], name: str | None, into: Request) -> None:
    """Make the request that the options describe. Raises BadRequestFile, NotThere, RpcError."""
    if not name:
        raise BadRequestFile("name the request's file, or --name and what one member is; see --help")
    node = group_pb2.NodeSpec(uuid=_service(session, told.get("model_service", "")))
    if "zone" in told:
        node.zone_uuid = find_zone(session.stub(fleet_pb2_grpc.FleetServiceStub), told["zone"]).uuid
    if "cpu" in told:
        node.cpu_num = told["cpu"]
    if "memory" in told:
        node.memory_size = told["memory"]
    node.count = told.get("members", 1)
    node.timeout = told.get("timeout", 0)
    node.gpus.extend(group_pb2.GpuRequest(model=model, count=count) for model, count in told.get("gpus", ()))
    for key, value in told.get("env", ()):
        node.environment_variables[key] = value
    into.name = name
    into.service_creation_strategy = told.get("creation", "parallel")
    into.model_services.append(node)


def _service(session: Session, wanted: str) -> str:
    stub = session.stub(catalog_pb2_grpc.CatalogServiceStub)
    if wanted:
        return find_service(stub, wanted).uuid
    found = list(all_services(stub))
    if len(found) != 1:
        names = ", ".join(one.name for one in found) or "none"
        raise BadRequestFile(f"name the model service with --model-service; there are: {names}")
    return found[0].uuid
