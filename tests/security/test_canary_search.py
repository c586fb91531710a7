"""The search for a canary finds what it looks for: a search that finds nothing proves nothing by itself."""

from __future__ import annotations

import base64

import pytest

from tests.security.canary import leaks, random_canary


@pytest.mark.parametrize("before", ["", "x", "xy", "xyz", "TOKEN=", "A=b\nTOKEN=a longer text "])
@pytest.mark.parametrize("after", ["", "1", "22", "\nNEXT=value\n"])
def test_it_is_found_raw_and_in_base64_wherever_it_begins(before: str, after: str) -> None:
    canary = random_canary()
    text = f"{before}{canary}{after}".encode()
    assert leaks(canary, {"raw": text, "encoded": base64.b64encode(text), "none": b"quiet"}) == ["raw", "encoded"]
