"""What options read: sizes, durations, KEY=VALUE pairs, amounts of a resource."""

from __future__ import annotations

import re
from typing import Any

import click

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_RATIO = re.compile(r"\d+(\.\d+)?")
_SHIFT = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
# Of these an amount is bytes.
BYTES = ("memory", "disk")


def size(text: str) -> int:
    """Bytes, of `16GiB`, `512M` or a plain number; units are powers of 1024. Raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size such as 16GiB")
    return int(float(found[1]) * (1 << _SHIFT[found[2].upper()]))


def pair(text: str) -> tuple[str, str]:
    """`KEY=VALUE`. Raises ValueError."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError(f"{text!r} is not KEY=VALUE")
    return key, value


def amount(text: str) -> tuple[str, int]:
    """`RESOURCE=AMOUNT`; memory and disk as sizes. Raises ValueError."""
    resource, told = pair(text)
    if resource in BYTES:
        return resource, size(told)
    if not told.isdecimal():
        raise ValueError(f"{text!r} is not RESOURCE=NUMBER")
    return resource, int(told)


def count(text: str) -> tuple[str, int]:
    """`KEY=NUMBER`. Raises ValueError."""
    key, told = pair(text)
    if not told.isdecimal():
        raise ValueError(f"{text!r} is not KEY=NUMBER")
    return key, int(told)


def data_disk(text: str) -> tuple[str, int]:
    """`SIZE`, `IMAGE` or `IMAGE=SIZE`, as the image's name or uuid and bytes; what reads as a size is one. Raises
    ValueError."""
    image, _, told = text.rpartition("=")
    if image:
        return image, size(told)
    return (text, 0) if _SIZE.fullmatch(text.strip()) is None else ("", size(text))


def ratio(text: str) -> tuple[str, float]:
    """`RESOURCE=RATIO`. Raises ValueError."""
    resource, told = pair(text)
    if not _RATIO.fullmatch(told):
        raise ValueError(f"{text!r} is not RESOURCE=RATIO, such as vcpu=2.5")
    return resource, float(told)


def duration(text: str) -> int:
    """Milliseconds, of `90s`, `15m`, `2h` or `3d`. Raises ValueError."""
    found = _DURATION.fullmatch(text.strip())
    if found is None or int(found[1]) == 0:
        raise ValueError(f"{text!r} is no duration such as 90s, 15m, 2h or 3d")
    return int(found[1]) * _SECONDS[found[2]] * 1000


class Read(click.ParamType[Any]):
    """What a function reads out of the option's text; its ValueError is what is wrong."""

    def __init__(self, name: str, read: Any) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as problem:
            self.fail(str(problem), param, ctx)


SIZE = Read("size", size)
PAIR = Read("key=value", pair)
AMOUNT = Read("resource=amount", amount)
COUNT = Read("key=number", count)
DATA_DISK = Read("size|image[=size]", data_disk)
DURATION = Read("duration", duration)
RATIO = Read("resource=ratio", ratio)
