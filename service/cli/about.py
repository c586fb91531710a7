"""`corral health`, `version` and `completion`: about the service and about this command."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import click
import grpc
from click.shell_completion import get_completion_class
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.cli import errors
from service.cli.command import Session, verb

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_CORRAL_COMPLETE"
_SECONDS = 10.0


def register(corral: click.Group) -> None:
    """Add the sub-commands."""
    verb(corral, "health", example="corral health")(health)
    verb(corral, "version", example="corral version")(tell_version)
    verb(corral, "completion", example="corral completion bash")(completion)


def health(session: Session) -> int:
    """Tell whether the service takes calls, address by address; exit code 5 where none does."""
    code = errors.UNAVAILABLE
    for address, channel in session.servers.each():
        serving, told = _health(channel)
        code = errors.OK if serving else code
        print(f"{address}  {told}")
    return code


def _health(channel: grpc.Channel) -> tuple[bool, str]:
    stub = health_pb2_grpc.HealthStub(channel)
    try:
        answer, call = stub.Check.with_call(health_pb2.HealthCheckRequest(), timeout=_SECONDS)
    except grpc.RpcError as error:
        return False, f"{error.code().name}: {error.details()}"
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    told = dict(call.initial_metadata() or ())
    known, name = told.get("corral-version", ""), bytes(told.get("corral-installation-bin", b""))
    about = (f"  version {known}" if known else "") + (f"  {name.decode('utf-8', 'replace')}" if name else "")
    return status == "SERVING", status + about


def tell_version(session: Session) -> int:
    """Tell this command's version and the service's."""
    try:
        own = version("corral")
    except PackageNotFoundError:
        own = "not installed"
    print(f"corral {own}")
    code = errors.UNAVAILABLE
    for address, channel in session.servers.each():
        serving, told = _health(channel)
        code = errors.OK if serving else code
        print(f"{address}  {told}")
    return code


@click.argument("shell", type=click.Choice(SHELLS))
def completion(session: Session, shell: str) -> int:
    """Print what makes a shell complete: eval "$(corral completion bash)" in its start-up file."""
    made = get_completion_class(shell)
    assert made is not None
    print(made(click.get_current_context().find_root().command, {}, "corral", VARIABLE).source())
    return errors.OK
