"""How answers are printed: as a table for people, as JSON or YAML with the contract's names, or as names alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

import yaml
from google.protobuf.json_format import MessageToDict, MessageToJson
from google.protobuf.message import Message
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

KINDS = ("table", "json", "yaml", "name")

Cell = str | Text
Columns = Sequence[tuple[str, Callable[[Any], Cell]]]


class Output:
    """Prints in the way that `--output` names, to standard output as it is at the moment of printing."""

    def __init__(self, kind: str = "table") -> None:
        self.kind = kind

    @property
    def for_people(self) -> bool:
        """Whether it is a table: sentences may stand beside it."""
        return self.kind == "table"

    def many(self, messages: Iterable[Message], columns: Columns, name: Callable[[Any], str]) -> None:
        """A row, an object, a document or a name for each. `name`: what other sub-commands take it by."""
        if self.for_people:
            print_table([title for title, _ in columns], ([cell(one) for _, cell in columns] for one in messages))
            return
        for message in messages:
            self.data(message, name(message))

    def one(self, message: Message, name: str, told: str) -> None:
        """One message; for people the sentence `told`."""
        if self.for_people:
            print(told, flush=True)
        else:
            self.data(message, name)

    def data(self, message: Message, name: str) -> None:
        """The message as JSON or YAML, or the name alone."""
        print(name if self.kind == "name" else self.text(message), flush=True)

    def record(self, told: Mapping[str, Any], name: str, line: str) -> None:
        """What no message of the contract tells: JSON or YAML by these names, or the name; for people `line`."""
        made = {"table": lambda: line, "name": lambda: name, "yaml": lambda: yaml_document(dict(told))}
        print(made.get(self.kind, lambda: json.dumps(told, ensure_ascii=False))(), flush=True)

    def text(self, message: Message) -> str:
        """The message as a line of JSON, or as a document of YAML."""
        return yaml_document(MessageToDict(message)) if self.kind == "yaml" else json_line(message)


def json_line(message: Message) -> str:
    """A message as one line of JSON, with the JSON names of the contract."""
    return MessageToJson(message, indent=None, ensure_ascii=False)


def yaml_document(value: Any) -> str:
    """A document of YAML, `---` before it, no line break at its end."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, explicit_start=True).rstrip("\n")


def plain_console(stream: TextIO) -> Console:
    """A console that shows names as they are: brackets and colons in them are no markup."""
    return Console(file=stream, markup=False, emoji=False, highlight=False)


# What a narrow terminal goes without before anything is broken into lines.
_FIRST_TO_GO = ("free of NUMA cells", "uuid", "of projects", "call", "sha256", "accepted", "hosts", "project", "key")


def print_table(titles: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """To standard output: on a terminal in colours and as wide as that is, elsewhere whole lines. Nothing is cut."""
    console = plain_console(sys.stdout)
    cells = [list(row) for row in rows]
    widths = [max(map(cell_len, (title, *(str(row[at]) for row in cells)))) for at, title in enumerate(titles)]
    if not console.is_terminal:
        lines = [list(titles), *([str(cell) for cell in row] for row in cells)]
        for line in lines:
            padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True))
            print("  ".join(padded).rstrip())
        return
    kept = _fitting(
        titles, widths, {at for at in range(len(titles)) if any(str(row[at]) for row in cells)}, console.width
    )
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for at in kept:
        table.add_column(titles[at], overflow="fold", min_width=min(widths[at], 12))
    for row in cells:
        table.add_row(*(row[at] for at in kept))
    console.print(table)


def _fitting(titles: Sequence[str], widths: Sequence[int], filled: set[int], width: int) -> list[int]:
    """Which columns a terminal shows: not the empty ones, and without those that may go until the rest fits.

    The first column stays, and the last one may be broken into lines.
    """
    kept = [at for at in range(len(titles)) if at in filled or at == 0]

    def needed() -> int:
        return sum(widths[at] + 2 for at in kept[:-1]) + min(widths[kept[-1]], 20)

    for name in _FIRST_TO_GO:
        if needed() <= width:
            break
        kept = [at for at in kept if titles[at] != name or at == 0]
    return kept
