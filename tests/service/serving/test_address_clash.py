"""Another machine that answers for a member's address: seen by the member's supervisor, told as the member's reason."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.domain.groups import InstanceStatus
from service.drivers.base import MachineIdentity, MachineState, ObservedMachine
from service.drivers.reports import GuestReport
from service.lifecycle.transitions import advance_all
from service.reconcile.sight import seen
from tests.lab.namespaces import Namespace
from tests.lab.requirements import program, why_not
from tests.service.serving.guest import SHELLS, Guest, until
from tests.support.builders import group

ADDRESS, OURS, OTHERS = "10.66.0.7", "52:54:0a:42:00:07", "52:54:0a:42:00:63"
ADDRESS_6 = "fd66::7"
_SWITCH = """
ip link set lo up
ip link add br0 type bridge forward_delay 0
ip link set br0 up
"""
_PORT = """
ip link set lo up
ip link add eth0 address "$3" type veth peer name "port$4" netns "$1"
ip link set eth0 up
ip address add "$2" dev eth0 $5
"""


@pytest.fixture
def switch() -> Iterator[Namespace]:
    """A network of its own."""
    if reason := why_not():
        pytest.skip(reason)
    if not shutil.which("arping") and not shutil.which("busybox"):
        pytest.skip("neither arping nor busybox is here")
    made = Namespace(("--net",), _SWITCH)
    yield made
    made.close()


def without(directory: Path, tools: set[str]) -> Path:
    """A directory of all programs of this machine but these."""
    directory.mkdir()
    for path in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        for found in Path(path).iterdir():
            if found.name not in tools and not (directory / found.name).exists():
                (directory / found.name).symlink_to(found)
    return directory


def machine(switch: Namespace, address: str, hardware: str, number: int) -> Namespace:
    """A machine on that network."""
    given, how = (f"{address}/64", "nodad") if ":" in address else (f"{address}/24", "")
    made = Namespace(("--net",), _PORT, (str(switch.pid), given, hardware, str(number), how))
    switch.run(program("ip"), "link", "set", f"port{number}", "master", "br0")
    switch.run(program("ip"), "link", "set", f"port{number}", "up")
    return made


@pytest.mark.parametrize(("tool", "address"), [("python3", ADDRESS), ("busybox", ADDRESS), ("python3", ADDRESS_6)])
def test_a_machine_that_has_the_members_address_is_seen_until_it_is_gone(
    switch: Namespace, tool: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what cloud images have, and by what the default guest has."""
    shell = next((shell for shell in SHELLS if (shell[0] == "busybox") is (tool == "busybox")), None)
    if shell is None:
        pytest.skip("its shell is not here")
    monkeypatch.setenv("PATH", str(without(tmp_path / "bin", {"arping", "busybox", "python3"} - {tool})))
    ours, other = machine(switch, address, OURS, 1), machine(switch, address, OTHERS, 2)
    prefix = 64 if ":" in address else 24
    guest = Guest(tmp_path, [program("nsenter"), f"--net=/proc/{ours.pid}/ns/net", "--", *shell])
    try:
        guest.start("sleep 1000", CORRAL_NODE_ADDRESS=f"{address}/{prefix}", CORRAL_CLASH_TURNS="8")
        until(lambda: guest.report().get("clash") == OTHERS, "the other machine is seen")
        assert guest.at("ready")["clash"] == OTHERS, "the member serves those who reach it"
        other.run(program("ip"), "address", "del", f"{address}/{prefix}", "dev", "eth0")
        until(lambda: guest.report()["clash"] == "", "the other machine is gone")
    finally:
        guest.stop()
        other.close()
        ours.close()


def test_a_machine_whose_kernel_finds_its_address_taken_says_so_and_starts_nothing(
    switch: Namespace, tmp_path: Path
) -> None:
    other = machine(switch, ADDRESS_6, OTHERS, 2)
    ours = machine(switch, "fd66::8", OURS, 1)
    guest = Guest(tmp_path, [program("nsenter"), f"--net=/proc/{ours.pid}/ns/net", "--", *SHELLS[0]])
    try:
        ours.run(program("ip"), "address", "add", f"{ADDRESS_6}/64", "dev", "eth0")
        guest.start("sleep 1000", CORRAL_NODE_ADDRESS=f"{ADDRESS_6}/64")
        guest.at("network", f"address {ADDRESS_6} is not this machine's yet")
        until(lambda: "dadfailed" in ours.run(program("ip"), "-o", "address", "show"), "its kernel has found the other")
        other.close()
        ours.run(program("ip"), "address", "del", f"{ADDRESS_6}/64", "dev", "eth0")
        ours.run(program("ip"), "address", "add", f"{ADDRESS_6}/64", "dev", "eth0")
        guest.at("ready")
    finally:
        guest.stop()
        other.close()
        ours.close()


def test_it_is_the_members_reason_and_takes_nothing_from_it() -> None:
    member = replace(group(1).instances[0], status=InstanceStatus.RUNNING, address=ADDRESS)
    stored = replace(group(1), go=True, served=True, instances=(member,))
    identity = MachineIdentity("c", member.group_uuid, member.uuid, member.attempt)

    def told(clash: str) -> tuple[InstanceStatus, str]:
        nonlocal stored
        report = GuestReport("ready", "", 1, ADDRESS, time.monotonic(), clash=clash)
        shown = ObservedMachine(identity, identity.machine_uuid, MachineState.RUNNING, "", report)
        stored = advance_all(stored, seen(stored.instances[0], shown), 1)
        return stored.instances[0].status, stored.instances[0].reason

    assert told("") == (InstanceStatus.RUNNING, "")
    words = f"another machine answers for its address {ADDRESS}: {OTHERS}"
    assert told(OTHERS) == (InstanceStatus.RUNNING, words)
    assert told("") == (InstanceStatus.RUNNING, "")
