"""What every sub-command stands on: how one is declared, and the session that it gets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import click

from service.cli.channel import Servers
from service.cli.output import KINDS, Output

Function = TypeVar("Function", bound=Callable[..., int])
Decorator = Callable[[Any], Any]


@dataclass
class Session:
    """The connection that the options before the sub-command ask for; opened by the first call."""

    addresses: Sequence[str]
    certificate_authority: str = ""
    token: str = ""
    certificate: str = ""
    key: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    _servers: Servers | None = field(default=None, repr=False)

    def stub(self, kind: Callable[[Any], Any]) -> Any:
        """A stub of a service. Raises CannotConnect."""
        return self.servers.stub(kind)

    @property
    def servers(self) -> Servers:
        """The addresses' connections. Raises CannotConnect."""
        if self._servers is None:
            self._servers = Servers(
                self.addresses,
                certificate_authority=self.certificate_authority,
                token=self.token,
                certificate=self.certificate,
                key=self.key,
            )
        return self._servers

    def close(self) -> None:
        """Let the connections go."""
        if self._servers is not None:
            self._servers.__exit__()
            self._servers = None


class Verb(click.Command):
    """A sub-command with an example that a test runs."""

    def get_short_help_str(self, limit: int = 45) -> str:
        """The help's first clause, which is never cut."""
        return _first_clause(self.help)

    def __init__(self, *arguments: Any, example: str = "", **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The example, and where the exit codes stand."""
        _format_end(self.example, formatter)


class VerbGroup(click.Group):
    """A sub-command that has sub-commands of its own, and does something without one."""

    def get_short_help_str(self, limit: int = 45) -> str:
        """The help's first clause, which is never cut."""
        return _first_clause(self.help)

    def __init__(self, *arguments: Any, example: str = "", **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The example, and where the exit codes stand."""
        _format_end(self.example, formatter)


def _first_clause(text: str | None) -> str:
    return re.split(r"[.;:,] |[.]\s*$", " ".join((text or "").split()), maxsplit=1)[0]


def _format_end(example: str, formatter: click.HelpFormatter) -> None:
    if example:
        with formatter.section("Example"):
            for line in example.splitlines():
                formatter.write(f"{' ' * formatter.current_indent}{line}\n")
    formatter.write("\nExit codes stand in `corral --help`.\n")


def verb(parent: click.Group, name: str, *, example: str, hidden: bool = False) -> Callable[[Function], Verb]:
    """Make a function the sub-command `name` of `parent`.

    It gets the session first, then its own options by name; what it returns is the exit code. The function's first
    line of documentation is the help's. `example`: whole command lines that a test runs, one a line.
    """

    def declare(function: Function) -> Verb:
        made = click.command(name, cls=Verb, example=example, hidden=hidden)(click.pass_obj(function))
        parent.add_command(made)
        return made

    return declare


def verb_group(parent: click.Group, name: str, *, example: str) -> Callable[[Function], VerbGroup]:
    """As `verb`, for one that has sub-commands: the function runs where none of them is named."""

    def declare(function: Function) -> VerbGroup:
        def unless_a_verb_is_named(session: Session, **options: Any) -> int:
            named = click.get_current_context().invoked_subcommand is not None
            return 0 if named else function(session, **options)

        unless_a_verb_is_named.__doc__ = function.__doc__
        unless_a_verb_is_named.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
        made = click.group(name, cls=VerbGroup, example=example, invoke_without_command=True)(
            click.pass_obj(unless_a_verb_is_named)
        )
        parent.add_command(made)
        return made

    return declare


def output_option(function: Any) -> Any:
    """`--output`, and `--json` as it was called before; the function gets `output`."""
    function = click.option(
        "--json",
        "output",
        flag_value="json",
        type=_OutputType(),
        help="The same as --output json.",
    )(function)
    return click.option(
        "--output",
        "-o",
        "output",
        default="table",
        type=_OutputType(),
        metavar=f"[{'|'.join(KINDS)}]",
        help="How to print: a table, a JSON object a line, YAML documents, or names alone.",
    )(function)


class _OutputType(click.Choice[str]):
    def __init__(self) -> None:
        super().__init__(KINDS)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if isinstance(value, Output) else Output(super().convert(value, param, ctx))


__all__ = ["Output", "Session", "Verb", "VerbGroup", "output_option", "verb", "verb_group"]
