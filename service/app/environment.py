"""The environment variables that a caller gives, checked before anything is stored, whichever way they come in."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from service.domain.environment import problems, unknown_secrets
from service.errors import FieldViolation, InvalidArgument, NotFound

MOST_TOLD = 16


def check(values: Mapping[str, str], field: str, known: Callable[[str], bool]) -> None:
    """Raises InvalidArgument that names each wrong variable as `field[NAME]`, NotFound for the first one that refers to
    a secret that there is not. `known`: whether a secret may be used."""
    wrong = [FieldViolation(f"{field}[{name}]", what) for name, what in problems(values)]
    if wrong:
        raise InvalidArgument(wrong[:MOST_TOLD])
    for name, secret in unknown_secrets(values, known):
        raise NotFound("secret", secret, f"{field}[{name}]")
