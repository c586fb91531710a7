"""Devices of hosts, room in the making, and all of it by the keyboard alone, on the page in Chromium."""

from __future__ import annotations

import re

import httpx
import pytest
from corral.v1 import group_pb2
from google.protobuf.json_format import MessageToDict
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.support.builders import ENTRY
from tests.web.browser import Page
from tests.web.conftest import GPU_HOST
from tests.web.test_page import GIB, deploy

pytestmark = pytest.mark.xdist_group("browser")


def test_devices_are_listed_and_one_that_is_out_of_service_is_never_free(page: Page, http: httpx.Client) -> None:
    found = next(one for one in http.get("/corral/v1/hosts").json()["inventories"] if one["name"] == f"host-{GPU_HOST}")
    node = {"uuid": ENTRY, "cpuNum": 1, "memorySize": str(GIB), "gpus": [{"model": "h100", "count": 1}]}
    uuid = deploy(http, "with-device", 1, modelServices=[node])
    page.open(f"/#/host/{found['uuid']}")
    page.until(lambda: page.text("#device-states") == "1 claimed, 1 available", "both devices")
    rows = page.texts("[aria-label=Devices] tbody tr")
    (taken,) = [row for row in rows if "claimed" in row]
    assert "with-device rank 0" in taken
    heads = page.texts("[aria-label=Devices] thead th")
    cells = [row.split("\t") for row in rows]
    assert sorted(row[heads.index("NUMA cell")] for row in cells) == ["0", "1"]
    assert {row[heads.index("Partition")] for row in cells} == {"nvlink-0"}
    assert page.texts("#partitions li") == ["nvlink-0: 1 of 2 available, of NUMA cells 0 and 1"]
    assert page.accessibility() == []
    (free,) = [one["key"] for one in found["devices"] if one["key"] not in taken]
    page.script(
        "[...document.querySelectorAll('[aria-label=Devices] tr')].find((e) => e.textContent.includes(arguments[0]))"
        ".querySelector('button').click()",
        free,
    )
    page.until(lambda: free in page.text("dialog"), "the question")
    page.type("#device-reason", "it fell off the bus")
    page.click("dialog button", "Take out")
    page.until(lambda: page.text("#device-states") == "1 claimed, 1 quarantined", "it out of service")
    assert "it fell off the bus" in page.text("main")
    page.until(lambda: "1 in quarantine or out of service" in page.text("main"), "it apart from other machines")
    assert page.script("return document.querySelectorAll('.line.wide b.quarantined').length") == 1
    page.open()
    page.until(lambda: "0 free, 1 in quarantine or out of service" in page.text("#totals"), "it in the fleet's sums")
    page.open(f"/#/host/{found['uuid']}")
    page.until(lambda: page.text("#device-states") == "1 claimed, 1 quarantined", "the device")
    page.click("button", "Take back")
    page.until(lambda: free in page.text("dialog"), "the question")
    page.click("dialog button", "Take back")
    page.until(lambda: page.text("#device-states") == "1 claimed, 1 available", "it in service")
    http.request("DELETE", f"/corral/v1/instance-groups/{uuid}")
    page.until(lambda: page.text("#device-states") == "2 available", "nobody on it")
    assert page.texts("#partitions li") == ["nvlink-0: 2 of 2 available, of NUMA cells 0 and 1"]


def test_a_member_says_which_devices_it_has(page: Page, http: httpx.Client) -> None:
    node = {"uuid": ENTRY, "cpuNum": 1, "memorySize": str(GIB), "gpus": [{"model": "h100", "count": 2}]}
    uuid = deploy(http, "with-both", 1, modelServices=[node])
    (member,) = http.get(f"/corral/v1/instance-groups/{uuid}").json()["inventory"]["instances"]
    assert len(member["devices"]) == 2
    page.open(f"/#/group/{uuid}")
    told = [f"{key} h100" for key in member["devices"]]
    page.until(lambda: page.texts("[aria-label=Members] tbody td div") == told, "both devices")
    assert page.accessibility() == []
    http.request("DELETE", f"/corral/v1/instance-groups/{uuid}")
    page.until(lambda: page.text("h1").startswith("Group"), "nobody on them")


def test_what_guests_use_is_drawn_apart_from_what_is_claimed_and_told_alike_everywhere(
    page: Page, http: httpx.Client
) -> None:
    uuid = deploy(http, "busy", 1, memory=8 * GIB)
    host = http.get(f"/corral/v1/instance-groups/{uuid}").json()["inventory"]["instances"][0]["hostUuid"]

    def told() -> dict[str, float]:
        of = http.get(f"/corral/v1/hosts/{host}").json()["inventory"]["capacities"]
        return {one["resource"]: one["used"] for one in of if "used" in one}

    page.open(f"/#/host/{host}")
    page.until(lambda: "2 GiB used now" in page.text("main"), "a quarter of what it claims")
    assert told()["memory"] == 2 * GIB
    drawn = (
        "return [...document.querySelectorAll('.line.wide .bar')]"
        ".map((bar) => [...bar.children].map((e) => e.className))"
    )
    (memory,) = [
        kinds for kinds, text in zip(page.script(drawn), page.texts(".line.wide"), strict=True) if "Memory" in text
    ]
    assert memory[:2] == ["used", "claimed"]
    assert "corral_host_used_memory_bytes{" in http.get("/metrics").text
    name = page.text("h1").split()[0]
    sample = re.search(
        rf'^corral_host_used_memory_bytes{{host="{name}",.*}} (.*)$', http.get("/metrics").text, re.MULTILINE
    )
    assert sample is not None
    assert float(sample[1]) == 2 * GIB
    page.open()
    page.until(lambda: "2 GiB used now" in page.text("#totals"), "it in the fleet's sums")
    assert page.accessibility() == []
    http.request("DELETE", f"/corral/v1/instance-groups/{uuid}")


