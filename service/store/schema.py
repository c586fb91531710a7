"""The tables. Times are ms since the epoch, sizes bytes, uuids 32 hex digits, documents JSON text written by `codec`.

Databases in use are changed by Alembic alone (`service/store/migrations`); a test compares both.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from service.store.schema_base import UUID, WORD, metadata
from service.store.schema_fleet import (
    clusters,
    device_claims,
    devices,
    fence_verdicts,
    fences,
    fencing_lease,
    fleet_events,
    host_resources,
    hosts,
    image_copies,
    left_devices,
    left_seats,
    machine_seats,
    rebalances,
    rolls,
    zones,
)

__all__ = [
    "UUID",
    "WORD",
    "addresses",
    "audit",
    "bookings",
    "claims",
    "clusters",
    "counters",
    "device_claims",
    "devices",
    "events",
    "fence_verdicts",
    "fences",
    "fencing_lease",
    "fleet_events",
    "group_apart",
    "groups",
    "host_resources",
    "hosts",
    "image_copies",
    "images",
    "installation",
    "instances",
    "jobs",
    "left_devices",
    "left_seats",
    "machine_seats",
    "metadata",
    "model_service_versions",
    "model_services",
    "quarantine",
    "quotas",
    "rebalances",
    "requests",
    "retired",
    "rolls",
    "secrets",
    "sessions",
    "settings",
    "zones",
]

counters = Table(
    "counters",
    metadata,
    Column("name", WORD, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

# What holds for the whole fleet; the newest start of any replica wrote what its configuration file says.
settings = Table(
    "settings",
    metadata,
    Column("name", WORD, primary_key=True),
    Column("document", Text, nullable=False),
)

images = Table(
    "images",
    metadata,
    Column("uuid", UUID, primary_key=True),
    Column("name", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("version", BigInteger, nullable=False, default=1),
    Column("created_at", BigInteger, nullable=False, default=0),
    Column("updated_at", BigInteger, nullable=False, default=0),
    Column("configured", Text, nullable=False, default=""),
)

model_services = Table(
    "model_services",
    metadata,
    Column("uuid", UUID, primary_key=True),
    Column("name", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("image_uuid", UUID, nullable=False, default=""),
    Column("version", BigInteger, nullable=False, default=1),
    Column("created_at", BigInteger, nullable=False, default=0),
    Column("updated_at", BigInteger, nullable=False, default=0),
    Column("configured", Text, nullable=False, default=""),
    Index(None, "image_uuid"),
)

# Members are made from the version that they were admitted with, however the entry changes afterwards.
model_service_versions = Table(
    "model_service_versions",
    metadata,
    Column("uuid", UUID, primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("document", Text, nullable=False),
)

groups = Table(
    "groups",
    metadata,
    Column("uuid", UUID, primary_key=True),
    Column("project", Text, nullable=False),
    Column("principal", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("exclusive_hosts", Boolean, nullable=False, default=False),
    Column("phase", WORD, nullable=False),
    Column("status", WORD, nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("cause", Text, nullable=False, default="", server_default=""),
    Column("cause_of", Text, nullable=False, default="", server_default=""),
    Column("failure", Text),
    Column("placement", Text),
    Column("room", Text),
    Column("waiting", Text),
    # Of `waiting`, for the order of those that wait; `waiting_since` 0: it does not.
    Column("waiting_since", BigInteger, nullable=False, default=0, server_default="0"),
    Column("waiting_looked", BigInteger, nullable=False, default=0, server_default="0"),
    Column("looked_at", BigInteger, nullable=False, default=0, server_default="0"),
    Column("waiting_why", WORD, nullable=False, default="", server_default=""),
    Column("waiting_kept", Integer, nullable=False, default=0, server_default="0"),
    Column("priority", Integer, nullable=False, default=0, server_default="0"),
    Column("may_wait", Text),
    Column("eviction", Text),
    Column("shapes", Text),
    Column("ends_at", BigInteger, nullable=False, default=0, server_default="0"),
    Column("rollout", Text),
    Column("endpoint", Text),
    Column("start_epoch", Integer, nullable=False, default=0),
    Column("starts", Integer, nullable=False, default=0),
    Column("go", Boolean, nullable=False, default=False),
    Column("served", Boolean, nullable=False, default=False),
    Column("failures", Integer, nullable=False, default=0),
    Column("retry_at", BigInteger, nullable=False, default=0),
    Column("running_since", BigInteger, nullable=False, default=0),
    Column("restarting", Boolean, nullable=False, default=False),
    Column("excluded_hosts", Text, nullable=False, default="[]"),
    Column("sequence", BigInteger, nullable=False, default=0),
    Column("version", BigInteger, nullable=False, default=0),
    Column("revision", BigInteger, nullable=False, default=0),
    Column("deadline_at", BigInteger, nullable=False, default=0),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    # The lease. `due_at` NULL: nothing will ever be due again.
    Column("owner", Text, nullable=False, default=""),
    Column("epoch", BigInteger, nullable=False, default=0),
    Column("lease_until", BigInteger, nullable=False, default=0),
    Column("due_at", BigInteger),
    Index(None, "due_at"),
    Index(None, "project", "created_at", "uuid"),
    Index(None, "waiting_since"),
)

# Which groups a group is to be apart from, as its specification says. Such a rule never changes.
group_apart = Table(
    "group_apart",
    metadata,
    Column("group_uuid", UUID, ForeignKey("groups.uuid"), primary_key=True),
    Column("other_uuid", UUID, primary_key=True),
    Index(None, "other_uuid"),
)

instances = Table(
    "instances",
    metadata,
    Column("uuid", UUID, primary_key=True),
    Column("group_uuid", UUID, ForeignKey("groups.uuid"), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("spec", Text, nullable=False),
    Column("model_service_uuid", UUID, nullable=False, default=""),
    Column("status", WORD, nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("cause", Text, nullable=False, default="", server_default=""),
    Column("cause_of", Text, nullable=False, default="", server_default=""),
    Column("host_uuid", UUID, nullable=False, default=""),
    Column("host_name", Text, nullable=False, default=""),
    Column("zone_uuid", UUID, nullable=False, default=""),
    Column("machine_uuid", String(36), nullable=False, default=""),
    Column("service_port", Integer, nullable=False, default=0),
    Column("attempt", Integer, nullable=False, default=1),
    Column("restarts", Integer, nullable=False, default=0),
    Column("address", Text, nullable=False, default=""),
    Column("mac", Text, nullable=False, default=""),
    Column("unknown_since", BigInteger, nullable=False, default=0),
    Column("deadline_at", BigInteger, nullable=False, default=0),
    Column("boot_timeout_ms", BigInteger, nullable=False),
    Column("stop_grace_ms", BigInteger, nullable=False),
    Column("was_resumed", Boolean, nullable=False, default=False),
    Column("stop_asked", Boolean, nullable=False, default=False),
    Column("joining", Boolean, nullable=False, default=False),
    Column("leaving", Boolean, nullable=False, default=False),
    Column("beside", Boolean, nullable=False, default=False, server_default=false()),
    Column("move", WORD, nullable=False, default=""),
    Column("target_host_uuid", UUID, nullable=False, default=""),
    Column("target_host_name", Text, nullable=False, default=""),
    Column("move_deadline_at", BigInteger, nullable=False, default=0),
    Column("moved_at", BigInteger, nullable=False, default=0, server_default="0"),
    Column("room", UUID, nullable=False, default=""),
    Column("room_order", Integer, nullable=False, default=0),
    Column("pauses", Integer, nullable=False, default=0),
    Column("paused_at", BigInteger, nullable=False, default=0),
    Column("told_epoch", Integer, nullable=False, default=0),
    Column("last_answer_at", BigInteger, nullable=False, default=0),
    Column("engine_restarts", Integer, nullable=False, default=0),
    Column("silent_since", BigInteger, nullable=False, default=0),
    Column("guest_boot", Text, nullable=False, default=""),
    Column("endpoint", Text, nullable=False, default="", server_default=""),
    Column("holds", Text),
    Column("cells", Text, nullable=False, default="[]"),
    Column("target_cells", Text, nullable=False, default="[]"),
    Column("devices", Text, nullable=False, default="[]"),
    Column("last_lines", Text, nullable=False, default=""),
    Column("staging", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Index(None, "group_uuid"),
    Index(None, "host_uuid"),
    Index(None, "target_host_uuid"),
    Index(None, "model_service_uuid"),
)

# One row a resource of a placed attempt: of its host, and of the cells that it is pinned to. A claim outlives its
# instance's attempt until the machine was seen absent; while an attempt is moved live from one host to another it has a
# claim on both.
claims = Table(
    "claims",
    metadata,
    Column("instance_uuid", UUID, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("resource", WORD, primary_key=True),
    Column("host_uuid", UUID, ForeignKey("hosts.uuid"), primary_key=True),
    Column("group_uuid", UUID, nullable=False),
    Column("amount", BigInteger, nullable=False),
    CheckConstraint("amount > 0", name="amount_positive"),
    Index(None, "host_uuid"),
    Index(None, "group_uuid"),
)

# Seats that are kept for a group for which room is made (its own, and those of the members that move for it): one row a
# resource. Its own stand as long as its row has the plan, a member's until it has claimed the seat or need not move.
bookings = Table(
    "bookings",
    metadata,
    Column("instance_uuid", UUID, primary_key=True),
    Column("host_uuid", UUID, ForeignKey("hosts.uuid"), primary_key=True),
    Column("resource", WORD, primary_key=True),
    Column("room", UUID, nullable=False),
    Column("group_uuid", UUID, nullable=False),
    Column("for_group", UUID, nullable=False),
    Column("amount", BigInteger, nullable=False),
    CheckConstraint("amount > 0", name="amount_positive"),
    Index(None, "host_uuid"),
    Index(None, "room"),
)

# One row: what this database is. `cluster` is empty in a database of older versions until its next start.
installation = Table(
    "installation",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("database", UUID, nullable=False),
    Column("cluster", Text, nullable=False),
    Column("generation_offset", BigInteger, nullable=False, default=0),
    Column("created_at", BigInteger, nullable=False),
)

# Attempts that were let go on a host, in the transaction that let them go: the records by which machines may be ended.
retired = Table(
    "retired",
    metadata,
    Column("instance_uuid", UUID, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("host_uuid", UUID, primary_key=True),
    Column("group_uuid", UUID, nullable=False),
    Column("why", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("seen_gone", Boolean, nullable=False, default=False),
    Index(None, "host_uuid", "seen_gone"),
    Index(None, "at"),
)

# What bears this installation's tag on a host and is in no record; `key`: a machine's uuid, or a volume's name.
quarantine = Table(
    "quarantine",
    metadata,
    Column("host_uuid", UUID, primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("holding", WORD, nullable=False),
    Column("group_uuid", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("removal", Boolean, nullable=False, default=False),
    Index(None, "group_uuid"),
)

addresses = Table(
    "addresses",
    metadata,
    Column("zone_uuid", UUID, primary_key=True),
    Column("address", WORD, primary_key=True),
    Column("instance_uuid", UUID, nullable=False),  # or a group's, of what it keeps itself (`Group.endpoint`)
    Column("attempt", Integer, nullable=False),
    UniqueConstraint("instance_uuid", "attempt"),
)

# Addresses of zones' pools that somebody has who is no member: nobody gets them. `seen_by`: the host that told it, or
# the member whose guest heard another machine answer for its address; `how`: lease | domain | answer.
foreign_addresses = Table(
    "foreign_addresses",
    metadata,
    Column("zone_uuid", UUID, primary_key=True),
    Column("address", WORD, primary_key=True),
    Column("seen_by", WORD, primary_key=True),
    Column("hardware_address", WORD, nullable=False),
    Column("how", WORD, nullable=False),
    Column("since", BigInteger, nullable=False),
    Index(None, "seen_by"),
)

events = Table(
    "events",
    metadata,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("group_uuid", UUID, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("kind", WORD, nullable=False),
    Column("project", Text, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    UniqueConstraint("group_uuid", "sequence"),
)

requests = Table(
    "requests",
    metadata,
    Column("principal", String(256), primary_key=True),
    Column("method", WORD, primary_key=True),
    Column("request_id", String(128), primary_key=True),
    Column("body_hash", WORD, nullable=False),
    Column("group_uuid", UUID, nullable=False),
    Column("after_revision", BigInteger, nullable=False, default=0),
    Column("created_at", BigInteger, nullable=False),
)

# Keyed by the SHA-256 of the session's uuid: who reads the database does not get anybody's credential.
sessions = Table(
    "sessions",
    metadata,
    Column("digest", WORD, primary_key=True),
    Column("account", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index(None, "expires_at"),
)

# API calls that were accepted (the ZStack face). The lease says which process works on one.
jobs = Table(
    "jobs",
    metadata,
    Column("uuid", UUID, primary_key=True),
    Column("operation", WORD, nullable=False),
    Column("caller", Text, nullable=False),
    Column("arguments", Text, nullable=False),
    Column("state", WORD, nullable=False),
    Column("outcome", Text, nullable=False, default=""),
    Column("webhook", Text, nullable=False, default=""),
    Column("webhook_due", Boolean, nullable=False, default=False),
    Column("owner", Text, nullable=False, default=""),
    Column("lease_until", BigInteger, nullable=False, default=0),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False, default=0),
    Index(None, "state", "lease_until"),
    Index(None, "ended_at"),
)

# Encrypted values (`store.sealing`): `sealed` with a key of its own, which the service's key `key_name` has `wrapped`.
secrets = Table(
    "secrets",
    metadata,
    Column("uuid", UUID, primary_key=True),
    Column("project", String(256), nullable=False),
    Column("name", WORD, nullable=False),
    Column("key_name", WORD, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("version", BigInteger, nullable=False, default=1),
    Column("created_at", BigInteger, nullable=False, default=0),
    Column("updated_at", BigInteger, nullable=False, default=0),
    UniqueConstraint("project", "name"),
)

quotas = Table(
    "quotas",
    metadata,
    Column("project", String(256), primary_key=True),
    Column("resource", WORD, primary_key=True),
    Column("limit", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False, default=0),
)

# Who changed what. Never updated; an operator prunes it by time. `request_id`: the server's own, which the call's log
# line has; `client_request_id`: by which the caller made its call repeatable.
audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("time", BigInteger, nullable=False),
    Column("principal", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("method", WORD, nullable=False),
    Column("subject", Text, nullable=False),
    Column("request_id", Text, nullable=False, default=""),
    Column("client_request_id", Text, nullable=False, default=""),
    Column("peer", Text, nullable=False, default=""),
    Index(None, "time"),
    Index(None, "project", "id"),
    Index(None, "subject"),
    Index(None, "request_id"),
)
