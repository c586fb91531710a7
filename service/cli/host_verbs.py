"""`corral host`: one host, and what is done to it: add, edit, enable, disable, drain, maintain, fence, remove."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import click
from corral.v1 import deploy_pb2, deploy_pb2_grpc, fleet_pb2

from service.cli import errors, names
from service.cli.bars import host_lines
from service.cli.cleaning import clean, cleaning_lines
from service.cli.command import Output, Session, output_option, verb, verb_group
from service.cli.fencing import bmc_options, change_bmc, fence, said_bmc
from service.cli.follow_up import Detached
from service.cli.hosts import Stub, all_hosts, find_host, image_lines
from service.cli.listing import pages
from service.cli.places import find_cluster, find_zone
from service.cli.values import AMOUNT, PAIR, RATIO
from service.cli.view import because, describe_member, fencing_lines

GroupStub = deploy_pb2_grpc.DistributedModelServiceStub
dry_run = click.option("--dry-run", "validate_only", is_flag=True, help="Only check it; nothing is changed.")
_TRANSPORTS = ("unix", "tcp", "tls", "ssh", "none")


def register(corral: click.Group) -> None:
    """Add the sub-commands."""
    host = verb_group(corral, "host", example="corral host show hv1")(explain_host)
    verb(host, "show", example="corral host show hv9")(show_host)
    verb(
        host, "add", example="corral host add hv9 --zone zone-1 --driver simulated --option cpu=8 --option memory=32GiB"
    )(add_host)
    verb(host, "edit", example="corral host edit hv9 --rack r2 --label disk=ssd")(edit_host)
    for name, run in (("enable", enable), ("disable", disable), ("maintain", maintain)):
        verb(host, name, example=f"corral host {name} hv9")(run)
    verb(host, "drain", example="corral host drain hv9 --dry-run")(drain)
    verb(host, "fence", example="corral host fence hv3 --dry-run")(fence)
    verb(host, "clean", example="corral host clean metal3")(clean)
    verb(host, "remove", example="corral host remove hv9")(remove_host)


def explain_host(session: Session) -> int:
    """One host and what is done to it; `corral hosts` lists all."""
    click.echo(click.get_current_context().get_help())
    return errors.OK


@output_option
@click.argument("host", type=names.HOST)
def show_host(session: Session, output: Output, host: str) -> int:
    """Show one host, by name or uuid: its capacities as bars, its labels and its members."""
    stub = session.stub(Stub)
    found = stub.GetHost(fleet_pb2.GetHostRequest(uuid=find_host(stub, host).uuid)).inventory
    if not output.for_people:
        output.data(found, found.name)
        return errors.OK
    members = pages(
        lambda token: session.stub(GroupStub).ListInstances(
            deploy_pb2.ListInstancesRequest(host_uuid=found.uuid, page_size=500, page_token=token)
        )
    )
    why = f"  {because(found)}" if found.reason else ""
    print(f"{found.name}  {found.uuid}  {found.state}  {found.status}{why}")
    facts = {"zone": found.zone_uuid, "cluster": found.cluster_uuid, "rack": found.rack, "driver": found.driver}
    facts |= {"takes": found.type, "firmware": found.firmware, "Secure Boot": found.secure_boot}
    facts |= {"description": found.description, **{f"label {key}": value for key, value in found.labels.items()}}
    facts |= cleaning_lines(found)
    for title, value in [*facts.items(), *fencing_lines(found)]:
        if value:
            print(f"  {title}: {value}")
    for line in (*host_lines(found), *image_lines(found)):
        print(f"  {line}")
    for member in members:
        print(f"  {member.model_service_group_uuid}  {describe_member(member)}")
    return errors.OK


@output_option
@click.argument("name")
@click.option("--zone", type=names.ZONE, required=True, help="Its zone, by name or uuid.")
@click.option("--driver", type=click.Choice(["libvirt", "redfish", "simulated"]), default="libvirt", show_default=True)
@click.option(
    "--transport",
    type=click.Choice(_TRANSPORTS),
    help="[default: unix for libvirt, tls for redfish, none for simulated]",
)
@click.option("--address", default="", help="Its DNS name or IP address, for tcp, tls and ssh.")
@click.option("--port", type=int, default=0, help="[default: the transport's own]")
@click.option("--user", "username", default="", help="The user to log in as, for ssh and redfish.")
@click.option("--credential", default="", help="The name of one of the configuration's [[credentials]].")
@click.option("--option", "options", multiple=True, type=PAIR, metavar="KEY=VALUE", help="An option of its driver.")
@click.option("--cluster", type=names.CLUSTER, default="", help="Its cluster, by name or uuid.")
@click.option("--rack", default="", help="The name of its rack.")
@click.option("--label", "labels", multiple=True, type=PAIR, metavar="KEY=VALUE", help="A label (repeatable).")
@click.option("--capacity", multiple=True, type=AMOUNT, metavar="RESOURCE=AMOUNT", help="Counts, not what it says.")
@click.option("--overcommit", multiple=True, type=RATIO, metavar="RESOURCE=RATIO", help="So many times as much.")
@click.option("--reserve", multiple=True, type=AMOUNT, metavar="RESOURCE=AMOUNT", help="Kept for the host itself.")
@click.option("--state", type=click.Choice(["Enabled", "Disabled", "Maintenance"]), help="[default: Enabled]")
@click.option("--description", default="")
@bmc_options
@dry_run
def add_host(session: Session, output: Output, name: str, zone: str, cluster: str, **told: Any) -> int:
    """Take a host into the fleet; it is reached before it is taken."""
    stub = session.stub(Stub)
    transport = told["transport"] or {"simulated": "none", "redfish": "tls"}.get(told["driver"], "unix")
    connection = {key: told[key] for key in ("address", "port", "username", "credential")}
    request = fleet_pb2.AddHostRequest(
        name=name,
        description=told["description"],
        zone_uuid=find_zone(stub, zone).uuid,
        cluster_uuid=find_cluster(stub, cluster).uuid if cluster else "",
        rack=told["rack"],
        driver=told["driver"],
        connection=fleet_pb2.HostConnection(transport=transport, options=dict(told["options"]), **connection),
        resource_policies=_policies(told),
        labels=dict(told["labels"]),
        capacity=dict(told["capacity"]),
        state=told["state"] or "",
        bmc=said_bmc(told),
        validate_only=told["validate_only"],
        request_id=uuid4().hex,
    )
    made = stub.AddHost(request).inventory
    output.one(
        made, made.name, f"{made.name} is {'fit to be added' if told['validate_only'] else 'added'}: {made.uuid}"
    )
    return errors.OK


@output_option
@click.argument("host", type=names.HOST)
@click.option("--name", help="Another name.")
@click.option("--description")
@click.option("--rack")
@click.option("--cluster", type=names.CLUSTER, help="Another cluster of its zone, by name or uuid.")
@click.option("--no-cluster", is_flag=True, help="Take it out of its cluster.")
@click.option("--label", "labels", multiple=True, type=PAIR, metavar="KEY=VALUE", help="Add or change a label.")
@click.option("--drop-label", "dropped", multiple=True, metavar="KEY", help="Take a label away.")
@click.option("--overcommit", multiple=True, type=RATIO, metavar="RESOURCE=RATIO", help="So many times as much.")
@click.option("--reserve", multiple=True, type=AMOUNT, metavar="RESOURCE=AMOUNT", help="Kept for the host itself.")
@click.option("--allow-broken-rules", is_flag=True, help="Even where members on it must not be there then.")
@bmc_options
@click.option("--no-bmc", is_flag=True, help="It is switched off by nobody any more.")
@dry_run
def edit_host(session: Session, output: Output, host: str, **told: Any) -> int:
    """Change a host's name, description, rack, cluster, labels, what it gives out or its BMC.

    Labels, rack and cluster stay where members on the host must not be there then; drain it first, or say
    --allow-broken-rules: they stay until they are placed anew.

    What --overcommit and --reserve say stands for all that was said of them before.
    """
    stub = session.stub(Stub)
    found = find_host(stub, host)
    request = fleet_pb2.UpdateHostRequest(
        uuid=found.uuid, validate_only=told["validate_only"], allow_broken_rules=told["allow_broken_rules"]
    )
    for field in ("name", "description", "rack"):
        if told[field] is not None:
            setattr(request, field, told[field])
            request.update_mask.paths.append(field)
    if told["cluster"] is not None or told["no_cluster"]:
        if told["cluster"] is not None and told["no_cluster"]:
            raise click.UsageError("--cluster and --no-cluster are two different wishes")
        request.cluster_uuid = "" if told["no_cluster"] else find_cluster(stub, told["cluster"]).uuid
        request.update_mask.paths.append("cluster_uuid")
    if told["labels"] or told["dropped"]:
        kept = {key: value for key, value in found.labels.items() if key not in told["dropped"]}
        for key, value in {**kept, **dict(told["labels"])}.items():
            request.labels[key] = value
        request.etag = found.etag  # labels are written whole
        request.update_mask.paths.append("labels")
    if told["overcommit"] or told["reserve"]:
        request.resource_policies.extend(_policies(told))
        request.update_mask.paths.append("resource_policies")
    change_bmc(request, told)
    if not request.update_mask.paths:
        raise click.UsageError("nothing to change was named")
    answer = stub.UpdateHost(request)
    made = answer.inventory
    for rule in answer.broken_rules:
        errors.tell(f"broken: {rule}")
    output.one(made, made.name, f"{made.name} is changed")
    return errors.OK


def _policies(told: dict[str, Any]) -> list[fleet_pb2.ResourcePolicy]:
    made: dict[str, fleet_pb2.ResourcePolicy] = {}
    for field, pairs in (("overcommit_ratio", told["overcommit"]), ("reserved", told["reserve"])):
        for resource, value in pairs:
            setattr(made.setdefault(resource, fleet_pb2.ResourcePolicy(resource=resource)), field, value)
    return list(made.values())


def _changes_state(method: str, kind: Callable[..., Any], done: str, text: str) -> Any:
    """A sub-command that calls a method which takes the host's uuid alone."""

    @output_option
    @click.argument("host", type=names.HOST)
    @dry_run
    def run(session: Session, output: Output, host: str, validate_only: bool) -> int:
        stub = session.stub(Stub)
        found = find_host(stub, host)
        made = getattr(stub, method)(kind(uuid=found.uuid, validate_only=validate_only)).inventory
        output.one(made, made.name, f"{made.name} {'would be ' if validate_only else 'is '}{done}")
        return errors.OK

    run.__doc__ = text
    return run


