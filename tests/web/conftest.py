"""One browser and one service with ten simulated hosts for all tests of the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from selenium.webdriver import Chrome

from tests.support.builders import ENTRY, ZONE
from tests.support.process import ServiceProcess
from tests.web import browser

HOSTS = 10
GPU_HOST = 3
"""The number of the host that has devices: two of them in two NUMA cells, joined."""


JOINED = '[[hosts.partitions]]\nname = "nvlink-0"\ndevices = ["0000:01:00.0", "0000:02:00.0"]\n'


def configuration(directory: Path, hosts: int = HOSTS, *, boot_ms: int = 50) -> str:
    """A fleet of simulated hosts in two zones and five racks; every caller is its administrator."""
    second = ZONE[:-1] + ("0" if ZONE[-1] != "0" else "1")
    head = f"""
[server]
grpc = "127.0.0.1:0"
http = "127.0.0.1:0"

[store]
url = "sqlite:///{directory}/corral.db"
[catalog]
image_directory = "{directory}"
[[zones]]
uuid = "{ZONE}"
name = "east"
[[zones]]
uuid = "{second}"
name = "west"
[[images]]
name = "guest"
kernel = "kernel"
[[model_services]]
uuid = "{ENTRY}"
name = "default"
image = "guest"
default_cpu = 1
default_memory = "1GiB"
stop_grace_ms = 200
[identity]
anonymous = "loopback"
"""
    one = """
[[hosts]]
name = "host-{number}"
zone = "{zone}"
rack = "rack-{rack}"
driver = "simulated"
transport = "test"
[hosts.options]
cpu = "{cpu}"
memory = "64GiB"
boot_ms = "{boot_ms}"
call_ms = "0"
live_migration = "yes"
busy = "25"
migrate_ms = "{boot_ms}"
"""
    devices = '"gpu.h100" = "2"\nnuma = "2"\n' + JOINED
    listed = (
        one.format(number=n, zone=("east", "west")[n % 2], rack=n % 5, cpu=(8, 16)[n % 2], boot_ms=boot_ms)
        + (devices if n == GPU_HOST else "")
        for n in range(1, hosts + 1)
    )
    return head + "".join(listed)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    directory = tmp_path_factory.mktemp("page")
    (directory / "kernel").touch()
    file = directory / "corral.toml"
    file.write_text(configuration(directory))
    with ServiceProcess(file, module="tests.web.patient_service") as made:
        yield made


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    if reason := browser.why_not():
        pytest.skip(reason)
    with browser.browser(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def page(chromium: Chrome, service: ServiceProcess) -> Iterator[browser.Page]:
    """A tab of ordinary size; what the browser complains of fails the test."""
    tab = browser.Page(chromium, service.http)
    tab.size(1200, 900)
    tab.complaints()
    yield tab
    assert tab.complaints() == []


@pytest.fixture(scope="module")
def http(service: ServiceProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.http, timeout=60) as client:
        yield client
