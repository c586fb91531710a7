"""Sub-commands that work on the service's own database, and not over gRPC: they need the server part installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

import click

from service.cli import errors
from service.cli.command import Session, Verb, verb, verb_group

_NEEDS = ("service.recovering", "sqlalchemy")
_MISSING = (
    "the server part of Corral is not installed here: run this on the service's machine, "
    "or install the package `corral` there with its requirements (deploy/requirements/runtime.txt)"
)


def register(corral: click.Group) -> None:
    """Add the sub-commands."""
    corral.add_command(recover)
    config = verb_group(corral, "config", example="corral config check corral.toml")(explain_config)
    verb(config, "check", example="corral config check corral.toml")(check)
    verb(config, "print", example="corral config print corral.toml")(print_config)


def serve_with(arguments: Sequence[str]) -> int:
    """`python -m service` with these arguments; answers its exit code."""
    if any(find_spec(name) is None for name in _NEEDS):
        errors.tell(_MISSING)
        return errors.USAGE
    return subprocess.call([sys.executable, "-m", "service", *arguments])


@click.command(
    "recover",
    cls=Verb,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True},
    example="corral recover --config corral.toml",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def recover(session: Session, arguments: tuple[str, ...]) -> int:
    """Write a lost or old database again from its hosts; on the service's machine. Tells its options by --help."""
    return serve_with(["recover", *arguments])


def explain_config(session: Session) -> int:
    """The service's configuration: what is wrong with it, and what holds. On the service's machine."""
    click.echo(click.get_current_context().get_help())
    return errors.OK


@click.argument("file")
def check(session: Session, file: str) -> int:
    """Tell every mistake in a configuration, and what cannot work; exit code 2 where there is a mistake."""
    return serve_with(["check-config", "--config", file])


@click.argument("file")
def print_config(session: Session, file: str) -> int:
    """Print what holds: the file, $CORRAL_... over it, and defaults; secrets are hidden."""
    return serve_with(["print-config", "--config", file])
