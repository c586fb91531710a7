"""The lab: one switch and N hypervisors, made and unmade together."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.lab.hypervisor import Hypervisor
from tests.lab.namespaces import Namespace
from tests.lab.requirements import program, why_not

_SWITCH = """
ip link set lo up
ip link add lab0 type bridge forward_delay 0
ip address add "$1" dev lab0
ip link set lab0 up
"""


class Lab:
    """`count` hypervisors. `network`: the first half of their addresses, a /16 of their own.

    `capability_cache`: a directory in which QEMU's capabilities may outlive the lab.

    Use as a context manager, or call `close`. When the process that made it is killed, everything goes too.
    """

    def __init__(self, count: int, capability_cache: Path | None = None, network: str = "10.77") -> None:
        reason = why_not()
        if reason:
            raise RuntimeError(reason)
        self.network = network
        self.directory = Path(tempfile.mkdtemp(prefix="corral-lab-"))
        self.hypervisors: list[Hypervisor] = []
        self._capability_cache = capability_cache
        self._janitor = self._start_janitor()
        try:
            self.switch = Namespace(("--net",), _SWITCH, (f"{network}.0.1/16",))
            self._start(count)
        except BaseException:
            self.close()
            raise

    def _start_janitor(self) -> subprocess.Popen[bytes]:
        # Waits, as the namespaces do, for this process to end, and then removes the directory.
        script = 'cat > /dev/null; n=0; until rm -rf "$1" || [ $n -ge 50 ]; do n=$((n+1)); sleep 0.1; done'
        return subprocess.Popen(
            ["sh", "-c", script, "sh", str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _start(self, count: int) -> None:
        cached = self._capability_cache
        # Without a cache the first hypervisor asks QEMU, and the others take over what it learnt.
        alone = 0 if cached is not None and cached.is_dir() and any(cached.iterdir()) else 1
        for index in range(1, min(alone, count) + 1):
            self._add(index, None).start_daemon()
            cached = self._learn_capabilities(self.hypervisors[0])
        for index in range(len(self.hypervisors) + 1, count + 1):
            self._add(index, cached)
        with ThreadPoolExecutor(max(1, count)) as pool:
            list(pool.map(Hypervisor.start_daemon, self.hypervisors[alone:]))

    def _add(self, index: int, capabilities: Path | None) -> Hypervisor:
        hypervisor = Hypervisor(index, self.directory, self.network, self.switch, capabilities)
        self.hypervisors.append(hypervisor)
        return hypervisor

    def _learn_capabilities(self, hypervisor: Hypervisor) -> Path:
        hypervisor.namespace.run("virsh", "-c", "qemu:///system", "capabilities", timeout=300)
        learnt = hypervisor.directory / "var/cache/libvirt/qemu/capabilities"
        if self._capability_cache is not None:
            with contextlib.suppress(FileExistsError):
                shutil.copytree(learnt, self._capability_cache, dirs_exist_ok=False)
        return learnt

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Hypervisor]:
        return iter(self.hypervisors)

    def __getitem__(self, index: int) -> Hypervisor:
        return self.hypervisors[index]

    def get_json(self, address: str, port: int = 8080, path: str = "/health", timeout: float = 60) -> Any:
        """GET from inside the lab's network. Raises OSError, http.client.HTTPException, ValueError."""
        connection = http.client.HTTPConnection(address, port, timeout=timeout)
        connection.sock = self.switch.connect(address, port, timeout)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise OSError(f"GET {path} from {address}:{port} answered {response.status}")
            return json.loads(body)
        finally:
            connection.close()

    def command(self, *command: str) -> list[str]:
        """The command line that runs `command` in the lab's network namespace, this machine's files in view."""
        return [program("nsenter"), "--target", str(self.switch.pid), "--net", "--", *command]

    def close(self) -> None:
        """Ends all of it and leaves nothing behind. A second call does nothing."""
        for hypervisor in self.hypervisors:
            hypervisor.namespace.close()
        self.hypervisors = []
        if hasattr(self, "switch"):
            self.switch.close()
        self._janitor.communicate(timeout=120)
