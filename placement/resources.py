"""Named integer amounts: what a host has and what a node asks for, in any units.

An amount is a non-negative integer in a unit that the caller chooses (vCPUs, bytes, GPUs of one model, ...); the
planner divides by common factors itself, so awkward units cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

MAX_AMOUNT = 2**62
"""The largest amount of one resource on one host, and the largest total over a fleet: sums stay within 64 bits."""
MAX_NAME = 253
MAX_RESOURCES = 64
MAX_HOSTS = 200_000
MAX_NODES = 100_000
MAX_CONSTRAINTS = 1_000


class InvalidPlacementInput(ValueError):
    """An input that no planner could answer: ``field`` is its path, ``message`` says what is wrong with it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message

    def __reduce__(self) -> tuple[type[InvalidPlacementInput], tuple[str, str]]:
        return type(self), (self.field, self.message)


def checked_name(field: str, value: object) -> str:
    """The value as a non-empty printable name of at most 253 characters."""
    if not isinstance(value, str) or not value:
        raise InvalidPlacementInput(field, "must be a non-empty string")
    if len(value) > MAX_NAME:
        raise InvalidPlacementInput(field, f"is longer than {MAX_NAME} characters")
    if not value.isprintable():
        raise InvalidPlacementInput(field, "holds a control character")
    return value


def checked_integer(field: str, value: object, lowest: int, highest: int) -> int:
    """The value as an integer of ``lowest..highest`` (booleans are no integers here)."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidPlacementInput(field, "must be an integer")
    if not lowest <= value <= highest:
        raise InvalidPlacementInput(field, f"must be between {lowest} and {highest}")
    return value


def checked_amounts(field: str, value: object) -> dict[str, int]:
    """A copy of a mapping from resource names to amounts, every one checked."""
    if not isinstance(value, Mapping):
        raise InvalidPlacementInput(field, "must map resource names to integers")
    if len(value) > MAX_RESOURCES:
        raise InvalidPlacementInput(field, f"names more than {MAX_RESOURCES} resources")
    for name, amount in value.items():
        if type(amount) is not int or not 0 <= amount <= MAX_AMOUNT or type(name) is not str:
            checked_name(field, name)
            checked_integer(f"{field}[{name}]", amount, 0, MAX_AMOUNT)
        elif not name or len(name) > MAX_NAME:
            checked_name(field, name)
    return dict(value)


def checked_labels(field: str, value: object) -> dict[str, str]:
    """A copy of a mapping from label keys to label values, every one checked."""
    if not isinstance(value, Mapping):
        raise InvalidPlacementInput(field, "must map label keys to values")
    for key, label in value.items():
        checked_name(field, key)
        if not isinstance(label, str) or len(label) > MAX_NAME:
            raise InvalidPlacementInput(f"{field}[{key}]", f"must be a string of at most {MAX_NAME} characters")
    return dict(value)


def checked_names(field: str, value: object) -> frozenset[str]:
    """A collection of names as a frozen set."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidPlacementInput(field, "must be a collection of names")
    return frozenset(checked_name(field, name) for name in value)
