"""Options of `corral deploy` and `corral plan` that take the place of a request's file: N members, all alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from corral.v1 import catalog_pb2_grpc, deploy_pb2, fleet_pb2_grpc, group_pb2, placement_pb2

from service.cli import names
from service.cli.catalog import all_services, find_image, find_service
from service.cli.command import Session
from service.cli.places import find_zone
from service.cli.policy import NUMA
from service.cli.requests import BadRequestFile
from service.cli.values import COUNT, DATA_DISK, PAIR, SIZE

Request = deploy_pb2.DeployDistributedModelServiceRequest | deploy_pb2.PlanDistributedModelServiceRequest

# The options that say what one member is; None or () where they are not given.
_OF_GPUS = ("gpus", "gpu_numa", "gpu_same_partition")
_OF_CPUS = ("numa_cells", "dedicated_cpus", "isolate_emulator_threads", "huge_pages")
_OF_A_MEMBER = (
    "model_service",
    "members",
    "cpu",
    "memory",
    "zone",
    *_OF_CPUS,
    *_OF_GPUS,
    "data_disks",
    "env",
    "timeout",
    "creation",
)


def gpu_options(function: Any) -> Any:
    """The options that say where on its host a member's accelerators are; see `gpu_requests`."""
    numa = "With --gpu: whether they are of the NUMA cell that the member is pinned to [default: as its policy says]"
    joined = "With --gpu: those of one MODEL are of one partition of their host, as its operator has declared."
    function = click.option("--gpu-same-partition", is_flag=True, help=joined)(function)
    return click.option("--gpu-numa", type=click.Choice(sorted(NUMA)), help=numa)(function)


def gpu_requests(told: Mapping[str, Any]) -> list[group_pb2.GpuRequest]:
    """What `--gpu`, `--gpu-numa` and `--gpu-same-partition` ask for. Raises UsageError where there is no `--gpu`."""
    asked, joined = told.get("gpu_numa"), bool(told.get("gpu_same_partition"))
    numa = NUMA[asked] if asked else placement_pb2.NUMA_POLICY_UNSPECIFIED
    if (numa or joined) and not told.get("gpus"):
        raise click.UsageError("--gpu-numa and --gpu-same-partition say where the GPUs of --gpu are; name them")
    return [
        group_pb2.GpuRequest(model=model, count=count, numa_policy=numa, same_partition=joined)
        for model, count in told.get("gpus", ())
    ]


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
            click.option(
                "--numa-cells",
                type=click.IntRange(1, 8),
                metavar="N",
                help="Without FILE: over how many NUMA cells of its host a member is spread, which its guest sees.",
            ),
            click.option(
                "--dedicated-cpus",
                is_flag=True,
                help="Without FILE: a member's processors are no other's, on hosts whose operator gives that.",
            ),
            click.option(
                "--isolate-emulator-threads",
                is_flag=True,
                help="With --dedicated-cpus: QEMU's own threads run on other processors of the host.",
            ),
            click.option(
                "--huge-pages",
                type=click.Choice(["2MiB", "1GiB"]),
                help="Without FILE: a member's memory is of such pages, on hosts whose operator gives them.",
            ),
            click.option("--gpu", "gpus", multiple=True, type=COUNT, metavar="MODEL=N", help="Without FILE: its GPUs."),
            gpu_options,
            click.option(
                "--data-disk",
                "data_disks",
                multiple=True,
                type=DATA_DISK,
                metavar="SIZE|IMAGE[=SIZE]",
                help="Without FILE: a disk beside its root disk, empty or with an image's content, by name or uuid.",
            ),
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
    return {key: told[key] for key in _OF_A_MEMBER if told[key] not in (None, ()) and told[key] is not False}


def fill(session: Session, told: dict[str, Any], name: str | None, into: Request) -> None:
    """Make the request that the options describe. Raises BadRequestFile, NotThere, RpcError."""
    if not name:
        raise BadRequestFile("name the request's file, or --name and what one member is; see --help")
    gpus = gpu_requests(told)  # what is wrong with the command line is told without a service
    node = group_pb2.NodeSpec(uuid=_service(session, told.get("model_service", "")))
    if "zone" in told:
        node.zone_uuid = find_zone(session.stub(fleet_pb2_grpc.FleetServiceStub), told["zone"]).uuid
    if "cpu" in told:
        node.cpu_num = told["cpu"]
    if "memory" in told:
        node.memory_size = told["memory"]
    for field in _OF_CPUS:
        if field in told:
            setattr(node, field, told[field])
    node.count = told.get("members", 1)
    node.timeout = told.get("timeout", 0)
    node.gpus.extend(gpus)
    for image, size in told.get("data_disks", ()):
        node.data_disks.add(image_uuid=_image(session, image) if image else "", size=size)
    for key, value in told.get("env", ()):
        node.environment_variables[key] = value
    into.name = name
    into.service_creation_strategy = told.get("creation", "parallel")
    into.model_services.append(node)


def _image(session: Session, wanted: str) -> str:
    return find_image(session.stub(catalog_pb2_grpc.CatalogServiceStub), wanted).uuid


def _service(session: Session, wanted: str) -> str:
    stub = session.stub(catalog_pb2_grpc.CatalogServiceStub)
    if wanted:
        return find_service(stub, wanted).uuid
    found = list(all_services(stub))
    if len(found) != 1:
        names = ", ".join(one.name for one in found) or "none"
        raise BadRequestFile(f"name the model service with --model-service; there are: {names}")
    return found[0].uuid
