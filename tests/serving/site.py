"""A group of llama.cpp on the lab's hypervisors: its image, the service's configuration, and callers from outside."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
from corral.v1 import deploy_pb2, fleet_pb2, group_pb2

from tests.lab.fixtures import GUEST_BUILD
from tests.lab.fleet import Lab
from tests.serving import oracle
from tests.serving.llama import Engine
from tests.serving.oracle import Ring
from tests.support.builders import ENTRY, ZONE
from tests.support.process import CorralProcess

BROKEN = "b40ce9b40ce9b40ce9b40ce9b40ce9b4"
CLOUD = "c10dc10dc10dc10dc10dc10dc10dc10d"
PORT, HARM_PORT = 8080, 7999
HOSTS_SECONDS = 120.0
MEMORY = 128 << 20  # bytes of a guest
CANARY_LETTERS = 2
ARGUMENTS = "-m /model.gguf -c 256 -np 1 -t 1 -fit off --threads-http 2"


@dataclass(frozen=True)
class Model:
    """A ring, and the boot image that holds it beside the engine."""

    ring: Ring
    manifest: Path

    def request(self, prompt: str, count: int) -> dict[str, Any]:
        """What is posted to /completion; no sampling, so that the answer is the model's own."""
        return {"prompt": prompt, "n_predict": count, "temperature": 0, "cache_prompt": False}


# Beside each engine stands a door for harm: an HTTP server of its own that gives the engine's processes a signal.
_START = """#!/bin/sh
httpd -p 7999 -h /harm 2> /dev/null
exec /engine/{program} "$@"
"""
_DOOR = """#!/bin/sh
for process in /proc/[0-9]*; do
    name=
    read -r name < $process/comm
    case "$name" in
        ggml-rpc-server | llama-server) kill -$QUERY_STRING ${process#/proc/} ;;
    esac
done 2> /dev/null
printf 'Content-Type: text/plain\\r\\n\\r\\ndone\\n'
"""

# And one that tells what documents the guest goes by now.
_TOLD = """#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
grep -E '^CORRAL_(GROUP_UUID|GROUP_EPOCH|NODE_RANK|PEERS|LEADER_ADDRESS)=' /run/corral/facts/env
sed 's/^/hosts=/' /run/corral/facts/hosts
"""


def _script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def build_model(directory: Path, engine: Engine, ring: Ring, *, head: Path, broken_layer: int = -1) -> Model:
    """One image for head and workers. `head`: the program that is called `llama-server` there."""
    weights = directory / "model.gguf"
    oracle.write(weights, ring, broken_layer=broken_layer)
    added = {engine.rpc_server: "engine/ggml-rpc-server", head: "engine/llama-server", weights: "model.gguf"}
    for program in ("ggml-rpc-server", "llama-server"):
        added[_script(directory / program, _START.format(program=program))] = f"bin/{program}"
    added[_script(directory / "harm", _DOOR)] = "harm/cgi-bin/harm"
    added[_script(directory / "told", _TOLD)] = "harm/cgi-bin/told"
    wishes = [word for file, path in added.items() for word in ("--add", f"{file}={path}")]
    out = directory / "image"
    subprocess.run([sys.executable, str(GUEST_BUILD), str(out), *wishes], check=True, stdout=subprocess.DEVNULL)
    return Model(ring, out / "guest.json")


def cloud_entry(model: Model, disk: Path) -> str:
    """A catalogue entry like the model's, whose image is a cloud disk with the same engine."""
    return f"""
[[images]]
name = "cloud"
disk = "{disk}"
disk_format = "qcow2"
delivery = "nocloud"
[[model_services]]
uuid = "{CLOUD}"
name = "cloud"
image = "cloud"
framework = "llamacpp-rpc"
boot_timeout_ms = 1200000
{_canary(model)}
"""


def _canary(model: Model) -> str:
    body = json.dumps(model.request("abc", CANARY_LETTERS))
    expected = model.ring.completion("c", CANARY_LETTERS)
    return f"""canary_path = "/completion"
canary_body = '{body}'
canary_expect = '"content":"{expected}'
stop_grace_ms = 0"""


def configuration(lab: Lab, model: Model, broken: Path) -> str:
    """The lab's hosts, one zone with planned addresses, and an entry with a canary; beside it another one, with
    the same canary, whose model is `broken`."""
    hosts = "".join(
        f'[[hosts]]\nname = "hv{number}"\nzone = "zone-1"\ndriver = "libvirt"\n'
        f'socket = "{hypervisor.directory}/run/libvirt/libvirt-sock"\n'
        '[hosts.capacity]\nvcpu = 4\nmemory = "20GiB"\n'
        for number, hypervisor in enumerate(lab, start=1)
    )
    entries = "".join(
        f"""
[[images]]
name = "{name}"
manifest = "{manifest}"
[[model_services]]
uuid = "{uuid}"
name = "{name}"
image = "{name}"
framework = "llamacpp-rpc"
{_canary(model)}
"""
        for name, uuid, manifest in (("ring", ENTRY, model.manifest), ("broken", BROKEN, broken))
    )
    return f"""
[[zones]]
uuid = "{ZONE}"
name = "zone-1"
[zones.network]
kind = "bridge"
source = "br0"
subnet = "{lab.network}.0.0/16"
gateway = "{lab.network}.0.1"
pool = "{lab.network}.1.10-{lab.network}.1.99"
{hosts}
{entries}"""


