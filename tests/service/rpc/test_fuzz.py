"""Every method under built and broken messages: never UNKNOWN or INTERNAL, no traceback, health still answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from corral.v1 import catalog_pb2, deploy_pb2, fleet_pb2, project_pb2, secret_pb2
from google.protobuf import descriptor, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.service.rpc.lab import ENTRY, ZONE, deploy, node
from tests.support.outside import Outside, outside

EXAMPLES = 250
METHODS = [
    method
    for module in (deploy_pb2, fleet_pb2, catalog_pb2, project_pb2, secret_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
# How long a stream is read, and how many of its answers: a watch of what never happens would only wait.
DEADLINE_SECONDS = 0.5
MOST_ANSWERS = 3
NEVER = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS}
PATIENCE = {grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}

GROUP = "9" * 32
HOSTILE = [
    "\x00",
    "\x0b",
    "\x1b[2J",
    "a\nb",
    "\ufffe",
    "\U0010ffff",
    "../../etc/passwd",
    "'; DROP TABLE groups; --",
    "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>",
    "qemu+ssh://h/system?command=/bin/true",
    "%s%n{0}${jndi:ldap://x}",
    "٣" * 32,
    "n" * 5000,
]
KNOWN = [
    *("", ENTRY, ZONE, GROUP, "0" * 32, "parallel", "sequential", "VirtualMachine", "BareMetal", "Container"),
    *("vcpu", "memory", "simulated", "libvirt", "none", "unix", "ssh", "localhost", "name", "Running", "Enabled"),
]
strings = st.one_of(st.sampled_from(KNOWN), st.sampled_from(HOSTILE), st.text(max_size=40))
EDGES = [0, 1, 2, 8, -1, 1024, 4097, 1 << 24, 1 << 30, 1 << 34, 1 << 50, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63)]
SMALL = [edge for edge in EDGES if -(2**31) <= edge < 2**31]
Field = descriptor.FieldDescriptor
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    Field.TYPE_STRING: strings,
    Field.TYPE_BYTES: st.binary(max_size=64),
    Field.TYPE_BOOL: st.booleans(),
    Field.TYPE_INT32: st.sampled_from(SMALL),
    Field.TYPE_INT64: st.sampled_from(EDGES),
    Field.TYPE_DOUBLE: st.floats(),
    Field.TYPE_ENUM: st.integers(-1, 8),
}


@st.composite
def messages(draw: st.DrawFn, kind: descriptor.Descriptor, depth: int = 3) -> Any:
    """Any message of a kind: a random choice of its fields, each with a random value."""
    message = message_factory.GetMessageClass(kind)()
    for field in kind.fields:
        if draw(st.booleans()):
            fill(draw, message, field, depth)
    return message


def fill(draw: st.DrawFn, message: Any, field: Field, depth: int) -> None:
    """Give one field a random value."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        for _ in range(draw(st.integers(0, 2))):
            getattr(message, field.name)[draw(SCALARS[key.type])] = draw(SCALARS[value.type])
    elif field.message_type is not None:
        if depth:
            for _ in range(draw(st.integers(0, 3)) if field.is_repeated else 1):
                value = draw(messages(field.message_type, depth - 1))
                target = getattr(message, field.name)
                (target.add() if field.is_repeated else target).CopyFrom(value)
    elif field.is_repeated:
        getattr(message, field.name).extend(draw(st.lists(SCALARS[field.type], max_size=3)))
    else:
        setattr(message, field.name, draw(SCALARS[field.type]))


@st.composite
def nearly_right_deploys(draw: st.DrawFn) -> Any:
    """A request that would do, with a field or two that may not."""
    small = node(cpu_num=1, memory_size=1 << 24, zone_uuid="")
    request = deploy(model_services=[small] * draw(st.integers(1, 3)), resource_uuid=draw(st.sampled_from(["", GROUP])))
    message: Any
    for message in draw(st.lists(st.sampled_from([request, *request.model_services]), max_size=2)):
        fill(draw, message, draw(st.sampled_from(list(message.DESCRIPTOR.fields))), 2)
    return request


