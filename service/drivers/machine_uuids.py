"""A machine's uuid, which follows from who it is."""

from __future__ import annotations

import uuid
from functools import lru_cache

_NAMESPACE = uuid.UUID("6f2a1f0e-6d0c-5b2b-9f4e-0c0a1be11a01")
_MOST = 32_768
"""So many are kept: each is asked for at every look at its machine, and made of a digest."""


@lru_cache(maxsize=_MOST)
def machine_uuid(cluster: str, instance: str, attempt: int) -> str:
    """RFC 4122 version 5 uuid of the attempt of an instance in a cluster, with dashes."""
    return str(uuid.uuid5(_NAMESPACE, f"{cluster}/{instance}/{attempt}"))
