"""A deadline as the planner knows it: a question that is asked often and cheaply. Only the caller reads a clock."""

from __future__ import annotations

from collections.abc import Callable

Stop = Callable[[], bool]
"""Whether to end now, with the best that is known. Once true it stays true."""


def never() -> bool:
    """A stop that never comes."""
    return False
