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
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

UUID = String(32)
WORD = String(64)

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

# `configured`: the document as the configuration file had it at the last start; empty where it was made at run time.
zones = Table(
    "zones",
    metadata,
    Column("uuid", UUID, primary_key=True),
    Column("name", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("version", BigInteger, nullable=False, default=1),
    Column("created_at", BigInteger, nullable=False, default=0),
    Column("updated_at", BigInteger, nullable=False, default=0),
    Column("configured", Text, nullable=False, default=""),
)

# Hosts name theirs in their documents.
clusters = Table(
    "clusters",
    metadata,
    Column("uuid", UUID, primary_key=True),
    Column("name", Text, nullable=False),
    Column("zone_uuid", UUID, ForeignKey("zones.uuid"), nullable=False),
    Column("document", Text, nullable=False),
    Column("version", BigInteger, nullable=False, default=1),
    Column("created_at", BigInteger, nullable=False, default=0),
    Column("updated_at", BigInteger, nullable=False, default=0),
    Column("configured", Text, nullable=False, default=""),
    Index(None, "zone_uuid"),
)

hosts = Table(
    "hosts",
    metadata,
    Column("uuid", UUID, primary_key=True),
    Column("name", Text, nullable=False),
    Column("zone_uuid", UUID, ForeignKey("zones.uuid"), nullable=False),
    Column("document", Text, nullable=False),
    Column("state", WORD, nullable=False),
    Column("status", WORD, nullable=False),
    Column("status_reason", Text, nullable=False, default=""),
    # What the host itself, or the library that calls it, said behind the reason, without secrets.
    Column("status_cause", Text, nullable=False, default="", server_default=""),
    Column("boot_id", Text, nullable=False, default=""),
    Column("virt_type", WORD, nullable=False, default=""),
    Column("generation", BigInteger, nullable=False, default=0),
    Column("version", BigInteger, nullable=False, default=1),
    Column("created_at", BigInteger, nullable=False, default=0),
    Column("updated_at", BigInteger, nullable=False, default=0),
    Column("configured", Text, nullable=False, default=""),
    # The hypervisor's own uuid, as it tells it; NULL until it was seen, and for kinds of host that have none.
    Column("hypervisor", WORD, unique=True),
    Column("claim_ordered", Boolean, nullable=False, default=False),
    # It has seen a later generation than this database had then; false again once its operator has decided.
    Column("ahead", Boolean, nullable=False, default=False),
    # The latest generation that its mark was seen to have for a while; a mark with an older one is a copy's.
    Column("marked", BigInteger, nullable=False, default=0),
    Index(None, "zone_uuid"),
)

# The claim's guard is on these rows, one for each host and resource: foreign_used + used <= usable. `usable` is what
# everywhere else is called allocatable. Those of NUMA cells are among them (`service/domain/cells.py`).
host_resources = Table(
    "host_resources",
    metadata,
    Column("host_uuid", UUID, ForeignKey("hosts.uuid"), primary_key=True),
    Column("resource", WORD, primary_key=True),
    Column("total", BigInteger, nullable=False, default=0),
    Column("usable", BigInteger, nullable=False, default=0),
    Column("foreign_used", BigInteger, nullable=False, default=0),
    # What each of our guests takes there beside what it claims: of memory, QEMU's own.
    Column("beside", BigInteger, nullable=False, default=0),
    Column("used", BigInteger, nullable=False, default=0),
    # The sum of the bookings. Others' claims leave it free, though what is booked may still be used by who leaves.
    Column("booked", BigInteger, nullable=False, default=0),
    CheckConstraint("used >= 0", name="used_not_negative"),
)

# Who sits on a machine that is given out as a whole. `key`: of the token that its drive's address has.
machine_seats = Table(
    "machine_seats",
    metadata,
    Column("host_uuid", UUID, ForeignKey("hosts.uuid"), primary_key=True),
    Column("instance_uuid", UUID, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("cluster", Text, nullable=False),
    Column("group_uuid", UUID, nullable=False),
    Column("key", WORD, nullable=False),
    Column("former", Text, nullable=False),
    Column("seed", LargeBinary, nullable=False),
    Column("started", Boolean, nullable=False),
    Column("revoked", Boolean, nullable=False),
    Column("spec_hash", WORD, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("resources", Text, nullable=False),
    Column("record", Text, nullable=False),
    Column("made_at", BigInteger, nullable=False),
    Column("reported_at", BigInteger, nullable=False),
    Column("report", Text, nullable=False),
    Index(None, "key"),
)

# What rules offer of hosts. `state`: available, foreign, blocked or gone, as it was last seen;
# `quarantine`: why it is out of service all the same, empty: it is not.
devices = Table(
    "devices",
    metadata,
    Column("host_uuid", UUID, ForeignKey("hosts.uuid"), primary_key=True),
    Column("key", WORD, primary_key=True),
    Column("model", WORD, nullable=False),
    Column("functions", Text, nullable=False),
    Column("cell", Integer, nullable=False),
    Column("iommu_group", Integer, nullable=False),
    Column("virtual_of", WORD, nullable=False),
    Column("clean", WORD, nullable=False),
    Column("state", WORD, nullable=False),
    Column("reason", Text, nullable=False),
    Column("quarantine", Text, nullable=False),
)

# Who has which of them: one owner, by the key. A row stands as long as its attempt has claims on that host.
device_claims = Table(
    "device_claims",
    metadata,
    Column("host_uuid", UUID, ForeignKey("hosts.uuid"), primary_key=True),
    Column("key", WORD, primary_key=True),
    Column("model", WORD, nullable=False),
    Column("instance_uuid", UUID, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("group_uuid", UUID, nullable=False),
)

# Hosts that are switched off by their BMCs, and what is thought of silent ones (`service/domain/fencing.py`).
fences = Table(
    "fences",
    metadata,
    Column("uuid", UUID, primary_key=True),
    Column("host_uuid", UUID, ForeignKey("hosts.uuid"), nullable=False),
    # The host's uuid while the fence is open: a host has one at most.
    Column("open_host", UUID, unique=True),
    Column("cause", WORD, nullable=False),
    Column("state", WORD, nullable=False),
    Column("machine", WORD, nullable=False),
    Column("principal", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("orders", Integer, nullable=False),
    Column("asked_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Index(None, "host_uuid", "asked_at"),
)

fence_verdicts = Table(
    "fence_verdicts",
    metadata,
    Column("host_uuid", UUID, ForeignKey("hosts.uuid"), primary_key=True),
    Column("rule", WORD, nullable=False),
    Column("reason", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
)

# One row: which process may judge silent hosts and send orders to BMCs.
fencing_lease = Table(
    "fencing_lease",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("owner", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("lease_until", BigInteger, nullable=False),
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

# What changed in the fleet and the catalogue; how it is now stands in the rows themselves.
fleet_events = Table(
    "fleet_events",
    metadata,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", WORD, nullable=False),
    Column("uuid", UUID, nullable=False),
    Column("zone_uuid", UUID, nullable=False, default=""),
    Column("time", BigInteger, nullable=False),
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
)

# Which groups a group is to be apart from, as its specification says. Such a rule never changes.
group_apart = Table(
    "group_apart",
    metadata,
    Column("group_uuid", UUID, ForeignKey("groups.uuid"), primary_key=True),
    Column("other_uuid", UUID, primary_key=True),
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
    Column("move", WORD, nullable=False, default=""),
    Column("target_host_uuid", UUID, nullable=False, default=""),
    Column("target_host_name", Text, nullable=False, default=""),
    Column("move_deadline_at", BigInteger, nullable=False, default=0),
    Column("room", UUID, nullable=False, default=""),
    Column("room_order", Integer, nullable=False, default=0),
    Column("pauses", Integer, nullable=False, default=0),
    Column("paused_at", BigInteger, nullable=False, default=0),
    Column("told_epoch", Integer, nullable=False, default=0),
    Column("last_answer_at", BigInteger, nullable=False, default=0),
    Column("engine_restarts", Integer, nullable=False, default=0),
    Column("silent_since", BigInteger, nullable=False, default=0),
    Column("guest_boot", Text, nullable=False, default=""),
    Column("cells", Text, nullable=False, default="[]"),
    Column("target_cells", Text, nullable=False, default="[]"),
    Column("devices", Text, nullable=False, default="[]"),
    Column("last_lines", Text, nullable=False, default=""),
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

# Rebalances that were begun: members move for one while its row says that it is wanted.
rebalances = Table(
    "rebalances",
    metadata,
    Column("uuid", UUID, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("wanted_until", BigInteger, nullable=False),
    Column("called_off_at", BigInteger, nullable=False, default=0),
    Column("body", Text, nullable=False),
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
)

addresses = Table(
    "addresses",
    metadata,
    Column("zone_uuid", UUID, primary_key=True),
    Column("address", WORD, primary_key=True),
    Column("instance_uuid", UUID, nullable=False),
    Column("attempt", Integer, nullable=False),
    UniqueConstraint("instance_uuid", "attempt"),
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
