"""One call of an API as its handler sees it: its arguments read in ZStack's names, and what all handlers need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from service.app.group_intents import Ask
from service.app.paging import MAX_PAGE, Page
from service.contract import text
from service.domain.tenants import NOBODY, Caller
from service.errors import CorralError, InvalidArgument, Unavailable
from service.http.zstack.apis import Api
from service.http.zstack.errors import error_code
from service.http.zstack.query import Query

# How long a call may take, ms, where its client does not say it by X-API-Timeout; clients are told.
API_TIMEOUT_MS = 3 * 3600 * 1000
MAX_TIMEOUT_MS = 7 * 24 * 3600 * 1000
_DELETE_MODES = ("Permissive", "Enforcing")
_DECIDED: Mapping[str, str] = {
    "requestId": "the job's uuid (X-Job-UUID) makes a repeat harmless",
    "updateMask": "what is to be changed is what is given",
}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `request_id`: the job's uuid, or a name for the log; `peer`: the address that it came from.
    `timeout_ms`: how long it may take, as its caller said; `left_ms`: what is left of that, 0: all of it."""

    api: Api
    request_id: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    query: Query = field(default_factory=Query)
    peer: str = ""
    caller: Caller = NOBODY
    timeout_ms: int = API_TIMEOUT_MS
    left_ms: int = 0

    def text(self, name: str) -> str:
        """A mandatory argument. Raises InvalidArgument."""
        value = self.arguments.get(name)
        if not isinstance(value, str) or not value.strip():
            raise InvalidArgument.of(name, "is required")
        return value.strip()

    def uuid(self, name: str = "uuid") -> str:
        """A mandatory uuid in its one form. Raises InvalidArgument."""
        return _uuid(name, self.text(name))

    def uuids(self, name: str, *, required: bool = False) -> tuple[str, ...]:
        """A list of uuids; absent is empty. Raises InvalidArgument."""
        values = self.arguments.get(name) or []
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise InvalidArgument.of(name, "must be a list of uuids")
        if required and not values:
            raise InvalidArgument.of(name, "is required")
        return tuple(dict.fromkeys(_uuid(f"{name}[{i}]", value.strip()) for i, value in enumerate(values)))

    @property
    def job(self) -> str:
        """The request id of whatever the call asks for, so that a job taken up again does nothing twice."""
        return f"zstack-job/{self.request_id}"

    def once(self, uuid: str = "") -> Ask:
        """With a request id of the job and of what it is about."""
        return Ask(request_id=f"{self.job}/{uuid}" if uuid else self.job)

    def refuse(self, *names: str) -> None:
        """Raises InvalidArgument for an argument that the call's own face decides: nothing would go by it."""
        for name in names:
            if self.arguments.get(name) not in (None, "", [], {}):
                raise InvalidArgument.of(name, f"cannot be given here: {_DECIDED[name]}")

    def check_delete_mode(self) -> None:
        """Both of ZStack's modes do the same here. Raises InvalidArgument for another one."""
        mode = self.arguments.get("deleteMode")
        if mode is not None and mode not in _DELETE_MODES:
            raise InvalidArgument.of("deleteMode", f"must be one of {', '.join(_DELETE_MODES)}")


Handler = Callable[[Call], Awaitable[dict[str, Any]]]


async def every(listing: Callable[[int, str], Awaitable[Page[T]]]) -> AsyncIterator[T]:
    """Everything that a listing has, page by page."""
    token = ""
    while True:
        page = await listing(MAX_PAGE, token)
        for item in page.items:
            yield item
        token = page.next_page_token
        if not token:
            return


async def each(
    call: Call, uuids: Iterable[str], work: Callable[[str], Coroutine[Any, Any, Mapping[str, Any]]]
) -> dict[str, Any]:
    """ZStack's `results`: what became of each, once all have ended. `work` answers what a success tells besides.

    Raises Unavailable, so that the job is taken up again, and what is a bug.
    """
    names = list(uuids)
    ends = await asyncio.gather(*(work(uuid) for uuid in names), return_exceptions=True)
    results: list[dict[str, Any]] = []
    for uuid, end in zip(names, ends, strict=True):
        if isinstance(end, Unavailable) or (isinstance(end, BaseException) and not isinstance(end, CorralError)):
            raise end
        if isinstance(end, CorralError):
            results.append({"uuid": uuid, "success": False, "error": error_code(end, call.request_id)})
        else:
            results.append({"uuid": uuid, "success": True, **end})
    return {"results": results}


def _uuid(name: str, value: str) -> str:
    canonical = text.canonical_uuid(value)
    if not text.is_uuid(canonical):
        raise InvalidArgument.of(name, "must be a uuid of 32 hexadecimal digits, with or without dashes")
    return canonical
