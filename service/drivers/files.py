"""Files of images on the service's machine, as drivers look at them."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=64)
def digest(path: str, size: int, changed_at: int) -> str:
    """The SHA-256 of a file, which is read once for each size and time of change. Raises OSError."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