def test_a_groups_page_tells_who_makes_room_for_it(page: Page, http: httpx.Client) -> None:
    uuid = deploy(http, "waits-for-room", 1)
    moves = [
        group_pb2.MemberMove(
            instance_uuid=f"{number}" * 32,
            group_uuid=uuid,
            instance_name=f"mover-{number}",
            source_host_name="host-1",
            target_host_name="host-2",
            memory_size=GIB,
            live=number == 1,
            gone=number == 1,
        )
        for number in (1, 2)
    ]
    room = MessageToDict(group_pb2.RoomInProgress(moves=[*moves, group_pb2.MemberMove()], moved_bytes=2 * GIB))
    page.open("/#/groups")
    page.script(
        "const [room, uuid] = arguments, real = window.fetch; window.fetch = async (path, init) => {"
        "  const answer = await real(path, init);"
        "  if (path !== `/corral/v1/instance-groups/${uuid}`) return answer;"
        "  const body = await answer.json();"
        "  body.inventory.room = room;"
        "  return new Response(JSON.stringify(body));"
        "}; location.hash = `#/group/${uuid}`",
        room,
        uuid,
    )
    page.until(lambda: "Room is being made" in page.text("main"), "the room")
    rows = page.texts("[aria-label='Moves that make room'] tbody tr")
    assert [row.split("\t")[0] for row in rows] == ["mover-1", "mover-2", "a member"]
    assert "as it runs\tgone" in rows[0]
    assert "stopped and started again\tto go" in rows[1]
    assert "another project's" in rows[2]
    assert "1 of 3 have left their hosts, 2 GiB of memory" in page.text("main")
    assert page.accessibility() == []
    page.open()
    http.request("DELETE", f"/corral/v1/instance-groups/{uuid}")


def press(page: Page, *keys: str) -> None:
    ActionChains(page.driver).send_keys(*keys).perform()


def focused(page: Page) -> str:
    return str(page.script("return document.activeElement.innerText || document.activeElement.id"))


def tab_to(page: Page, text: str) -> None:
    """Press Tab until what bears the text has the focus, where it can be seen that it has."""
    for _ in range(80):
        press(page, Keys.TAB)
        if text in focused(page) and page.script("return document.activeElement.matches('a, button')"):
            outline = page.script("return getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid", f"{text} does not show that it has the focus"
            return
    raise AssertionError(f"no Tab leads to {text}")


def test_a_host_is_found_drained_and_enabled_by_the_keyboard_alone(page: Page, http: httpx.Client) -> None:
    page.open("/#/fleet?q=host-9")
    page.until(lambda: len(page.texts(".host")) == 1, "the host")
    press(page, Keys.TAB)
    page.until(lambda: focused(page) == "Skip to the content", "the focus on the first link")
    press(page, Keys.ENTER)
    page.until(lambda: focused(page).startswith("Fleet"), "the focus on the heading")
    tab_to(page, "host-9")
    press(page, Keys.ENTER)
    page.until(lambda: page.text("h1").startswith("host-9"), "its page")
    tab_to(page, "Drain")
    press(page, Keys.ENTER)
    page.until(lambda: "Drain host-9" in page.text("dialog"), "the preview")
    # The dialog has the focus, and Escape leaves it to where one came from.
    inside = "return document.querySelector('dialog')?.contains(document.activeElement) ?? false"
    page.until(lambda: bool(page.script(inside)), "the focus in the dialog")
    press(page, Keys.ESCAPE)
    page.until(lambda: page.text("dialog") == "", "it closed")
    page.until(lambda: "Drain" in focused(page), "the focus where one came from")
    press(page, Keys.ENTER)
    page.until(lambda: "Drain host-9" in page.text("dialog"), "the preview again")
    tab_to(page, "Drain")
    press(page, Keys.ENTER)
    page.until(lambda: "Maintenance" in page.text("main"), "it drained")
    tab_to(page, "Enable")
    press(page, Keys.ENTER)
    page.until(lambda: "Take nothing new" in page.text("main"), "it enabled")
    inventories = http.get("/corral/v1/hosts").json()["inventories"]
    assert {one["state"] for one in inventories if one["name"] == "host-9"} == {"Enabled"}
