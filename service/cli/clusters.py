"""`corral clusters`: lists, makes, renames and deletes clusters."""

from __future__ import annotations

from uuid import uuid4

import click
from corral.v1 import fleet_pb2, fleet_pb2_grpc

from service.cli import errors, names
from service.cli.command import Output, Session, output_option, verb, verb_group
from service.cli.output import Columns
from service.cli.places import all_clusters, find_cluster, find_zone

Stub = fleet_pb2_grpc.FleetServiceStub

_COLUMNS: Columns = (
    ("uuid", lambda one: one.uuid),
    ("name", lambda one: one.name),
    ("zone", lambda one: one.zone_uuid),
    ("hosts", lambda one: str(one.host_count)),
    ("description", lambda one: one.description),
)


def register(corral: click.Group) -> None:
    """Add the sub-commands."""
    clusters = verb_group(corral, "clusters", example="corral clusters")(list_clusters)
    verb(clusters, "create", example="corral clusters create rows-1-to-4 --zone zone-1")(create)
    verb(clusters, "rename", example="corral clusters rename rows-1-to-4 cellar")(rename)
    verb(clusters, "delete", example="corral clusters delete cellar")(delete)


@output_option
def list_clusters(session: Session, output: Output) -> int:
    """List clusters by name; with a sub-command make, rename or delete one."""
    output.many(all_clusters(session.stub(Stub)), _COLUMNS, lambda one: one.name)
    return errors.OK


@output_option
@click.argument("name")
@click.option("--zone", type=names.ZONE, required=True, help="The zone that its hosts are in, by name or uuid.")
@click.option("--description", default="")
def create(session: Session, output: Output, name: str, zone: str, description: str) -> int:
    """Make a cluster. Hosts are put into it as they are added."""
    stub = session.stub(Stub)
    request = fleet_pb2.CreateClusterRequest(
        name=name, zone_uuid=find_zone(stub, zone).uuid, description=description, request_id=uuid4().hex
    )
    made = stub.CreateCluster(request).inventory
    output.one(made, made.name, f"{made.uuid}  {made.name}")
    return errors.OK


@output_option
@click.argument("cluster", type=names.CLUSTER)
@click.argument("name")
def rename(session: Session, output: Output, cluster: str, name: str) -> int:
    """Give a cluster another name. CLUSTER: its name or uuid."""
    stub = session.stub(Stub)
    request = fleet_pb2.UpdateClusterRequest(uuid=find_cluster(stub, cluster).uuid, name=name)
    made = stub.UpdateCluster(request).inventory
    output.one(made, made.name, f"{made.uuid}  {made.name}")
    return errors.OK


@output_option
@click.argument("cluster", type=names.CLUSTER)
def delete(session: Session, output: Output, cluster: str) -> int:
    """Remove a cluster that has no hosts. CLUSTER: its name or uuid."""
    stub = session.stub(Stub)
    found = find_cluster(stub, cluster)
    stub.DeleteCluster(fleet_pb2.DeleteClusterRequest(uuid=found.uuid))
    output.one(found, found.name, f"{found.name} is deleted")
    return errors.OK
