"""Which bytes of a whole a request's body is, as HTTP says it."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request

from service.errors import InvalidArgument

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


def whole_or_part(request: Request, values: dict[str, Any]) -> dict[str, Any]:
    """`values` with `offset` and `size` of `Content-Range` or `Content-Length`, where no parameter says them.

    Raises InvalidArgument for a range that is none, or is not as long as the body.
    """
    length, told = request.headers.get("content-length", ""), request.headers.get("content-range")
    if told is None:
        # What begins later ends as much later.
        offset = str(values.get("offset", "0"))
        if length.isdecimal() and offset.isdecimal() and len(offset) < 20:
            values.setdefault("size", str(int(length) + int(offset)))
        return values
    match = _CONTENT_RANGE.fullmatch(told.strip())
    if match is None:
        raise InvalidArgument.of("offset", "Content-Range must be: bytes FIRST-LAST/SIZE")
    first, last, size = (int(number) for number in match.groups())
    if not first <= last < size or (length.isdecimal() and int(length) != last - first + 1):
        raise InvalidArgument.of("offset", "Content-Range is not of as many bytes as the body has")
    for name, value in (("offset", first), ("size", size)):
        if str(values.setdefault(name, str(value))) != str(value):
            raise InvalidArgument.of(name, f"is {value} by Content-Range")
    return values
