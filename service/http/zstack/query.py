"""ZStack's query language over inventories: conditions, order, pages, projection. Pure.

An inventory is a mapping of ZStack's field names; a moment in it is a `Moment`, so that it compares as a time and is
shown as a date. `a.b` names the field `b` of the object, or of any object in the list, that `a` is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Any

from service.contract.text import canonical_uuid
from service.errors import FieldViolation, InvalidArgument
from service.http.zstack import dates

DEFAULT_LIMIT = 1000
MAX_CONDITIONS = 64
TAG_FIELDS: Mapping[str, str] = {"__systemTag__": "systemTags", "__userTag__": "userTags", "__tagUuid__": "tagUuids"}

# An operator that another one contains stands before it.
_WRITTEN = ("!=", ">=", "<=", "!?=", "!~=", "~=", "?=", "=", ">", "<")
_NULL_TESTS = ("is null", "not null")
# What the older protocol calls them.
_SPELLED: Mapping[str, str] = {
    "in": "?=", "not in": "!?=", "like": "~=", "not like": "!~=", "is not null": "not null",
}  # fmt: skip


class Moment(int):
    """Ms since the epoch, shown as a date."""


class Malformed(Exception):
    """The query cannot be read; ZStack answers 400 with this text at once."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One test of one field. `value` is a text, or a list of texts for `?=` and `!?=`."""

    name: str
    operator: str
    value: str | tuple[str, ...] = ""


@dataclass(frozen=True, slots=True)
class Query:
    """A whole query."""

    conditions: tuple[Condition, ...] = ()
    limit: int = DEFAULT_LIMIT
    start: int = 0
    count: bool = False
    reply_with_count: bool = False
    sort_by: str = ""
    descending: bool = False
    group_by: str = ""
    fields: tuple[str, ...] = ()

    def exactly(self, name: str) -> str | None:
        """The text that a field must equal, where a condition says so."""
        for condition in self.conditions:
            if condition.name == name and condition.operator == "=" and isinstance(condition.value, str):
                return condition.value
        return None


def from_url(parameters: Iterable[tuple[str, str]], uuid: str = "") -> Query:
    """The query of a GET. With `uuid` only the resource of this uuid. Raises Malformed."""
    pairs = [(name.strip(), value) for name, value in parameters]
    if uuid:
        fields = next((value for name, value in pairs if name == "fields"), "")
        return Query((_condition("uuid", "=", uuid),), fields=_names(fields))
    first: dict[str, str] = {}
    for name, value in pairs:
        first.setdefault(name, value.strip())
    sort = first.get("sort", "")
    return Query(
        conditions=_conditions([_read_condition(value) for name, value in pairs if name == "q"]),
        limit=_number(first, "limit", DEFAULT_LIMIT),
        start=_number(first, "start", 0),
        count=first.get("count", "").lower() == "true",
        reply_with_count=first.get("replyWithCount", "").lower() == "true",
        sort_by=sort.lstrip("+- "),
        descending=sort.startswith("-"),
        group_by=first.get("groupBy", ""),
        fields=_names(first.get("fields", "")),
    )


def from_message(message: Mapping[str, Any]) -> Query:
    """The query of a message of the older protocol. Raises Malformed."""
    conditions, fields = ([] if message.get(name) is None else message[name] for name in ("conditions", "fields"))
    if not isinstance(conditions, list) or not isinstance(fields, list):
        raise Malformed("'conditions' and 'fields' must be lists")
    return Query(
        conditions=_conditions([_spelled_condition(item) for item in conditions]),
        limit=_number(message, "limit", DEFAULT_LIMIT),
        start=_number(message, "start", 0),
        count=_truth(message.get("count")),
        reply_with_count=_truth(message.get("replyWithCount")),
        sort_by=str(message.get("sortBy") or ""),
        descending=message.get("sortDirection") == "desc",
        group_by=str(message.get("groupBy") or ""),
        fields=tuple(str(name).strip() for name in fields),
    )


