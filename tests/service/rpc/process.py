"""A whole service as a process of its own on simulated hosts, and what outside clients need to reach it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
SERVICE = "corral.v1.DistributedModelService"
SCRIPTS = Path(sysconfig.get_path("scripts"))

CONFIGURATION = """
[server]
grpc = "127.0.0.1:0"
http = "127.0.0.1:0"
max_message_bytes = "128KiB"
[store]
url = "sqlite:///corral.db"
[log]
format = "json"
[[zones]]
uuid = "7a007a391d483c9f843bf1df4b7e5d8f"
name = "zone-1"
[[hosts]]
name = "one"
zone = "zone-1"
driver = "simulated"
options = { cpu = 16, memory = "64GiB", boot_ms = 20 }
[[hosts]]
name = "two"
zone = "zone-1"
driver = "simulated"
options = { cpu = 16, memory = "64GiB", boot_ms = 20 }
[[images]]
name = "guest"
kernel = "vmlinuz"
[[model_services]]
uuid = "f1e135835fee363c9f57ed8232023886"
name = "default"
image = "guest"
"""


@dataclass(frozen=True)
class Process:
    """The running service: its addresses, and where its log is."""

    grpc: str
    http: str
    log: Path

    def grpcurl(self, *arguments: str, body: Any = None) -> subprocess.CompletedProcess[str]:
        """Run grpcurl against it; `body` is the request as JSON."""
        data = [] if body is None else ["-d", "@"]
        command = [str(SCRIPTS / "grpcurl"), "-plaintext", *data, self.grpc, *arguments]
        text = None if body is None else json.dumps(body)
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)

    def call(self, method: str, body: Any) -> list[Any]:
        """The answers of a method by grpcurl. Raises AssertionError where it fails."""
        result = self.grpcurl(f"{SERVICE}/{method}", body=body)
        assert result.returncode == 0, result.stderr
        return documents(result.stdout)

    def metrics(self) -> str:
        """What Prometheus would scrape."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10) as answer:
            return str(answer.read().decode())


def documents(text: str) -> list[Any]:
    """JSON documents that stand one after the other."""
    decoder, found, rest = json.JSONDecoder(), [], text.strip()
    while rest:
        document, end = decoder.raw_decode(rest)
        found.append(document)
        rest = rest[end:].strip()
    return found


def _addresses(log: Path, process: subprocess.Popen[bytes]) -> dict[str, str]:
    """The addresses from the log's line that says that it serves."""
    for _ in range(300):
        for line in log.read_text().splitlines():
            entry = json.loads(line) if line.startswith("{") else {}
            if entry.get("event") == "serving":
                return {name: str(entry[name]) for name in ("grpc", "http")}
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"the service does not come up: {log.read_text()}")


@contextmanager
def served(directory: Path) -> Iterator[Process]:
    """Start the service in a directory, and end it: it must go in order and have logged no traceback."""
    (directory / "corral.toml").write_text(CONFIGURATION)
    log = directory / "log"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve", "--config", "corral.toml"],
            cwd=directory,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Process(log=log, **_addresses(log, process))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(30)
        finally:
            process.kill()
    assert code == 0, log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()
