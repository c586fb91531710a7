"""What stands over the configuration file: the environment's `CORRAL_SECTION_KEY`, over that `--set section.key=value`.

Both reach the tables that stand once in a file (`[server]`, `[server.tls]`, `[log]`, …), not the lists of tables.
A value is written as in the file without its quotes; the texts of a list have commas between them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from service.config import schema

PREFIX = "CORRAL_"


@dataclass(frozen=True, slots=True)
class Given:
    """One value: where it goes, and who gave it (`$CORRAL_LOG_LEVEL`, `--set log.level`)."""

    path: tuple[str, ...]
    text: str
    by: str


@dataclass(frozen=True, slots=True)
class Overlay:
    """`settings`: as `--set` has them, `section.key=value`."""

    environment: Mapping[str, str]
    settings: Sequence[str] = ()

    def over(self, raw: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str], list[str]]:
        """The file with what stands over it; who gave it, by the key's path; and what of it goes nowhere."""
        problems: list[str] = []
        result, givers = raw, {}
        for given in (*self._of_environment(problems), *self._of_settings(problems)):
            result = _put(result, given.path, _value(given))
            givers[".".join(given.path)] = given.by
        return result, givers, problems

    def _of_environment(self, problems: list[str]) -> Iterator[Given]:
        known = {PREFIX + "_".join(path).upper(): path for path in keys()}
        sections = tuple(f"{PREFIX}{name.upper()}_" for name, _ in _tables(schema.Configuration))
        for name, text in sorted(self.environment.items()):
            if name in known:
                yield Given(known[name], text, f"${name}")
            elif name.startswith(sections):
                section = next(one for one in sections if name.startswith(one))
                there = ", ".join(f"${one}" for one in sorted(known) if one.startswith(section))
                problems.append(f"${name}: no such key; there are: {there}")

    def _of_settings(self, problems: list[str]) -> Iterator[Given]:
        known = {".".join(path): path for path in keys()}
        for text in self.settings:
            name, equals, value = text.partition("=")
            if name not in known or not equals:
                problems.append(f"--set {name}: section.key=value, with one of: {', '.join(sorted(known))}")
            else:
                yield Given(known[name], value, f"--set {name}")


NOTHING = Overlay({})


def named(problems: Iterable[str], givers: Mapping[str, str]) -> list[str]:
    """Problems; where the value is not the file's, it is said whose it is."""
    return [f"{one} (by {by})" if (by := givers.get(one.partition(":")[0])) else one for one in problems]


def keys() -> Iterator[tuple[str, ...]]:
    """The paths of all keys that can be given: those of tables that stand once."""
    for name, model in _tables(schema.Configuration):
        yield from _keys(model, (name,))


def _keys(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    tables = dict(_tables(model))
    for name in model.model_fields:
        if name in tables:
            yield from _keys(tables[name], (*path, name))
        else:
            yield (*path, name)


def _tables(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The fields that are tables standing once, not lists of them."""
    for name, found in model.model_fields.items():
        for part in (found.annotation, *get_args(found.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel) and get_origin(found.annotation) is not list:
                yield name, part


def _put(raw: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    name, *below = path
    inner = raw.get(name, {})
    if below and not isinstance(inner, dict):
        return raw  # what stands there is wrong, and told as that
    return {**raw, name: _put(inner, tuple(below), value) if below else value}


def _value(given: Given) -> Any:
    """What the file would hold for this text: a number, true or false where the key takes one, a list, or text."""
    annotation = _annotation(given.path)
    if get_origin(annotation) is list:
        return [part.strip() for part in given.text.split(",") if part.strip()]
    if _contains(annotation, (int, float, bool)):
        try:
            return tomllib.loads(f"value = {given.text}")["value"]
        except tomllib.TOMLDecodeError:
            return given.text
    return given.text


def _annotation(path: tuple[str, ...]) -> Any:
    model: type[BaseModel] = schema.Configuration
    for part in path[:-1]:
        model = dict(_tables(model))[part]
    return model.model_fields[path[-1]].annotation


def _contains(annotation: Any, kinds: tuple[type, ...]) -> bool:
    return annotation in kinds or any(_contains(part, kinds) for part in get_args(annotation))