enable = _changes_state("EnableHost", fleet_pb2.EnableHostRequest, "enabled", "Let a host take new members again.")
disable = _changes_state(
    "DisableHost", fleet_pb2.DisableHostRequest, "disabled", "Let a host take nothing new; its members stay."
)
maintain = _changes_state(
    "MaintainHost",
    fleet_pb2.MaintainHostRequest,
    "in maintenance",
    "Put a host without members into maintenance; drain it first where it has some.",
)


@output_option
@click.argument("host", type=names.HOST)
@dry_run
def drain(session: Session, output: Output, host: str, validate_only: bool) -> int:
    """Move all members away from a host and put it into maintenance; --dry-run shows the moves.

    Ctrl-C leaves; the drain goes on.
    """
    stub, groups = session.stub(Stub), session.stub(GroupStub)
    hosts = {one.uuid: one.name for one in all_hosts(stub)}
    found = find_host(stub, host)
    request = fleet_pb2.DrainHostRequest(uuid=found.uuid, validate_only=validate_only, request_id=uuid4().hex)
    names = _member_names(groups, found.uuid) if output.for_people else {}
    final = fleet_pb2.Host()
    try:
        for answer in stub.DrainHost(request):
            if answer.WhichOneof("change") == "final":
                final = answer.final
            if not output.for_people:
                if answer.WhichOneof("change") and output.kind != "name":
                    print(output.text(answer), flush=True)
            elif line := _drain_line(answer, names, hosts, validate_only):
                print(line, flush=True)
    except KeyboardInterrupt:
        errors.tell(f"left; the drain of {found.name} goes on. See how far it is with: corral host show {found.name}")
        raise Detached from None
    if output.kind == "name":
        print(found.name)
    return errors.OK if validate_only or final.state == "Maintenance" else errors.FAILED


