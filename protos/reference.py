"""Renders the reference of the API in Markdown from a descriptor set with comments. Pure: bytes in, text out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.api import annotations_pb2, field_behavior_pb2, http_pb2
from google.protobuf import descriptor, descriptor_pb2, descriptor_pool, message, message_factory

_PACKAGE = ".corral.v1."
_FILES = ("deploy", "group", "placement", "fleet", "catalog", "project", "secret", "limits")
_ORDER = tuple(f"corral/v1/{name}.proto" for name in _FILES)
_VERBS = ("get", "put", "post", "delete", "patch")
_SERVICES, _MESSAGES, _ENUMS = 6, 4, 5  # field numbers in FileDescriptorProto
_METHODS, _FIELDS, _VALUES = 2, 2, 2  # in ServiceDescriptorProto, DescriptorProto and EnumDescriptorProto
_LIMITS = "corral.v1.limits"

Comments = dict[tuple[int, ...], str]


class _Limits:
    """Reads the `limits` option, whose extension is only known from the descriptor set itself."""

    def __init__(self, files: descriptor_pb2.FileDescriptorSet) -> None:
        pool = descriptor_pool.DescriptorPool()
        for file in files.file:
            pool.Add(file)
        self._extension: Any = pool.FindExtensionByName(_LIMITS)
        self._options: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("google.protobuf.FieldOptions"))
        message_factory.GetMessageClassesForFiles([file.name for file in files.file], pool)

    def of(self, options: descriptor_pb2.FieldOptions) -> str:
        """The limits of a field in words; empty where it has none."""
        parsed = self._options.FromString(options.SerializeToString())
        if not parsed.HasExtension(self._extension):
            return ""
        return _limits_in_words(parsed.Extensions[self._extension])


def _limits_in_words(limits: message.Message) -> str:
    """One field's limits, joined by commas."""
    words: list[str] = []
    for field, value in limits.ListFields():
        match field.name:
            case "minimum":
                words.append(f"≥ {value}")
            case "maximum":
                words.append(f"≤ {value}")
            case "max_length":
                words.append(f"≤ {value} characters")
            case "max_items":
                words.append(f"≤ {value} items")
            case "format":
                words.append(_format_in_words(field, value))
            case "allowed":
                words.append("one of " + ", ".join(f"`{item}`" for item in value))
            case "unique":
                words.append("all different")
            case "key":
                words.append(f"keys: {_limits_in_words(value)}")
    return ", ".join(words)


def _format_in_words(field: descriptor.FieldDescriptor, value: int) -> str:
    """A StringFormat's name as words."""
    assert field.enum_type is not None
    name = field.enum_type.values_by_number[value].name
    return name.removeprefix("STRING_FORMAT_").lower().replace("_", " ")


def _comments(file: descriptor_pb2.FileDescriptorProto) -> Comments:
    """Leading comments by the path of what they stand before, each in one line."""
    return {
        tuple(location.path): " ".join(location.leading_comments.split()).replace("|", "\\|")
        for location in file.source_code_info.location
        if location.leading_comments
    }


def _http(method: descriptor_pb2.MethodDescriptorProto) -> str:
    """The method's HTTP binding, as `GET /path`."""
    rule: http_pb2.HttpRule = method.options.Extensions[annotations_pb2.http]
    verb = next(verb for verb in _VERBS if rule.HasField(verb))
    return f"{verb.upper()} {getattr(rule, verb)}"


def _local(name: str) -> str:
    """A type's name without our own package; a link where it is ours."""
    if name.startswith(_PACKAGE):
        short = name.removeprefix(_PACKAGE)
        return f"[{short}](#{short.lower()})"
    return f"`{name.removeprefix('.')}`"


def _type(field: descriptor_pb2.FieldDescriptorProto, parent: descriptor_pb2.DescriptorProto) -> str:
    """A field's type, as one writes it in a definition."""
    entry = next((n for n in parent.nested_type if field.type_name.endswith(f".{parent.name}.{n.name}")), None)
    if entry is not None and entry.options.map_entry:
        return f"map of {_type(entry.field[0], entry)} to {_type(entry.field[1], entry)}"
    kinds = descriptor_pb2.FieldDescriptorProto
    named = field.type in (kinds.TYPE_MESSAGE, kinds.TYPE_ENUM)
    name = _local(field.type_name) if named else f"`{kinds.Type.Name(field.type).removeprefix('TYPE_').lower()}`"
    return f"list of {name}" if field.label == kinds.LABEL_REPEATED else name


def _service(index: int, file: descriptor_pb2.FileDescriptorProto, comments: Comments) -> Iterator[str]:
    service = file.service[index]
    yield f"## {service.name}\n\n{comments[_SERVICES, index]}\n"
    yield "| RPC | HTTP | answers | what it does |\n|---|---|---|---|"
    for number, method in enumerate(service.method):
        answer = _local(method.output_type)
        shape = f"stream of {answer}" if method.server_streaming else answer
        what = comments[_SERVICES, index, _METHODS, number]
        yield f"| [{method.name}](#{method.name.lower()}request) | `{_http(method)}` | {shape} | {what} |"
    yield ""


def _message(
    index: int, file: descriptor_pb2.FileDescriptorProto, comments: Comments, limits: _Limits
) -> Iterator[str]:
    body = file.message_type[index]
    yield f"### {body.name}\n\n{comments[_MESSAGES, index]}\n"
    if not body.field:
        return
    yield "| field | JSON | type | | limits | meaning |\n|---|---|---|---|---|---|"
    for number, field in enumerate(body.field):
        behaviors = field.options.Extensions[field_behavior_pb2.field_behavior]
        behavior = ", ".join(field_behavior_pb2.FieldBehavior.Name(b).lower().replace("_", " ") for b in behaviors)
        meaning = comments[_MESSAGES, index, _FIELDS, number]
        row = [f"`{field.name}` = {field.number}", f"`{field.json_name}`", _type(field, body), behavior]
        yield f"| {' | '.join([*row, limits.of(field.options), meaning])} |"
    yield ""


def _enum(index: int, file: descriptor_pb2.FileDescriptorProto, comments: Comments) -> Iterator[str]:
    body = file.enum_type[index]
    yield f"### {body.name}\n\n{comments[_ENUMS, index]}\n"
    yield "| value | meaning |\n|---|---|"
    for number, value in enumerate(body.value):
        yield f"| `{value.name}` = {value.number} | {comments[_ENUMS, index, _VALUES, number]} |"
    yield ""


def render(descriptor_set: bytes) -> str:
    """The whole reference: services first, then every message and enum, file by file.

    `descriptor_set` is a serialized FileDescriptorSet with imports and source information. Raises KeyError where
    something of ours has no comment, ValueError where a file has no place in the order.
    """
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set)
    limits = _Limits(files)
    ours = sorted((f for f in files.file if f.package == _PACKAGE.strip(".")), key=lambda f: _ORDER.index(f.name))
    lines = ["# Reference of corral.v1", "", "Generated from the definitions by `python protos/generate.py`.", ""]
    for file in ours:
        comments = _comments(file)
        for index in range(len(file.service)):
            lines.extend(_service(index, file, comments))
    for file in ours:
        comments = _comments(file)
        lines.append(f"## {file.name}\n")
        for index in range(len(file.message_type)):
            lines.extend(_message(index, file, comments, limits))
        for index in range(len(file.enum_type)):
            lines.extend(_enum(index, file, comments))
    return "\n".join(lines).rstrip("\n") + "\n"
