"""A service with two simulated hosts as a process of its own, and what a stranger calls it with: grpcurl, a scrape."""

from __future__ import annotations

import json
import subprocess
import sysconfig
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.builders import ENTRY, ZONE
from tests.support.process import CorralProcess

SERVICE = "corral.v1.DistributedModelService"
SCRIPTS = Path(sysconfig.get_path("scripts"))

_HOST = """
[[hosts]]
name = "{name}"
zone = "zone-1"
driver = "simulated"
options = {{ cpu = 16, memory = "64GiB", boot_ms = 20 }}
"""
_CONFIGURATION = f"""
[[zones]]
uuid = "{ZONE}"
name = "zone-1"
{_HOST.format(name="one")}
{_HOST.format(name="two")}
[[images]]
name = "guest"
kernel = "vmlinuz"
[[model_services]]
uuid = "{ENTRY}"
name = "default"
image = "guest"
"""


class Outside(CorralProcess):
    """The service as clients see it that share no code with it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, _CONFIGURATION, server='max_message_bytes = "128KiB"')

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
        with urllib.request.urlopen(f"{self.http}/metrics", timeout=10) as answer:
            return str(answer.read().decode())


def documents(text: str) -> list[Any]:
    """JSON documents that stand one after the other."""
    decoder, found, rest = json.JSONDecoder(), [], text.strip()
    while rest:
        document, end = decoder.raw_decode(rest)
        found.append(document)
        rest = rest[end:].strip()
    return found


@contextmanager
def outside(directory: Path) -> Iterator[Outside]:
    """A service in a directory; it must have logged no traceback when it has ended."""
    with Outside(directory) as service:
        yield service
    assert "Traceback" not in service.log.read_text(), service.log.read_text()
