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


def fitting(page: Page[T], convert: Callable[[T], M]) -> tuple[list[M], str]:
    """The page's items as messages, as many as are MOST_PAGE_BYTES together and one at least; and the token of the
    next page, "" at the end."""
    messages: list[M] = []
    size = 0
    for item in page.items:
        message = convert(item)
        size += message.ByteSize()
        if messages and size > MOST_PAGE_BYTES:
            return messages, page.tokens(len(messages))
        messages.append(message)
    return messages, page.next_page_token
