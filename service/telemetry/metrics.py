"""Every metric of the control plane, in one place; names and labels are a contract with operators' dashboards.

`Metrics` owns its registry, so that several services can live in one process. Times are seconds, sizes bytes; no metric
mixes units. Gauges that mirror stored state are replaced as a whole just before a scrape (`replace`), so that they
never drift; every replica tells the same of it: whoever sums over replicas counts twice (`max without (instance)`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from service.telemetry.device_metrics import DeviceMetrics
from service.telemetry.image_metrics import ImageMetrics
from service.telemetry.roll_metrics import RollMetrics

_PLAN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_GAP_BUCKETS = (0.0, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_DRIVER_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_CALL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_DEPLOY_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)

Samples = Mapping[tuple[str, ...], float]
"""Label values in the metric's own order -> value."""


class Metrics:
    """The metrics of one running service. Attributes are the metrics themselves."""

    def __init__(self, *, process: bool = False) -> None:
        """`process`: also tell the process's own memory, CPU, files and garbage collections."""
        self.registry = CollectorRegistry(auto_describe=True)
        if process:
            ProcessCollector(registry=self.registry)
            PlatformCollector(registry=self.registry)
            GCCollector(registry=self.registry)
        self._define_inventory()
        self._define_projects()
        self._define_calls()
        self._define_reconciliation()
        self._define_ownership()
        self._define_planner()
        self._define_drivers()
        self._define_process()

    def _define_inventory(self) -> None:
        registry = self.registry
        self.build = Gauge(
            "corral_build_info", "Constant 1, labelled with the version.", ["version"], registry=registry
        )
        self.groups = Gauge("corral_groups", "Instance groups by status.", ["status"], registry=registry)
        self.instances = Gauge("corral_instances", "Members of groups by status.", ["status"], registry=registry)
        self.hosts = Gauge(
            "corral_hosts", "Hosts by operator's state and observed status.", ["state", "status"], registry=registry
        )
        labels = ["host", "zone"]
        self.host_info = Gauge(
            "corral_host_info",
            "Constant 1, labelled with what does not change of a host.",
            [*labels, "uuid", "driver", "rack"],
            registry=registry,
        )
        self.host_up = Gauge("corral_host_up", "Whether a host answers (1) or not (0).", labels, registry=registry)
        self.host_status = Gauge(
            "corral_host_status",
            "Constant 1, labelled with the operator's state and the observed status of a host.",
            [*labels, "state", "status"],
            registry=registry,
        )
        self.host_allocatable = Amounts(
            registry, "corral_host_allocatable", "that can be given out on a host, after reserve and overcommit", labels
        )
        self.host_claimed = Amounts(registry, "corral_host_claimed", "that committed claims hold on a host", labels)
        self.host_foreign = Amounts(registry, "corral_host_foreign", "that machines of others hold on a host", labels)
        self.host_used = Amounts(
            registry, "corral_host_used", "that members' guests take on a host now, where it is measured", labels
        )

    def _define_projects(self) -> None:
        """Labelled by project: as many as the configuration names."""
        registry = self.registry
        self.project_groups = Gauge(
            "corral_project_groups", "Groups of a project that are not deleted.", ["project"], registry=registry
        )
        self.project_instances = Gauge(
            "corral_project_instances", "Members of a project's groups.", ["project"], registry=registry
        )
        labels = ["project"]
        self.project_claimed = Amounts(
            registry, "corral_project_claimed", "that a project has claimed, as its quota counts it", labels
        )
        self.project_waiting = Amounts(
            registry, "corral_project_waiting", "that accepted members of a project want which wait for a host", labels
        )
        self.project_quota = Amounts(registry, "corral_project_quota", "that a project may claim at most", labels)

    def _define_calls(self) -> None:
        registry = self.registry
        self.events_revision = Gauge("corral_events_revision", "Revision of the newest event.", registry=registry)
        self.watch_streams = Gauge("corral_watch_streams", "Open streams of changes.", registry=registry)
        self.calls = Counter(
            "corral_calls_total",
            "Calls ended, by the face that they came by (grpc, json, zstack; job: what ZStack's calls asked for), "
            "method and status code.",
            ["face", "method", "code"],
            registry=registry,
        )
        self.call_duration = Histogram(
            "corral_call_duration_seconds",
            "Duration of calls, of streams from their beginning to their end, by face and method.",
            ["face", "method"],
            buckets=_CALL_BUCKETS,
            registry=registry,
        )
        self.rate_limited = Counter(
            "corral_rate_limited_calls_total",
            "Calls refused because the callers of their project call too often.",
            ["project"],
            registry=registry,
        )
        self.http_refused = Counter(
            "corral_http_connections_refused_total",
            "Connections of the HTTP listener that were one too many.",
            registry=registry,
        )

    def _define_reconciliation(self) -> None:
        registry = self.registry
        self.deploy_duration = Histogram(
            "corral_deploy_duration_seconds",
            "From the accepted deploy to the group's end state, by strategy and outcome: Running, Failed, or Refused, "
            "where what was asked for cannot be had (room, quota, rules).",
            ["strategy", "outcome"],
            buckets=_DEPLOY_BUCKETS,
            registry=registry,
        )
        self.update_duration = Histogram(
            "corral_update_duration_seconds",
            "From the accepted change of what a group runs to its end, by mode and outcome: done or taken_back.",
            ["mode", "outcome"],
            buckets=_DEPLOY_BUCKETS,
            registry=registry,
        )
        self.deploys_not_running = Counter(
            "corral_deploys_ended_without_running_total",
            "Deploys that ended without Running, by outcome (Failed, Refused) and the reason of the error.",
            ["outcome", "reason"],
            registry=registry,
        )
        self.claims = Counter("corral_claims_total", "Gangs whose claims were committed.", registry=registry)
        self.claims_lost = Counter(
            "corral_claims_lost_total", "Planned gangs that lost capacity to others; planned anew.", registry=registry
        )
        self.waiting_groups = Gauge(
            "corral_waiting_groups",
            "Groups that wait for hosts, by the reason of their last look.",
            ["reason"],
            registry=registry,
        )
        self.kept_hosts = Gauge(
            "corral_waiting_kept_hosts", "Hosts on which room is kept for the first group in line.", registry=registry
        )
        self.backfill = Counter(
            "corral_backfill_total",
            "Groups that came while room was kept for one before them, by outcome: passed (they do not delay it), "
            "held_back (there is room, and it is kept).",
            ("outcome",),
            registry=registry,
        )
        self.wait_duration = Histogram(
            "corral_wait_duration_seconds",
            "How long groups waited for hosts: those that were placed, those that were given up, stopped or deleted.",
            ["outcome"],
            buckets=(1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 7 * 24 * 3600),
            registry=registry,
        )
        self.rooms = Counter(
            "corral_rooms_total",
            "Room for groups that did not fit: begun, made, called off.",
            ["outcome"],
            registry=registry,
        )
        self.room_moves = Counter(
            "corral_room_moves_total",
            "Members that were asked to make room for a group: those that did once it was made, those that stayed.",
            ["outcome"],
            registry=registry,
        )
        self.evictions = Counter(
            "corral_evictions_total",
            "Groups that were told to end for one of a higher priority, that began to, and of those for whom it came.",
            ["outcome"],
            registry=registry,
        )
        self.rebalances = Counter(
            "corral_rebalances_total", "Begun, advised, or called off.", ["outcome"], registry=registry
        )
        cause = ("cause",)
        self.rebalance_moves = Counter(
            "corral_rebalance_moves_total", "Members asked to move: rule, load, free, roll.", cause, registry=registry
        )
        self.rebalance_advised_moves = Counter(
            "corral_rebalance_advised_moves_total", "Moves only advised: rule, load, free.", cause, registry=registry
        )
        self.rebalance_held_members = Counter(
            "corral_rebalance_held_members_total", "Members that rebalances left: moved lately.", registry=registry
        )
        self.reconcile_steps = Counter(
            "corral_reconcile_steps_total", "Steps of the reconcile loop by outcome.", ["outcome"], registry=registry
        )
        self.reconcile_workers = Gauge(
            "corral_reconcile_workers", "Groups that this process is working on.", registry=registry
        )
        self.clock_difference = Gauge(
            "corral_clock_difference_seconds",
            "By how much this process's own clock is ahead of the database's, by which leases and deadlines go.",
            registry=registry,
        )
        self.clock_jumps = Counter(
            "corral_clock_jumps_total",
            "How often the database's clock was set (back, ahead), as this process saw it.",
            ["direction"],
            registry=registry,
        )
        self.times_held = Counter(
            "corral_times_held_to_present_total",
            "Stored times that lay further ahead than they are ever set, because the clock had been ahead, by kind.",
            ["kind"],
            registry=registry,
        )
        self.lease_takeovers = Counter(
            "corral_lease_takeovers_total",
            "Groups taken over from an owner whose lease had run out.",
            registry=registry,
        )
        self.lease_losses = Counter(
            "corral_lease_losses_total", "Writes refused because a later epoch had written.", registry=registry
        )

    def _define_ownership(self) -> None:
        registry = self.registry
        self.orphans_removed = Counter(
            "corral_orphans_removed_total",
            "Machines and volumes without an owner that were removed.",
            ["kind"],
            registry=registry,
        )
        self.definitions_restored = Counter(
            "corral_definitions_restored_total",
            "Definitions of running members that somebody had removed from their hosts, and that were made again.",
            ["host"],
            registry=registry,
        )
        self.quarantined = Gauge(
            "corral_quarantined",
            "Machines and volumes with this installation's tag and without a record: kept until an operator decides.",
            ["host", "zone", "holding"],
            registry=registry,
        )
        self.devices = DeviceMetrics(registry)
        self.fences = Counter(
            "corral_fences_total",
            "Fences of hosts by their BMCs that ended, by who wanted it and how it ended.",
            ["cause", "state"],
            registry=registry,
        )
        self.cleanings = Counter(
            "corral_machine_cleanings_total", "Cleanings of bare metal that ended.", ["outcome"], registry=registry
        )
        self.machine_cleaning = Gauge(
            "corral_machine_cleaning", "1 for bare metal that is closed.", ["host", "zone", "state"], registry=registry
        )
        self.fence_verdicts = Gauge(
            "corral_silent_host_verdict",
            "1 for what is done about each silent host that may be fenced by itself, or for the rule that forbids it.",
            ["host", "zone", "verdict"],
            registry=registry,
        )
        self.secrets = Gauge(
            "corral_secrets",
            "Stored secrets by the key that they are encrypted with, and whether this process can decrypt them.",
            ["key", "readable"],
            registry=registry,
        )
        self.invariant_violations = Counter(
            "corral_invariant_violations_total",
            "Consistency checks that failed; any increase is a bug.",
            registry=registry,
        )

    def _define_planner(self) -> None:
        registry = self.registry
        self.plan_duration = Histogram(
            "corral_plan_duration_seconds",
            "Duration of one placement decision, by the stage that decided and what it proved.",
            ["stage", "proof"],
            buckets=_PLAN_BUCKETS,
            registry=registry,
        )
        self.plan_gap = Histogram(
            "corral_plan_gap_ratio",
            "Proven gap of a placement: (upper - lower) / max(1, |upper|); 0 is optimal.",
            buckets=_GAP_BUCKETS,
            registry=registry,
        )
        self.plans_given_up = Counter(
            "corral_plans_given_up_total",
            "Plans whose caller went away, by how their process ended: told in time (stopped), or done (finished).",
            ["outcome"],
            registry=registry,
        )
        self.planner_snapshots = Counter(
            "corral_planner_snapshots_total",
            "Times that a planner process was told the fleet: all of it (full), or what had changed (changes).",
            ["kind"],
            registry=registry,
        )
        self.planner_snapshot_bytes = Counter(
            "corral_planner_snapshot_bytes_total",
            "Bytes that planner processes were told of the fleet, by kind as above.",
            ["kind"],
            registry=registry,
        )

    def _define_drivers(self) -> None:
        registry = self.registry
        self.driver_calls = Histogram(
            "corral_driver_call_duration_seconds",
            "Duration of a call to a host, by driver, call and outcome.",
            ["driver", "call", "outcome"],
            buckets=_DRIVER_BUCKETS,
            registry=registry,
        )
        self.driver_calls_running = Gauge(
            "corral_driver_calls_running", "Calls to hosts in progress, by driver.", ["driver"], registry=registry
        )

        self.images = ImageMetrics(registry)
        self.rolls = RollMetrics(registry)

    def _define_process(self) -> None:
        registry = self.registry
        self.database_up = Gauge(
            "corral_database_up", "Whether this process could write to its database lately.", registry=registry
        )
        self.database_size = Gauge(
            "corral_database_size_bytes", "What the database takes on its file system.", registry=registry
        )
        self.database_transactions = Histogram(
            "corral_database_transaction_duration_seconds",
            "Duration of transactions with their waits, by kind (read, write) and outcome: ok, refused (by a rule of "
            "the service; rolled back), unavailable (by the database).",
            ["kind", "outcome"],
            buckets=_DRIVER_BUCKETS,
            registry=registry,
        )
        self.image_uploads = Gauge(
            "corral_image_uploads", "Images that this process is receiving: uploads and imports.", registry=registry
        )
        self.image_upload_bytes = Counter(
            "corral_image_upload_bytes_total", "Bytes of images that this process has received.", registry=registry
        )
        self.image_files_missing = Gauge(
            "corral_image_files_missing",
            "Files of uploaded images that are not in this process's image store.",
            registry=registry,
        )
        self.certificate_not_after = Gauge(
            "corral_tls_certificate_not_after_timestamp_seconds",
            "When the certificate that the listeners show ends, by its file.",
            ["certificate"],
            registry=registry,
        )


class Amounts:
    """An amount of each resource as gauges of one unit each: `<name>_vcpus`, `<name>_memory_bytes`, `<name>_gpus`."""

    def __init__(self, registry: CollectorRegistry, name: str, what: str, labels: Sequence[str]) -> None:
        """`what`: how the help goes on after the resource. GPUs have the label `model` besides `labels`."""
        self.vcpus = Gauge(f"{name}_vcpus", f"vCPUs {what}.", labels, registry=registry)
        self.memory = Gauge(f"{name}_memory_bytes", f"Memory {what}.", labels, registry=registry)
        self.gpus = Gauge(f"{name}_gpus", f"GPUs {what}, by model.", [*labels, "model"], registry=registry)


def replace(gauge: Gauge, samples: Samples) -> None:
    """Make `gauge` hold exactly `samples`: what is not named is no longer told."""
    gauge.clear()
    for labels, value in samples.items():
        gauge.labels(*labels).set(value)