@st.composite
def broken(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with a few of them changed, taken out, repeated or cut off."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(changed)))
        match draw(st.integers(0, 3)):
            case 0:
                changed[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                del changed[place : place + draw(st.integers(1, 8))]
            case 2:
                changed[place:place] = changed[place : place + draw(st.integers(1, 64))] * 2
            case _:
                del changed[place:]
    return bytes(changed)


class Fuzzed:
    """A client of bytes against a running service, which checks the answer to every call."""

    def __init__(self, process: Outside, channel: grpc.Channel) -> None:
        self.process = process
        self.channel = channel
        self.codes: dict[str, int] = {}

    def call(self, method: descriptor.MethodDescriptor, data: bytes) -> None:
        """Make one call. Raises AssertionError for an answer that no caller may ever get."""
        assert method.containing_service is not None
        path = f"/{method.containing_service.full_name}/{method.name}"
        code = self._code(path, data, method.server_streaming)
        self.codes[code.name] = self.codes.get(code.name, 0) + 1

    def _code(self, path: str, data: bytes, streaming: bool) -> grpc.StatusCode:
        raw: Any = self.channel.unary_stream if streaming else self.channel.unary_unary
        try:
            if not streaming:
                raw(path)(data, timeout=20)
                return grpc.StatusCode.OK
            stream = raw(path)(data, timeout=DEADLINE_SECONDS)
            for number, _ in enumerate(stream, 1):
                if number == MOST_ANSWERS:
                    stream.cancel()
                    break
        except grpc.RpcError as error:
            self._check(error, path, streaming)
            code: grpc.StatusCode = error.code()
            return code
        return grpc.StatusCode.OK

    def _check(self, error: Any, path: str, streaming: bool) -> None:
        assert error.code() not in NEVER, (path, error)
        if error.code() in PATIENCE:
            assert streaming, (path, error)
            return
        details = dict(error.trailing_metadata()).get("grpc-status-details-bin")
        assert details is not None, (path, error)
        kinds = [packed.TypeName() for packed in status_pb2.Status.FromString(details).details]
        assert kinds[0] == error_details_pb2.ErrorInfo.DESCRIPTOR.full_name, (path, error)

    def still_serves(self) -> bool:
        """Whether health answers after all of it."""
        check: Any = self.channel.unary_unary("/grpc.health.v1.Health/Check")
        answer = check(b"", timeout=60)
        return bool(health_pb2.HealthCheckResponse.FromString(answer).status == health_pb2.HealthCheckResponse.SERVING)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    with outside(tmp_path_factory.mktemp("fuzz")) as process, grpc.insecure_channel(process.grpc) as channel:
        client = Fuzzed(process, channel)
        yield client
        assert client.still_serves()
        assert "a handler failed" not in process.log.read_text()
        # A run in which every call was refused at the door, or none was, has tested little.
        assert "INVALID_ARGUMENT" in client.codes, client.codes  # the others depend on the tests that this process got


# Shrinking would replay calls against a service whose state has moved on.
unshrunk = settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)


@unshrunk
@given(data=st.data())
def test_any_message_of_any_method_gets_a_proper_answer(fuzzed: Fuzzed, data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(METHODS))
    fuzzed.call(method, data.draw(messages(method.input_type)).SerializeToString())


@unshrunk
@given(request=nearly_right_deploys(), plan=st.booleans())
def test_a_deploy_with_a_field_or_two_gone_wrong_gets_a_proper_answer(fuzzed: Fuzzed, request: Any, plan: bool) -> None:
    name = "PlanDistributedModelService" if plan else "DeployDistributedModelService"
    fuzzed.call(next(m for m in METHODS if m.name == name), request.SerializeToString())


@unshrunk
@given(data=st.data())
def test_bytes_that_were_broken_on_the_way_get_a_proper_answer(fuzzed: Fuzzed, data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(METHODS))
    whole = data.draw(nearly_right_deploys() if "Deploy" in method.name else messages(method.input_type))
    fuzzed.call(method, data.draw(broken(whole.SerializeToString())))
