"""SIGHUP: the running process reads its file again, and never ends of it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.support.process import CONFIGURATION, ServiceProcess

HEAD = """
[server]
grpc = "127.0.0.1:0"
http = "127.0.0.1:0"
[store]
url = "sqlite:///corral.db"
[log]
format = "json"
level = "{level}"
[identity]
anonymous = false
"""


def token(secret: str) -> str:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return f'[[tokens]]\nname = "ci"\nproject = "p"\nrole = "admin"\nsha256 = "{digest}"\n'


def answer(service: ServiceProcess, secret: str) -> int:
    headers = {"authorization": f"Bearer {secret}"}
    return httpx.get(f"{service.http}/corral/v1/instance-groups", headers=headers, timeout=30).status_code


def told(service: ServiceProcess, event: str) -> list[dict[str, object]]:
    written = [line for line in service.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    lines = [json.loads(line) for line in written if line.startswith("{")]
    return [line for line in lines if event in str(line.get("event"))]


def soon(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_hangup_takes_over_who_may_call_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "corral.toml"
    (tmp_path / "none").touch()
    fleet = CONFIGURATION.replace("/boot/none", str(tmp_path / "none"))
    file.write_text(HEAD.format(level="info") + fleet + token("old"))
    with ServiceProcess(file) as service:
        assert (answer(service, "old"), answer(service, "new")) == (200, 401)
        text = HEAD.format(level="debug") + fleet.replace('cpu = "8"', 'cpu = "9"') + token("new")
        file.write_text(text + '[[quotas]]\nproject = "p"\ncpu = 1\n')
        os.kill(service.pid, signal.SIGHUP)
        soon(lambda: bool(told(service, "was read again")))
        assert (answer(service, "old"), answer(service, "new")) == (401, 200)
        assert told(service, "was read again")[0]["at_the_next_start"] == ["hosts"]
        file.write_text("no configuration")
        os.kill(service.pid, signal.SIGHUP)
        soon(lambda: bool(told(service, "cannot be used")))
        assert answer(service, "new") == 200
