"""Rules that tie what a request says of disks together. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from corral.v1 import deploy_pb2

from service.errors import FieldViolation


def data_disks_are_right(request: deploy_pb2.DeployDistributedModelServiceRequest) -> Iterator[FieldViolation]:
    """An empty disk has a size, and a machine of bare metal has the disks that are in it."""
    for index, node in enumerate(request.model_services):
        path = f"model_services[{index}].data_disks"
        if node.data_disks and node.type == "BareMetal":
            yield FieldViolation(path, "must not be asked for of BareMetal, which has the disks that are in it")
            continue
        for number, disk in enumerate(node.data_disks):
            if not disk.size and not disk.image_uuid:
                yield FieldViolation(f"{path}[{number}].size", "is required of a disk without an image_uuid")
