"""The page in Chromium: what it shows is what is, what it offers works, and everybody can use it."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import pytest
from corral.v1 import fleet_pb2
from google.protobuf.json_format import ParseDict
from prometheus_client.parser import text_string_to_metric_families

from service.cli.bars import totals
from tests.support.builders import ENTRY
from tests.web.browser import Page

pytestmark = pytest.mark.xdist_group("browser")

GIB = 1 << 30


def deploy(http: httpx.Client, name: str, size: int, *, memory: int = GIB, **more: Any) -> str:
    """A group that runs; its uuid."""
    node = {"uuid": ENTRY, "cpuNum": 1, "memorySize": str(memory)}
    body = {"name": name, "serviceCreationStrategy": "parallel", "modelServices": [node] * size}
    told = http.post("/corral/v1/instance-groups", json=body | more).text
    events = [json.loads(line.removeprefix("data: ")) for line in told.splitlines() if line.startswith("data: ")]
    final = next(event["event"]["final"] for event in events if "final" in event.get("event", {}))
    return str(final["uuid"])


def test_the_fleet_is_drawn_with_its_members_and_its_sums_are_the_services(page: Page, http: httpx.Client) -> None:
    uuid = deploy(http, "drawn", 3)
    page.open()
    page.until(lambda: len(page.texts(".host")) == 10, "ten hosts")
    page.until(lambda: sum("drawn·" in text for text in page.texts(".host")) >= 1, "the group's members on hosts")
    assert set(page.texts(".zone h2")) == {"east", "west"}

    def sums() -> dict[str, list[int]]:
        found = page.script(
            "return [...document.querySelectorAll('.total')].map((e) => [e.dataset.resource, e.dataset.of])"
        )
        return {name: [int(value) for value in of.split(" ")] for name, of in found}

    def told() -> dict[str, list[int]]:
        """What GetCapacity, the command and the metrics all say; nothing while they say different things."""
        fields = ("total", "reserved", "allocatable", "claimed", "foreign", "available")
        capacities = http.get("/corral/v1/capacity").json()["capacities"]
        called = {one["resource"]: [int(one.get(field, 0)) for field in fields] for one in capacities}
        counted = {name: (amounts[2], amounts[3], amounts[4]) for name, amounts in called.items()}
        return called if told_by_the_command(http) == called and measured(http) == counted else {}

    page.until(lambda: sums() == told(), "the sums of GetCapacity")
    http.request("DELETE", f"/corral/v1/instance-groups/{uuid}")
    page.until(lambda: not any("drawn·" in text for text in page.texts(".host")), "the members gone")
    page.until(lambda: sums() == told(), "the sums after the group is gone")


def told_by_the_command(http: httpx.Client) -> dict[str, list[int]]:
    """The sums that `corral hosts` prints, of what `ListHosts` tells it."""
    listed = http.get("/corral/v1/hosts", params={"pageSize": 1000}).json()["inventories"]
    hosts = [ParseDict(one, fleet_pb2.Host()) for one in listed]
    return {
        one.resource: [one.total, one.reserved, one.allocatable, one.claimed, one.foreign, one.available]
        for one in totals(hosts)
    }


def measured(http: httpx.Client) -> dict[str, tuple[int, int, int]]:
    """What hosts give out, what is claimed of it and what others hold, as the metrics tell it."""
    sums: dict[str, int] = defaultdict(int)
    for family in text_string_to_metric_families(http.get("/metrics").text):
        for sample in family.samples:
            sums[sample.name] += int(sample.value)
    kinds = {"vcpu": "vcpus", "memory": "memory_bytes", "gpu.h100": "gpus"}
    parts = ("allocatable", "claimed", "foreign")
    return {
        name: (
            sums[f"corral_host_{parts[0]}_{unit}"],
            sums[f"corral_host_{parts[1]}_{unit}"],
            sums[f"corral_host_{parts[2]}_{unit}"],
        )
        for name, unit in kinds.items()
    }


def test_a_listing_that_is_cut_says_so(page: Page) -> None:
    page.open("/#/usage")
    page.until(lambda: "Usage" in page.text("h1"), "the view")
    page.script(
        "const real = window.fetch; window.fetch = (path, init) => {"
        "  if (!String(path).startsWith('/corral/v1/quarantine')) return real(path, init);"
        "  const from = Number(new URL(path, location).searchParams.get('pageToken') || 0);"
        "  const one = (n) => ({key: `k${n}`, name: `n${n}`, hostUuid: 'h', createDate: '2026-01-01T00:00:00Z'});"
        "  const inventories = Array.from({length: 1000}, (_, n) => one(from + n));"
        "  const nextPageToken = from + 1000 < window.ALL ? String(from + 1000) : '';"
        "  return Promise.resolve(new Response(JSON.stringify({inventories, nextPageToken})));"
        "}; window.ALL = 7000; location.hash = '#/quarantine'"
    )
    page.until(lambda: "1–50 of 5000" in page.text("main"), "the first 5,000")
    assert "These are the first 5000; there are more." in page.text("main")
    page.script("window.ALL = 5000")
    page.click("button", "Look again")
    page.until(lambda: "there are more" not in page.text("main"), "all of them")
    assert "1–50 of 5000" in page.text("main")


def test_images_are_listed_and_one_that_was_uploaded_is_deleted(page: Page, http: httpx.Client) -> None:
    disk = b"page" * 1024
    sent = http.put(
        f"/corral/v1/image-uploads/{hashlib.sha256(disk).hexdigest()}",
        params={"name": "<b>sent</b>", "format": "raw"},
        content=disk,
    )
    assert sent.status_code == 200, sent.text
    page.open("/#/images")
    page.until(lambda: "<b>sent</b>" in page.text("main"), "the image")
    assert "4 KiB" in page.text("main")
    page.script(
        "[...document.querySelectorAll('tr')].find((e) => e.textContent.includes('sent'))"
        ".querySelector('button').click()"
    )
    page.until(lambda: "Delete <b>sent</b>?" in page.text("dialog"), "the question")
    page.click("dialog button", "Delete")
    page.until(lambda: "<b>sent</b>" not in page.text("main"), "it gone")
    assert [one["name"] for one in http.get("/corral/v1/images").json()["inventories"]] == ["guest"]


def test_a_group_is_planned_deployed_restarted_and_deleted_from_the_page(page: Page) -> None:
    page.open("/#/plan")
    page.until(lambda: len(page.texts("#plan-entry option")) == 2, "the catalogue")
    page.type("#plan-name", "from-page")
    page.script(
        "const s = document.getElementById('plan-entry'); s.selectedIndex = 1;"
        "s.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    page.type("#plan-nodes", "2")
    page.click("form button")
    page.until(lambda: "It fits on" in page.text(".answer"), "a placement")
    assert "Proven" in page.text(".answer")
    page.click("button", "Deploy")
    page.until(lambda: page.text("h1").startswith("from-page") and "Running" in page.text("h1"), "the group runs")
    page.until(lambda: "final: Running" in "".join(page.texts("main td")), "its timeline")
    assert len(page.texts(".timeline g")) == 3  # the group, and each member
    page.click("#log-show")
    page.until(lambda: "simulated host: no guest runs" in page.text("#log"), "what its machine says")
    assert page.accessibility() == []
    page.click("button", "Restart")
    page.click("dialog button", "Restart")
    page.until(lambda: "Stopping" in "".join(page.texts("main td")), "the restart in the timeline")
    page.until(lambda: "Running" in page.text("h1"), "it runs again")
    page.click("button", "Delete")
    assert "destroyed" in page.text("dialog")
    page.click("dialog button", "Delete")
    page.until(lambda: "has been deleted" in page.text("main"), "the group gone")


def test_a_group_that_does_not_fit_is_told_why_and_what_would_make_it_fit(page: Page) -> None:
    page.open("/#/plan")
    page.until(lambda: len(page.texts("#plan-entry option")) == 2, "the catalogue")
    page.type("#plan-name", "too-big")
    page.script(
        "const s = document.getElementById('plan-entry'); s.selectedIndex = 1;"
        "s.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    page.type("#plan-nodes", "12")
    page.type("#plan-memory", "60")
    page.click("form button")
    page.until(lambda: "It does not fit" in page.text(".answer"), "the refusal")
    told = page.text(".answer")
    assert "10 of 12 would fit together" in told
    assert "add 2 hosts of the size of" in told
    assert "ask for 10 machines" in told


def test_who_would_have_to_move_is_told_where_it_does_not_fit(page: Page, http: httpx.Client) -> None:
    node = {"uuid": ENTRY, "cpuNum": 1, "memorySize": str(20 * GIB)}
    body = {"name": "wide", "serviceCreationStrategy": "parallel", "modelServices": [node] * 10}
    spread = {"placementPolicy": {"strategy": "PLACEMENT_STRATEGY_SPREAD"}}
    told = http.post("/corral/v1/instance-groups", json=body | spread).text
    uuid = next(part[1:33] for part in told.split('"groupUuid":')[1:])
    page.open("/#/plan")
    page.until(lambda: len(page.texts("#plan-entry option")) == 2, "the catalogue")
    page.type("#plan-name", "whole-host")
    page.script(
        "const s = document.getElementById('plan-entry'); s.selectedIndex = 1;"
        "s.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    page.type("#plan-nodes", "1")
    page.type("#plan-memory", "60")
    page.click("form button")
    page.until(lambda: "It does not fit" in page.text(".answer"), "the refusal")
    page.click("button", "Who would have to move?")
    page.until(lambda: "It fits once 1 member moves" in page.text("main"), "the move")
    assert "proven the least" in page.text("main")
    assert "as it runs" in page.text("main table")
    assert "Deploy, and move them" in page.text("main")
    page.type("#plan-nodes", "10")
    page.click("form button")
    page.until(lambda: "It does not fit" in page.text(".answer"), "the refusal")
    page.click("button", "Who would have to move?")
    page.until(lambda: "no moves that make room were found" in page.text("main"), "that nothing was found")
    http.request("DELETE", f"/corral/v1/instance-groups/{uuid}")


def test_a_drain_is_seen_before_it_is_made_and_a_host_that_takes_nothing_is_never_free(
    page: Page, http: httpx.Client
) -> None:
    uuid = deploy(http, "drained", 2)
    group = http.get(f"/corral/v1/instance-groups/{uuid}").json()["inventory"]
    host = group["instances"][0]["hostUuid"]
    page.open(f"/#/host/{host}")
    page.until(lambda: "drained" in page.text("main table"), "the member")
    page.click("button", "Drain")
    page.until(lambda: "would move" in page.text("dialog") or "→" in page.text("dialog"), "the moves")
    assert http.get(f"/corral/v1/hosts/{host}").json()["inventory"]["state"] == "Enabled"
    page.click("dialog button", "Drain")
    page.until(lambda: "drained" not in page.text("main table"), "the member elsewhere")
    page.until(lambda: "Maintenance" in page.text("main"), "maintenance")
    assert page.script("return document.querySelectorAll('.line.wide b.free').length") == 0
    assert page.script("return document.querySelectorAll('.line.wide b.closed').length") > 0
    assert page.script("return document.querySelectorAll('.line.wide b.reserved').length") > 0
    page.click("button", "Enable")
    page.until(lambda: "Take nothing new" in page.text("main"), "enabled again")
    http.request("DELETE", f"/corral/v1/instance-groups/{uuid}")


def test_a_rebalance_is_seen_before_it_is_made(page: Page, http: httpx.Client) -> None:
    packed = {"strategy": "PLACEMENT_STRATEGY_PACK"}
    uuid = deploy(http, "uneven", 2, memory=30 * GIB, placementPolicy=packed)

    def hosts() -> int:
        group = http.get(f"/corral/v1/instance-groups/{uuid}").json()["inventory"]
        return len({one["hostUuid"] for one in group["instances"]})

    assert hosts() == 1
    page.open()
    page.click("button", "Rebalance")
    page.until(lambda: "would move, as they run" in page.text("dialog"), "the moves")
    assert "its host is fuller" in page.text("dialog")
    assert hosts() == 1
    page.click("dialog button", "Move")
    page.until(lambda: hosts() == 2, "one of them on another host")
    http.request("DELETE", f"/corral/v1/instance-groups/{uuid}")


def test_a_host_is_moved_to_another_cluster_of_its_zone(page: Page, http: httpx.Client) -> None:
    host = next(one for one in http.get("/corral/v1/hosts").json()["inventories"] if one["name"] == "host-1")
    body = {"name": "cellar", "zoneUuid": host["zoneUuid"]}
    cluster = http.post("/corral/v1/clusters", json=body).json()["inventory"]["uuid"]
    page.open(f"/#/host/{host['uuid']}")
    page.until(lambda: "Cluster" in page.text("main dl"), "the host")

    def change(title: str) -> None:
        page.click("button", "Change cluster")
        page.until(lambda: title in page.texts("#host-cluster option"), "the clusters")
        page.script(
            "const s = document.getElementById('host-cluster');"
            f"s.selectedIndex = [...s.options].findIndex((o) => o.text === {title!r})"
        )
        page.click("dialog button", "Change")

    def told() -> str:
        inventory = http.get(f"/corral/v1/hosts/{host['uuid']}").json()["inventory"]
        return str(inventory.get("clusterUuid", ""))

    change("cellar")
    page.until(lambda: told() == cluster and "cellar" in page.text("main dl"), "the host in the cluster")
    change("none")
    page.until(lambda: told() == "" and "cellar" not in page.text("main dl"), "the host in none")
    assert http.delete(f"/corral/v1/clusters/{cluster}").status_code == 200


def test_one_text_filters_page_and_address(page: Page) -> None:
    page.open("/#/fleet?q=zone:east%20-rack-0")
    page.until(lambda: len(page.texts(".zone h2")) == 1, "one zone")
    assert page.texts(".zone h2") == ["east"]
    page.script("document.activeElement.blur()")
    page.script("window.dispatchEvent(new KeyboardEvent('keydown', {key: '/', bubbles: true}))")
    page.until(lambda: page.script("return document.activeElement.id") == "filter", "the focus in the filter")
    # What is typed stays, however often the page is drawn meanwhile.
    page.script("window.drawing = setInterval(() => window.dispatchEvent(new Event('hashchange')), 1)")
    page.type("#filter", "host-10")
    page.until(lambda: len(page.texts(".host")) == 1, "one host")
    page.script("clearInterval(window.drawing)")
    page.until(lambda: page.driver.current_url.endswith("#/fleet?q=host-10"), "the filter in the address")
    page.type("#filter", "colour:red")
    page.until(lambda: "not a field: colour" in page.text("#filter-help"), "what is no field")


def test_the_filter_reads_every_line_of_the_table_as_it_should(page: Page) -> None:
    cases: list[dict[str, Any]] = json.loads((Path(__file__).parent / "filters.json").read_text())
    page.open()
    held = page.driver.execute_async_script(
        "const [cases, done] = arguments;"
        "import('/web/filter.js').then((f) => done(cases.map((c) => f.matches(f.terms(c.filter), c.thing))))",
        cases,
    )
    assert held == [case["holds"] for case in cases]


def test_tiles_of_a_large_fleet_stand_apart_under_the_names_of_their_zones_and_racks(page: Page) -> None:
    # (zone, rack, how many hosts): small racks, none, and one that needs several rows.
    racks = [("east", "r1", 3), ("east", "r2", 5), ("east", "r3", 70), ("west", "", 4), ("west", "r9", 1)]
    hosts = [{"zone": zone, "rack": rack} for zone, rack, count in racks for _ in range(count)]
    page.open()
    told = page.driver.execute_async_script(
        "const [hosts, done] = arguments; import('/web/tiles.js').then(({layout}) =>"
        "  done(layout(hosts, (zone) => `zone ${zone}`, 24, {width: 44, height: 26})))",
        hosts,
    )
    places = [(one["left"], one["top"]) for one in told["places"]]
    assert len(set(places)) == len(hosts)
    for left, top in places:
        assert 0 <= left <= 23 * 47
        assert not any(0 < abs(left - x) < 44 and abs(top - y) < 26 for x, y in places)
        assert top + 26 <= told["height"]
    assert [one["text"] for one in told["names"]] == ["zone east", "r1", "r2", "r3", "zone west", "r9"]
    # A rack's name stands right above its first tile.
    first = {rack: places[hosts.index({"zone": zone, "rack": rack})] for zone, rack, _ in racks}
    for one in told["names"]:
        if not one["zone"]:
            left, top = first[one["text"]]
            assert (one["left"], top - 16 < one["bottom"] <= top) == (left, True)
    # Racks that fit stand side by side.
    assert first["r1"][1] == first["r2"][1] < first["r3"][1]


NAMES = ("fleet", "groups", "plan", "images", "rolls", "quarantine", "decisions", "usage", "audit")
VIEWS = tuple(f"/#/{name}" for name in NAMES)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_view_is_accessible_and_fits_a_narrow_window(page: Page, http: httpx.Client, *, dark: bool) -> None:
    uuid = deploy(http, f"seen-{dark}", 2)
    host = http.get("/corral/v1/hosts").json()["inventories"][0]["uuid"]
    page.open()
    assert set(page.script("return [...document.querySelectorAll('nav a')].map((e) => e.hash)")) == {
        path[1:] for path in VIEWS
    }
    for path in (*VIEWS, f"/#/group/{uuid}", f"/#/host/{host}"):
        page.size(400, 800, dark=dark)
        page.open(path)
        page.until(lambda: bool(page.text("h1")), f"{path} has a heading")
        assert page.accessibility() == [], path
        wide = page.script("return document.documentElement.scrollWidth")
        assert wide <= 400, f"{path} is {wide} wide"
    http.request("DELETE", f"/corral/v1/instance-groups/{uuid}")


def test_a_page_that_is_hidden_asks_for_nothing_and_comes_back_current(page: Page, http: httpx.Client) -> None:
    page.open("/#/groups")
    page.until(lambda: page.text("#group-count") != "", "a number of groups")
    page.script(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    uuid = deploy(http, "while-hidden", 1)
    assert "while-hidden" not in page.text("main")
    page.script(
        "Object.defineProperty(document, 'hidden', {value: false, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.until(lambda: "while-hidden" in page.text("main"), "the group that came meanwhile")
    http.request("DELETE", f"/corral/v1/instance-groups/{uuid}")
    page.until(lambda: "while-hidden" not in page.text("main"), "its end")


def test_an_update_is_seen_before_it_is_made_and_taken_back(page: Page) -> None:
    page.open("/#/plan")
    page.until(lambda: len(page.texts("#plan-entry option")) == 2, "the catalogue")
    page.type("#plan-name", "updated")
    page.script(
        "const s = document.getElementById('plan-entry'); s.selectedIndex = 1;"
        "s.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    page.type("#plan-nodes", "1")
    page.click("form button")
    page.until(lambda: "It fits on" in page.text(".answer"), "a placement")
    page.click("button", "Deploy")
    page.until(lambda: page.text("h1").startswith("updated") and "Running" in page.text("h1"), "the group runs")
    page.click("summary", "Change what it runs")
    page.type("#update-parameters", "--fast")
    page.click("button", "See what would be done")
    page.until(lambda: "It fits on" in page.text(".answer"), "where the second gang would go")
    assert page.accessibility() == []
    page.click("button", "Update")
    page.until(lambda: "Update 1: done" in page.text("main"), "the new gang alone")
    page.click("button", "Take back")
    page.click("dialog button", "Take back")
    page.until(lambda: "Update 2: done" in page.text("main"), "what ran before")
    assert "takes back update 1" in page.text("main")
    page.click("button", "Delete")
    page.click("dialog button", "Delete")
    page.until(lambda: "has been deleted" in page.text("main"), "the group gone")
