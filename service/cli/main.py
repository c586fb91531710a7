"""The `corral` command: the options before the sub-command, and what an error becomes."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType

import click
import grpc

from service.cli import (
    about,
    capacity,
    catalog,
    clusters,
    contexts,
    decisions,
    devices,
    errors,
    groups,
    host_verbs,
    hosts,
    images,
    lifecycle,
    logs,
    places,
    projects,
    rebalance,
    roll,
    secrets,
    server_part,
    updates,
)
from service.cli.channel import CannotConnect
from service.cli.command import Session, VerbGroup
from service.cli.requests import BadRequestFile


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; answers its exit code (see `errors.EXIT_CODES_TOLD`)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a name shows the rest of the line
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8")  # as request files are, whatever the terminal's locale
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return run([_as_utf8(word) for word in sys.argv[1:]] if arguments is None else arguments)
    except UnicodeDecodeError as problem:
        errors.tell(f"an argument is not UTF-8: {problem.object!r}")
        return errors.USAGE
    except (KeyboardInterrupt, click.Abort):
        return errors.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left: what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.OK
    finally:
        signal.signal(signal.SIGTERM, previous)


def _as_utf8(word: str) -> str:
    """An argument as it was typed: Python leaves its bytes undecoded where the locale has no such letters."""
    return os.fsencode(word).decode("utf-8") if any("\udc80" <= letter <= "\udcff" for letter in word) else word


def run(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """As `main`, in any thread: signals and the terminal stay as they are."""
    sessions: list[Session] = []
    try:
        code = corral.main(list(arguments), prog_name="corral", standalone_mode=False, obj=(sessions, environment))
        return code if isinstance(code, int) else errors.OK
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as problem:
        problem.show()
        return problem.exit_code
    except grpc.RpcError as error:
        errors.tell(*errors.describe(error))
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            addresses = " or ".join(sessions[0].addresses)
            mute = sessions[0].servers.mute
            wrong = f"{mute} speaks TLS: name its certificate authority with --ca" if mute else ""
            if not mute and "WRONG_VERSION_NUMBER" in (error.details() or ""):
                wrong = f"{addresses} speaks no TLS, which --ca or $CORRAL_CA asks for"
            errors.tell(f"  {wrong or f'is a service running at {addresses}? see --server'}")
        return errors.exit_code(error)
    except errors.NotThere as problem:
        errors.tell(str(problem))
        return errors.NOT_FOUND
    except (BadRequestFile, CannotConnect) as problem:
        errors.tell(str(problem))
        return errors.USAGE
    finally:
        for session in sessions:
            session.close()


class Corral(VerbGroup):
    """The command itself; its help ends with the exit codes."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What each exit code says."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), told) for code, told in errors.EXIT_CODES_TOLD.items()])


@click.group("corral", cls=Corral, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--server",
    "servers",
    multiple=True,
    metavar="ADDRESS",
    help="HOST:PORT or unix:PATH of the service; several replicas with commas between them, or by repeating "
    "the option: where one is lost the next goes on.  [default: $CORRAL_SERVER, else the context's, else "
    f"unix:{contexts.DEFAULT_SOCKET} where there is one, else {contexts.DEFAULT_SERVER}]",
)
@click.option(
    "--context",
    metavar="NAME",
    shell_complete=contexts.offered,
    help="Use this context.  [default: $CORRAL_CONTEXT, else the one in use]",
)
@click.option(
    "--ca",
    metavar="FILE",
    help="Use TLS and trust this PEM file.  [default: $CORRAL_CA]  A bearer token is taken from $CORRAL_TOKEN.",
)
@click.pass_context
def corral(ctx: click.Context, servers: tuple[str, ...], context: str | None, ca: str | None) -> None:
    """Deploy and look after groups of machines."""
    sessions, environment = ctx.obj
    session = contexts.session(environment, servers, context, ca, needed=ctx.invoked_subcommand != "context")
    sessions.append(session)
    ctx.obj = session


for _module in (
    groups,
    lifecycle,
    updates,
    logs,
    hosts,
    host_verbs,
    devices,
    places,
    clusters,
    catalog,
    images,
    capacity,
    rebalance,
    roll,
    projects,
    secrets,
    decisions,
    contexts,
    about,
    server_part,
):
    _module.register(corral)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
