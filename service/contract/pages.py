"""Pages as messages that every client can receive.

Clients of gRPC take 4 MiB in one message unless they are told otherwise, and a page is counted in items of any size: it
ends early where its messages would be too many bytes together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message

from service.app.paging import Page

MOST_PAGE_BYTES = 3 << 20
"""Below the 4 MiB of a client's default, with room for what stands around the items."""

T = TypeVar("T")
M = TypeVar("M", bound=Message)
Made = TypeVar("Made")


def fitting(page: Page[T], convert: Callable[[T], M]) -> tuple[list[M], str]:
    """The page's items as messages, as many as are MOST_PAGE_BYTES together and one at least; and the token of the
    next page, "" at the end."""
    return _fitting(page, convert, lambda message: message.ByteSize())


def fitting_bytes(page: Page[T], convert: Callable[[T], bytes]) -> tuple[list[bytes], str]:
    """As `fitting`, of items as `convert.views` has them."""
    return _fitting(page, convert, _size)


def _size(framed: bytes) -> int:
    """Of the message itself, as ByteSize tells it: without its tag and its length in front."""
    head = 1
    while framed[head] & 0x80:
        head += 1
    return len(framed) - head - 1


def _fitting(page: Page[T], convert: Callable[[T], Made], size_of: Callable[[Made], int]) -> tuple[list[Made], str]:
    messages: list[Made] = []
    size = 0
    for item in page.items:
        message = convert(item)
        size += size_of(message)
        if messages and size > MOST_PAGE_BYTES:
            return messages, page.tokens(len(messages))
        messages.append(message)
    return messages, page.next_page_token
