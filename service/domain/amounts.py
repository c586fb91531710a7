"""Amounts of resources in words. Pure."""

from __future__ import annotations

from service.domain.fleet import MEMORY

_UNITS = (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10))


def in_words(resource: str, amount: int) -> str:
    """`3 vcpu`, `210 GiB memory`: bytes in the largest unit of which there is one, to two places."""
    if resource != MEMORY:
        return f"{amount} {resource}"
    for unit, shift in _UNITS:
        if amount >= 1 << shift:
            return f"{round(amount / (1 << shift), 2):g} {unit} {resource}"
    return f"{amount} B {resource}"
