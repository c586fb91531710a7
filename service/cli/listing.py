"""Listings: all pages of one, and the one thing of it that a name on the command line means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from service.cli import errors


def pages(ask: Callable[[str], Any]) -> Iterator[Any]:
    """The inventories of all pages; `ask` is called with each page's token."""
    token = ""
    while True:
        answer = ask(token)
        yield from answer.inventories
        token = answer.next_page_token
        if not token:
            return


def is_uuid(text: str) -> bool:
    """Whether it is written as uuids are."""
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def named(things: Iterable[Any], wanted: str, what: str, lister: str) -> Any:
    """The one of this uuid, else of this name. Raises NotThere, also where several have the name."""
    found = []
    for thing in things:
        if thing.uuid == wanted:
            return thing
        if thing.name == wanted:
            found.append(thing)
    if len(found) > 1:
        uuids = ", ".join(one.uuid for one in found)
        raise errors.NotThere(f"several {what}s are called {wanted!r}, name one by its uuid: {uuids}")
    if not found:
        raise errors.NotThere(f"there is no {what} {wanted!r}; `{lister}` lists them")
    return found[0]
