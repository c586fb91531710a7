"""Access keys: programs sign their calls instead of logging in, as ZStack's SDKs do.

The signature is HMAC-SHA1 with the key's secret over the verb, the date and the path, each on its own line. SHA-1 is
the protocol's, and sound within HMAC. It covers neither the query nor the body: what protects those is TLS.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from service.domain.tenants import AccessKey, Caller
from service.errors import Unauthenticated

MAX_SKEW_MS = 15 * 60 * 1000
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATE = re.compile(r"[A-Za-z]{3}, (\d{1,2}) ([A-Za-z]{3}) (\d{4}) (\d{2}):(\d{2}):(\d{2}) ([A-Za-z0-9_+:/-]{1,64})")
_NOBODY = AccessKey("", "-", Caller(role=""))


@dataclass(frozen=True, slots=True)
class SignedCall:
    """What a caller shows. `date`: the header's text, which is signed as it stands; `paths`: each of the forms in which
    its client may have signed the call's path, from `/v1` on."""

    key_id: str
    signature: str
    verb: str
    date: str
    paths: tuple[str, ...]


class AccessKeys:
    """The configured keys."""

    def __init__(self, keys: Iterable[AccessKey], clock: Callable[[], int]) -> None:
        self.replace(keys)
        self._clock = clock

    def replace(self, keys: Iterable[AccessKey]) -> None:
        """Know these keys alone from now on."""
        self._keys = {key.id: key for key in keys}

    def caller(self, call: SignedCall) -> Caller:
        """Who signed the call. Raises Unauthenticated."""
        key = self._keys.get(call.key_id, _NOBODY)
        # An unknown key costs the same, so that time does not tell which there are.
        shown = call.signature.encode()
        right = [hmac.compare_digest(_signature(key.secret, call, path), shown) for path in call.paths]
        if not any(right) or key is _NOBODY:
            raise Unauthenticated("the access key is unknown or its signature is wrong")
        if abs(self._clock() - _milliseconds(call.date)) > MAX_SKEW_MS:
            raise Unauthenticated("the header Date is more than 15 minutes away from this service's time")
        return key.caller


def _signature(secret: str, call: SignedCall, path: str) -> bytes:
    text = f"{call.verb}\n{call.date}\n{path}"
    return base64.b64encode(hmac.digest(secret.encode(), text.encode(), "sha1"))


def _milliseconds(date: str) -> int:
    """Ms since the epoch of a date such as `Sun, 29 Nov 2026 07:00:00 Asia/Shanghai`. Raises Unauthenticated."""
    found = _DATE.fullmatch(date)
    try:
        if found is None:
            raise ValueError(date)
        day, month, year, hour, minute, second, zone = found.groups()
        at = datetime(int(year), _MONTHS.index(month.lower()) + 1, int(day), int(hour), int(minute), int(second))
        offset = datetime.fromisoformat(f"{at.isoformat()}{zone}") if zone[0] in "+-" else None
        known = offset or at.replace(tzinfo=UTC if zone in ("Z", "UTC", "GMT") else ZoneInfo(zone))
    except (ValueError, OSError, KeyError) as error:
        raise Unauthenticated(
            "the header Date must be as Sun, 29 Nov 2026 07:00:00 and the name of a time zone, such as UTC"
        ) from error
    return int(known.timestamp() * 1000)
