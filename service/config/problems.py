"""What is wrong with a configuration file, in the file's own words: the key's path, what is allowed, what was there."""

from __future__ import annotations

import difflib
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from service.config import schema


def describe(error: dict[str, Any]) -> str:
    """One problem that pydantic found, in the words of the file."""
    location: tuple[int | str, ...] = error["loc"]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if error["type"] == "extra_forbidden":
        return f"{path}: unknown key; {_allowed_keys(location)}"
    if error["type"] == "missing":
        return f"{path}: missing"
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    shown = repr(error["input"])
    # Where a digest is expected, somebody may have written the secret itself: the value is not shown.
    secret = path.endswith(("password_sha512", ".sha256"))
    got = "" if secret else f" (got {shown if len(shown) <= 80 else shown[:77] + '…'})"
    return f"{path or 'file'}: {message[:1].lower()}{message[1:]}{got}"


def _allowed_keys(location: tuple[int | str, ...]) -> str:
    model: type[BaseModel] = schema.Configuration
    for part in location[:-1]:
        if isinstance(part, str):
            model = _section_type(model.model_fields[part].annotation) or model
    allowed = sorted(model.model_fields)
    close = difflib.get_close_matches(str(location[-1]), allowed, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}allowed: {', '.join(allowed)}"


def _section_type(annotation: Any) -> type[BaseModel] | None:
    """The section class inside `X`, `X | None`, `list[X]`."""
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, BaseModel) else None
    if get_origin(annotation) is None:
        return None
    return next((found for part in get_args(annotation) if (found := _section_type(part)) is not None), None)
