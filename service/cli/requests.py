"""Request files: JSON or YAML as people write it, or as ZStack's clients send it, to the service's request messages."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TypeVar

import yaml
from corral.v1 import deploy_pb2, group_pb2
from google.protobuf.json_format import ParseDict, ParseError

_ACTIONS = ("deployDistributedModelService", "params")
_TAGS = ("systemTags", "userTags")
_LARGEST_FILE = 64 << 20

Request = TypeVar(
    "Request", deploy_pb2.DeployDistributedModelServiceRequest, deploy_pb2.PlanDistributedModelServiceRequest
)


class BadRequestFile(Exception):
    """The request file cannot be read or is no request; the message says what is wrong."""


def read_request(source: str, into: Request) -> Request:
    """Fill `into` from the file `source` (`-`: standard input) and return it. Raises BadRequestFile."""
    told = _told(source)
    try:
        ParseDict(unwrap(told), into)
    except (ParseError, RecursionError) as problem:
        raise BadRequestFile(f"{source}: {problem}") from problem
    return into


def read_nodes(source: str) -> list[group_pb2.NodeSpec]:
    """The node or the list of nodes of the file `source` (`-`: standard input). Raises BadRequestFile."""
    told = _told(source)
    nodes = told if isinstance(told, list) else [told]
    if not all(isinstance(node, dict) for node in nodes):
        raise BadRequestFile(f"{source}: a node is an object")
    try:
        return [ParseDict(node, group_pb2.NodeSpec()) for node in nodes]
    except (ParseError, RecursionError) as problem:
        raise BadRequestFile(f"{source}: {problem}") from problem


def read_mapping(source: str) -> dict[str, Any]:
    """The fields that the file `source` (`-`: standard input) tells. Raises BadRequestFile."""
    told = _told(source)
    if not isinstance(told, dict):
        raise BadRequestFile(f"{source}: it tells no fields by name")
    return told


def _told(source: str) -> Any:
    """What a file says, as YAML by its name, or where standard input does not begin as JSON; else as JSON."""
    try:
        content = sys.stdin.read(_LARGEST_FILE) if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise BadRequestFile(f"{source}: {problem}") from problem
    as_yaml = source.endswith((".yaml", ".yml")) or (source == "-" and content.lstrip()[:1] not in ("{", "["))
    try:
        return yaml.safe_load(content) if as_yaml else json.loads(content)
    except (ValueError, RecursionError, yaml.YAMLError) as problem:
        raise BadRequestFile(f"{source}: not {'YAML' if as_yaml else 'JSON'}: {problem}") from problem


def unwrap(told: Any) -> dict[str, Any]:
    """The request's own fields: taken out of ZStack's action, with the tags that stand beside it put in.

    Raises ParseError where it is no JSON object.
    """
    if not isinstance(told, dict):
        raise ParseError("a request is a JSON object")
    action = next((name for name in _ACTIONS if name in told), None)
    if action is None:
        return told
    inner = told[action]
    if not isinstance(inner, dict):
        raise ParseError(f"{action} is a JSON object")
    unknown = sorted(set(told) - {action, *_TAGS})
    if unknown:
        raise ParseError(f"unknown key beside {action}: {', '.join(unknown)}; allowed: {', '.join(_TAGS)}")
    return {**{name: told[name] for name in _TAGS if told.get(name)}, **inner}
