"""What is wrong with an argument, in ZStack's exact words and with ZStack's names of fields. Pure.

The rules are those that the descriptor states; this only says them as ZStack does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from corral.v1 import limits_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from service.errors import FieldViolation

_SEGMENT = re.compile(r"([a-z0-9_]+)((?:\[[^\]]*\])*)")
_INDEX = re.compile(r"\[([^\]]*)\]")
_MAX_SHOWN = 64


def camel(path: str) -> str:
    """A path of the proto in JSON names: `model_services[0].cpu_num` is `modelServices[0].cpuNum`."""
    outside = re.split(r"(\[[^\]]*\])", path)
    return "".join(part if part.startswith("[") else _camel(part) for part in outside)


def _camel(name: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), name)


def details(
    violations: Sequence[FieldViolation], descriptor: Descriptor | None, arguments: Mapping[str, Any], message: str
) -> str:
    """All violations of one call of API message `message` (its Java class name), as its ErrorCode's details."""
    return "; ".join(_sentence(v, descriptor, arguments, message) for v in violations)


def _sentence(
    violation: FieldViolation, descriptor: Descriptor | None, arguments: Mapping[str, Any], message: str
) -> str:
    name = camel(violation.field)
    field = _find(descriptor, violation.field) if descriptor is not None else None
    value = _value(arguments, name)
    if violation.description.startswith("is required"):
        if value == []:
            return f"field[{name}] must be a nonempty list"
        return f"field[{name}] of message[{message}] is mandatory, can not be null"
    if violation.description.startswith("cannot contain"):
        return f"field[{name}] {violation.description}"
    special = _by_limits(field, value, name, message) if field is not None else None
    return special or f"field[{name}] of message[{message}] {violation.description}"


def _by_limits(field: FieldDescriptor, value: Any, name: str, message: str) -> str | None:
    limits = field.GetOptions().Extensions[limits_pb2.limits]
    if isinstance(value, str):
        text = value.strip()
        if limits.allowed and text not in limits.allowed:
            return (
                f"valid value for field[{name}] of message[{message}] are [{', '.join(limits.allowed)}],"
                f" but {_shown(text)} found"
            )
        if limits.max_length and len(text) > limits.max_length:
            return (
                f"field[{name}] of message[{message}] exceeds max length of string."
                f" expected was <= {limits.max_length}, actual was {len(text)}"
            )
    number = isinstance(value, int | float) and not isinstance(value, bool)
    bounded = number and limits.HasField("minimum") and limits.HasField("maximum")
    if bounded and not limits.minimum <= value <= limits.maximum:
        return f"field[{name}] must be in range of [{limits.minimum}, {limits.maximum}]"
    return None


def _shown(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN and text.isprintable() else f"a text of {len(text)} characters"


def _find(descriptor: Descriptor, path: str) -> FieldDescriptor | None:
    """The field that a path names."""
    field: FieldDescriptor | None = None
    kind: Descriptor | None = descriptor
    for name, _ in _SEGMENT.findall(path):
        field = kind.fields_by_name.get(name) if kind is not None else None
        if field is None:
            return None
        kind = field.message_type
    return field


def _value(arguments: Any, path: str) -> Any:
    """What the caller wrote at a path in JSON names, or None."""
    for segment in path.split("."):
        name, _, _ = segment.partition("[")
        arguments = arguments.get(name) if isinstance(arguments, Mapping) else None
        for index in _INDEX.findall(segment):
            if isinstance(arguments, Mapping):
                arguments = arguments.get(index)
            elif isinstance(arguments, list) and index.isdigit() and int(index) < len(arguments):
                arguments = arguments[int(index)]
            else:
                return None
    return arguments