def answer(query: Query, inventories: Iterable[Mapping[str, Any]], known: Sequence[str]) -> dict[str, Any]:
    """What the query finds: `inventories`, and `total` where it was asked for.

    `known`: the names of all fields that such an inventory may have. Raises InvalidArgument for others.
    """
    _refuse_unknown(query, known)
    tests = [_test(condition) for condition in query.conditions]
    found = [inventory for inventory in inventories if all(test(inventory) for test in tests)]
    if query.group_by:
        found = list({_comparable(inventory.get(query.group_by)): inventory for inventory in reversed(found)}.values())
        found.reverse()
    if query.count:
        return {"total": len(found)}
    if query.sort_by:
        found = _sorted(found, query.sort_by, descending=query.descending)
    page = found[query.start : query.start + query.limit]
    shown = [_projected(inventory, query.fields) for inventory in page]
    return {"inventories": shown, "total": len(found)} if query.reply_with_count else {"inventories": shown}


def shown(value: Any) -> Any:
    """A value as JSON takes it: without what is null, moments as dates."""
    if isinstance(value, Moment):
        return dates.show(value)
    if isinstance(value, Mapping):
        return {name: shown(item) for name, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [shown(item) for item in value]
    return value


def _sorted(found: list[Mapping[str, Any]], name: str, *, descending: bool) -> list[Mapping[str, Any]]:
    """In the order of one field; what has no value comes last, whichever the direction."""
    key = cmp_to_key(_compare)
    present = [inventory for inventory in found if inventory.get(name) is not None]
    present.sort(key=lambda inventory: key(inventory[name]), reverse=descending)
    return present + [inventory for inventory in found if inventory.get(name) is None]


def _projected(inventory: Mapping[str, Any], fields: Sequence[str]) -> Any:
    return shown({name: inventory[name] for name in fields if name in inventory} if fields else inventory)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _number(values: Mapping[str, Any], name: str, default: int) -> int:
    value = values.get(name)
    if value is None or value == "":
        return default
    # Python's own int() would also take texts that no client means, such as "1_000".
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value.strip()):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Malformed(f"Invalid query parameter. '{name}' must be an integer")
    if value < 0:
        raise Malformed(f"Invalid query parameter. '{name}' must not be negative")
    return value


def _truth(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.strip().lower() == "true")


