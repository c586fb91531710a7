"""`schema` of an answer: path -> ZStack's class of what stands there. Its Java SDK reads typed lists by it. Pure.

The SDK walks every path through its own result class, parents before children, and throws at one that is not in the
body or has no property in that class. So a path is told only where the body has it, and the classes below name only
what the SDK's classes have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class JavaClass:
    """A class of ZStack's server, and which of its fields hold objects, or lists of objects, of other classes."""

    name: str
    holds: Mapping[str, JavaClass] = field(default_factory=dict)


NIC = JavaClass("org.zstack.header.vm.VmNicInventory")
VM = JavaClass("org.zstack.header.vm.VmInstanceInventory", {"vmNics": NIC})
INSTANCE = JavaClass("org.zstack.ai.entity.ModelServiceInstanceInventory", {"vm": VM})
GROUP = JavaClass("org.zstack.ai.entity.ModelServiceInstanceGroupInventory", {"instances": INSTANCE})
MODEL_SERVICE = JavaClass("org.zstack.ai.entity.ModelServiceInventory")
ZONE = JavaClass("org.zstack.header.zone.ZoneInventory")
CLUSTER = JavaClass("org.zstack.header.cluster.ClusterInventory")
HOST = JavaClass("org.zstack.kvm.KVMHostInventory")
IMAGE = JavaClass("org.zstack.header.image.ImageInventory")
SESSION = JavaClass("org.zstack.header.identity.SessionInventory")
CAPACITY = JavaClass("org.zstack.header.allocator.datatypes.CpuMemoryCapacityData")


def with_schema(text: str, holds: Mapping[str, JavaClass]) -> str:
    """A body (JSON text of an object) with its `schema`; without one where it holds nothing that has a class."""
    document: dict[str, Any] = json.loads(text)
    if not (paths := schema(document, holds)):
        return text
    return json.dumps(document | {"schema": paths}, ensure_ascii=False, separators=(",", ":"))


def schema(document: Mapping[str, Any], holds: Mapping[str, JavaClass]) -> dict[str, str]:
    """The paths of a body in the order in which they may be set. `holds`: what its outermost fields hold."""
    return {path: kind.name for path, kind in _paths(document, holds, "")}


def _paths(value: Mapping[str, Any], holds: Mapping[str, JavaClass], prefix: str) -> Iterator[tuple[str, JavaClass]]:
    for name, kind in holds.items():
        found = value.get(name)
        several = isinstance(found, list)
        for index, item in enumerate(found if isinstance(found, list) else [found]):
            if isinstance(item, Mapping):
                path = f"{prefix}{name}[{index}]" if several else prefix + name
                yield path, kind
                yield from _paths(item, kind.holds, f"{path}.")
