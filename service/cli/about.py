"""`corral health`, `version` and `completion`: about the service and about this command."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click
import grpc
from click.shell_completion import get_completion_class
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.cli import errors
from service.cli.command import Output, Session, output_option, verb

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_CORRAL_COMPLETE"
_SECONDS = 10.0


def register(corral: click.Group) -> None:
    """Add the sub-commands."""
    verb(corral, "health", example="corral health")(health)
    verb(corral, "version", example="corral version")(tell_version)
    verb(corral, "completion", example="corral completion bash")(completion)


@output_option
def health(session: Session, output: Output) -> int:
    """Tell whether the service takes calls, address by address; exit code 5 where none does."""
    code = errors.UNAVAILABLE
    for told in _healths(session):
        code = errors.OK if told["serving"] else code
        output.record(told, told["address"], _line(told))
    return code


def _healths(session: Session) -> list[dict[str, Any]]:
    return [{"address": address, **_health(channel)} for address, channel in session.servers.each()]


def _line(told: dict[str, Any]) -> str:
    said = told.get("problem") or told["status"]
    about = (f"  version {told['version']}" if told.get("version") else "") + (
        f"  {told['installation']}" if told.get("installation") else ""
    )
    return f"{told['address']}  {said}{about}"


def _health(channel: grpc.Channel) -> dict[str, Any]:
    """`serving`, `status` of the gRPC health protocol or why there is none (`problem`), `version`, `installation`."""
    stub = health_pb2_grpc.HealthStub(channel)
    try:
        answer, call = stub.Check.with_call(health_pb2.HealthCheckRequest(), timeout=_SECONDS)
    except grpc.RpcError as error:
        return {"serving": False, "status": "UNKNOWN", "problem": f"{error.code().name}: {error.details()}"}
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    told = dict(call.initial_metadata() or ())
    name = bytes(told.get("corral-installation-bin", b"")).decode("utf-8", "replace")
    known = {"version": told.get("corral-version", ""), "installation": name}
    return {"serving": status == "SERVING", "status": status, **{key: value for key, value in known.items() if value}}


@output_option
def tell_version(session: Session, output: Output) -> int:
    """Tell this command's version and the service's."""
    try:
        own = version("corral")
    except PackageNotFoundError:
        own = "not installed"
    if output.for_people:
        print(f"corral {own}", flush=True)
    servers = _healths(session)
    lines = "\n".join(map(_line, servers))
    output.record({"version": own, "servers": servers}, own, lines)
    return errors.OK if any(told["serving"] for told in servers) else errors.UNAVAILABLE


@click.argument("shell", type=click.Choice(SHELLS))
def completion(session: Session, shell: str) -> int:
    """Print what makes a shell complete: eval "$(corral completion bash)" in its start-up file."""
    made = get_completion_class(shell)
    assert made is not None
    print(made(click.get_current_context().find_root().command, {}, "corral", VARIABLE).source())
    return errors.OK
