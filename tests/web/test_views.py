"""Single views of the page in Chromium: usage, audit, GPUs in a plan, hosts set free; and how often it draws."""

from __future__ import annotations

from itertools import pairwise

import httpx
import pytest

from tests.web.browser import Page
from tests.web.conftest import GPU_HOST
from tests.web.test_page import GIB, deploy

pytestmark = pytest.mark.xdist_group("browser")


def rows(page: Page, caption: str) -> list[dict[str, str]]:
    """A table's rows by its columns' names, of one drawing."""
    found: list[dict[str, str]] = page.script(
        "const table = document.querySelector(`[aria-label='${arguments[0]}'] table`);"
        "const heads = [...(table?.querySelectorAll('thead th') ?? [])].map((e) => e.innerText);"
        "const rows = [...(table?.querySelectorAll('tbody tr') ?? [])].filter((row) => row.cells.length > 1);"
        "return rows.map((row) => Object.fromEntries(heads.map((name, at) => [name, row.cells[at].innerText])))",
        caption,
    )
    return found


def test_usage_tells_what_each_project_holds_and_what_its_quota_leaves(page: Page, http: httpx.Client) -> None:
    uuid = deploy(http, "counted", 2, memory=3 * GIB)

    def told() -> dict[str, tuple[str, ...]]:
        """By resource: what the view shows."""
        fields = ("Project", "Groups", "Members", "Claimed", "Waiting", "Quota", "Left")
        return {row["Resource"]: tuple(row[name] for name in fields) for row in rows(page, "By project and resource")}

    page.open("/#/usage")
    page.until(lambda: "CPU" in told(), "the project")
    (project,) = http.get("/corral/v1/usage").json()["inventories"]
    head = (project["project"], "1", "2")
    assert told() == {"CPU": (*head, "2", "0", "no limit", "—"), "Memory": (*head, "6 GiB", "0 B", "no limit", "—")}
    assert page.accessibility() == []
    http.request("DELETE", f"/corral/v1/instance-groups/{uuid}")
    page.click("button", "Look again")
    page.until(lambda: told().get("CPU", ("",) * 4)[3] in ("0", ""), "nothing claimed")


def test_audit_tells_who_changed_what_the_newest_first(page: Page, http: httpx.Client) -> None:
    host = http.get("/corral/v1/hosts").json()["inventories"][0]["uuid"]
    for verb in ("disable", "enable"):
        headers = {"x-request-id": f"audit-of-{verb}"}
        assert http.post(f"/corral/v1/hosts/{host}:{verb}", json={}, headers=headers).status_code == 200
    page.open("/#/audit")
    page.until(lambda: len(rows(page, "Changes")) >= 2, "both changes")
    newest, before = rows(page, "Changes")[:2]
    assert [(one["What"], one["Call"]) for one in (newest, before)] == [
        ("EnableHost", "audit-of-enable"),
        ("DisableHost", "audit-of-disable"),
    ]
    listed = http.get("/corral/v1/audit-events", params={"pageSize": 1}).json()["inventories"][0]
    assert (newest["Who"], newest["Of"]) == (listed["principal"], host)
    assert newest["From"].startswith("127.0.0.1")
    assert page.accessibility() == []