def _conditions(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    if len(conditions) > MAX_CONDITIONS:
        raise Malformed(f"Invalid query parameter. At most {MAX_CONDITIONS} conditions are allowed")
    return tuple(conditions)


def _read_condition(text: str) -> Condition:
    """The leftmost operator of a condition divides it; of those that begin there, the longest."""
    places = [(text.find(op), -len(op), op) for op in _WRITTEN if op in text]
    if places:
        at, _, operator = min(places)
        name, value = text[:at].strip(), text[at + len(operator) :]
        if name:
            return _condition(name, operator, value)
    for operator in _NULL_TESTS:
        if text.rstrip().endswith(operator):
            name = text.rstrip().removesuffix(operator).strip()
            return Condition(name.removesuffix("is").strip() if operator == "not null" else name, operator)
    raise Malformed(
        f"Invalid query parameter. The '{text[:128]}' in the parameter[q] doesn't contain any query operator."
        f" Valid query operators are [{', '.join((*_WRITTEN, *_NULL_TESTS))}]"
    )


def _spelled_condition(item: Any) -> Condition:
    if isinstance(item, str):
        return _read_condition(item)
    if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
        raise Malformed("a condition is an object of name, op and value")
    written = str(item.get("op") or "=").strip().lower()
    operator = _SPELLED.get(written, written)
    if operator not in _WRITTEN and operator not in _NULL_TESTS:
        raise Malformed(f"unknown query operator [{written[:32]}]")
    value = item.get("value")
    if isinstance(value, list):
        name = item["name"].strip()
        return Condition(name, operator, tuple(_canonical(name, _as_text(part)) for part in value))
    return _condition(item["name"].strip(), operator, _as_text(value))


def _condition(name: str, operator: str, value: str) -> Condition:
    many = tuple(_canonical(name, part.strip()) for part in value.split(",")) if operator in ("?=", "!?=") else None
    return Condition(name, operator, _canonical(name, value) if many is None else many)


def _canonical(name: str, value: str) -> str:
    """A uuid may be written with dashes."""
    return canonical_uuid(value.strip()) if name.lower().endswith("uuid") else value


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _refuse_unknown(query: Query, known: Sequence[str]) -> None:
    allowed = {*known, *TAG_FIELDS}
    asked = [c.name.partition(".")[0] for c in query.conditions] + [query.sort_by, query.group_by, *query.fields]
    for name in asked:
        if name and name not in allowed:
            shown_name = name if name.isprintable() and len(name) <= 64 else "…"
            raise InvalidArgument(
                [FieldViolation(shown_name, f"is no field to query by; there are {', '.join(known)}")]
            )


def _test(condition: Condition) -> Callable[[Mapping[str, Any]], bool]:
    name, operator = condition.name, condition.operator
    if operator == "is null":
        return lambda inventory: not any(True for _ in _values(inventory, name))
    if operator == "not null":
        return lambda inventory: any(True for _ in _values(inventory, name))
    matches = _MATCHERS[operator](condition.value)
    if operator in ("!=", "!?=", "!~="):
        # As in SQL, what is null is not unequal to anything either.
        return lambda inventory: all(matches(v) for v in _present(inventory, name))
    return lambda inventory: any(matches(v) for v in _values(inventory, name))


def _present(inventory: Mapping[str, Any], name: str) -> list[Any]:
    values = list(_values(inventory, name))
    return values or [_NULL]


_NULL = object()


def _values(inventory: Mapping[str, Any], name: str) -> Iterator[Any]:
    """All values that a name reaches, lists flattened."""
    yield from _reach(inventory, TAG_FIELDS.get(name, name).split("."))


def _reach(value: Any, steps: Sequence[str]) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _reach(item, steps)
    elif steps:
        if isinstance(value, Mapping):
            yield from _reach(value.get(steps[0]), steps[1:])
    elif value is not None:
        yield value


def _equal(value: Any, text: str) -> bool:
    return value is not _NULL and _compare(value, text) == 0


def _one_of(texts: Any) -> Callable[[Any], bool]:
    wanted = (texts,) if isinstance(texts, str) else tuple(texts)
    return lambda value: any(_equal(value, text) for text in wanted)


def _like(pattern: Any) -> Callable[[Any], bool]:
    """SQL's LIKE: `%` any text, `_` any character, upper and lower case alike."""
    # Piece by piece, each at its leftmost place: one expression with many `.*` could take exponential time.
    pieces = [
        re.compile("".join("." if c == "_" else re.escape(c) for c in piece), re.IGNORECASE | re.DOTALL)
        for piece in str(pattern).split("%")
    ]

    tail = len(str(pattern).rpartition("%")[2])

    def match(value: Any) -> bool:
        text = _as_text(shown(value))
        if len(pieces) == 1:
            return pieces[0].fullmatch(text) is not None
        first, *middle, last = pieces
        found = first.match(text)
        for piece in middle:
            found = piece.search(text, found.end()) if found else None
        # The last piece has one length, so it can end at the end of the text in one place only.
        rest = text[max(found.end(), len(text) - tail) :] if found else None
        return rest is not None and last.fullmatch(rest) is not None

    return match


def _unless(match: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is not _NULL and not match(value)


_MATCHERS: Mapping[str, Callable[[Any], Callable[[Any], bool]]] = {
    "=": lambda text: lambda value: _equal(value, text),
    "!=": lambda text: _unless(lambda value: _equal(value, text)),
    ">": lambda text: lambda value: _compare(value, text) > 0,
    ">=": lambda text: lambda value: _compare(value, text) >= 0,
    "<": lambda text: lambda value: _compare(value, text) < 0,
    "<=": lambda text: lambda value: _compare(value, text) <= 0,
    "?=": _one_of,
    "!?=": lambda texts: _unless(_one_of(texts)),
    "~=": _like,
    "!~=": lambda pattern: _unless(_like(pattern)),
}


def _compare(left: Any, right: Any) -> int:
    """-1, 0 or 1; numbers and moments as such where both sides are, everything else as texts."""
    a, b = _ordered(left, right), _ordered(right, left)
    if type(a) is not type(b):
        a, b = _as_text(a), _as_text(b)
    return int(a > b) - int(a < b)


def _ordered(value: Any, other: Any) -> Any:
    """The value as it compares with `other`: a text as the moment or number that it would be beside one."""
    if isinstance(value, str) and not isinstance(other, str) and other is not None:
        try:
            return dates.read(value) if isinstance(other, Moment) else _plain_number(value)
        except ValueError:
            return value
    if isinstance(value, bool):
        return _as_text(value)
    return int(value) if isinstance(value, int) else value


def _plain_number(text: str) -> Any:
    number = float(text)
    if math.isnan(number):
        raise ValueError("nan is equal to nothing")
    return int(number) if number.is_integer() else number


def _comparable(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else repr(value)
