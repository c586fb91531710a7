"""The one language of filters, the same as the page's (`service/http/web/assets/filter.js`), which a test holds.

Words with spaces between them, all of which must hold. `key:text` looks for text in that field, a word alone in the
name; case does not count. `-` in front of a word means that it must not hold. "Double quotes" keep spaces together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

_TERM = re.compile(r'(-?)(?:([a-z]+):)?(?:"([^"]*)"|(\S+))', re.IGNORECASE)
Thing = TypeVar("Thing")
Fields = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True, slots=True)
class Term:
    """One word: `text` is in the field `key`, or with `negated` is not."""

    key: str
    text: str
    negated: bool = False

    def holds(self, fields: Fields) -> bool:
        """Whether it does for something of these fields."""
        value = fields.get(self.key, ())
        found = any(self.text in one.lower() for one in ([value] if isinstance(value, str) else value))
        return found is not self.negated


def terms(text: str) -> tuple[Term, ...]:
    """The words of a filter."""
    return tuple(
        Term(
            (match[2] or "name").lower(),
            (match[3] if match[3] is not None else match[4]).lower(),
            match[1] == "-",
        )
        for match in _TERM.finditer(text)
    )


def matches(wanted: Iterable[Term], fields: Fields) -> bool:
    """Whether all words hold."""
    return all(term.holds(fields) for term in wanted)


class FilterType(click.ParamType[tuple[Term, ...]]):
    """A filter of things that have these fields."""

    name = "filter"

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = tuple(keys)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Term, ...]:
        if isinstance(value, tuple):
            return value
        wanted = terms(value)
        if unknown := [term.key for term in wanted if term.key not in self.keys]:
            self.fail(f"not a field: {', '.join(unknown)}; fields: {', '.join(self.keys)}", param, ctx)
        return wanted


def filter_option(keys: Sequence[str]) -> Callable[[Any], Any]:
    """`--filter`; the function gets the terms as `wanted`."""
    return click.option(
        "--filter",
        "-F",
        "wanted",
        type=FilterType(keys),
        default="",
        metavar="TEXT",
        help="Only what matches, as on the page: words for the name, KEY:TEXT, -WORD excludes, double quotes keep "
        f"spaces. Keys: {', '.join(keys)}.",
    )


def filtered(things: Iterable[Thing], wanted: tuple[Term, ...], fields: Callable[[Thing], Fields]) -> Iterator[Thing]:
    """Those that match; `fields` is asked only where there is a filter."""
    return (thing for thing in things if not wanted or matches(wanted, fields(thing)))


def asks(wanted: tuple[Term, ...], key: str) -> bool:
    """Whether a word looks into this field."""
    return any(term.key == key for term in wanted)
