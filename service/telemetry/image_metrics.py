"""Metrics of images on their way to hosts, and of what hosts keep of them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class ImageMetrics:
    """A part of `Metrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.staged_bytes = Counter(
            "corral_image_staged_bytes_total",
            "Bytes of images that this process has brought to a host and seen to be there.",
            ["host"],
            registry=registry,
        )
        self.stagings = Counter(
            "corral_image_stagings_total",
            "Files of images that this process waited for or brought to hosts, by how that ended: whole, refused, "
            "broke_off (goes on from where it was), stopped.",
            ["outcome"],
            registry=registry,
        )
        self.copies_bytes = Gauge(
            "corral_host_image_copies_bytes",
            "What copies of images take on a host, those that this installation has no record of included.",
            ["host"],
            registry=registry,
        )
        self.copies_removed = Counter(
            "corral_image_copies_removed_total",
            "Copies of images that were removed from a host, by why: budget, given_up (never whole).",
            ["host", "why"],
            registry=registry,
        )
