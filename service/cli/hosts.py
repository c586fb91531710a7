"""`corral hosts`: lists and claims hosts, and lists, removes and adopts what is in quarantine on them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

from corral.v1 import fleet_pb2, fleet_pb2_grpc

from service.cli import errors
from service.cli.explanation import amounts_text
from service.cli.view import json_line

Stub = fleet_pb2_grpc.FleetServiceStub
Run = Callable[[argparse.Namespace, Stub], int]


class UnknownHost(Exception):
    """No host has this uuid or name."""


def add_parsers(hosts: argparse.ArgumentParser) -> None:
    """The sub-commands of `corral hosts`; without one it lists."""
    hosts.add_argument("--project", default="", help="only hosts on which members of this project have claims")
    verbs = hosts.add_subparsers(title="sub-commands", metavar="VERB")

    def add(name: str, run: Run, text: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text, epilog=errors.EXIT_CODE_HELP)
        verb.set_defaults(run=run)
        verb.add_argument("--json", action="store_true", help="print JSON instead of text")
        return verb

    claim = add("claim", claim_host, "say that a host that is left alone is this service's, whatever it bears")
    claim.add_argument("host", help="its uuid or name")
    held = add("quarantine", list_quarantine, "list machines and volumes that the database knows nothing of")
    held.add_argument("--host", default="", help="only those on this host, by uuid or name")
    remove = add("remove-quarantined", remove_quarantined, "order the end of what is held in quarantine")
    remove.add_argument("host", help="uuid or name of its host")
    remove.add_argument("key", help="the machine's uuid or the volume's name, as `quarantine` lists it")
    adopt = add("adopt", adopt_group, "make a group of which machines are in quarantine a group again, as it runs")
    adopt.add_argument("group", help="its uuid, as `quarantine` lists it")


def list_hosts(options: argparse.Namespace, stub: Stub) -> int:
    """A line each, by name."""
    for host in _hosts(stub, options.project):
        print(json_line(host) if options.json else _host_line(host))
    return errors.OK


def claim_host(options: argparse.Namespace, stub: Stub) -> int:
    """Order that the host be this service's."""
    host = _find(stub, options.host)
    made = stub.ClaimHost(fleet_pb2.ClaimHostRequest(uuid=host.uuid)).inventory
    print(json_line(made) if options.json else f"{host.name} is claimed; it is looked at within seconds")
    return errors.OK


def list_quarantine(options: argparse.Namespace, stub: Stub) -> int:
    """A line each, by host."""
    names = {host.uuid: host.name for host in _hosts(stub)}
    only = _find(stub, options.host).uuid if options.host else ""
    for one in _pages(
        lambda token: stub.ListQuarantine(
            fleet_pb2.ListQuarantineRequest(host_uuid=only, page_size=500, page_token=token)
        )
    ):
        print(json_line(one) if options.json else _held_line(one, names.get(one.host_uuid, one.host_uuid)))
    return errors.OK


def remove_quarantined(options: argparse.Namespace, stub: Stub) -> int:
    """Order the end of one machine or volume."""
    host = _find(stub, options.host)
    request = fleet_pb2.RemoveQuarantinedRequest(host_uuid=host.uuid, key=options.key)
    one = stub.RemoveQuarantined(request).inventory
    print(json_line(one) if options.json else f"{one.key} on {host.name} is going to be removed")
    return errors.OK


def adopt_group(options: argparse.Namespace, stub: Stub) -> int:
    """Make quarantined machines a group again."""
    group = stub.AdoptQuarantined(fleet_pb2.AdoptQuarantinedRequest(group_uuid=options.group)).inventory
    print(json_line(group) if options.json else f"{group.uuid}  {group.name}  {group.status}")
    return errors.OK


def _hosts(stub: Stub, project: str = "") -> Iterator[fleet_pb2.Host]:
    return _pages(
        lambda token: stub.ListHosts(fleet_pb2.ListHostsRequest(page_size=500, page_token=token, project=project))
    )


def _pages(ask: Callable[[str], Any]) -> Iterator[Any]:
    token = ""
    while True:
        answer = ask(token)
        yield from answer.inventories
        token = answer.next_page_token
        if not token:
            return


def _find(stub: Stub, wanted: str) -> fleet_pb2.Host:
    """The host of this uuid or name. Raises UnknownHost."""
    for host in _hosts(stub):
        if wanted in (host.name, host.uuid):
            return host
    raise UnknownHost(f"there is no host {wanted!r}; `corral hosts` lists them")


def _host_line(host: fleet_pb2.Host) -> str:
    free = {c.resource: c.available for c in host.capacities}
    reason = f"  {host.reason}" if host.reason else ""
    whose = ", ".join(f"{one.project} ({one.instance_count})" for one in host.projects)
    of = f"  members of: {whose}" if whose else ""
    return f"{host.uuid}  {host.name}  {host.state}  {host.status}  free: {amounts_text(free) or 'nothing'}{of}{reason}"


def _held_line(one: fleet_pb2.Quarantined, host: str) -> str:
    ordered = "  (its end is ordered)" if one.removal_ordered else ""
    group = f"  group {one.group_uuid}" if one.group_uuid else ""
    state = f" {one.state}" if one.state else ""
    return (
        f"{host}  {one.holding}{state}  {one.key}{group}  since {one.create_date.ToJsonString()}: {one.reason}{ordered}"
    )


def tell(problem: UnknownHost) -> int:
    """Say on standard error what is wrong; answers the exit code."""
    print(str(problem), file=sys.stderr)
    return errors.NOT_FOUND
