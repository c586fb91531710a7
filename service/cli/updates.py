"""`corral update`: what a group is called, and what it runs."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import click
from corral.v1 import catalog_pb2_grpc, deploy_pb2, group_pb2

from service.cli import errors, flags, names
from service.cli.catalog import find_service
from service.cli.command import Output, Session, output_option, verb
from service.cli.explanation import amounts_text
from service.cli.follow_up import show
from service.cli.groups import Stub, group_uuid
from service.cli.values import COUNT, PAIR, SIZE
from service.cli.view import cells_text, choose_view, describe_placement

_NAMED = ("name", "description", "user_tags", "no_tags")


def register(corral: click.Group) -> None:
    """Add the sub-command."""
    verb(corral, "update", example="corral update chat --set-env LOG=debug --cpu 8 --plan")(update)


@output_option
@click.argument("group", type=names.GROUP)
@click.option("--name", help="Another name.")
@click.option("--description")
@click.option("--tag", "user_tags", multiple=True, metavar="TAG", help="Its user tags from now on (repeatable).")
@click.option("--no-tags", is_flag=True, help="It has no user tags from now on.")
@click.option("--model-service", type=names.MODEL_SERVICE, help="What its members run; else the newest of theirs.")
@click.option("--newest", is_flag=True, help="Members are made from their model services as those are now.")
@click.option("--set-env", "environment", type=PAIR, multiple=True, metavar="NAME=VALUE", help="(repeatable)")
@click.option("--unset-env", "dropped", multiple=True, metavar="NAME", help="(repeatable)")
@click.option("--parameters", help="What is added to the start command; empty for nothing.")
@click.option("--cpu", type=click.IntRange(1), help="Virtual CPUs of each member.")
@click.option("--memory", type=SIZE, help="Of each member, such as 16GiB.")
@click.option("--disk", type=SIZE, help="The root disk of each member.")
@click.option("--gpu", "gpus", type=COUNT, multiple=True, metavar="MODEL=COUNT", help="(repeatable)")
@flags.gpu_options
@click.option("--no-gpus", is_flag=True, help="Members have no accelerators from now on.")
@click.option("--role", help="Only members of this role.")
@click.option("--in-place", is_flag=True, help="Machines stay, with their disks; else a second gang takes over.")
@click.option("--plan", is_flag=True, help="Tell what would be done, or why it cannot be; writes nothing.")
@click.option("--take-back", is_flag=True, help="Call the update off, or undo the newest one.")
@click.option("--request-id", help="An id that makes a repeated call the same change.")
def update(session: Session, output: Output, group: str, **told: Any) -> int:
    """Change what a group's members run, and follow that; or its name, description or tags."""
    change = _change(session, told)
    runs = change.ByteSize() > 0 or told["newest"]
    renames = any(told[field] for field in _NAMED) or told["description"] is not None
    if told["take_back"] + runs + renames > 1:
        raise click.UsageError("--take-back, what members run, and what the group is called are changed by themselves")
    stub = session.stub(Stub)
    ask: dict[str, Any] = {"request_id": told["request_id"] or uuid4().hex, "validate_only": told["plan"]}
    if told["take_back"]:
        back = deploy_pb2.RollBackInstanceGroupRequest(uuid=group_uuid(stub, group), **ask)
        return _follow(session, output, "RollBackInstanceGroup", back)
    if not runs:
        return _rename(stub, output, group, told, ask)
    if told["role"] is not None:
        change.role = told["role"]
    mode = group_pb2.UPDATE_MODE_IN_PLACE if told["in_place"] else group_pb2.UPDATE_MODE_SURGE
    changes = [change] if change.ByteSize() else []
    asked = deploy_pb2.RolloutInstanceGroupRequest(uuid=group_uuid(stub, group), changes=changes, mode=mode, **ask)
    return _follow(session, output, "RolloutInstanceGroup", asked)


def _change(session: Session, told: dict[str, Any]) -> deploy_pb2.MemberChange:
    change = deploy_pb2.MemberChange(
        environment_variables=dict(told["environment"]),
        removed_environment_variables=told["dropped"],
        gpus=flags.gpu_requests(told),
        no_gpus=told["no_gpus"],
        root_disk_size=told["disk"] or 0,
    )
    if told["model_service"]:
        catalog = session.stub(catalog_pb2_grpc.CatalogServiceStub)
        change.model_service_uuid = find_service(catalog, told["model_service"]).uuid
    for field, option in (("startup_parameters", "parameters"), ("cpu_num", "cpu"), ("memory_size", "memory")):
        if told[option] is not None:
            setattr(change, field, told[option])
    return change


def _follow(session: Session, output: Output, method: str, request: Any) -> int:
    """Show the update to its end; of one that is only planned, where its second gang would go."""
    stub = session.stub(Stub)
    if not request.validate_only:
        final = show(stub, lambda: getattr(stub, method)(request), choose_view(output))
        return errors.OK if final.status == "Running" else errors.FAILED
    event = next(iter(getattr(stub, method)(request))).event
    if not output.for_people:
        print(output.text(event))
    elif event.WhichOneof("change") != "planned":
        print("it can be done; members stay where they are")
    else:
        print(f"a second gang, until it answers: {describe_placement(event.planned)}")
        for one in event.planned.assignments:
            where = f"{one.host_name or one.host_uuid}{cells_text(one.numa_cells)}"
            print(f"  {one.node_rank} {one.name} -> {where} ({amounts_text(one.resources)})")
    return errors.OK


def _rename(stub: Stub, output: Output, group: str, told: dict[str, Any], ask: dict[str, Any]) -> int:
    request = deploy_pb2.UpdateInstanceGroupRequest(uuid=group_uuid(stub, group), **ask)
    for field in ("name", "description"):
        if told[field] is not None:
            setattr(request, field, told[field])
            request.update_mask.paths.append(field)
    if told["user_tags"] or told["no_tags"]:
        request.user_tags.extend(told["user_tags"])
        request.update_mask.paths.append("user_tags")
    if not request.update_mask.paths:
        raise click.UsageError("nothing to change was named")
    made = stub.UpdateInstanceGroup(request).inventory
    output.one(made, made.uuid, f"{made.name} is {'fit to be changed' if told['plan'] else 'changed'}")
    return errors.OK
