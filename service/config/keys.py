"""The keys that stored secrets are encrypted with, read from where the configuration says."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from service.domain.secrets import SecretKey

KEY_BYTES = 32
_FOR_OTHERS = 0o077
_MOST_BYTES = 1024  # of a file: 44 characters are a key


class KeyUnusable(Exception):
    """A key cannot be used. The text says why, and has no part of the key in it."""


def read_keys(keys: Iterable[SecretKey], environment: Mapping[str, str] = os.environ) -> dict[str, bytes]:
    """The keys by name, in their order. Raises KeyUnusable."""
    return {key.name: _read(key, environment) for key in keys}


def key_problem(key: SecretKey) -> str:
    """What is wrong with the file of a key; empty where nothing is."""
    try:
        _read(key, {})
    except KeyUnusable as problem:
        return str(problem)
    return ""


def _read(key: SecretKey, environment: Mapping[str, str]) -> bytes:
    text = _file(key) if key.file else environment.get(key.variable)
    if text is None:
        raise KeyUnusable(f"the variable {key.variable} is not set where the service runs")
    try:
        found = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise KeyUnusable("is not base64: `openssl rand -base64 32` makes a key") from None
    if len(found) != KEY_BYTES:
        raise KeyUnusable(f"has {len(found)} bytes, not {KEY_BYTES}: `openssl rand -base64 32` makes a key")
    return found


def _file(key: SecretKey) -> str:
    try:
        with Path(key.file).open("rb") as file:
            if os.fstat(file.fileno()).st_mode & _FOR_OTHERS:
                raise KeyUnusable(f"{key.file} can be used by others: chmod 600 it")
            return file.read(_MOST_BYTES).decode()
    except OSError as problem:
        raise KeyUnusable(f"{key.file} cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise KeyUnusable("is not base64: `openssl rand -base64 32` makes a key") from None
