"""Keys for stored secrets, as an operator makes them."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path


def key_file(directory: Path, name: str) -> Path:
    """A new key in a file that its owner alone may read."""
    path = directory / f"{name}.key"
    path.write_text(base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
    path.chmod(0o600)
    return path


def key_section(*files: Path) -> str:
    """The sections that name these key files, the first one first."""
    return "".join(f'\n[[secret_keys]]\nname = "{path.stem}"\nfile = "{path}"\n' for path in files)


def a_key(directory: Path) -> str:
    """The section of a key, with its new file."""
    return key_section(key_file(directory, "first"))
