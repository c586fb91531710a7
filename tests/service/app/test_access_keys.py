"""Signed calls: whose they are, and every way in which one is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import replace

import pytest

from service.app.access_keys import MAX_SKEW_MS, AccessKeys, SignedCall
from service.domain.tenants import AccessKey, Caller
from service.errors import Unauthenticated

SECRET = "s" * 40
ALICE = Caller("alice", "red", "operator")
NOW = 1796022000000  # Mon, 30 Nov 2026 07:00:00 UTC
DATE = "Mon, 30 Nov 2026 07:00:00 UTC"
PATH = "/v1/ai/model-services"


def signed(verb: str = "PUT", date: str = DATE, path: str = PATH, secret: str = SECRET) -> SignedCall:
    digest = hmac.new(secret.encode(), f"{verb}\n{date}\n{path}".encode(), hashlib.sha1).digest()
    return SignedCall("key1", base64.b64encode(digest).decode(), verb, date, (path,))


def keys(now: int = NOW) -> AccessKeys:
    return AccessKeys([AccessKey("key1", SECRET, ALICE)], lambda: now)


def test_a_signature_says_who_calls() -> None:
    assert keys().caller(signed()) == ALICE


def test_a_recorded_signature_is_known() -> None:
    # Computed apart from this code: printf 'PUT\n<date>\n<path>' | openssl dgst -sha1 -hmac ssss… -binary | base64
    assert keys().caller(SignedCall("key1", RECORDED, "PUT", DATE, (PATH,))) == ALICE


@pytest.mark.parametrize(
    "date",
    [
        "Mon, 30 Nov 2026 15:00:00 Asia/Shanghai",
        "Mon, 30 Nov 2026 15:00:00 PRC",
        "Mon, 30 Nov 2026 15:00:00 +08:00",
        "Mon, 30 Nov 2026 07:00:00 Z",
        "Mon, 30 Nov 2026 07:00:00 GMT",
    ],
)
def test_the_date_may_be_of_any_time_zone_by_name(date: str) -> None:
    assert keys().caller(signed(date=date)) == ALICE


@pytest.mark.parametrize(
    "call",
    [
        replace(signed(), key_id="key2"),
        replace(signed(), verb="DELETE"),
        replace(signed(), date="Mon, 30 Nov 2026 07:00:01 UTC"),
        replace(signed(), paths=("/v1/zones",)),
        replace(signed(), signature=""),
        replace(signed(), signature="ä"),
        signed(secret="t" * 40),
        signed(date="yesterday"),
        signed(date="Mon, 30 Nov 2026 07:00:00 Nowhere/Land"),
        signed(date="Mon, 31 Nov 2026 07:00:00 UTC"),
        signed(date="Mon, 30 Nov 2026 07:00:00 ../../etc/passwd"),
    ],
)
def test_what_was_not_signed_so_is_refused(call: SignedCall) -> None:
    with pytest.raises(Unauthenticated):
        keys().caller(call)


@pytest.mark.parametrize("away", [MAX_SKEW_MS + 1000, -MAX_SKEW_MS - 1000])
def test_a_call_is_good_for_a_quarter_of_an_hour(away: int) -> None:
    with pytest.raises(Unauthenticated, match="15 minutes"):
        keys(NOW + away).caller(signed())


def test_a_key_that_was_taken_away_is_nobodys() -> None:
    known = keys()
    known.replace(())
    with pytest.raises(Unauthenticated):
        known.caller(signed())


RECORDED = "sTF70Npqcl5LJYI+Q9Qr89Y+xkY="
