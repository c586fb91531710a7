"""Copies of images on hosts, as messages."""

from __future__ import annotations

from corral.v1 import fleet_pb2

from service.app.host_images import HostImages
from service.contract.convert.inventory import timestamp


def image_copies(images: HostImages | None) -> fleet_pb2.HostImageCopies | None:
    """The copies of images on a host; None where they were not read."""
    if images is None:
        return None
    return fleet_pb2.HostImageCopies(
        budget=images.budget,
        size=images.size,
        copies=[
            fleet_pb2.ImageCopy(
                image=one.image,
                sha256=one.sha256,
                size=one.size,
                received=one.size if one.whole else one.done,
                status=one.status,
                last_used_date=timestamp(one.used_at),
            )
            for one in images.copies
        ],
    )
