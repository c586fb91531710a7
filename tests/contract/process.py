"""`python -m service serve` as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 60


@dataclass(frozen=True)
class Serving:
    """A process that serves. `http` and `grpc` are `address:port`."""

    process: subprocess.Popen[bytes]
    http: str
    grpc: str

    def kill(self) -> None:
        """End it without warning, and wait for that."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def serving(configuration: Path) -> Iterator[Serving]:
    """A service with this configuration file, which must ask for JSON logs. It is gone afterwards."""
    log = configuration.with_name(f"{uuid.uuid4().hex}.log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve", "--config", str(configuration)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield _wait(process, log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], log: Path) -> Serving:
    patience = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < patience:
        for line in log.read_text().splitlines():
            if '"event": "serving"' in line:
                event = json.loads(line)
                return Serving(process, event["http"], event["grpc"])
        time.sleep(0.05)
    raise AssertionError(f"the service did not come up:\n{log.read_text()}")
