"""The group's own address, taken by a head's supervisor in a network of its own: whoever calls reaches it at once."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from service.serving import orders
from tests.lab.namespaces import Namespace
from tests.lab.requirements import program
from tests.service.serving.guest import SHELLS, Guest, port, until
from tests.service.serving.test_address_clash import machine, switch, without

__all__ = ["switch"]

OLD, NEW, CALLER = "10.66.0.7", "10.66.0.8", "10.66.0.9"
OLD_MAC, NEW_MAC, CALLER_MAC = "52:54:0a:42:00:07", "52:54:0a:42:00:08", "52:54:0a:42:00:09"
GROUP = "a" * 32
FOUR, SIX = (OLD, NEW, CALLER), ("fd66::7", "fd66::8", "fd66::9")


def reaches(caller: Namespace, address: str) -> bool:
    """Whether a machine is there that says that nobody listens at this port."""

    def call() -> bool:
        try:
            socket.create_connection((address, 9), timeout=10).close()
        except ConnectionRefusedError:
            return True
        return False

    return caller.call(call)


@pytest.mark.parametrize("addresses", [FOUR, SIX], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("tool", ["python3", "busybox"])
def test_a_caller_reaches_the_new_head_at_the_old_ones_address(
    switch: Namespace, tool: str, addresses: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what cloud images have, and by what the default guest has. The caller has the old head in its ARP table."""
    shell = next((shell for shell in SHELLS if (shell[0] == "busybox") is (tool == "busybox")), None)
    if shell is None:
        pytest.skip("its shell is not here")
    first, second, asks = addresses
    prefix, longest = (64, 128) if ":" in first else (24, 32)
    old, new = machine(switch, first, OLD_MAC, 1), machine(switch, second, NEW_MAC, 2)
    caller = machine(switch, asks, CALLER_MAC, 3)
    host, channel = port()
    assert reaches(caller, first)
    monkeypatch.setenv("PATH", str(without(tmp_path / "bin", {"arping", "busybox", "python3"} - {tool})))
    guest = Guest(tmp_path, [program("nsenter"), f"--net=/proc/{new.pid}/ns/net", "--", *shell])
    try:
        guest.start("sleep 1000", channel=channel, CORRAL_NODE_ADDRESS=f"{second}/{prefix}")
        guest.at("ready")
        assert guest.report()["endpoint"] == ""
        os.write(host, orders.take("b" * 32, first).encode())  # another group's
        old.close()  # its machine is gone, and the caller does not know
        os.write(host, orders.take(GROUP, first).encode())
        until(lambda: guest.report()["endpoint"] == first, "it says that it has the address")
        # Nothing is sent there meanwhile: the caller is told.
        until(lambda: NEW_MAC in caller.run(program("ip"), "neigh", "show", first), "the caller knows who has it now")
        assert reaches(caller, first)
        os.write(host, orders.take(GROUP, "").encode())
        until(lambda: guest.report()["endpoint"] == "", "it lets it go")
        assert f"{first}/{longest}" not in new.run(program("ip"), "-o", "address", "show")
    finally:
        guest.stop()
        os.close(host)
        for one in (new, caller, old):
            one.close()


def test_one_that_boots_has_it_by_its_documents(switch: Namespace, tmp_path: Path) -> None:
    new = machine(switch, NEW, NEW_MAC, 2)
    guest = Guest(tmp_path, [program("nsenter"), f"--net=/proc/{new.pid}/ns/net", "--", *SHELLS[0]])
    try:
        guest.start("sleep 1000", CORRAL_NODE_ADDRESS=f"{NEW}/24", CORRAL_ENDPOINT_ADDRESS=OLD)
        assert guest.at("ready")["endpoint"] == OLD
        assert f"{OLD}/32" in new.run(program("ip"), "-o", "address", "show")
    finally:
        guest.stop()
        new.close()
