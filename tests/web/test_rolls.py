"""Rolls on the page in Chromium: an order is seen before it is begun, then how far hosts are; one is called off."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.web.browser import Page
from tests.web.test_page import GIB, deploy

pytestmark = pytest.mark.xdist_group("browser")

ROWS = "[aria-label='Rolls, newest first'] tbody tr"


def cells(page: Page) -> dict[str, str]:
    """The newest roll's cells by their columns' names, of one drawing."""
    found: dict[str, str] = page.script(
        "const table = document.querySelector(\"[aria-label='Rolls, newest first'] table\");"
        "const row = table?.querySelector('tbody tr'); if (!row || row.cells.length < 2) return {};"
        "const heads = [...table.querySelectorAll('thead th')];"
        "return Object.fromEntries(heads.map((e, i) => [e.innerText, row.cells[i].innerText]))"
    )
    return found


def rolls(http: httpx.Client) -> list[dict[str, Any]]:
    return list(http.get("/corral/v1/rolls").json().get("inventories", []))


def test_a_roll_is_seen_before_it_is_begun_then_followed_and_called_off(page: Page, http: httpx.Client) -> None:
    uuid = deploy(http, "rolled", 1)
    (member,) = http.get(f"/corral/v1/instance-groups/{uuid}").json()["inventory"]["instances"]
    hosts = {one["uuid"]: one["name"] for one in http.get("/corral/v1/hosts").json()["inventories"]}
    here = hosts[member["hostUuid"]]
    other = next(name for name in hosts.values() if name != here)
    page.size(400, 800)
    page.open("/#/fleet")
    page.click("a", "Roll…")
    page.until(lambda: page.text("h1") == "Rolls", "the view")
    page.type("#roll-hosts", "host-99")
    page.click("form button", "See the order")
    page.until(lambda: "there is no host host-99" in page.text("main [role=alert]"), "that there is none")
    page.type("#roll-hosts", f"{here}, {other}")
    page.click("form button", "See the order")
    page.until(lambda: "2 batches, " in page.text(".answer h2"), "the order")
    assert "keeps running" in page.text(".answer")
    assert here in page.text(".answer")
    assert rolls(http) == [], "nothing is begun by a preview"
    assert page.accessibility() == []
    assert page.script("return document.documentElement.scrollWidth") <= 400
    page.click("button", "Begin")
    page.until(lambda: "drained" in cells(page).get("Under way", ""), "the first host empty")
    one = cells(page)
    assert (one["State"], one["At once"], one["Enabled by"], one["Done"]) == ("goes on", "1", "its operator", "0 of 2")
    (first,) = [name for name in (here, other) if name in one["Under way"].split()]
    second = other if first == here else here
    assert one["Waiting"] == second
    for dark in (True, False):
        page.size(400, 800, dark=dark)
        assert page.accessibility() == [], f"dark: {dark}"
    assert page.script("return document.documentElement.scrollWidth") <= 400
    named = {name: key for key, name in hosts.items()}
    assert http.post(f"/corral/v1/hosts/{named[first]}:enable", json={}).status_code == 200
    page.until(lambda: cells(page).get("Done") == "1 of 2" and "drained" in cells(page)["Under way"], "the second")
    page.click("button", "Call off…")
    page.until(lambda: "No further host is begun" in page.text("dialog"), "the question")
    assert page.accessibility() == []
    page.click("dialog button", "Call off")
    page.until(lambda: cells(page).get("State") == "called off", "it called off")
    assert page.texts(f"{ROWS} button") == []
    assert rolls(http)[0]["calledOff"]
    assert http.post(f"/corral/v1/hosts/{named[second]}:enable", json={}).status_code == 200
    http.request("DELETE", f"/corral/v1/instance-groups/{uuid}")


def test_the_host_that_keeps_an_order_from_being_found_is_told_and_nothing_can_be_begun(
    page: Page, http: httpx.Client
) -> None:
    uuid = deploy(http, "everywhere", 10, memory=60 * GIB)
    page.open("/#/rolls")
    page.click("form button", "See the order")
    page.until(lambda: "cannot be emptied, proven" in page.text(".answer h2"), "the stuck host")
    assert "host-" in page.text(".answer h2")
    assert page.text(".answer p")
    assert "Begin" not in page.texts("main button")
    assert page.accessibility() == []
    http.request("DELETE", f"/corral/v1/instance-groups/{uuid}")
