"""`corral secret`: values that environment variables refer to as `secret://NAME`.

A value comes from standard input or a file, never from the command line, which every user of the machine can read.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import grpc
from corral.v1 import secret_pb2, secret_pb2_grpc

from service.cli import errors, names
from service.cli.command import Output, Session, output_option, verb, verb_group
from service.cli.listing import is_uuid, pages
from service.cli.output import Columns
from service.cli.requests import BadRequestFile
from service.cli.view import moment_text

Stub = secret_pb2_grpc.SecretServiceStub
# More than the service takes: what is too long is refused there, in its words.
_MOST_BYTES = 1 << 20


def register(corral: click.Group) -> None:
    """Add the sub-commands."""
    secret = verb_group(corral, "secret", example="corral secret")(list_secrets)
    verb(secret, "set", example="corral secret set hub-token --file token.txt")(set_secret)
    verb(secret, "list", example="corral secret list")(list_named)
    verb(secret, "delete", example="corral secret delete hub-token")(delete_secret)


@output_option
@click.argument("name", type=names.SECRET)
@click.option("--file", "-f", default="-", metavar="FILE", help="Read the value from this file.")
def set_secret(session: Session, output: Output, name: str, file: str) -> int:
    """Keep a value by NAME, or give a secret another value; the value is read from standard input.

    NAME is what secret://NAME refers to it by; a uuid changes the secret that has it.
    """
    stub = session.stub(Stub)
    value = _value(file)
    made = None if is_uuid(name) else _created(stub, name, value)
    done = "changed" if made is None else "kept"
    if made is None:
        there = _find(stub, name)
        made = stub.RotateSecret(secret_pb2.RotateSecretRequest(uuid=there.uuid, value=value)).inventory
    output.one(made, made.name, f"{made.name} of project {made.project} is {done}: refer to it as secret://{made.name}")
    return errors.OK


def _created(stub: Stub, name: str, value: str) -> secret_pb2.Secret | None:
    """The new secret; None where the caller's project has one of this name. Raises RpcError."""
    try:
        return stub.CreateSecret(secret_pb2.CreateSecretRequest(name=name, value=value)).inventory
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
            raise
        return None


@output_option
def list_secrets(session: Session, output: Output) -> int:
    """List secrets without their values; with a sub-command keep, list and forget them."""
    output.many(_secrets(session.stub(Stub)), _COLUMNS, lambda one: one.name)
    return errors.OK


@output_option
@click.option("--name", default="", help="Only secrets of exactly this name.")
def list_named(session: Session, output: Output, name: str) -> int:
    """List secrets without their values."""
    output.many(_secrets(session.stub(Stub), name), _COLUMNS, lambda one: one.name)
    return errors.OK


@output_option
@click.argument("name", type=names.SECRET)
def delete_secret(session: Session, output: Output, name: str) -> int:
    """Forget a secret that no group uses. NAME: its name or uuid."""
    stub = session.stub(Stub)
    secret = _find(stub, name)
    stub.DeleteSecret(secret_pb2.DeleteSecretRequest(uuid=secret.uuid))
    output.one(secret, secret.name, f"{secret.name} of project {secret.project} is forgotten")
    return errors.OK


def _value(source: str) -> str:
    """The text without the line break at its end. Raises BadRequestFile."""
    if source == "-" and sys.stdin.isatty():
        return getpass.getpass("value (not shown): ")
    try:
        if source == "-":
            found = sys.stdin.buffer.read(_MOST_BYTES)
        else:
            with Path(source).open("rb") as file:
                found = file.read(_MOST_BYTES)
        text = found.decode()
    except OSError as problem:
        raise BadRequestFile(f"{source}: {problem.strerror}") from problem
    except UnicodeDecodeError:
        # Without the error, which quotes what it could not read.
        raise BadRequestFile(f"{source}: the value is not UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")


def _secrets(stub: Stub, name: str = "") -> Iterator[secret_pb2.Secret]:
    return pages(
        lambda token: stub.ListSecrets(secret_pb2.ListSecretsRequest(page_size=500, page_token=token, name=name))
    )


def _find(stub: Stub, wanted: str) -> secret_pb2.Secret:
    """The secret of this uuid or name. Raises NotThere."""
    found = list(_secrets(stub, wanted))
    if not found and is_uuid(wanted):
        return stub.GetSecret(secret_pb2.GetSecretRequest(uuid=wanted)).inventory
    if len(found) > 1:
        whose = ", ".join(f"{one.uuid} of project {one.project}" for one in found)
        raise errors.NotThere(f"there are several secrets {wanted}, name one by its uuid: {whose}")
    if not found:
        raise errors.NotThere(f"there is no secret {wanted!r}; `corral secret list` lists them")
    return found[0]


_COLUMNS: Columns = (
    ("uuid", lambda one: one.uuid),
    ("project", lambda one: one.project),
    ("name", lambda one: one.name),
    ("changed", lambda one: moment_text(one.last_op_date)),
    ("key", lambda one: one.key_name),
    ("state", lambda one: "" if one.readable else "cannot be decrypted: its key is not here"),
)
