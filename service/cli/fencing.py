"""What the command says and asks of hosts that can be switched off by their BMCs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click
from corral.v1 import fleet_pb2

from service.cli import errors, names
from service.cli.command import Output, Session, output_option
from service.cli.follow_up import Detached
from service.cli.hosts import Stub, find_host
from service.cli.view import FENCE_OPEN

LOOK_SECONDS = 2.0
_MODES = ("off", "manual", "dry", "auto")


def bmc_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options by which a host names its BMC."""
    for option in reversed(
        (
            click.option("--bmc-address", help="Its BMC's DNS name or IP address, by which it can be switched off."),
            click.option("--bmc-port", type=int, default=0, help="[default: 443]"),
            click.option("--bmc-user", default="", help="The BMC's account."),
            click.option("--bmc-credential", default="", help="One of the configuration's [[credentials]]."),
            click.option("--bmc-fingerprint", default="", help="The SHA-256 of the BMC's certificate."),
            click.option("--bmc-system", default="", help="The Redfish system's id, where the BMC has several."),
            click.option(
                "--fencing", type=click.Choice(_MODES), default=None, help="Who may switch it off. [default: manual]"
            ),
        )
    ):
        command = option(command)
    return command


def said_bmc(told: dict[str, Any]) -> fleet_pb2.HostBmc | None:
    """The BMC that the options name; None where they name none."""
    if not told["bmc_address"]:
        if any(told[f"bmc_{name}"] for name in ("port", "user", "credential", "fingerprint", "system")):
            raise click.UsageError("--bmc-address is needed with what else is said of the BMC")
        if told["fencing"]:
            raise click.UsageError("--fencing needs --bmc-address: the BMC is told as a whole")
        return None
    return fleet_pb2.HostBmc(
        address=told["bmc_address"],
        port=told["bmc_port"],
        username=told["bmc_user"],
        credential=told["bmc_credential"],
        fingerprint=told["bmc_fingerprint"],
        system=told["bmc_system"],
        fencing=told["fencing"] or "",
    )


def change_bmc(request: fleet_pb2.UpdateHostRequest, told: dict[str, Any]) -> None:
    """Put what the options say of the BMC into the request."""
    bmc = said_bmc(told)
    if bmc is not None and told["no_bmc"]:
        raise click.UsageError("--bmc-address and --no-bmc are two different wishes")
    if bmc is not None:
        request.bmc.CopyFrom(bmc)
    if bmc is not None or told["no_bmc"]:
        request.update_mask.paths.append("bmc")


@output_option
@click.argument("host", type=names.HOST)
@click.option("--already-off", is_flag=True, help="It is off, and its BMC is not to be asked: your word counts.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@click.option("--dry-run", "validate_only", is_flag=True, help="Only check it; nothing is changed.")
def fence(session: Session, output: Output, host: str, already_off: bool, yes: bool, validate_only: bool) -> int:
    """Give a host up that does not answer: its members are placed elsewhere, and it may not come back with them.

    A host with a BMC is switched off by it, and seen off, first. Without one your word counts: power it off before.

    Ctrl-C leaves; the fence goes on.
    """
    stub = session.stub(Stub)
    found = find_host(stub, host)
    by_bmc = found.HasField("fencing") and found.fencing.mode != "off" and not already_off
    if not yes and not validate_only:
        question = (
            f"Switch {found.name} off by its BMC {found.fencing.bmc_address}? What still runs there ends"
            if by_bmc
            else f"Are the machines of {found.name} ended for good, by power or by network?"
        )
        click.confirm(question, abort=True, err=True)
    request = fleet_pb2.FenceHostRequest(uuid=found.uuid, already_off=already_off, validate_only=validate_only)
    made = stub.FenceHost(request).inventory
    if validate_only or not by_bmc:
        output.one(made, made.name, f"{made.name} {'may be' if validate_only else 'is'} fenced")
        return errors.OK
    made = _followed(stub, made, output)
    last = made.fencing.last_fence
    output.one(made, made.name, f"{made.name}: {last.state}: {last.reason}")
    return errors.OK if last.state == "Fenced" else errors.FAILED


def _followed(stub: Stub, host: fleet_pb2.Host, output: Output) -> fleet_pb2.Host:
    """The host once its fence is over; each step is told."""
    told = ""
    try:
        while (last := host.fencing.last_fence).state in FENCE_OPEN:
            step = f"{last.state}: {last.reason}"
            if step != told and output.for_people:
                print(step, flush=True)
            told = step
            time.sleep(LOOK_SECONDS)
            host = stub.GetHost(fleet_pb2.GetHostRequest(uuid=host.uuid)).inventory
    except KeyboardInterrupt:
        errors.tell(f"left; the fence of {host.name} goes on. See how far it is with: corral host show {host.name}")
        raise Detached from None
    return host
