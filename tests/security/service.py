"""The service of these tests: two tenants, three roles, and no anonymous callers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx
from corral.v1 import catalog_pb2, deploy_pb2, fleet_pb2, group_pb2, project_pb2, secret_pb2
from google.protobuf import descriptor, message_factory
from google.protobuf.message import Message

from tests.support.builders import ENTRY, ZONE
from tests.support.process import CONFIGURATION, CorralProcess
from tests.support.secrets import a_key

__all__ = ["ENTRY", "ZONE"]

ROLES = ("viewer", "operator", "admin")
METHODS = {
    f"{service.full_name}/{method.name}": method
    for module in (deploy_pb2, fleet_pb2, catalog_pb2, project_pb2, secret_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
SLOW, QUICK = 'boot_ms = "700"', 'boot_ms = "20"'
PASSWORD = hashlib.sha512(b"secret").hexdigest()


def secret(name: str) -> str:
    """The bearer token of a caller."""
    return f"token-of-{name}-4f1c"


def _token(name: str, role: str, project: str) -> str:
    digest = hashlib.sha256(secret(name).encode()).hexdigest()
    return f'[[tokens]]\nname = "{name}"\nsha256 = "{digest}"\nrole = "{role}"\nproject = "{project}"\n'


def _account(name: str, role: str, project: str) -> str:
    return f'[[accounts]]\nname = "{name}"\npassword_sha512 = "{PASSWORD}"\nrole = "{role}"\nproject = "{project}"\n'


IDENTITIES = "[identity]\nanonymous = false\n" + "".join(
    [
        _token("root", "admin", "default"),
        _token("ann", "operator", "red"),
        _token("eve", "viewer", "red"),
        _token("bob", "operator", "blue"),
        _token("vic", "viewer", "blue"),
        _account("ann-z", "operator", "red"),
        _account("bob-z", "operator", "blue"),
        _token("twin", "operator", "red"),
        _account("twin", "operator", "blue"),
        _account("root-z", "admin", "default"),
    ]
)


def process(directory: Path, more: str = "") -> CorralProcess:
    """A service that has not started yet; its log tells everything, `more` follows in its configuration."""
    tables = CONFIGURATION.replace(SLOW, QUICK) + IDENTITIES + a_key(directory)
    return CorralProcess(directory, 'level = "debug"\n' + tables + more)


def bearer(name: str) -> tuple[tuple[str, str], ...]:
    """The metadata that says who calls."""
    return (("authorization", f"Bearer {secret(name)}"),)


def json_client(corral: CorralProcess, name: str) -> httpx.Client:
    """A client of the JSON face."""
    headers = {"authorization": f"Bearer {secret(name)}", "content-type": "application/json"}
    return httpx.Client(base_url=corral.http, headers=headers, timeout=60)


def log_in(corral: CorralProcess, account: str) -> str:
    """A session of the ZStack face."""
    body = {"logInByAccount": {"accountName": account, "password": PASSWORD}}
    answer = httpx.put(f"{corral.http}/zstack/v1/accounts/login", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["inventory"]["uuid"])


def node(**changes: Any) -> group_pb2.NodeSpec:
    """A small member."""
    return group_pb2.NodeSpec(**{"uuid": ENTRY, "zone_uuid": ZONE, "cpu_num": 1, "memory_size": 1 << 28, **changes})


def deploy_request(**changes: Any) -> deploy_pb2.DeployDistributedModelServiceRequest:
    """A deploy of one small member."""
    fields = {"name": "group", "model_services": [node()], "service_creation_strategy": "parallel"}
    return deploy_pb2.DeployDistributedModelServiceRequest(**{**fields, **changes})


def deployed(corral: CorralProcess, who: str, **changes: Any) -> group_pb2.InstanceGroup:
    """A running group of a caller."""
    request = deploy_request(**changes)
    return corral.follow(corral.groups.DeployDistributedModelService(request, metadata=bearer(who), timeout=60))


class Client:
    """Calls any method by its full name, as somebody."""

    def __init__(self, corral: CorralProcess) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{corral.port}")

    def call(
        self, path: str, request: Message | Mapping[str, Any], who: str, *, most: int = 3, timeout: float = 60
    ) -> tuple[grpc.StatusCode, str, Sequence[Message]]:
        """(code, the error's text with its details, the first answers). `who`: empty for nobody."""
        method = METHODS[path]
        sent: Message = request if isinstance(request, Message) else request_of(method)(**request)
        metadata = bearer(who) if who else ()
        raw: Any = self._channel.unary_stream if method.server_streaming else self._channel.unary_unary
        reply = message_factory.GetMessageClass(method.output_type)
        invoke = raw(f"/{path}", type(sent).SerializeToString, reply.FromString)
        answers: list[Message] = []
        try:
            if not method.server_streaming:
                return grpc.StatusCode.OK, "", [invoke(sent, metadata=metadata, timeout=timeout)]
            stream = invoke(sent, metadata=metadata, timeout=timeout)
            for answer in stream:
                answers.append(answer)
                if len(answers) == most:
                    stream.cancel()
                    break
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code, str(error), answers
        return grpc.StatusCode.OK, "", answers

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


def request_of(method: descriptor.MethodDescriptor) -> Any:
    """The class of a method's request."""
    return message_factory.GetMessageClass(method.input_type)