@dataclass
class Site:
    """The service as a process on a lab that runs, with one model."""

    lab: Lab
    model: Model
    corral: CorralProcess

    def start(self) -> None:
        """The service runs, and all hypervisors answer it."""
        self.corral.start()
        end = time.monotonic() + HOSTS_SECONDS
        while any(host.status != "Connected" for host in self._hosts()):
            if time.monotonic() > end:
                raise TimeoutError(f"not all hypervisors answer within {HOSTS_SECONDS:.0f} s: {self._hosts()}")
            time.sleep(0.1)

    def _hosts(self) -> Sequence[fleet_pb2.Host]:
        answer = self.corral.fleet.ListHosts(fleet_pb2.ListHostsRequest(), timeout=30)
        return tuple(answer.inventories)

    def deploy(
        self, size: int = 3, *, entry: str = ENTRY, timeout_ms: int = 0, memory: int = MEMORY, **more: Any
    ) -> Iterator[deploy_pb2.DeployDistributedModelServiceResponse]:
        """Head and workers on hosts of their own."""
        nodes = [
            group_pb2.NodeSpec(
                uuid=entry, zone_uuid=ZONE, cpu_num=1, memory_size=memory, timeout=timeout_ms,
                startup_parameters=ARGUMENTS if rank == 0 else "-t 1",
            )
            for rank in range(size)
        ]  # fmt: skip
        policy = group_pb2.PlacementPolicy(max_per_host=1)
        # A group that is hurt again and again is not to fail for that.
        again = group_pb2.FailurePolicy(action=group_pb2.FAILURE_ACTION_REPLACE_MEMBER, budget=100)
        return self.corral.deploy(
            {ENTRY: "ring", BROKEN: "broken", CLOUD: "cloud"}[entry],
            nodes,
            **{"placement_policy": policy, "failure_policy": again, **more},
        )

    def ask(self, group: group_pb2.InstanceGroup, prompt: str, count: int, timeout: float = 30.0) -> str:
        """What the group's url answers to a caller outside of the guests.

        Raises OSError, http.client.HTTPException, ValueError.
        """
        return self.ask_at(group.instances[0].addresses[0], prompt, count, timeout)

    def ask_at(self, address: str, prompt: str, count: int, timeout: float, reach: float | None = None) -> str:
        """See `ask`. A planned address is the member's for life. `reach`: seconds for the connection alone."""
        body = json.dumps(self.model.request(prompt, count)).encode()
        answer = json.loads(post(self.lab, address, "/completion", body, timeout, reach))
        return str(answer["content"])

    def get(self, uuid: str) -> group_pb2.InstanceGroup:
        """The group as it stands."""
        return self.corral.groups.GetInstanceGroup(deploy_pb2.GetInstanceGroupRequest(uuid=uuid), timeout=30).inventory


def post(lab: Lab, address: str, path: str, body: bytes, timeout: float, reach: float | None = None) -> bytes:
    """POST from inside the lab's network. Raises OSError, http.client.HTTPException."""
    return _asked(lab, address, PORT, ("POST", path, body), timeout, reach)


def told(lab: Lab, address: str) -> dict[str, str]:
    """The documents that the guest goes by: some of their variables, and under `hosts` the lines of its hosts file.

    Raises OSError, http.client.HTTPException.
    """
    found: dict[str, str] = {"hosts": ""}
    for line in get(lab, address, HARM_PORT, "/cgi-bin/told", 60).decode().splitlines():
        name, _, value = line.partition("=")
        found[name] = f"{found['hosts']}{value}\n" if name == "hosts" else value
    return found


def get(lab: Lab, address: str, port: int, path: str, timeout: float) -> bytes:
    """GET from inside the lab's network. Raises OSError, http.client.HTTPException."""
    return _asked(lab, address, port, ("GET", path, None), timeout)


def _asked(
    lab: Lab,
    address: str,
    port: int,
    request: tuple[str, str, bytes | None],
    timeout: float,
    reach: float | None = None,
) -> bytes:
    method, path, body = request
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    connection.sock = lab.switch.connect(address, port, timeout if reach is None else reach)
    connection.sock.settimeout(timeout)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise OSError(f"{path} of {address} answered {response.status}: {answer[:200]!r}")
        return answer
    finally:
        connection.close()


@contextmanager
def site(lab: Lab, model: Model, directory: Path, *, broken: Path | None = None, more: str = "") -> Iterator[Site]:
    """The service runs; at the end nothing of its machines does. `broken`: the manifest of an image whose model answers
    wrongly. `more`: of the configuration file."""
    directory.mkdir(exist_ok=True)
    corral = CorralProcess(directory, configuration(lab, model, broken or model.manifest) + more)
    place = Site(lab, model, corral)
    try:
        place.start()
        yield place
    finally:
        corral.kill()
        sweep(lab)


def sweep(lab: Lab) -> None:
    """Ends and forgets every domain, and deletes machines' volumes."""
    for hypervisor in lab:
        connection = libvirt.open(hypervisor.uri)
        for domain in connection.listAllDomains():
            if domain.isActive():
                domain.destroy()
            if domain.isPersistent():
                domain.undefine()
        connection.close()


def leftovers(lab: Lab) -> Sequence[str]:
    """Domains and volumes of machines on all hypervisors, but inert marks; read without the service."""
    found = []
    for hypervisor in lab:
        connection = libvirt.open(hypervisor.uri)
        names = [d.name() for d in connection.listAllDomains()]
        found += [n for n in names if n != "corral-owner" and not n.startswith("corral-tomb")]
        for pool in connection.listAllStoragePools():
            found += [v for v in pool.listVolumes() if not v.startswith("corral-base.")]
        connection.close()
    return found
