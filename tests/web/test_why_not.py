"""The page of a group that does not fit, in Chromium."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.web.browser import Page
from tests.web.test_page import GIB, deploy

pytestmark = pytest.mark.xdist_group("browser")


def test_the_page_of_a_group_that_failed_says_why_it_does_not_fit_and_what_would_make_it_fit(
    page: Page, http: httpx.Client
) -> None:
    uuid = deploy(http, "too-large", 12, memory=60 * GIB)
    page.open(f"/#/group/{uuid}")
    page.until(lambda: "What would make it fit" in page.text(".answer"), "the cures")
    told = page.text(".answer")
    assert "10 of 12 would fit together" in told
    assert re.search(r"the fleet lacks [\d.]+ GiB memory", told), told
    assert "add 2 hosts of the size of" in told
    assert "ask for 10 machines" in told
    assert page.accessibility() == []
    http.request("DELETE", f"/corral/v1/instance-groups/{uuid}")
