"""Metrics of devices that members get whole."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class DeviceMetrics:
    """A part of `Metrics`. What a guest reports is of a kind: `ecc`, `xid` or `unknown`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.states = Gauge(
            "corral_host_devices",
            "Devices of a host that members get whole, by what becomes of them.",
            ["host", "zone", "state"],
            registry=registry,
        )
        self.out_by_report = Gauge(
            "corral_host_devices_reported",
            "Devices of a host that are out of service because their guest reported an error, by its kind.",
            ["host", "zone", "kind"],
            registry=registry,
        )
        self.reports = Counter(
            "corral_device_reports_total",
            "Reports of guests by which this process took a device out of service, by the error's kind.",
            ["host", "zone", "kind"],
            registry=registry,
        )