def test_gpus_are_planned_and_deployed_from_the_form(page: Page, http: httpx.Client) -> None:
    page.open("/#/plan")
    page.until(lambda: len(page.texts("#plan-entry option")) == 2, "the catalogue")
    page.type("#plan-name", "gpus-of-a-form")
    page.script(
        "const s = document.getElementById('plan-entry'); s.selectedIndex = 1;"
        "s.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    page.type("#plan-nodes", "1")
    assert page.script("return document.getElementById('plan-model')") is None, "without GPUs there is no model to name"
    page.type("#plan-gpus", "2")
    page.until(lambda: page.script("return document.getElementById('plan-model') !== null"), "their model")
    assert page.script("return [...document.querySelectorAll('#plan-models option')].map((e) => e.value)") == ["h100"]
    page.type("#plan-model", "h100")
    page.click("#plan-joined")
    assert page.accessibility() == []
    page.click("form button")
    page.until(lambda: "It fits on 1 host" in page.text(".answer"), "a placement")
    assert f"host-{GPU_HOST}: rank 0 (2 GPU h100)" in page.text(".answer")
    page.type("#plan-gpus", "3")
    page.click("form button")
    page.until(lambda: "It does not fit" in page.text(".answer"), "that no host has three")
    page.type("#plan-gpus", "2")
    page.click("form button")
    page.until(lambda: "It fits on 1 host" in page.text(".answer"), "the placement again")
    page.click("button", "Deploy")
    page.until(lambda: "Running" in page.text("h1"), "the group runs")
    (row,) = rows(page, "Members")
    assert (row["Host"], row["Devices"].count("h100")) == (f"host-{GPU_HOST}", 2)
    http.request("DELETE", f"/corral/v1/instance-groups/{page.driver.current_url.rpartition('/')[2]}")


def test_the_form_says_where_gpus_are_as_the_request_does(page: Page) -> None:
    page.open()
    form = {"nodes": 1, "gpus": "4", "model": "h100", "near": "NUMA_POLICY_REQUIRED", "joined": True}
    made = page.driver.execute_async_script(
        "const [form, done] = arguments; import('/web/plan.js').then(({request}) => done(request(form)))", form
    )
    (node,) = made["modelServices"]
    assert node["gpus"] == [{"model": "h100", "count": 4, "numaPolicy": "NUMA_POLICY_REQUIRED", "samePartition": True}]


def test_hosts_are_set_free_after_it_is_seen_which(page: Page, http: httpx.Client) -> None:
    uuid = deploy(http, "in-the-way", 2, placementPolicy={"strategy": "PLACEMENT_STRATEGY_SPREAD"})

    def hosts() -> set[str]:
        group = http.get(f"/corral/v1/instance-groups/{uuid}").json()["inventory"]
        return {one["hostUuid"] for one in group["instances"]}

    before = hosts()
    assert len(before) == 2
    page.open()
    page.click("button", "Free hosts")
    page.until(lambda: "would move, as they run" in page.text("dialog"), "the move")
    assert "its host becomes free" in page.text("dialog")
    assert "Free then: host-" in page.text("dialog")
    assert "Proven" in page.text("dialog")
    assert page.accessibility() == []
    assert hosts() == before, "nothing moves before it is said"
    page.click("dialog button", "Move")
    page.until(lambda: len(hosts()) == 1, "both on one host")
    page.click("button", "Free hosts")
    page.until(lambda: "No host can be set free" in page.text("dialog"), "that no more can be done")
    page.click("dialog button", "Cancel")
    http.request("DELETE", f"/corral/v1/instance-groups/{uuid}")


def test_a_member_that_is_moved_says_where_it_goes(page: Page, http: httpx.Client) -> None:
    uuid = deploy(http, "on-its-way", 1)
    (member,) = http.get(f"/corral/v1/instance-groups/{uuid}").json()["inventory"]["instances"]
    hosts = {one["uuid"]: one["name"] for one in http.get("/corral/v1/hosts").json()["inventories"]}
    here = member["hostUuid"]
    (there, name) = next((key, name) for key, name in hosts.items() if key != here)
    page.open()
    page.until(lambda: "on-its-way" in page.text("main"), "the member")
    # As the stream tells it while a live move goes on, which takes a simulated host a moment.
    shown: list[str] = page.driver.execute_async_script(
        "const [host, target, name, uuid, group, done] = arguments;"
        "Promise.all([import('/web/store.js'), import('/web/fleet.js'), import('/web/vendor/preact-htm.mjs')])"
        ".then(([{Picture}, {Host}, {html, render}]) => {"
        "  const picture = new Picture(); const resources = {vcpu: [8, 0, 80, 1, 0, 79]};"
        "  const one = {resources, cells: {}, quarantined: {}, labels: {}, name: 'here', status: 'Connected'};"
        "  picture.apply({hosts: [{...one, uuid: host}, {...one, uuid: target, name}],"
        "    groups: [{uuid: group, name: 'g'}],"
        "    members: [{uuid, group, rank: 0, status: 'Running', host, target, cpu: 1, memory: 1, reason: ''}]});"
        "  const at = document.createElement('div'); document.body.append(at);"
        "  render(html`<${Host} picture=${picture} uuid=${host} may=${() => false} />`, at);"
        "  const said = [...at.querySelectorAll('tbody tr, .line')].map((e) => e.innerText); at.remove(); done(said);"
        "}).catch((problem) => done([String(problem.stack)]))",
        here,
        there,
        name,
        "a" * 32,
        uuid,
    )
    assert any(f"Running → {name}" in line for line in shown), shown
    assert any("of 8, given out as 80" in line for line in shown), shown
    http.request("DELETE", f"/corral/v1/instance-groups/{uuid}")


def test_it_draws_at_once_after_a_rest_and_four_times_a_second_at_most(page: Page) -> None:
    page.open()
    draws: list[float] = page.driver.execute_async_script(
        "const [every, done] = arguments; import('/web/store.js').then(({wait}) => {"
        # Something comes every `every` ms for ten seconds, then nothing for one, and then something again.
        "  const drawn = []; const lately = () => drawn.slice(-4); let due = null;"
        "  const news = (now) => { due ??= now + wait(lately(), now); };"
        "  for (let now = 0; now <= 12000; now += 1) {"
        "    if (now < 10000 ? now % every === 0 : now === 11500) news(now);"
        "    if (due !== null && now >= due) { drawn.push(now); due = null; }"
        "  } done(drawn); })",
        40,
    )
    assert draws[:2] == [0, 40], "the first is made at once, and so is one that comes right after it"
    for first, fifth in zip(draws, draws[4:], strict=False):
        assert fifth - first >= 1000
    steady = [one for one in draws if one < 10000]
    assert len(steady) >= 4 * 10 - 2
    assert max(later - former for former, later in pairwise(steady)) <= 400
    assert draws[-1] == 11500, "what follows a rest is not held back"