def _member_names(stub: GroupStub, host_uuid: str) -> dict[str, str]:
    found = pages(
        lambda token: stub.ListInstances(
            deploy_pb2.ListInstancesRequest(host_uuid=host_uuid, page_size=500, page_token=token)
        )
    )
    return {one.uuid: one.name for one in found}


def _drain_line(
    answer: fleet_pb2.DrainHostResponse, names: dict[str, str], hosts: dict[str, str], validate_only: bool
) -> str:
    match answer.WhichOneof("change"):
        case "move":
            move = answer.move
            who = names.get(move.instance_uuid, move.instance_uuid)
            how = "keeps running" if move.live else "is stopped here and started there"
            target = hosts.get(move.target_host_uuid, move.target_host_uuid)
            return f"{'would move' if validate_only else 'moves'}  {who} -> {target} ({how})"
        case "instance":
            return f"member  {describe_member(answer.instance)}"
        case "final":
            host = answer.final
            reason = f": {because(host)}" if host.reason else ""
            return f"{'would be' if validate_only else 'is'}  {host.name} {host.state}, {host.status}{reason}"
    return ""


@output_option
@click.argument("host", type=names.HOST)
@click.option("--gone", is_flag=True, help="It was fenced and its machines will never run again: give up its claims.")
@dry_run
def remove_host(session: Session, output: Output, host: str, gone: bool, validate_only: bool) -> int:
    """Take a host out of the fleet; it must be without members."""
    stub = session.stub(Stub)
    found = find_host(stub, host)
    stub.RemoveHost(fleet_pb2.RemoveHostRequest(uuid=found.uuid, force=gone, validate_only=validate_only))
    output.one(found, found.name, f"{found.name} {'may be' if validate_only else 'is'} removed")
    return errors.OK
