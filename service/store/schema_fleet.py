"""The part of `schema` about the fleet: zones, clusters, hosts, their devices and seats, how hosts are fenced, and what
is moved for their sake."""

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
    false,
    text,
)

from service.store.schema_base import UUID, WORD, metadata

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
    # By what it keeps groups to themselves on the network, or why it does not.
    Column("isolation", Text, nullable=False, default="", server_default=""),
    # Of bare metal: by what it starts, and whether it holds what it starts to signatures.
    Column("firmware", WORD, nullable=False, default="", server_default=""),
    Column("secure_boot", WORD, nullable=False, default="", server_default=""),
    # Sums of the images' files that it has whole, as JSON.
    Column("images", Text, nullable=False, default="[]", server_default="[]"),
    # Of bare metal: which project's data it may hold, and how far its cleaning is (`service/domain/cleaning.py`).
    Column("served", Text, nullable=False, default="", server_default=""),
    Column("cleaning", WORD, nullable=False, default="", server_default=""),
    Column("cleaning_reason", Text, nullable=False, default="", server_default=""),
    Column("cleaning_count", Integer, nullable=False, default=0, server_default="0"),
    Column("cleaning_until", BigInteger, nullable=False, default=0, server_default="0"),
    Column("cleaning_tries", Integer, nullable=False, default=0, server_default="0"),
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
    # Of the few that are: every deploy asks whether any is.
    Index(None, "ahead", sqlite_where=text("ahead = 1"), postgresql_where=text("ahead")),
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

# Copies of images on hosts that this installation has made or begun: the records by which they go on, and may go.
# `volume`: its name there. `done`, `digest`, `boot_id`: how far it has come (`drivers.copies.Copied`). `withdrawn_at`:
# since when no machine is made of it, 0: it is in use; `used_at`: when a machine last stood on it or was made of it.
# `began_at`, `began_done`: since when and from where on it is being brought; `rate`: bytes a second, of late; `owner`,
# `owned_until`: the process that brings it, and until when nobody else does.
image_copies = Table(
    "image_copies",
    metadata,
    Column("host_uuid", UUID, ForeignKey("hosts.uuid"), primary_key=True),
    Column("volume", String(128), primary_key=True),
    Column("sha256", String(64), nullable=False),
    Column("image", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("done", BigInteger, nullable=False, default=0),
    Column("digest", String(64), nullable=False, default=""),
    Column("boot_id", Text, nullable=False, default=""),
    Column("whole", Boolean, nullable=False, default=False),
    Column("withdrawn_at", BigInteger, nullable=False, default=0),
    Column("used_at", BigInteger, nullable=False, default=0),
    Column("made_at", BigInteger, nullable=False),
    Column("began_at", BigInteger, nullable=False, default=0),
    Column("began_done", BigInteger, nullable=False, default=0),
    Column("rate", BigInteger, nullable=False, default=0),
    Column("changed_at", BigInteger, nullable=False),
    Column("owner", Text, nullable=False, default=""),
    Column("owned_until", BigInteger, nullable=False, default=0),
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
    Column("unanswered", Boolean, nullable=False, default=False, server_default=false()),
    Index(None, "key"),
)

# What is kept of seats that were given up: by which `keys` (words) what comes late is known, whether a machine was
# told to switch on and nobody saw what came of that, whose data it may bring back, and by which record all that was.
left_seats = Table(
    "left_seats",
    metadata,
    Column("host_uuid", UUID, ForeignKey("hosts.uuid"), primary_key=True),
    Column("instance_uuid", UUID, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("cluster", Text, nullable=False),
    Column("group_uuid", UUID, nullable=False),
    Column("keys", Text, nullable=False),
    Column("unanswered", Boolean, nullable=False),
    Column("served", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("left_at", BigInteger, nullable=False),
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
    # Written by replicas of this version on; empty: in none.
    Column("partition", WORD, nullable=True),
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

# Devices that were out of service as their host was taken out of the fleet, until that is added again. `hypervisor`:
# the machine's own uuid, empty where it was not known; `ids`: vendor:product of the device.
left_devices = Table(
    "left_devices",
    metadata,
    Column("host_uuid", UUID, primary_key=True),
    Column("hypervisor", WORD, primary_key=True),
    Column("key", WORD, primary_key=True),
    Column("ids", WORD, nullable=False),
    Column("reason", Text, nullable=False),
    Column("left_at", BigInteger, nullable=False),
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

# Rolls that were begun: `ended_at` is 0 while one goes on.
rolls = Table(
    "rolls",
    metadata,
    Column("uuid", UUID, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)
