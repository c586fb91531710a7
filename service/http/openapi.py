"""The OpenAPI 3.1 description of the JSON face, made from the contract's descriptors and from nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor import FieldDescriptor

from service.http.bindings import Rule, rules

_SCALARS: Mapping[int, Mapping[str, str]] = {
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptor.TYPE_UINT64: {"type": "string", "format": "uint64"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "format": "uint32"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "format": "byte"},
}
_WELL_KNOWN: Mapping[str, Mapping[str, Any]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "description": "Seconds with the suffix s."},
    "google.protobuf.FieldMask": {"type": "string", "description": "Field names, separated by commas."},
}


def document(services: Iterable[Any], version: str) -> dict[str, Any]:
    """The whole description of these service descriptors."""
    services = tuple(services)
    schemas: dict[str, Any] = {"Error": _ERROR}
    paths: dict[str, dict[str, Any]] = {}
    for rule in rules(services):
        paths.setdefault(rule.path, {})[rule.verb.lower()] = _operation(rule, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Corral", "version": version},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}, {}],
    }


_ERROR = {
    "type": "object",
    "description": "google.rpc.Status: HTTP's code, gRPC's status word, a message and typed details.",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "code": {"type": "integer"},
                "status": {"type": "string"},
                "message": {"type": "string"},
                "details": {"type": "array", "items": {"type": "object"}},
            },
        }
    },
}


def _operation(rule: Rule, schemas: dict[str, Any]) -> dict[str, Any]:
    request = rule.descriptor.input_type
    media = "text/event-stream" if rule.streams else "application/json"
    operation: dict[str, Any] = {
        "operationId": rule.method,
        "tags": [rule.service.rsplit(".", 1)[-1]],
        "responses": {
            "200": {
                "description": "Server-sent events, one message each." if rule.streams else "The answer.",
                "content": {media: {"schema": _reference(rule.descriptor.output_type, schemas)}},
            },
            "default": {
                "description": "An error.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _value(request.fields_by_name[name], schemas)}
        for name in rule.variables
    ]
    if rule.raw:
        operation["requestBody"] = {"required": True, "content": {"application/octet-stream": {}}}
    if rule.has_body:
        body = {"application/json": {"schema": _reference(request, schemas)}}
        operation["requestBody"] = {"required": True, "content": body}
    else:
        parameters += [
            {"name": field.json_name, "in": "query", "required": _required(field), "schema": _value(field, schemas)}
            for field in request.fields
            if field.name not in (*rule.variables, rule.raw)
        ]
    if parameters:
        operation["parameters"] = parameters
    return operation


def _reference(message: Any, schemas: dict[str, Any]) -> dict[str, str]:
    if message.name not in schemas:
        schemas[message.name] = {}  # first, because messages may contain themselves
        required = [field.json_name for field in message.fields if _required(field)]
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {field.json_name: _value(field, schemas) for field in message.fields},
        }
        if required:
            schema["required"] = required
        schemas[message.name] = schema
    return {"$ref": f"#/components/schemas/{message.name}"}


def _value(field: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": _single(field.message_type.fields_by_name["value"], schemas)}
    single = _single(field, schemas)
    return {"type": "array", "items": single} if field.is_repeated else single


def _single(field: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    if field.message_type is not None:
        known = _WELL_KNOWN.get(field.message_type.full_name)
        return dict(known) if known else _reference(field.message_type, schemas)
    if field.enum_type is not None:
        return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    return dict(_SCALARS[field.type])


def _required(field: Any) -> bool:
    behaviors = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
    return field_behavior_pb2.REQUIRED in behaviors
