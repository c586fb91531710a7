"""`corral context`: addresses, certificates and a token under a name, so that nobody types them twice.

They are kept in `$XDG_CONFIG_HOME/corral` (`~/.config/corral`): what is no secret in `contexts.yaml`, each token in
a file of its own that its owner alone may read; one that others may read is not used.
"""

from __future__ import annotations

import getpass
import os
import re
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import yaml
from click.shell_completion import CompletionItem

from service.cli import errors
from service.cli.channel import CannotConnect
from service.cli.command import Output, Session, output_option, verb, verb_group
from service.cli.output import print_table

DEFAULT_SOCKET = "/run/corral/grpc.sock"
DEFAULT_SERVER = "127.0.0.1:50051"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LONGEST_TOKEN = 4096


@dataclass(frozen=True, slots=True)
class Context:
    """One service as a caller reaches it. `ca`, `cert`, `key`: PEM files; empty without TLS."""

    server: str
    ca: str = ""
    cert: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Contexts:
    """What is kept in a directory."""

    directory: Path
    current: str = ""
    by_name: Mapping[str, Context] = field(default_factory=dict)

    def token_file(self, name: str) -> Path:
        """Where the token of a context is, if it has one."""
        return self.directory / f"{name}.token"

    def token(self, name: str) -> str:
        """The token of a context, empty without one. Raises CannotConnect where others may read it."""
        file = self.token_file(name)
        try:
            with file.open() as opened:
                mode = os.fstat(opened.fileno()).st_mode
                if mode & (stat.S_IRWXG | stat.S_IRWXO):
                    raise CannotConnect(
                        f"{file}: others may read this token and may know it: replace it by `corral context set`"
                    )
                return opened.read(_LONGEST_TOKEN).strip()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as problem:
            raise CannotConnect(f"{file}: {problem}") from problem

    def write(self) -> None:
        """Keep them. Raises CannotConnect."""
        told = {"current": self.current, "contexts": {name: asdict(one) for name, one in self.by_name.items()}}
        write_private(self.directory / "contexts.yaml", yaml.safe_dump(told, sort_keys=False, allow_unicode=True))


def directory(environment: Mapping[str, str]) -> Path:
    """Where contexts are kept."""
    base = environment.get("XDG_CONFIG_HOME") or os.path.join(environment.get("HOME") or "~", ".config")
    return Path(base).expanduser() / "corral"


def load(environment: Mapping[str, str]) -> Contexts:
    """What is kept; nothing where there is no file. Raises CannotConnect for a file that is not one of these."""
    where = directory(environment)
    file = where / "contexts.yaml"
    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
        found = {str(name): Context(**one) for name, one in told["contexts"].items()}
        return Contexts(where, str(told.get("current", "")), found)
    except FileNotFoundError:
        return Contexts(where)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError) as problem:
        raise CannotConnect(f"{file}: it cannot be read as contexts: {problem}") from problem


def write_private(file: Path, text: str) -> None:
    """Put the file in its place at once, readable by its owner alone from the beginning. Raises CannotConnect."""
    new = file.with_name(f"{file.name}.new")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as opened:
            opened.write(text)
        new.replace(file)
    except OSError as problem:
        raise CannotConnect(f"{file}: {problem.strerror}") from problem


