"""How fast the page is: from the address to a drawn fleet, and from a change to the screen.

    python -m tests.bench.page_bench [--hosts 1000] [--members 10000] [--changes 200] [--seeded] [--shots DIRECTORY]
                                     [--json FILE]

One service on simulated hosts as its own process, one Chromium on the same machine. The first paint is the frame that
shows all hosts; `live` is when the last member has been told as well. A change is a host that is disabled or enabled;
it is on the screen when the frame that shows it has been painted: on that host's own view, and in the fleet's sums with
all hosts drawn. Both read this machine's clock. `--seeded`: nothing is deployed; the members are written into the
database, and nobody reconciles them (`tests/bench/page_service.py`), so that thousands stand within a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
# Tells when the frame was painted in which a text of the page is of the wanted form (ms since 1970). It looks when the
# page has changed, and at the text alone: to be looked at must not cost the page a layout.
_PAINTED = """
const [selector, wanted, done] = arguments;
const form = new RegExp(wanted);
const seen = () => form.test(document.querySelector(selector)?.textContent ?? '');
const tell = () => requestAnimationFrame(() => setTimeout(() => done(performance.timeOrigin + performance.now()), 0));
if (seen()) tell();
else {
  const watch = new MutationObserver(() => {
    if (!seen()) return;
    watch.disconnect();
    tell();
  });
  watch.observe(document, {subtree: true, childList: true, characterData: true});
}
"""


@dataclass
class Report:
    """All figures. Times in ms; memory of the service in MiB before and while the page is open."""

    load_average: float
    """Of the last minute, when it began; `..._measuring`: when the page had been measured."""
    processors: int
    hosts: int
    members: int
    first_paint_p50_ms: float = 0.0
    first_paint_max_ms: float = 0.0
    live_p50_ms: float = 0.0
    update_p50_ms: float = 0.0
    update_p99_ms: float = 0.0
    fleet_update_p50_ms: float = 0.0
    fleet_update_p99_ms: float = 0.0
    answer_p50_ms: float = 0.0
    answer_p99_ms: float = 0.0
    """Of the call that makes a change: a disk or a database that is late makes the page late as well."""
    load_average_measuring: float = 0.0
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


@contextmanager
def deployed(file: Path, members: int) -> Iterator[tuple[int, str]]:
    """A whole service that has deployed the members: its process and its address."""
    with ServiceProcess(file, start_seconds=600) as service, httpx.Client(base_url=service.http, timeout=1800) as http:
        fill(http, members)
        yield service.pid, service.http


@contextmanager
def seeded(file: Path, members: int) -> Iterator[tuple[int, str]]:
    """A service whose members stand in its database already: its process and its address."""
    told = file.with_name("address.json")
    command = [sys.executable, "-m", "tests.bench.page_service", str(file), str(members), str(told)]
    with (
        file.with_name("corral.log").open("wb") as log,
        subprocess.Popen(["setpriv", "--pdeathsig=KILL", "--", *command], stdout=log, stderr=log) as process,
    ):
        try:
            while not told.exists():
                assert process.poll() is None, file.with_name("corral.log").read_text()[-4000:]
                time.sleep(0.1)
            yield process.pid, f"http://{json.loads(told.read_text())['http']}"
        finally:
            process.terminate()


def measured(page: Page, http: httpx.Client, report: Report, changes: int) -> None:
    """First paints, then changes, one after the other."""
    paints, lives = [], []
    for _ in range(5):
        page.driver.get("about:blank")
        page.driver.get(f"{page.base}/#/fleet")
        begun = page.script("return performance.timeOrigin")
        paints.append(page.driver.execute_async_script(_PAINTED, "#totals", f"{report.hosts} hosts") - begun)
        lives.append(page.driver.execute_async_script(_PAINTED, "#link", "live") - begun)
    report.first_paint_p50_ms, report.first_paint_max_ms = quantile(paints, 0.5), max(paints)
    report.live_p50_ms = quantile(lives, 0.5)
    host = http.get("/corral/v1/hosts", params={"pageSize": "1"}).json()["inventories"][0]["uuid"]
    page.open(f"/#/host/{host}")
    updates, answers = shown(page, http, host, changes, ".facts", ("Disabled", "Enabled"))
    report.update_p50_ms, report.update_p99_ms = quantile(updates, 0.5), quantile(updates, 0.99)
    page.open("/#/fleet")
    updates, more = shown(page, http, host, changes, "#totals", ("1 take nothing new", f"{report.hosts} hosts(?!,)"))
    report.fleet_update_p50_ms, report.fleet_update_p99_ms = quantile(updates, 0.5), quantile(updates, 0.99)
    answers += more
    report.answer_p50_ms, report.answer_p99_ms = quantile(answers, 0.5), quantile(answers, 0.99)
    report.load_average_measuring = os.getloadavg()[0]


def shown(
    page: Page, http: httpx.Client, host: str, changes: int, selector: str, words: tuple[str, str]
) -> tuple[list[float], list[float]]:
    """ms from each call that disables (enables) the host until what is of the first (second) form is painted, and until
    the call is answered."""
    found, answers = [], []
    for number in range(changes):
        verb = ("disable", "enable")[number % 2]
        begun = time.time() * 1000
        http.post(f"/corral/v1/hosts/{host}:{verb}", json={}).raise_for_status()
        answers.append(time.time() * 1000 - begun)
        found.append(page.driver.execute_async_script(_PAINTED, selector, words[number % 2]) - begun)
        time.sleep(0.3)  # a page draws four times a second at most
    return found, answers


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.page_bench", description=__doc__)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--members", type=int, default=10000)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--seeded", action="store_true", help="write the members into the database")
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
        service = seeded(file, options.members) if options.seeded else deployed(file, options.members)
        pid, address = stack.enter_context(service)
        http = stack.enter_context(httpx.Client(base_url=address, timeout=600))
        report.service_mib = memory(pid) / MIB
        page = Page(stack.enter_context(browser(directory / "chromium")), address)
        page.size(1200, 900)
        measured(page, http, report, options.changes)
        report.service_with_page_mib = memory(pid) / MIB
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
