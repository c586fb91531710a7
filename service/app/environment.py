"""The environment variables that a caller gives, checked before anything is stored, whichever way they come in."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from service.domain.environment import problems
from service.errors import FieldViolation, InvalidArgument

MOST_TOLD = 16


def check(values: Mapping[str, str], field: str, known: Callable[[str], bool]) -> None:
    """Raises InvalidArgument that names each wrong variable as `field[NAME]`. `known`: whether a secret may be used."""
    wrong = [FieldViolation(f"{field}[{name}]", what) for name, what in problems(values, known)]
    if wrong:
        raise InvalidArgument(wrong[:MOST_TOLD])
