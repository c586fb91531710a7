"""What all members of a group are told alike: who they are, and where. Made once for a state of the group, for each of
its members has it in its documents, and a gang's machines are made at the same time. Pure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from service.domain.groups import Instance
from service.serving.host_names import host_names

MOST_KEPT = 64
"""Of so many states of groups it is kept; a gang's creates need that of one."""


@dataclass(frozen=True, slots=True)
class Fellows:
    """`names`: host names by rank order; `peers`: of the rendezvous document, and `text` the same as it stands there;
    `hosts`: lines for /etc/hosts, of the addresses that are planned."""

    names: tuple[str, ...]
    peers: tuple[dict[str, Any], ...]
    text: str
    hosts: str


_kept: dict[int, tuple[tuple[Instance, ...], Fellows]] = {}


def fellows(members: tuple[Instance, ...]) -> Fellows:
    """Of the members of one group, in rank order. The very same tuple is answered from memory."""
    kept = _kept.get(id(members))
    if kept is not None and kept[0] is members:
        return kept[1]
    made = _made(members)
    if len(_kept) >= MOST_KEPT:
        _kept.clear()
    _kept[id(members)] = members, made  # which keeps the tuple, so that no other one has its id
    return made


def _made(members: tuple[Instance, ...]) -> Fellows:
    names = host_names([m.spec.name for m in members])
    peers = tuple(_peer(member, name) for member, name in zip(members, names, strict=True))
    return Fellows(
        names,
        peers,
        as_json(peers),
        "".join(f"{p['address']} {p['host_name']}\n" for p in peers if p["address"]),
    )


def as_json(value: object) -> str:
    """As documents are written."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)


def with_peers(document: dict[str, Any], members: Fellows) -> str:
    """The document as JSON, with the peers' text in it: no text of anybody's has a line break in JSON, and so a line
    that begins so is the document's own."""
    hollow = as_json({**document, "peers": None})
    return hollow.replace('\n "peers": null', '\n "peers": ' + members.text.replace("\n", "\n "), 1)


def _peer(member: Instance, host_name: str) -> dict[str, Any]:
    return {
        "rank": member.rank,
        "role": "leader" if member.rank == 0 else "worker",
        "name": member.spec.name,
        "host_name": host_name,
        "address": member.address,
        # The role that the request names (`router`, `prefill`, …), beside that of leader or worker.
        **({"group_role": member.spec.role} if member.spec.role else {}),
    }
