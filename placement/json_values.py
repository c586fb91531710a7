"""JSON values read strictly: what is not as it should be raises ``InvalidPlacementInput``, which names the place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

from placement.resources import InvalidPlacementInput

VERSION = 1
"""Of the planner's JSON forms."""
E_ = TypeVar("E_", bound=Enum)


def loads(text: str | bytes) -> Any:
    """Parsed JSON. Raises ``InvalidPlacementInput`` for text that is not JSON, or that names a key twice."""
    try:
        return json.loads(text, object_pairs_hook=_no_twins, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, InvalidPlacementInput):
            raise
        raise InvalidPlacementInput("json", f"is not JSON: {error}"[:200]) from None


def dumps(value: Any) -> str:
    """Compact JSON, the same text for the same value."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidPlacementInput("json", "an object names a key twice")
    return found


def _no_constant(name: str) -> Any:
    raise InvalidPlacementInput("json", f"{name} is not a number here")


def plain(value: Any) -> Any:
    """The value in JSON's own types."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    return value


def an_object(path: str, value: Any, known: set[str] | None, needed: set[str]) -> dict[str, Any]:
    """The value as an object with the needed keys, and no others than the known ones (None: any)."""
    if not isinstance(value, Mapping):
        raise InvalidPlacementInput(path, "must be an object")
    missing = sorted(needed - set(value))
    if missing:
        raise InvalidPlacementInput(f"{path}.{missing[0]}", "is missing")
    unknown = sorted(set(value) - known) if known is not None else []
    if unknown:
        raise InvalidPlacementInput(f"{path}.{unknown[0]}"[:300], "is not a known field")
    if value.get("version", VERSION) != VERSION:
        raise InvalidPlacementInput(f"{path}.version", f"must be {VERSION}")
    return dict(value)


def a_list(path: str, value: Any) -> list[Any]:
    """The value as a list."""
    if not isinstance(value, list):
        raise InvalidPlacementInput(path, "must be a list")
    return value


def a_flag(path: str, value: Any) -> bool:
    """The value as true or false."""
    if not isinstance(value, bool):
        raise InvalidPlacementInput(path, "must be true or false")
    return value


def one_of(path: str, choices: type[E_], value: Any) -> E_:
    """The value as one of an enum's."""
    try:
        return choices(value)
    except ValueError:
        allowed = ", ".join(str(choice.value) for choice in choices)
        raise InvalidPlacementInput(path, f"must be one of {allowed}") from None


def build(made: Callable[..., Any], path: str, **row: Any) -> Any:
    """The dataclass, with the path in front of what is wrong with it."""
    try:
        return made(**row)
    except InvalidPlacementInput as error:
        raise InvalidPlacementInput(f"{path}: {error.field}", error.message) from None
    except TypeError as error:
        raise InvalidPlacementInput(path, str(error)[:200]) from None
