"""Server reflection, v1 and v1alpha by one servicer, so that grpcurl and others need no definitions.

The two versions have the same messages under different package names. The v1 descriptor is made from the installed
v1alpha one, because no package for Python ships it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2 as v1alpha

V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"
_METHOD = "ServerReflectionInfo"

_Request = v1alpha.ServerReflectionRequest
_Response = v1alpha.ServerReflectionResponse


def add_to_server(server: Any, services: Iterable[str]) -> None:
    """Serve reflection for `services` (full names) and itself under both versions."""
    pool = descriptor_pool.Default()
    _add_v1_descriptor(pool)
    reflector = Reflector([*services, V1, V1ALPHA], pool)
    for name in (V1, V1ALPHA):
        handler = grpc.stream_stream_rpc_method_handler(
            reflector.answer_all, _Request.FromString, _Response.SerializeToString
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {_METHOD: handler}),))


def _add_v1_descriptor(pool: Any) -> None:
    """Make grpc.reflection.v1 known to `pool`; its messages are those of v1alpha."""
    file = descriptor_pb2.FileDescriptorProto()
    v1alpha.DESCRIPTOR.CopyToProto(file)
    file.name = "grpc/reflection/v1/reflection.proto"
    file.package = "grpc.reflection.v1"
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(".v1alpha.", ".v1.")
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(".v1alpha.", ".v1.")
        method.output_type = method.output_type.replace(".v1alpha.", ".v1.")
    pool.AddSerializedFile(file.SerializeToString())


class Reflector:
    """Answers questions about the descriptors in a pool."""

    def __init__(self, services: Iterable[str], pool: Any) -> None:
        self._services = tuple(sorted(set(services)))
        self._pool = pool
        self._answers: Mapping[str, Callable[[Any], Any]] = {
            "list_services": self._list_services,
            "file_by_filename": lambda request: self._file(pool.FindFileByName(request.file_by_filename)),
            "file_containing_symbol": lambda request: self._file(self._symbol(request.file_containing_symbol)),
            "file_containing_extension": self._extension,
            "all_extension_numbers_of_type": self._extension_numbers,
        }

    async def answer_all(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """One answer for each question, in order."""
        async for request in requests:
            yield self.answer(request)

    def answer(self, request: Any) -> Any:
        """The answer to one question; what is not known, or not a question, is answered by an error message."""
        kind = request.WhichOneof("message_request")
        if kind is None:
            response = _error(grpc.StatusCode.INVALID_ARGUMENT, "the request asks for nothing")
        else:
            try:
                response = self._answers[kind](request)
            except KeyError:
                response = _error(grpc.StatusCode.NOT_FOUND, "not found")
        response.valid_host = request.host
        response.original_request.CopyFrom(request)
        return response

    def _list_services(self, request: Any) -> Any:
        listed = v1alpha.ListServiceResponse(service=[v1alpha.ServiceResponse(name=name) for name in self._services])
        return _Response(list_services_response=listed)

    def _symbol(self, name: str) -> Any:
        """The file of a symbol. The pool does not find methods, so a method is looked up by its service."""
        try:
            return self._pool.FindFileContainingSymbol(name)
        except KeyError:
            parent, _, method = name.rpartition(".")
            if method not in self._pool.FindServiceByName(parent).methods_by_name:
                raise
            return self._pool.FindFileContainingSymbol(parent)

    def _extension(self, request: Any) -> Any:
        question = request.file_containing_extension
        message = self._pool.FindMessageTypeByName(question.containing_type)
        extension = self._pool.FindExtensionByNumber(message, question.extension_number)
        return self._file(extension.file)

    def _extension_numbers(self, request: Any) -> Any:
        message = self._pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
        numbers = sorted(extension.number for extension in self._pool.FindAllExtensions(message))
        found = v1alpha.ExtensionNumberResponse(base_type_name=message.full_name, extension_number=numbers)
        return _Response(all_extension_numbers_response=found)

    def _file(self, file: Any) -> Any:
        """The file and everything that it imports."""
        files: dict[str, bytes] = {}
        pending = [file]
        while pending:
            current = pending.pop()
            if current.name not in files:
                copy = descriptor_pb2.FileDescriptorProto()
                current.CopyToProto(copy)
                for message in copy.message_type:
                    _name_for_json(message)
                files[current.name] = copy.SerializeToString()
                pending.extend(current.dependencies)
        return _Response(file_descriptor_response=v1alpha.FileDescriptorResponse(file_descriptor_proto=files.values()))


def _name_for_json(message: descriptor_pb2.DescriptorProto) -> None:
    """Fill in the JSON names: Python's descriptors leave them out, and clients then print the plain names."""
    for field in message.field:
        if not field.json_name:
            first, *rest = field.name.split("_")
            field.json_name = first + "".join(word[:1].upper() + word[1:] for word in rest)
    for nested in message.nested_type:
        _name_for_json(nested)


def _error(code: grpc.StatusCode, message: str) -> Any:
    return _Response(error_response=v1alpha.ErrorResponse(error_code=code.value[0], error_message=message))
