"""What a running guest is told down its progress channel: one line of JSON for the supervisor. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

TOLD = ("env", "hosts", "hostfile", "rendezvous")
"""The documents of a start, as `rendezvous.texts` names them."""


def take(group_uuid: str, address: str) -> str:
    """Have this address beside the member's own, and no other; empty: none. Told again the guest does nothing."""
    coded = base64.b64encode(address.encode()).decode()
    line = json.dumps({"v": 1, "do": "take", "group": group_uuid, "address": coded}, separators=(",", ":"))
    return f"\n{line}\n"


def quiesce(group_uuid: str, seconds: int) -> str:
    """Take no more callers, and end the answers that are going on within so many seconds. A guest answers by reports of
    the stage `stopping` once it is done; told again it does nothing."""
    line = json.dumps({"v": 1, "do": "quiesce", "group": group_uuid, "seconds": seconds}, separators=(",", ":"))
    return f"\n{line}\n"


def restart(epoch: int, documents: Mapping[str, str]) -> str:
    """The group starts anew as `epoch`: take over these documents, and start the engine again.

    The newline before it ends what an earlier writer left unfinished. Texts are base64, which a shell can take out of a
    line without a parser. A guest answers by reports of that epoch; told again it does nothing.
    """
    texts = {name: base64.b64encode(documents[name].encode()).decode() for name in TOLD if documents.get(name)}
    line = json.dumps({"v": 1, "do": "restart", "epoch": epoch, **texts}, separators=(",", ":"))
    return f"\n{line}\n"
