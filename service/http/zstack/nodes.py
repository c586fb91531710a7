"""ZStack's nodes: what its clients write of a machine, as `corral.v1.NodeSpec` has it, or refused by name. Pure.

What ZStack decides by an argument and Corral decides otherwise is refused, and never dropped: a machine without the
network, the image or the storage that its caller asked for would be another machine.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from service.domain.catalog import ModelService
from service.errors import FieldViolation, InvalidArgument
from service.http.zstack.body import integer_of

_BY_OPERATOR = "cannot be chosen by a caller: the operator of the service decides it"
_BY_ENTRY = "is the catalogue entry's; it cannot be chosen for one node"
_ABSENT = "is not supported"
REFUSED: Mapping[str, str] = {
    "vmImageUuid": _BY_ENTRY,
    "dockerImage": _BY_ENTRY,
    "containerCommand": _BY_ENTRY,
    "l3NetworkUuids": _BY_OPERATOR,
    "businessNetworkProfileUuid": _BY_OPERATOR,
    "primaryStorageUuid": _BY_OPERATOR,
    "rootDiskOfferingUuid": "is not supported; say rootDiskSize",
    "datasetUuids": _ABSENT,
    "modelServiceGroupUuids": _ABSENT,
    "enableDeveloperEndpoint": _ABSENT,
    "gpuSpecUuid": "is not supported; say gpus",
    "gpuCount": "is not supported; say gpus",
    "requestCpuNum": "is not supported; say cpuNum",
    "requestMemorySize": "is not supported; say memorySize",
    "placementMode": _ABSENT,
    "targetUuid": _ABSENT,
    "projectUuid": "is the caller's own project and cannot be chosen",
}
_PROBES = ("serviceLivez", "serviceReadyz")


def normalized(node: Mapping[str, Any], entry: ModelService | None, path: str) -> dict[str, Any]:
    """The node with `NodeSpec`'s JSON names alone. `entry`: its catalogue entry, None where there is none.

    `path`: where the node stands, "" or ending in a dot. Raises InvalidArgument.
    """
    found = list(_violations(node, entry, path))
    if found:
        raise InvalidArgument(found)
    values = {name: value for name, value in node.items() if name not in REFUSED and name not in _PROBES}
    if values.get("timeout") == -1:
        del values["timeout"]  # ZStack's clients write it for "not set"
    uptime = values.pop("serviceBootUptime", None)
    if uptime is not None and not values.get("timeout"):
        values["timeout"] = integer_of(uptime, f"{path}serviceBootUptime") * 1000
    if isinstance(parameters := values.get("startupParameters"), Mapping):
        values["startupParameters"] = as_words(parameters)
    return values


def as_words(parameters: Mapping[str, Any]) -> str:
    """Parameters by name as one line of shell words, in their order: `--name value`; without a value the name alone."""
    words: list[str] = []
    for name, value in parameters.items():
        words.append(name if name.startswith("-") else f"--{name}")
        if value not in (None, "", True):
            words.append("false" if value is False else str(value))
    return shlex.join(words)


def _violations(node: Mapping[str, Any], entry: ModelService | None, path: str) -> Iterator[FieldViolation]:
    for name, why in REFUSED.items():
        # Clients send what their forms hold, empty too; that asks for nothing.
        if node.get(name) not in (None, "", [], {}, False):
            yield FieldViolation(path + name, why)
    for name in _PROBES:
        if entry is not None and node.get(name) not in (None, "", entry.health_path):
            yield FieldViolation(path + name, f"is the catalogue entry's, which is {entry.health_path}")
