"""HTTP rules of the contract, read from its `google.api.http` annotations: no path is written twice."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from google.api import annotations_pb2

_VARIABLE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Rule:
    """One method over HTTP. `service`: full name; `variables`: fields in the path; `has_body`: the rest is a body.

    `raw`: the field whose bytes the body is, of a method that takes a stream; the others are parameters.
    """

    service: str
    method: str
    verb: str
    path: str
    variables: tuple[str, ...]
    has_body: bool
    streams: bool
    descriptor: Any
    raw: str = ""


def rules(services: Iterable[Any]) -> Iterator[Rule]:
    """The rules of all annotated methods of these service descriptors."""
    for service in services:
        for method in service.methods:
            options = method.GetOptions()
            if not options.HasExtension(annotations_pb2.http):
                continue
            http = options.Extensions[annotations_pb2.http]
            verb = http.WhichOneof("pattern")
            path = getattr(http, verb)
            yield Rule(
                service=service.full_name,
                method=method.name,
                verb=verb.upper(),
                path=path,
                variables=tuple(_VARIABLE.findall(path)),
                has_body=http.body == "*",
                streams=method.server_streaming,
                descriptor=method,
                raw=http.body if method.client_streaming else "",
            )
