"""`corral secret`: values that environment variables refer to as `secret://NAME`.

A value comes from standard input or a file, never from the command line, which every user of the machine can read.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
from corral.v1 import secret_pb2, secret_pb2_grpc

from service.cli import errors
from service.cli.requests import BadRequestFile
from service.cli.view import json_line

Stub = secret_pb2_grpc.SecretServiceStub
Run = Callable[[argparse.Namespace, Stub], int]
# More than the service takes: what is too long is refused there, in its words.
_MOST_BYTES = 1 << 20


class NoSuchSecret(Exception):
    """No secret has this name or uuid, or several projects have one."""


def add_parsers(secret: argparse.ArgumentParser) -> None:
    """The sub-commands of `corral secret`; without one it lists."""
    secret.set_defaults(name="")
    verbs = secret.add_subparsers(title="sub-commands", metavar="VERB")

    def add(name: str, run: Run, text: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text, epilog=errors.EXIT_CODE_HELP)
        verb.set_defaults(run=run)
        verb.add_argument("--json", action="store_true", help="print JSON instead of text")
        return verb

    keep = add("set", set_secret, "keep a value by name, or give a secret another value; the value is read from stdin")
    keep.add_argument("name", help="what `secret://NAME` refers to it by; a uuid changes the secret that has it")
    keep.add_argument("-f", "--file", default="-", metavar="FILE", help="read the value from this file")
    listing = add("list", list_secrets, "list secrets without their values")
    listing.add_argument("--name", default="", help="only secrets of exactly this name")
    delete = add("delete", delete_secret, "forget a secret that no group uses")
    delete.add_argument("name", help="its name or uuid")


def set_secret(options: argparse.Namespace, stub: Stub) -> int:
    """Create the secret, or rotate it where there is one. Raises NoSuchSecret, BadRequestFile, RpcError."""
    value = _value(options.file)
    made = None if _is_uuid(options.name) else _created(stub, options.name, value)
    verb = "changed" if made is None else "kept"
    if made is None:
        there = _find(stub, options.name)
        made = stub.RotateSecret(secret_pb2.RotateSecretRequest(uuid=there.uuid, value=value)).inventory
    told = f"{made.name} of project {made.project} is {verb}: refer to it as secret://{made.name}"
    print(json_line(made) if options.json else told)
    return errors.OK


def _created(stub: Stub, name: str, value: str) -> secret_pb2.Secret | None:
    """The new secret; None where the caller's project has one of this name. Raises RpcError."""
    try:
        return stub.CreateSecret(secret_pb2.CreateSecretRequest(name=name, value=value)).inventory
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
            raise
        return None


def list_secrets(options: argparse.Namespace, stub: Stub) -> int:
    """A line each, by name."""
    for secret in _secrets(stub, options.name):
        print(json_line(secret) if options.json else _line(secret))
    return errors.OK


def delete_secret(options: argparse.Namespace, stub: Stub) -> int:
    """Forget one secret. Raises NoSuchSecret, RpcError."""
    secret = _find(stub, options.name)
    stub.DeleteSecret(secret_pb2.DeleteSecretRequest(uuid=secret.uuid))
    print(json_line(secret) if options.json else f"{secret.name} of project {secret.project} is forgotten")
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
    token = ""
    while True:
        answer = stub.ListSecrets(secret_pb2.ListSecretsRequest(page_size=500, page_token=token, name=name))
        yield from answer.inventories
        token = answer.next_page_token
        if not token:
            return


def _find(stub: Stub, wanted: str) -> secret_pb2.Secret:
    """The secret of this uuid or name. Raises NoSuchSecret."""
    found = list(_secrets(stub, wanted))
    if not found and _is_uuid(wanted):
        return stub.GetSecret(secret_pb2.GetSecretRequest(uuid=wanted)).inventory
    if len(found) > 1:
        whose = ", ".join(f"{one.uuid} of project {one.project}" for one in found)
        raise NoSuchSecret(f"there are several secrets {wanted}, name one by its uuid: {whose}")
    if not found:
        raise NoSuchSecret(f"there is no secret {wanted!r}; `corral secret list` lists them")
    return found[0]


def _is_uuid(text: str) -> bool:
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def _line(secret: secret_pb2.Secret) -> str:
    state = "" if secret.readable else "  (cannot be decrypted: its key is not here)"
    changed = secret.last_op_date.ToJsonString()
    return f"{secret.uuid}  {secret.project}  {secret.name}  changed {changed}  key {secret.key_name}{state}"


def tell(problem: NoSuchSecret) -> int:
    """Say on standard error what is wrong; answers the exit code."""
    print(str(problem), file=sys.stderr)
    return errors.NOT_FOUND
