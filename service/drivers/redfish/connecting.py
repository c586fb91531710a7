"""How a BMC is talked to: each request once, within its call's deadline, to one that is known by its certificate."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from sushy import connector, exceptions

CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0


class Late(Exception):
    """The deadline of the call has passed; nothing was sent after that."""


class Busy(Late):
    """The BMC has said that it is busy, and for how long: nothing is sent before that is over."""


BUSY = (503, 429)
MOST_BUSY_SECONDS = 60.0
"""A BMC that asks for more is asked again all the same."""


class Pace:
    """What a BMC has asked for by Retry-After (RFC 9110, 10.2.3), in whole seconds, the form that BMCs use."""

    def __init__(self) -> None:
        self._until = 0.0

    def hear(self, response: requests.Response, *_: Any, **__: Any) -> None:
        """A hook of requests: one answer of the BMC."""
        asked = response.headers.get("Retry-After", "")
        if response.status_code in BUSY and asked.isdecimal():
            self._until = time.monotonic() + min(float(asked), MOST_BUSY_SECONDS)

    def wait(self, deadline: float) -> None:
        """Until something may be sent. Raises Busy where that is not before the deadline, at once."""
        if (pause := self._until - time.monotonic()) > 0:
            if self._until >= deadline:
                raise Busy
            time.sleep(pause)


_TIMEOUTS = (requests.Timeout, requests.exceptions.SSLError)


class Connector(connector.Connector):  # type: ignore[misc]
    """Sushy's, with a deadline for whatever a call sends."""

    deadline = 0.0
    sends: Callable[[], None]
    pace: Pace

    def _op(self, method: str, path: str = "", *arguments: Any, **named: Any) -> Any:
        self.pace.wait(self.deadline)
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Late
        named["timeout"] = (min(CONNECT_SECONDS, left), min(READ_SECONDS, left))
        self.sends()
        try:
            return super()._op(method, path, *arguments, **named)
        except exceptions.ConnectionError as error:
            lost = error.__context__
            if method != "GET" or not isinstance(lost, requests.ConnectionError) or isinstance(lost, _TIMEOUTS):
                raise
        # A connection that the BMC has closed just now was used again: what only reads is asked once more.
        named["timeout"] = (CONNECT_SECONDS, READ_SECONDS)
        self.sends()
        return super()._op(method, path, *arguments, **named)


class Pinned(HTTPAdapter):
    """Knows a BMC by its certificate alone, whoever signed it."""

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **named: Any) -> Any:
        """See HTTPAdapter."""
        return super().init_poolmanager(*arguments, **named, assert_fingerprint=self._fingerprint)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """See HTTPAdapter: the fingerprint is compared in place of the authority and the name."""
        super().cert_verify(conn, url, False, cert)
