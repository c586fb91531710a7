"""The configuration that holds, as TOML with every default, and without what is secret."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from pydantic import BaseModel

from service.config import schema
from service.domain.environment import SECRET_SCHEME
from service.listening import ListenAddress

HIDDEN = "(hidden)"
# Digests too: a short secret is found from them.
_SECRET_KEY = re.compile(
    r"(^|_)(password|secret|sha256|sha512|token|passphrase|key)(_|$)|password|passwd", re.IGNORECASE
)
# Keys of that kind that name a file, or say what a file must be, and are no secrets.
_HARMLESS = frozenset({"server.tls.key", "credentials.ssh_key", "images.sha256"})
_PASSWORD_OF_URL = re.compile(r"(?<=://)([^:/@]*):[^@]*@")
_QUERY_PASSWORD = re.compile(r"(password=)[^&]*", re.IGNORECASE)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def text(checked: schema.Configuration) -> str:
    """The sections in the file's own words."""
    return "\n".join(_table("", _plain(checked, ()))).lstrip("\n") + "\n"


def _plain(value: Any, path: tuple[str, ...]) -> Any:
    """TOML's own types, without what is secret."""
    if isinstance(value, BaseModel):
        value = {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(key): _plain(one, (*path, str(key))) for key, one in value.items() if one is not None}
    if isinstance(value, list | tuple):
        return [_plain(one, path) for one in value]
    if isinstance(value, Fraction):
        return int(value) if value.denominator == 1 else float(value)
    if isinstance(value, ListenAddress):
        return str(value)
    if isinstance(value, str) and value and _is_secret(path, value):
        return HIDDEN
    if path == ("store", "url"):
        return _QUERY_PASSWORD.sub(rf"\1{HIDDEN}", _PASSWORD_OF_URL.sub(rf"\1:{HIDDEN}@", value))
    return value


def _is_secret(path: tuple[str, ...], value: str) -> bool:
    if any(".".join(path[:length]) in _HARMLESS for length in range(1, len(path) + 1)):
        return False
    if path[:-1] == ("model_services", "environment"):
        return not value.startswith(SECRET_SCHEME)
    return _SECRET_KEY.search(path[-1]) is not None


def _table(name: str, value: Mapping[str, Any]) -> Iterator[str]:
    tables = {key: one for key, one in value.items() if isinstance(one, dict) and one}
    lists = {key: one for key, one in value.items() if isinstance(one, list) and one and isinstance(one[0], dict)}
    plain = {key: one for key, one in value.items() if key not in lists and not isinstance(one, dict)}
    if name and (plain or not (tables or lists)):
        yield f"\n[{name}]"
    yield from (f"{_key(key)} = {_literal(one)}" for key, one in plain.items())
    for key, one in tables.items():
        yield from _table(f"{name}.{_key(key)}" if name else _key(key), one)
    for key, ones in lists.items():
        for entry in ones:
            yield f"\n[[{_key(key)}]]"
            yield from (f"{_key(at)} = {_literal(part)}" for at, part in entry.items())


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else json.dumps(name)


def _literal(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{ " + ", ".join(f"{_key(key)} = {_literal(one)}" for key, one in value.items()) + " }" if value else "{}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(_literal(one) for one in value) + "]"
    return json.dumps(value, ensure_ascii=False)