def offered(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What a shell offers where a context is named."""
    _, environment = ctx.find_root().obj
    try:
        kept = load(environment)
    except CannotConnect:
        return []  # the command itself says what is wrong with the file
    return [CompletionItem(name) for name in sorted(kept.by_name) if name.startswith(incomplete)]


def register(corral: click.Group) -> None:
    """Add the sub-commands."""
    context = verb_group(corral, "context", example="corral context")(list_contexts)
    verb(context, "set", example="corral context set lab --server 127.0.0.1:50051 --token-file token.txt")(set_context)
    verb(context, "use", example="corral context use lab")(use_context)
    verb(context, "remove", example="corral context remove lab")(remove_context)


@output_option
def list_contexts(session: Session, output: Output) -> int:
    """List contexts; with a sub-command set, use and remove them. One is chosen by --context or $CORRAL_CONTEXT."""
    kept = load(session.environment)
    told = [
        {
            "name": name,
            "current": name == kept.current,
            **asdict(one),
            "token": kept.token_file(name).exists(),
        }
        for name, one in sorted(kept.by_name.items())
    ]
    if not output.for_people:
        for one in told:
            output.record(one, str(one["name"]), "")
        return errors.OK
    rows = [
        (
            "*" if one["current"] else "",
            str(one["name"]),
            str(one["server"]),
            str(one["ca"] or "-"),
            str(one["cert"] or "-"),
            "kept" if one["token"] else "-",
        )
        for one in told
    ]
    print_table(("", "name", "server", "ca", "certificate", "token"), rows)
    return errors.OK


@click.argument("name")
@click.option("--server", required=True, metavar="ADDRESS[,ADDRESS]", help="HOST:PORT or unix:PATH.")
@click.option("--ca", default="", metavar="FILE", help="Use TLS and trust this PEM file.")
@click.option("--cert", default="", metavar="FILE", help="The certificate to show, for services that ask for one.")
@click.option("--key", default="", metavar="FILE", help="The certificate's private key.")
@click.option("--token-file", metavar="FILE", help="Read the bearer token from this file; - is standard input.")
@click.option("--use/--no-use", default=True, help="Whether it is the current one from now on.  [default: use]")
def set_context(session: Session, name: str, token_file: str | None, use: bool, **told: Any) -> int:
    """Keep a context by NAME, or change it. Its token is copied into a file that its owner alone may read."""
    if not _NAME.fullmatch(name):
        raise click.UsageError(f"{name!r} is no name of letters, digits, dots, hyphens and underscores")
    if bool(told["cert"]) is not bool(told["key"]):
        raise click.UsageError("--cert and --key are told together")
    kept = load(session.environment)
    files = {key: str(Path(told[key]).absolute()) if told[key] else "" for key in ("ca", "cert", "key")}
    if token_file is not None:
        write_private(kept.token_file(name), _read_token(token_file) + "\n")
    made = {**kept.by_name, name: Context(told["server"], **files)}
    Contexts(kept.directory, name if use else kept.current, made).write()
    errors.tell(f"context {name} is kept in {kept.directory}")
    return errors.OK


def _read_token(source: str) -> str:
    try:
        if source == "-":
            told = getpass.getpass("token (not shown): ") if sys.stdin.isatty() else sys.stdin.read(_LONGEST_TOKEN)
        else:
            with open(source, encoding="utf-8") as file:
                told = file.read(_LONGEST_TOKEN)
    except OSError as problem:
        raise CannotConnect(f"{source}: {problem.strerror}") from problem
    except UnicodeDecodeError:
        # Without the error, which quotes what it could not read.
        raise CannotConnect(f"{source}: the token is not UTF-8") from None
    if not told.strip():
        raise CannotConnect(f"{source}: there is no token in it")
    return told.strip()


@click.argument("name", shell_complete=offered)
def use_context(session: Session, name: str) -> int:
    """Make a context the current one."""
    kept = load(session.environment)
    _known(kept, name)
    Contexts(kept.directory, name, kept.by_name).write()
    errors.tell(f"{name} is the current context")
    return errors.OK


@click.argument("name", shell_complete=offered)
def remove_context(session: Session, name: str) -> int:
    """Forget a context and its token."""
    kept = load(session.environment)
    _known(kept, name)
    rest = {other: one for other, one in kept.by_name.items() if other != name}
    Contexts(kept.directory, "" if kept.current == name else kept.current, rest).write()
    kept.token_file(name).unlink(missing_ok=True)
    errors.tell(f"context {name} is forgotten")
    return errors.OK


def _known(kept: Contexts, name: str) -> Context:
    if name not in kept.by_name:
        raise errors.NotThere(f"there is no context {name!r}; there are: {', '.join(sorted(kept.by_name)) or 'none'}")
    return kept.by_name[name]


def chosen(environment: Mapping[str, str], name: str | None) -> tuple[Context | None, str]:
    """The context that holds, and its token: of this name, else $CORRAL_CONTEXT's, else the current one.

    Raises NotThere, CannotConnect.
    """
    kept = load(environment)
    wanted = name or environment.get("CORRAL_CONTEXT", "") or kept.current
    if not wanted:
        return None, ""
    return _known(kept, wanted), kept.token(wanted)


def session(
    environment: Mapping[str, str], servers: Sequence[str], name: str | None, ca: str | None, *, needed: bool
) -> Session:
    """What the options before the sub-command ask for: they stand over the environment, that over the context `name`
    (or the one in use), that over this machine's service.

    A context's token and certificate go to its own addresses alone. `needed`: whether the context has to be there.
    Raises NotThere, CannotConnect.
    """
    told = tuple(servers) or tuple(filter(None, [environment.get("CORRAL_SERVER", "")]))
    used, token = None, ""
    if needed and (name or not told):
        used, token = chosen(environment, name)
    own = used is not None and not told
    addresses = told or ((used.server,) if used else (_this_machine(),))
    trusted = environment.get("CORRAL_CA", "") if ca is None else ca
    return Session(
        [address for text in addresses for address in text.split(",") if address],
        certificate_authority=trusted or (used.ca if used and own else ""),
        token=environment.get("CORRAL_TOKEN", "") or (token if own else ""),
        certificate=used.cert if used and own else "",
        key=used.key if used and own else "",
        environment=environment,
    )


def _this_machine() -> str:
    """This machine's service, by its unix socket where it has one."""
    return f"unix:{DEFAULT_SOCKET}" if os.path.exists(DEFAULT_SOCKET) else DEFAULT_SERVER
