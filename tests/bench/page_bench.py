"""How fast the page is: from the address to a drawn fleet, and from a change to the screen.

    python -m tests.bench.page_bench [--hosts 1000] [--members 10000] [--changes 50] [--shots DIRECTORY] [--json FILE]

One service on simulated hosts as its own process, one Chromium on the same machine. A change is a host that is disabled
or enabled; it is on the screen when the frame that shows it has been painted. Both read this machine's clock.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from tests.bench.api_bench import memory, quantile
from tests.support.builders import ENTRY
from tests.support.process import ServiceProcess
from tests.web.browser import Page, browser, why_not
from tests.web.conftest import configuration

GANG = 100
MIB = 1 << 20
# Tells when the frame was painted in which a text of the page holds the wanted one (ms since 1970).
_PAINTED = """
const [selector, wanted, done] = arguments;
const look = () => {
  if (document.querySelector(selector)?.innerText.includes(wanted)) {
    requestAnimationFrame(() => setTimeout(() => done(performance.timeOrigin + performance.now()), 0));
  } else setTimeout(look, 2);
};
look();
"""


@dataclass
class Report:
    """All figures. Times in ms; memory of the service in MiB before and while the page is open."""

    load_average: float
    processors: int
    hosts: int
    members: int
    first_paint_p50_ms: float = 0.0
    first_paint_max_ms: float = 0.0
    update_p50_ms: float = 0.0
    update_p99_ms: float = 0.0
    service_mib: float = 0.0
    service_with_page_mib: float = 0.0


def fill(http: httpx.Client, members: int) -> None:
    """Deploy gangs until there are `members` of them in all, and wait until all run."""
    for number in range(0, members, GANG):
        node = {"uuid": ENTRY, "cpuNum": 1, "memorySize": str(64 * MIB)}
        body = {
            "name": f"gang-{number // GANG}",
            "serviceCreationStrategy": "parallel",
            "modelServices": [node] * min(GANG, members - number),
        }
        answer = http.post("/corral/v1/instance-groups", json=body)
        assert '"final"' in answer.text, answer.text[-500:]


def measured(page: Page, http: httpx.Client, report: Report, changes: int) -> None:
    """First paints, then changes, one after the other."""
    paints = []
    for _ in range(5):
        page.driver.get("about:blank")
        page.driver.get(f"{page.base}/#/fleet")
        at = page.driver.execute_async_script(_PAINTED, "#totals", f"{report.hosts} hosts")
        paints.append(at - page.script("return performance.timeOrigin"))
    report.first_paint_p50_ms, report.first_paint_max_ms = quantile(paints, 0.5), max(paints)
    host = http.get("/corral/v1/hosts", params={"pageSize": "1"}).json()["inventories"][0]["uuid"]
    page.open(f"/#/host/{host}")
    updates = []
    for number in range(changes):
        verb, shown = (("disable", "Disabled"), ("enable", "Enabled"))[number % 2]
        begun = time.time() * 1000
        http.post(f"/corral/v1/hosts/{host}:{verb}", json={}).raise_for_status()
        updates.append(page.driver.execute_async_script(_PAINTED, ".facts", shown) - begun)
        time.sleep(0.3)
    report.update_p50_ms, report.update_p99_ms = quantile(updates, 0.5), quantile(updates, 0.99)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.page_bench", description=__doc__)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--members", type=int, default=10000)
    parser.add_argument("--changes", type=int, default=50)
    parser.add_argument("--shots", type=Path, help="where pictures of the page are written")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if reason := why_not():
        print(reason, file=sys.stderr)
        return 2
    report = Report(os.getloadavg()[0], os.cpu_count() or 1, options.hosts, options.members)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="corral-page-")))
        (directory / "kernel").touch()
        file = directory / "corral.toml"
        file.write_text(configuration(directory, options.hosts, boot_ms=1))
        service = stack.enter_context(ServiceProcess(file))
        http = stack.enter_context(httpx.Client(base_url=service.http, timeout=600))
        fill(http, options.members)
        report.service_mib = memory(service.pid) / MIB
        page = Page(stack.enter_context(browser(directory / "chromium")), service.http)
        page.size(1200, 900)
        measured(page, http, report, options.changes)
        report.service_with_page_mib = memory(service.pid) / MIB
        if options.shots:
            for name, path in (("fleet", "/#/fleet"), ("groups", "/#/groups"), ("filtered", "/#/fleet?q=rack:rack-1")):
                page.open(path)
                page.shot(options.shots / f"{name}-{options.hosts}.png")
    for name, value in asdict(report).items():
        print(f"{name:24} {value:,.1f}" if isinstance(value, float) else f"{name:24} {value:,}")
    if options.json:
        options.json.write_text(json.dumps(asdict(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
