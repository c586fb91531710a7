"""What the file says of devices: [[devices]], and [[hosts.partitions]] of each host."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from service.config.credentials import STRICT
from service.config.values import Line, Name


class PartitionSection(BaseModel):
    """[[hosts.partitions]]: devices of the host that are joined, by the addresses of their accelerators."""

    model_config = STRICT

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    devices: Annotated[list[Line], Field(min_length=1, max_length=256)]


class DeviceSection(BaseModel):
    """[[devices]]: which PCI functions of hosts machines are given whole. `clean`: by what, between two members."""

    model_config = STRICT

    kind: Literal["gpu", "companion"] = "gpu"
    model: Line = ""
    vendor: Line = ""
    product: Line = ""
    pci_class: Line = ""
    addresses: list[Line] = []
    hosts: list[Name] = []
    clean: Literal["reset", "none"] = "reset"
