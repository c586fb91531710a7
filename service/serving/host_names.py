"""Host names of a group's members: a letter first, then letters, digits and hyphens; no two of a group are alike.

A name such as "0" or "0x10" is an address to the resolver (0.0.0.0, 0.0.0.16), so none of them begins with a digit.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 63
"""Of one label (RFC 1123)."""


def host_names(names: Sequence[str]) -> tuple[str, ...]:
    """The members' host names in rank order, from their names in rank order; the same names give the same answer.

    A name that is a host name already is kept, in lower case, since no resolver tells capitals apart; another
    member's name that would be the same gets a suffix. One without any ASCII letter or digit becomes `node-<rank>`.
    """
    wanted = [_wanted(name, rank) for rank, name in enumerate(names)]
    found: dict[int, str] = {}
    taken: set[str] = set()
    kept = [rank for rank, name in enumerate(names) if wanted[rank] == name.lower()]
    for rank in dict.fromkeys((*kept, *range(len(names)))):
        candidate, count = wanted[rank], 0
        while candidate in taken:
            suffix = f"-{rank}" if count == 0 else f"-{rank}-{count}"
            candidate, count = wanted[rank][: LONGEST - len(suffix)].rstrip("-") + suffix, count + 1
        found[rank] = candidate
        taken.add(candidate)
    return tuple(found[rank] for rank in range(len(names)))


def _wanted(name: str, rank: int) -> str:
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in name).strip("-").lower()
    if not plain:
        return f"node-{rank}"
    return (plain if plain[0].isalpha() else f"node-{plain}")[:LONGEST].rstrip("-")
